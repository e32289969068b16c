"""Recipes side by side, for people: lines and a table for the terminal, a CSV file, and a page of its own.

Everything is made from a `Comparison`, which holds numbers and names alone.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reports import plots
from reports.paired import Paired, Told, verdict

COLUMNS = ("recipe", "seeds", "test", "95 %", "MACs", "params", "file", "latency", "of teacher", "took")
_DATA = (
    "recipe", "seeds", "metric", "score", "score_low", "score_high", "macs", "params", "bytes",
    "latency_ms_p50_b1", "latency_of_teacher", "minutes", "against", "verdict", "difference", "seeds_low",
    "seeds_high", "seeds_p", "both_low", "both_high", "both_p", "mcnemar_better", "mcnemar_worse", "mcnemar_p",
    "p", "p_holm", "shared_seeds", "samples",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One recipe: means over its seeds.

    scores   of every seed, in [0, 1]; low and high the 95 % interval of their mean
    cost     macs, params, bytes, latency_ms_p50_b1 or latency_ms_p50_node; those that are known
    share    latency over the teacher's, taken in turns with it, which is what machines and days have in common
    minutes  the stages took
    """

    label: str
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    low: float
    high: float
    cost: Mapping[str, float]
    share: float | None
    minutes: float | None

    @property
    def score(self) -> float:
        """The mean."""
        return sum(self.scores) / len(self.scores)


@dataclass(frozen=True)
class Against:
    """One recipe against the first: what was found, p among all that were compared, and their fields apart.

    labels  whether answers are labels, right or wrong; else `found.both` is of the samples' own scores
    fields  (path, first, other)
    """

    first: str
    other: str
    found: Paired
    p: float | None
    labels: bool = True
    fields: Sequence[tuple[str, str, str]] = ()

    @property
    def verdict(self) -> str:
        """Better, worse, equal, or no difference told."""
        return verdict(self.found, self.p)


@dataclass(frozen=True)
class Comparison:
    """All of it; the first row is what the others are compared with.

    teacher  (name, score, cost), where all have one and the same
    runs     (recipe, seed, score, where it lies)
    notes    what was left out, and why
    """

    title: str
    metric: str
    samples: int | None
    rows: Sequence[Row]
    pairs: Sequence[Against]
    runs: Sequence[tuple[str, int, float, str]] = ()
    notes: Sequence[str] = ()
    teacher: tuple[str, float, Mapping[str, float]] | None = None
    unread: Sequence[str] = field(default=())


def points(value: float) -> str:
    """A difference of scores in points, signed: +0.12."""
    return f"{100 * value + 0.0:+.2f}".replace("-0.00", "+0.00")


def chance(p: float | None) -> str:
    """A p: three digits, or below what is worth telling."""
    if p is None:
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def sentence(pair: Against) -> str:
    """What one comparison says, in one line."""
    found = pair.found
    head = {
        "better": f"{pair.other} is better than {pair.first}",
        "worse": f"{pair.other} is worse than {pair.first}",
        "equal": f"{pair.other} and {pair.first} answer alike on every sample",
        "no difference told": f"{pair.other} against {pair.first}: no difference told",
    }[pair.verdict]
    if pair.verdict == "equal":
        return f"{head} ({found.samples:,} samples, {_many(len(found.seeds), 'seed')})"
    return f"{head}: {difference(found)} points {_over(found)}{_swaps(found)}{_family(pair)}"


def difference(found: Paired) -> str:
    """The mean difference in points, and half of its interval over seeds where there are several."""
    half = ""
    if found.seed is not None:
        half = f" ± {100 * (found.seed.high - found.seed.value):.2f}"
    return f"{points(found.value)}{half}"


def interval(told: Told | None) -> str:
    """Both ends in points."""
    return "–" if told is None else f"{points(told.low)} to {points(told.high)}"


def _over(found: Paired) -> str:
    count = len(found.seeds)
    said = [f"over {count} seeds" if count > 1 else f"on the one seed {found.seeds[0]}"]
    if found.seed is not None and found.seed.p is not None:
        said[0] += f" (p {chance(found.seed.p)})"
    if found.both is not None:
        what = "seeds and samples" if count > 1 else f"{found.samples:,} samples"
        said.append(f"{interval(found.both)} over {what}")
    return ", ".join(said)


