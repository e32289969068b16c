"""What was taken for what, before and after, and the classes that lost most, from decisions on the same samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
MOST = 16
"""classes that are drawn one by one; of more, those that changed most, and the others as one"""
ROWS = 8
"""of the table"""


@dataclass(frozen=True)
class Loss:
    """What a class lost: its recall before and after, in [0, 1], and what else its samples are now taken for."""

    label: str
    samples: int
    before: float
    after: float
    instead: str | None
    times: int


def table(truth: Labels, said: Labels, classes: int) -> Labels:
    """How often each class was taken for each: (classes, classes), rows true, columns said; truth below 0 is void."""
    known = truth >= 0
    pairs = truth[known] * classes + said[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def losses(before: Labels, after: Labels, labels: Sequence[str]) -> list[Loss]:
    """Every class that has samples, the one that lost most in front; ties by how many samples are wrong now."""
    found = []
    for place, label in enumerate(labels):
        if samples := int(after[place].sum()):
            wrong = after[place].copy()
            wrong[place] = 0
            most = int(wrong.argmax())
            found.append(
                Loss(
                    label,
                    samples,
                    float(before[place, place] / max(before[place].sum(), 1)),
                    float(after[place, place] / samples),
                    labels[most] if wrong[most] else None,
                    int(wrong[most]),
                )
            )
    return sorted(found, key=lambda one: (one.after - one.before, one.after))


def section(decisions: Mapping[str, Any], labels: Sequence[str], split: str = "test") -> str:
    """Two tables of what was taken for what, side by side, and which classes lost most; HTML.

    decisions  `targets`, `student` and, where teacher and student share their labels, `teacher`: (samples,) each, as
               `decisions.safetensors` keeps them
    Empty where a decision is none of the labels.
    """
    truth, student = (np.asarray(decisions[name]).astype(np.int64) for name in ("targets", "student"))
    known = truth >= 0
    if "teacher" not in decisions or not known.any() or max(truth.max(), student.max()) >= len(labels):
        return ""
    teacher = np.asarray(decisions["teacher"]).astype(np.int64)
    if teacher.max() >= len(labels):
        return ""
    before, after = (table(truth, said, len(labels)) for said in (teacher, student))
    right, still = (teacher == truth)[known], (student == truth)[known]
    lost, won = int((right & ~still).sum()), int((~right & still).sum())
    told = (
        f"{len(right):,} samples of {split}: the teacher is right on {int(right.sum()):,}, the student on "
        f"{int(still.sum()):,}. {_times(lost)} the teacher had right the student has wrong, {_times(won)} the other "
        f"way round; {_times(int((teacher != student)[known].sum()))} they answer differently."
    )
    names, (was, now) = _chosen(before, after, labels)
    pictures = "".join(
        f"<figure><figcaption>{escape(name)}</figcaption>{_matrix(counts, names, name)}</figure>"
        for name, counts in (("teacher", was), ("student", now))
    )
    return f'<p>{told}</p><div class="pair">{pictures}</div>{_losers(losses(before, after, labels))}'


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _chosen(before: Labels, after: Labels, labels: Sequence[str]) -> tuple[list[str], tuple[Labels, Labels]]:
    """The names and both tables, with classes put together as "others" where there are too many to draw."""
    if len(labels) <= MOST:
        return list(labels), (before, after)
    change = np.abs(after - before).sum(1) + np.abs(after - before).sum(0)
    kept = sorted(np.argsort(-change, kind="stable")[: MOST - 1].tolist())
    group = np.full(len(labels), len(kept))
    group[kept] = np.arange(len(kept))
    merge = np.eye(len(kept) + 1, dtype=np.int64)[group]
    return [*(labels[place] for place in kept), "others"], (merge.T @ before @ merge, merge.T @ after @ merge)


def _matrix(counts: Labels, names: Sequence[str], who: str) -> str:
    """Rows true, columns said, shaded by the share of the row; right answers in one colour, wrong ones in another."""
    longest = max(map(len, names))
    left, top, size = 16 + 6.2 * min(longest, 14), 34.0, 300.0
    cell = size / len(names)
    tilt = longest > 3
    top += 5.0 * min(longest, 14) if tilt else 0
    parts = [f'<text x="{left:.1f}" y="10">said, for each true class</text>']
    for row, name in enumerate(names):
        middle = top + (row + 0.5) * cell + 4
        parts.append(
            f'<text x="{left - 6:.1f}" y="{middle:.1f}" text-anchor="end">{escape(_cut(name))}</text>'
        )
        x, y = left + (row + 0.5) * cell, top - 6
        turn = f' transform="rotate(-50 {x:.1f} {y:.1f})"' if tilt else ""
        anchor = "start" if tilt else "middle"
        parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(_cut(name))}</text>'
        )
        total = max(int(counts[row].sum()), 1)
        for column, count in enumerate(counts[row].tolist()):
            share = count / total
            fill = "var(--now)" if row == column else "var(--loss)"
            opacity = 0.0 if not count else 0.2 + 0.8 * (share if row == column else min(1.0, 4 * share))
            said = f"{name} taken for {names[column]}: {count:,} of {total:,}"
            parts.append(
                f'<rect x="{left + column * cell + 0.5:.1f}" y="{top + row * cell + 0.5:.1f}" '
                f'width="{cell - 1:.1f}" height="{cell - 1:.1f}" rx="2" fill="{fill}" fill-opacity="{opacity:.2f}" '
                f'stroke="var(--line)"><title>{escape(said)}</title></rect>'
            )
            if count and cell >= 17:
                colour = "var(--card)" if opacity > 0.65 else "var(--ink)"
                parts.append(
                    f'<text x="{left + (column + 0.5) * cell:.1f}" y="{middle - 0.5:.1f}" text-anchor="middle" '
                    f'style="font-size:{min(11, cell / 2.2):.1f}px;fill:{colour}">{count}</text>'
                )
    spare = 40 if tilt else 8
    return (
        f'<svg viewBox="0 0 {left + size + spare:.0f} {top + size + 6:.0f}" role="img" '
        f'aria-label="what the {escape(who)} took for what">{"".join(parts)}</svg>'
    )


def _losers(found: Sequence[Loss]) -> str:
    """A table of the classes that lost most; a line where none lost."""
    worse = [one for one in found if one.after < one.before]
    if not worse:
        return "<p>No class lost.</p>"
    columns = ("class", "samples", "teacher", "student", "change", "now taken for")
    head = "".join(f"<th>{name}</th>" for name in columns)
    body = ""
    for one in worse[:ROWS]:
        cells = (
            one.label,
            f"{one.samples:,}",
            f"{100 * one.before:.1f} %",
            f"{100 * one.after:.1f} %",
            f"{100 * (one.after - one.before):+.1f} points".replace("-", "−"),
            f"{one.instead} ({one.times:,})" if one.instead else "–",
        )
        body += (
            "<tr>"
            + "".join(f'<td data-label="{n}">{escape(c)}</td>' for n, c in zip(columns, cells, strict=True))
            + "</tr>"
        )
    more = f" {len(worse) - ROWS} more lost less." if len(worse) > ROWS else ""
    return (
        f"<h3>Classes that lost most</h3><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f'<p class="dim">The share of each class that is recognised, before and after.{more}</p>'
    )


def _cut(name: str, most: int = 14) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
