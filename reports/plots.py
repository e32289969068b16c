"""Pictures as inline SVG or plain HTML, numbers as people read them, and a table for the terminal.

Everything is drawn from plain data: records as `Record.to_dict` gives them, curves as (step, value) pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from reports.units import count

if TYPE_CHECKING:
    from rich.table import Table

Plain = Mapping[str, Any]
Points = Sequence[tuple[float, float]]
COLUMNS = ("stage", "val", "test", "MACs", "params", "file", "ms b1", "ms b32", "time")


def short(value: float | None) -> str:
    """Three digits and a letter: 1 234 567 is 1.23M, 0.00012 is 1.2e-4."""
    if value is None:
        return "–"
    if 0 < abs(value) < 1e-3:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits}e{int(power)}"
    return count(value, gap="")


def size(count: int | None) -> str:
    """Bytes in units of 1024: 1.2 MiB."""
    if count is None:
        return "–"
    for unit, letter in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {letter}"
    return f"{count} B"


def percent(score: Plain | None) -> str:
    """A score in [0, 1] as 91.23 %."""
    return "–" if score is None else f"{100 * score['value']:.2f} %"


def milliseconds(value: float | None) -> str:
    """Three digits."""
    return "–" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def latency(cost: Plain) -> str:
    """Milliseconds of a call at batch 1; of a graph network, microseconds a node."""
    node = cost.get("latency_ms_p50_node")
    return milliseconds(cost["latency_ms_p50_b1"]) if node is None else f"{1e3 * node:.3g} µs/node"


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 2 h 05 min."""
    if seconds == 0:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def row(record: Plain, first: Plain) -> tuple[str, ...]:
    """One record's cells, in the order of COLUMNS; MACs and parameters also as a share of the first one's."""

    def share(name: str) -> str:
        now, before = record["profile"][name], first["profile"][name]
        return short(now) if record is first or not before else f"{short(now)} ({100 * now / before:.1f} %)"

    cost = record["profile"]
    return (
        record["stage"],
        percent(record["val"]),
        percent(record["test"]),
        share("macs"),
        share("params"),
        size(cost["bytes"]),
        latency(cost),
        milliseconds(cost["latency_ms_p50_b32"]),
        duration(record["seconds"]),
    )


def table(records: Sequence[Plain]) -> Table:
    """The run stage by stage, for `rich.print`; the first record is the teacher's."""
    from rich.table import Table

    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for column in COLUMNS:
        made.add_column(column, justify="left" if column == "stage" else "right", no_wrap=True)
    for record in records:
        stage, *numbers = row(record, records[0])
        # 80 columns hold a stage's line once the spaces between numbers and units are gone.
        tight = (cell.replace(" (", "|").replace(" ", "").replace("|", " ").rstrip(")") for cell in numbers)
        made.add_row(stage, *tight)
    return made


def bars(widths: Mapping[str, tuple[int, int]]) -> str:
    """Per layer a grey bar as wide as it was and a coloured one as wide as it is, as HTML."""
    widest = max(before for before, _ in widths.values())
    lines = []
    for name, (before, after) in widths.items():
        left, width = 100 * after / widest, 100 * before / widest
        gone = ' class="gone"' if after == 0 else ""
        label = escape(name)
        lines.append(
            f'<div class="bar"><span class="layer" title="{label}"><bdi dir="ltr">{label}</bdi></span>'
            f'<span class="track"><i style="width:{width:.2f}%"></i><b style="width:{left:.2f}%"></b></span>'
            f"<span{gone}>{before} → {after}</span></div>"
        )
    return f'<div class="bars">{"".join(lines)}</div>'


