"""Differences with their intervals, one under the other, on one axis around 0. SVG as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from reports.plots import _scale, _ticks

_STYLE = (
    ".forest .zero{stroke:var(--ink);stroke-dasharray:3 3}.forest .over{stroke:var(--now);stroke-width:3}"
    ".forest .both{stroke:var(--now);stroke-width:1.2}.forest .none{opacity:.5}"
    ".forest .one{fill:none;stroke:var(--dim)}"
)
LEFT, RIGHT, ROW = 190.0, 640.0, 34.0


@dataclass(frozen=True)
class Branch:
    """One difference, in points.

    seeds, both  95 % intervals over seeds, and over seeds and samples; None where there is none
    apart        the differences of single seeds, small rings
    told         whether it is one: drawn full, else paler
    """

    name: str
    value: float
    seeds: tuple[float, float] | None
    both: tuple[float, float] | None
    apart: Sequence[float]
    told: bool


def forest(branches: Sequence[Branch], metric: str, first: str) -> str:
    """The picture: thick over seeds, thin over seeds and samples, the mean a dot; empty without a branch."""
    if not branches:
        return ""
    middle = [number for one in branches for number in (one.value, *one.apart)]
    span = max(max(middle) - min(middle), max(map(abs, middle)), 0.1)
    # An interval of two seeds can be a hundred times as wide as all else: it leaves the picture.
    reach = (min(*middle, 0.0) - 1.5 * span, max(*middle, 0.0) + 1.5 * span)
    ends = [end for one in branches for pair in (one.seeds, one.both) if pair for end in pair]
    low = min([*middle, 0.0, *(max(end, reach[0]) for end in ends)])
    high = max([*middle, 0.0, *(min(end, reach[1]) for end in ends)])
    pad = 0.06 * (high - low)
    low, high = low - pad, high + pad
    x = _scale(low, high, LEFT, RIGHT)
    bottom = 30 + ROW * len(branches)
    parts = [
        f'<line x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="26" y2="{bottom:.0f}"/>'
        f'<text x="{x(mark):.1f}" y="{bottom + 16:.0f}" text-anchor="middle">{mark + 0.0:+g}</text>'
        for mark in _ticks(low, high)
    ]
    parts.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="22" y2="{bottom:.0f}"/>')
    for place, one in enumerate(branches):
        y = 30 + ROW * (place + 0.5)
        body = "".join(
            f'<line class="{kind}" x1="{x(max(low, pair[0])):.1f}" x2="{x(min(high, pair[1])):.1f}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
            for kind, pair in (("both", one.both), ("over", one.seeds))
            if pair is not None
        )
        rings = "".join(f'<circle class="one" cx="{x(d):.1f}" cy="{y + 9:.1f}" r="2.4"/>' for d in one.apart)
        name = one.name if len(one.name) <= 26 else f"{one.name[:25]}…"
        pale = "" if one.told else ' class="none"'
        parts.append(
            f'<text class="name" x="{LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>'
            f"<g{pale}><title>{escape(one.name)}: {one.value:+.2f}</title>{body}"
            f'<circle cx="{x(one.value):.1f}" cy="{y:.1f}" r="4.5"/>{rings}</g>'
        )
    return (
        f'<svg class="forest" style="max-width:760px" viewBox="0 0 660 {bottom + 44:.0f}" role="img" '
        f'aria-label="differences of {escape(metric)}"><style>{_STYLE}</style>{"".join(parts)}'
        f'<text x="{LEFT}" y="14">points of {escape(metric)} more than {escape(first)}</text></svg>'
    )
