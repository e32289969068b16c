"""Pareto pictures: score with its interval against a cost, the frontier drawn, what is dominated paler. SVG as text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from reports.plots import _scale, _ticks, milliseconds, short, size

LEFT, RIGHT, TOP, BOTTOM = 52.0, 500.0, 34.0, 260.0
_LINE, _LETTER = 13.0, 6.7  # a name's height, and the width of one of its letters, in the picture's units
_NAMED = 14  # with more points than this only those of the frontier are named, and the teacher
_STYLE = (
    ".pareto .whisker{fill:none;stroke:var(--now);stroke-width:1.4}.pareto .pale{opacity:.4}"
    ".pareto .ring{fill:var(--card);stroke:var(--now);stroke-width:2}.pareto .lead{stroke:var(--dim);stroke-width:.8}"
)


Unit = Literal["count", "bytes", "ms", "share"]


@dataclass(frozen=True)
class Spot:
    """A point of the picture.

    score, low, high  in [0, 1], with the 95 % interval; without one, low and high are None
    cost              above 0, or None where it was not measured: the point is left out of that picture
    kind              "teacher" is drawn as a ring: it is what the others are measured by
    """

    name: str
    score: float
    cost: float | None
    low: float | None = None
    high: float | None = None
    kind: str = ""


def frontier(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (cost, score) no other dominates: costs no more and scores no less, and one of the two strictly."""
    return [
        not any(
            other_cost <= cost and other_score >= score and (other_cost < cost or other_score > score)
            for other_cost, other_score in points
        )
        for cost, score in points
    ]


def pictures(costs: Sequence[tuple[str, Unit, Sequence[Spot]]], metric: str) -> str:
    """Panels side by side, one a cost that at least two points have: (label, unit, points); HTML.

    unit  for the marks of the axis
    """
    drawn = [pareto(points, label, metric, unit) for label, unit, points in costs]
    panels = "".join(f"<div>{one}</div>" for one in drawn if one)
    wide = "grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))"
    return f'<div class="panels" style="{wide}">{panels}</div>' if panels else ""


def pareto(points: Sequence[Spot], label: str, metric: str, unit: Unit = "count") -> str:
    """One picture, the cost to the right and the score upwards; empty with fewer than two points that have the cost.

    The cost's axis is logarithmic where the largest is over ten times the smallest, and begins at 0 elsewhere. Names
    do not overlap: each goes where there is room around its point, at the end of a line where that is farther off.
    """
    known = [spot for spot in points if spot.cost is not None and spot.cost > 0]
    if len(known) < 2:
        return ""
    costs = [float(spot.cost or 0) for spot in known]
    best = frontier(list(zip(costs, (spot.score for spot in known), strict=True)))
    form = _FORMS[unit]
    across, marks = _costs(costs, 1024.0 if unit == "bytes" else 1000.0)
    low, high = _scores(known)
    up = _scale(low, high, BOTTOM, TOP)
    places = [(across(cost), up(100 * spot.score)) for cost, spot in zip(costs, known, strict=True)]
    grid = "".join(
        f'<line x1="{LEFT}" x2="{RIGHT}" y1="{up(mark):.1f}" y2="{up(mark):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{up(mark) + 4:.1f}" text-anchor="end">{mark:g} %</text>'
        for mark in _ticks(low, high)
    ) + "".join(
        f'<text x="{across(mark):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{form(mark)}</text>'
        for mark in marks
    )
    dots = ""
    for spot, sure, (x, y) in zip(known, best, places, strict=True):
        bar = ""
        if spot.low is not None and spot.high is not None:
            ends = up(max(low, 100 * spot.low)), up(min(high, 100 * spot.high))
            bar = f'<path class="whisker" d="M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}"/>'
        ring = ' class="ring"' if spot.kind == "teacher" else ""
        pale = "" if sure else ' class="pale"'
        told = f"{spot.name}: {100 * spot.score:.2f} %, {form(float(spot.cost or 0))}"
        dots += f'<g{pale}><title>{escape(told)}</title>{bar}<circle{ring} cx="{x:.1f}" cy="{y:.1f}" r="4.5"/></g>'
    steps = sorted(place for place, sure in zip(places, best, strict=True) if sure)
    corners = _stairs(steps)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    reaches = [
        (x, up(max(low, 100 * spot.low)), up(min(high, 100 * spot.high)))
        for spot, (x, _) in zip(known, places, strict=True)
        if spot.low is not None and spot.high is not None
    ]
    lines = [(x - 1, top, x + 1, down) for x, down, top in reaches] + _boxes(corners)
    names = "".join(_names(known, best, places, lines))
    return (
        f'<svg class="pareto" viewBox="0 0 520 300" role="img" aria-label="{escape(metric)} against {escape(label)}">'
        f'<style>{_STYLE}</style>{grid}<polyline points="{line}"/>{dots}{names}'
        f'<text x="4" y="14">{escape(metric)}, higher is better</text>'
        f'<text x="{RIGHT}" y="{BOTTOM + 36}" text-anchor="end">{escape(label)}, less is better</text></svg>'
    )


def _bytes(value: float) -> str:
    return size(round(value))


def _ms(value: float) -> str:
    return f"{milliseconds(value)} ms"


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"