def curve(name: str, points: Points) -> str:
    """One metric over its steps: a small SVG panel, extremes at the axes, the last value on top."""
    points = _thin(sorted((float(step), float(value)) for step, value in points))
    left, right, top, bottom = 46.0, 292.0, 30.0, 128.0
    steps, values = [step for step, _ in points], [value for _, value in points]
    x = _scale(min(steps), max(steps), left, right)
    y = _scale(min(values), max(values), bottom, top)
    line = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    last = f'<circle cx="{x(steps[-1]):.1f}" cy="{y(values[-1]):.1f}" r="3"/>'
    marks = {min(values), max(values)}
    scale = "".join(
        f'<line x1="{left}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{short(value)}</text>'
        for value in marks
    )
    ends = f'<text x="{left}" y="146">{short(steps[0])}</text>'
    if len(set(steps)) > 1:
        ends += f'<text x="{right}" y="146" text-anchor="end">{short(steps[-1])}</text>'
    told = f"{escape(name)} over steps, last {short(values[-1])}"
    return (
        f'<svg viewBox="0 0 300 152" role="img" aria-label="{told}">'
        f'<text class="name" x="4" y="14">{escape(name)}</text>'
        f'<text class="last" x="{right}" y="14" text-anchor="end">{short(values[-1])}</text>'
        f'{scale}{ends}<polyline points="{line}"/>{last}</svg>'
    )


def tradeoff(records: Sequence[Plain]) -> str:
    """Score against MACs, a dot for each stage, joined in order: an SVG panel. Empty without two scores."""
    known = [record for record in records if record["val"] is not None]
    if len(known) < 2:
        return ""
    left, right, top, bottom = 44.0, 390.0, 34.0, 200.0
    costs = [record["profile"]["macs"] for record in known]
    scores = [100 * record["val"]["value"] for record in known]
    low, high = math.floor(min(scores) - 0.5), min(100, math.ceil(max(scores) + 0.5))
    x, y = _scale(0, 1.1 * max(costs), left, right), _scale(low, high, bottom, top)
    spots = [(x(cost), y(score)) for cost, score in zip(costs, scores, strict=True)]
    grid = "".join(
        f'<line x1="{left}" x2="{right}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>'
        f'<text x="{left - 8}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:g} %</text>'
        for mark in _ticks(low, high)
    )
    grid += "".join(
        f'<text x="{x(mark):.1f}" y="{bottom + 18}" text-anchor="middle">{short(mark)}</text>'
        for mark in _ticks(0, 1.1 * max(costs))
    )
    path = " ".join(f"{across:.1f},{down:.1f}" for across, down in spots)
    dots, taken = "", list[tuple[float, float]]()
    for record, (across, down) in zip(known, spots, strict=True):
        place = down + 4
        while any(abs(across - other) < 90 and abs(place - height) < 13 for other, height in taken):
            place += 13  # beside the dot, or below the name that is there already
        taken.append((across, place))
        anchor, gap = ("end", -9) if across > left + 80 else ("start", 9)
        dots += (
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4"/>'
            f'<text class="name" x="{across + gap:.1f}" y="{place:.1f}" text-anchor="{anchor}">'
            f"{escape(record['stage'])}</text>"
        )
    return (
        f'<svg class="wide" viewBox="0 0 400 236" role="img" aria-label="score against MACs">{grid}'
        f'<polyline points="{path}"/>{dots}'
        f'<text x="4" y="14">{escape(known[0]["metric"])}, val</text>'
        f'<text x="{right}" y="{bottom + 34}" text-anchor="end">MACs of one input</text></svg>'
    )


def _thin(points: list[tuple[float, float]], most: int = 300) -> list[tuple[float, float]]:
    """At most `most` points, the last among them."""
    stride = math.ceil(len(points) / most)
    return points if stride < 2 else [*points[:-1:stride], points[-1]]


class _scale:  # noqa: N801 - used like a function
    """A linear map of [low, high] to [start, end]; an empty range goes to the middle."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.span, self.start, self.length = low, high - low, start, end - start

    def __call__(self, value: float) -> float:
        share = (value - self.low) / self.span if self.span else 0.5
        return self.start + share * self.length


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers within [low, high]."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(nice * power for nice in (1, 2, 2.5, 5, 10) if nice * power >= rough)
    return [step * count for count in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]