def _swaps(found: Paired) -> str:
    if not found.swaps:
        return ""
    if len(found.swaps) == 1:
        (one,) = found.swaps
        return f"; McNemar {one.better} to {one.worse}, p {chance(one.p)}"
    assert found.pooled is not None
    ps = sorted(one.p for one in found.swaps)
    each = f"{chance(ps[0])} to {chance(ps[-1])}" if ps[0] != ps[-1] else chance(ps[0])
    pooled = f"pooled {found.pooled.better} to {found.pooled.worse}, p {chance(found.pooled.p)}"
    return f"; McNemar per seed p {each}, {pooled}"


def _family(pair: Against) -> str:
    """Where several were compared, the p that decides is not the one that this pair alone would have."""
    if pair.p is None or pair.found.p is None or pair.p == pair.found.p:
        return ""
    return f"; p {chance(pair.p)} among all (Holm)"


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'s' if count != 1 else ''}"


def lines(made: Comparison) -> list[str]:
    """What to say on a terminal under the table."""
    said = [sentence(pair) for pair in made.pairs]
    seeds = {len(pair.found.seeds) for pair in made.pairs}
    if seeds == {1}:
        said.append(
            "one seed says nothing of others: this difference is of these two students; more: --seeds 5"
        )
    if any(pair.found.both is None for pair in made.pairs):
        said.append(
            "answers to single samples were not kept everywhere: there, seeds alone speak, for this test set alone"
        )
    if any(pair.found.both is not None and not pair.labels for pair in made.pairs):
        said.append(
            f"over samples, the mean of the {made.metric} of every sample by itself is compared, which is not the score"
        )
    return [*said, *made.notes]


def cells(row: Row) -> tuple[str, ...]:
    """A row's cells, in the order of COLUMNS."""
    cost = row.cost
    node = cost.get("latency_ms_p50_node")
    time = (
        f"{1e3 * node:.3g} µs/node" if node is not None else plots.milliseconds(cost.get("latency_ms_p50_b1"))
    )
    return (
        row.label,
        str(len(row.seeds)),
        f"{100 * row.score:.2f} %",
        f"{100 * row.low:.2f} to {100 * row.high:.2f}",
        plots.short(cost.get("macs")),
        plots.short(cost.get("params")),
        plots.size(round(cost["bytes"]) if "bytes" in cost else None),
        time if node is not None or time == "–" else f"{time} ms",
        "–" if row.share is None else f"{100 * row.share:.0f} %",
        "–" if row.minutes is None else plots.duration(60 * row.minutes),
    )


def csv_text(made: Comparison) -> str:
    """One line a recipe: means over seeds, and how it compares with the first; scores and differences in [-1, 1]."""
    by_name = {pair.other: pair for pair in made.pairs}
    file = io.StringIO()
    writer = csv.DictWriter(file, _DATA, lineterminator="\n")
    writer.writeheader()
    for row in made.rows:
        told: dict[str, object] = {
            "recipe": row.label, "seeds": " ".join(map(str, row.seeds)), "metric": made.metric, "score": row.score,
            "score_low": row.low, "score_high": row.high, "latency_of_teacher": row.share, "minutes": row.minutes,
        }  # fmt: skip
        told |= {name: row.cost.get(name) for name in ("macs", "params", "bytes", "latency_ms_p50_b1")}
        if pair := by_name.get(row.label):
            told |= _told(pair)
        writer.writerow(told)
    return file.getvalue()


def _told(pair: Against) -> dict[str, object]:
    found = pair.found
    told: dict[str, object] = {
        "against": pair.first, "verdict": pair.verdict, "difference": found.value, "p": found.p, "p_holm": pair.p,
        "shared_seeds": " ".join(map(str, found.seeds)), "samples": found.samples,
    }  # fmt: skip
    for name, one in (("seeds", found.seed), ("both", found.both)):
        if one is not None:
            told |= {f"{name}_low": one.low, f"{name}_high": one.high, f"{name}_p": one.p}
    if (one_swap := found.pooled) is not None:
        told |= {f"mcnemar_{name}": getattr(one_swap, name) for name in ("better", "worse", "p")}
    return told