_FORMS: dict[Unit, Callable[[float], str]] = {"count": short, "bytes": _bytes, "ms": _ms, "share": _share}


def _costs(costs: Sequence[float], base: float) -> tuple[Callable[[float], float], list[float]]:
    """The map from cost to the picture, and the marks of its axis: round in units of base, base^2, ..."""
    least, most = min(costs), max(costs)
    if most <= 10 * least:
        unit = base ** math.floor(math.log(most, base)) if most >= base else 1.0
        marks = [unit * mark for mark in _ticks(0, 1.12 * most / unit)]
        return _scale(0, 1.12 * most, LEFT, RIGHT), marks
    low, high = math.log10(least) - 0.08, math.log10(most) + 0.12
    scale = _scale(low, high, LEFT, RIGHT)
    nice = (1, 4, 16, 64, 256) if base == 1024 else (1, 2, 5, 10, 20, 50, 100, 200, 500)
    found = [step * base**power for power in range(-3, 6) for step in nice]
    shown = [mark for mark in found if low <= math.log10(mark) <= high]
    return lambda cost: scale(math.log10(cost)), shown[:: math.ceil(len(shown) / 7)]


def _scores(points: Sequence[Spot]) -> tuple[float, float]:
    """The ends of the score's axis, per cent: all scores, and intervals as far as they are of that order."""
    scores = [100 * spot.score for spot in points]
    span = max(max(scores) - min(scores), 1.0)
    reach = 1.2 * span  # two seeds can leave any doubt, and a picture of doubt alone shows nothing
    ends = [
        min(max(100 * end, min(scores) - reach), max(scores) + reach)
        for spot in points
        for end in (spot.low, spot.high)
        if end is not None
    ]
    low, high = min(*scores, *ends), max(*scores, *ends)
    pad = 0.08 * (high - low or 1.0)
    return max(0.0, low - pad), min(100.0, high + pad) if max(scores) < 100 else 100 + pad


def _stairs(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The frontier's corners: paying more brings nothing until the next point; after the last, a line to the right."""
    line = [*places[:1]]
    for x, y in places[1:]:
        line += [(x, line[-1][1]), (x, y)]
    return [*line, (RIGHT, line[-1][1])]


_Box = tuple[float, float, float, float]


def _boxes(corners: Sequence[tuple[float, float]]) -> list[_Box]:
    """What the frontier's line covers."""
    return [
        (min(x, to) - 1, min(y, end) - 1, max(x, to) + 1, max(y, end) + 1)
        for (x, y), (to, end) in itertools.pairwise(corners)
    ]


def _names(
    points: Sequence[Spot],
    best: Sequence[bool],
    places: Sequence[tuple[float, float]],
    lines: Sequence[_Box],
) -> Iterator[str]:
    """Names beside their points, the frontier's first, none over another name or a point, nor a line if it can be."""
    taken: list[_Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    order = sorted(range(len(points)), key=lambda n: (not best[n], points[n].kind != "teacher", places[n]))
    for number in order:
        if len(points) > _NAMED and not (best[number] or points[number].kind):
            continue
        x, y = places[number]
        name = points[number].name if len(points[number].name) <= 30 else f"{points[number].name[:29]}…"
        wide = math.ceil(_LETTER * len(name))
        around = list(_around(x, y, wide))
        clear = [(away, box) for away, box in around if not any(_meet(box, line) for line in lines)]
        for away, box in (*clear[:40], *around):
            if not any(_meet(box, other) for other in taken):
                taken.append(box)
                pale = "" if best[number] else " pale"
                lead = ""
                if away:
                    end = min(max(x, box[0]), box[2]), box[1] - 1 if box[1] > y else box[3] + 1
                    lead = f'<path class="lead{pale}" d="M{x:.1f} {y:.1f}L{end[0]:.1f} {end[1]:.1f}"/>'
                yield (
                    f'{lead}<text class="name{pale}" x="{box[0]:.1f}" y="{box[3] - 3:.1f}" '
                    f'textLength="{wide}" lengthAdjust="spacingAndGlyphs">{escape(name)}</text>'
                )
                break


def _around(x: float, y: float, wide: float) -> Iterator[tuple[bool, _Box]]:
    """Boxes for a name around a point, the nearest first, and whether it takes a line to say whose it is."""
    for ring in range(12):
        far = 9 + _LINE * ring
        for right, down in ((1, 0), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1), (0, 1)):
            if ring and not down:
                continue
            side = 9 + 5 * ring if down == 0 or ring == 0 else 4 + 9 * ring
            left = {1: x + side, -1: x - side - wide, 0: x - wide / 2}[right]
            top = y - _LINE / 2 + down * (far if ring or right == 0 else _LINE * 0.8)
            box = (left, top, left + wide, top + _LINE)
            if box[0] >= 2 and box[2] <= 518 and box[1] >= 18 and box[3] <= BOTTOM + 4:
                yield ring > 0, box


def _meet(one: _Box, other: _Box) -> bool:
    # Half a unit apart at least: places are written with one digit.
    across = one[0] < other[2] + 0.5 and other[0] < one[2] + 0.5
    return across and one[1] < other[3] and other[1] < one[3]
