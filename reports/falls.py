"""How cost and score fall from stage to stage, and which layers the score hangs on: bars as plain HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from reports import plots

Plain = Mapping[str, Any]


def waterfall(records: Sequence[Plain]) -> str:
    """Score on val, MACs and file size as stages went on: of each stage what is left, and what went or came with it.

    Empty with less than two records; a panel is left out where nothing of it was measured throughout.
    """
    if len(records) < 2:
        return ""
    names = [record["stage"] for record in records]
    panels = []
    if all(record["val"] for record in records):
        scores = [100 * record["val"]["value"] for record in records]
        floor = max(0.0, min(scores) - 0.25 * (max(scores) - min(scores)) - 1)
        title = f"{records[0]['metric']}, val"
        panels.append(_panel(title, names, scores, lambda value: f"{value:.2f} %", True, floor))
    for title, field, form in (
        ("MACs of one input", "macs", plots.short),
        ("file", "bytes", plots.size),
    ):
        values = [record["profile"][field] for record in records]
        if all(values):
            panels.append(_panel(title, names, values, form, False, 0.0))
    return f'<div class="falls">{"".join(panels)}</div>' if panels else ""


def _panel(
    title: str,
    names: Sequence[str],
    values: Sequence[float],
    form: Callable[[Any], str],
    more_is_better: bool,
    floor: float,
) -> str:
    """A row for each value, the change from the one before it as a piece of its own."""
    span = (max(values) - floor) or 1.0
    rows = []
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        before = values[place - 1] if place else value
        low, high = min(before, value), max(before, value)
        good = (value > before) == more_is_better
        piece = ""
        if high > low:
            kind = "won" if good else "lost"
            piece = (
                f'<b class="{kind}" style="left:{100 * (low - floor) / span:.2f}%;'
                f'width:{max(100 * (high - low) / span, 0.5):.2f}%"></b>'
            )
        rows.append(
            f'<span class="layer" title="{escape(name)}">{escape(name)}</span>'
            f'<span class="track"><i style="width:{100 * (low - floor) / span:.2f}%"></i>{piece}</span>'
            f"<span>{form(value)}</span>"
            f"<span{_tone(value - before, good)}>{_change(before, value, more_is_better)}</span>"
        )
    cut = f", from {form(floor)}" if floor else ""
    return f'<div><h3>{escape(title)}{cut}</h3><div class="fall">{"".join(rows)}</div></div>'


def _tone(change: float, good: bool) -> str:
    return "" if not change else ' class="won"' if good else ' class="lost"'


def _change(before: float, value: float, points: bool) -> str:
    """Points of a score; of a cost, its share."""
    if value == before:
        return ""
    text = f"{value - before:+.2f}" if points else f"{100 * (value / before - 1):+.1f} %"
    return text.replace("-", "−")


def _points(change: float) -> str:
    """With a sign, unless it is none."""
    return f"{change:+.1f}".replace("-", "−") if abs(change) >= 0.05 else "0.0"


def sensitivity(found: Plain) -> str:
    """By how many points the score falls where one layer alone loses a share of its channels.

    found  {"share", "samples", "score", "layers": {name: score}, "left", "teacher"}, as the runner keeps it
    """
    drops = {name: 100 * (found["score"] - score) for name, score in found["layers"].items()}
    most = max(max(drops.values()), 1.0)
    rows = ""
    for name, drop in drops.items():
        label = escape(name)
        rows += (
            f'<div class="bar"><span class="layer" title="{label}"><bdi dir="ltr">{label}</bdi></span>'
            f'<span class="track"><b class="lost" style="width:{max(0.0, 100 * drop / most):.2f}%"></b></span>'
            f"<span>{_points(-drop)}</span></div>"
        )
    said = (
        f"Points that {found['teacher']} loses, of {100 * found['score']:.1f} % on {found['samples']:,} samples of "
        f"val, where one layer alone loses the {100 * found['share']:.0f}\N{NO-BREAK SPACE}% of its channels that "
        "weigh least, and nothing is learned again. Layers whose channels hang together go under the name of the first."
    )
    if found["left"]:
        said += f" {found['left']} small layers were not looked at: the time for it was over."
    return f'<div class="bars">{rows}</div><p class="dim">{escape(said)}</p>'
