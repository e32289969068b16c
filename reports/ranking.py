"""A ranking of networks for people: its table, its intervals drawn, and a heat map of who is like whom.

Rankings are plain data, as `compress.stage.Ranking.to_dict` gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from reports.plots import Plain, percent, short

Matrix = Sequence[Sequence[float]]
STYLE = (
    "svg{--back:#fbfbfa;--card:#fff;--ink:#1d2326;--dim:#667076;--line:#e3e6e7;--was:#cdd3d5;--now:#0d7d72;"
    "background:#fff;font-family:system-ui,sans-serif}"
    "text{font-size:11px;fill:var(--dim)}.name{font-size:12px;fill:var(--ink);font-weight:600}"
    "line{stroke:var(--line)}"
)
"""what a picture needs where no report is around it"""


def columns(ranking: Plain) -> tuple[str, ...]:
    """Heads of the table."""
    spread = ("95 %", "first") if ranking["low"] else ()
    return ("", "teacher", "score", *spread[:1], *ranking["parts"], *spread[1:], "val", "MACs", "params")


def rows(ranking: Plain, records: Mapping[str, Plain]) -> list[tuple[str, ...]]:
    """One row a network, best first: place, score, interval, parts, how often it was first, its own val score, cost.

    records  of the networks, by name, as `Record.to_dict` gives them; one that is not there leaves its cells empty
    """
    made = []
    for place, name in enumerate(ranking["names"]):
        record = records.get(name)
        cost = record["profile"] if record else {}
        spread: tuple[str, ...] = ()
        first: tuple[str, ...] = ()
        if ranking["low"]:
            spread = (f"{_signed(ranking['low'][place])} to {_signed(ranking['high'][place])}",)
            first = (f"{100 * ranking['first'][place]:.0f} %",)
        made.append((
            str(place + 1), name, _signed(ranking["scores"][place]), *spread,
            *(_signed(values[place]) for values in ranking["parts"].values()), *first,
            percent(record["val"]) if record else "–", short(cost.get("macs")), short(cost.get("params")),
        ))  # fmt: skip
    return made


def told(ranking: Plain) -> str:
    """What the table says, in a sentence."""
    said = f"By {ranking['by']}"
    if ranking["target"]:
        said += f", compared with {ranking['target']}"
    if ranking["stability"] is not None:
        said += (
            f". Intervals and first places are over random halves of the probe, of which two agree on the order by "
            f"{ranking['stability']:.2f} (Spearman)"
        )
    return said + "."


def section(ranking: Plain, records: Mapping[str, Plain]) -> str:
    """The table and the intervals as HTML."""
    heads = columns(ranking)
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr>"
        + "".join(f'<td data-label="{escape(n)}">{escape(c)}</td>' for n, c in zip(heads, row, strict=True))
        + "</tr>"
        for row in rows(ranking, records)
    )
    table = f'<table class="ranking"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'{table}<p class="dim">{escape(told(ranking))}</p>{intervals(ranking)}'


def intervals(ranking: Plain) -> str:
    """Every network's score as a dot, its interval as a line through it; empty where there is none."""
    if not ranking["low"]:
        return ""
    low, high = min(ranking["low"]), max(ranking["high"])
    span = high - low or 1.0
    left, right, step = _margin(ranking["names"]), 760.0, 20.0

    def x(value: float) -> float:
        across: float = left + (value - low) / span * (right - left)
        return across

    bottom = 8 + step * len(ranking["names"])
    parts = [
        f'<line x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="4" y2="{bottom:.1f}"/>'
        f'<text x="{x(mark):.1f}" y="{bottom + 14:.1f}" text-anchor="middle">{_signed(mark, 2)}</text>'
        for mark in (low, low + span / 3, low + 2 * span / 3, high)
    ]
    for place, name in enumerate(ranking["names"]):
        y = 4 + step * (place + 0.5)
        ends = x(ranking["low"][place]), x(ranking["high"][place])
        parts.append(
            f'<text x="{left - 10:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(_cut(name))}</text>'
            f'<rect x="{ends[0]:.1f}" y="{y - 1.5:.1f}" width="{max(ends[1] - ends[0], 1):.1f}" height="3" rx="1.5" '
            f'fill="var(--was)"/><circle cx="{x(ranking["scores"][place]):.1f}" cy="{y:.1f}" r="4"/>'
        )
    return (
        f'<svg viewBox="0 0 800 {bottom + 20:.0f}" role="img" aria-label="scores with their intervals">'
        f"{''.join(parts)}</svg>"
    )


# -- who is like whom --------------------------------------------------------------------------------------


def heat_map(
    names: Sequence[str], similarity: Matrix, target: str | None = None, said: str = "similarity"
) -> str:
    """All networks against all as an SVG: a cell for two, the darker the more alike, in the order of a dendrogram.

    similarity  (M, M), symmetric, M at least 2; the diagonal is left out of the scale
    target      the network that is marked
    The dendrogram joins the networks by average linkage of (most alike - alike); a joint lies as far to the right as
    the groups it joins are apart. Raises ValueError for fewer than two networks.
    """
    if len(names) < 2:
        raise ValueError(f"a heat map takes two networks at least, not {len(names)}")
    order, joints = _tree(similarity)
    off = [similarity[p][q] for p in range(len(names)) for q in range(len(names)) if p != q]
    low, high = min(off), max(off)
    span = high - low or 1.0
    count = len(names)
    left, top = _margin(names) + 28, 22.0
    cell = max(12.0, min(34.0, (800 - left - 190) / count))
    parts = []
    for row, one in enumerate(order):
        y = top + row * cell
        mark, level = (' class="name"' if names[one] == target else ""), f'y="{y + cell / 2 + 4:.1f}"'
        parts.append(
            f'<text{mark} x="{left - 28:.1f}" {level} text-anchor="end">{escape(_cut(names[one]))}</text>'
            f'<text x="{left - 7:.1f}" {level} text-anchor="end">{row + 1}</text>'
            f'<text x="{left + (row + 0.5) * cell:.1f}" y="{top - 7}" text-anchor="middle">{row + 1}</text>'
        )
        for column, other in enumerate(order):
            x = left + column * cell
            place = f'x="{x + 0.75:.2f}" y="{y + 0.75:.2f}" width="{cell - 1.5:.2f}" height="{cell - 1.5:.2f}" rx="2"'
            if one == other:
                parts.append(f'<rect {place} fill="var(--line)"/>')
                continue
            value = similarity[one][other]
            share = (value - low) / span
            label = escape(f"{names[one]}, {names[other]}: {_signed(value)}")
            fill = f'fill="var(--now)" fill-opacity="{0.06 + 0.94 * share:.3f}"'
            parts.append(f"<rect {place} {fill}><title>{label}</title></rect>")
            if cell >= 28:
                colour = "var(--card)" if share > 0.7 else "var(--ink)"
                parts.append(
                    f'<text x="{x + cell / 2:.1f}" y="{y + cell / 2 + 3.5:.1f}" text-anchor="middle" '
                    f'style="font-size:10px;fill:{colour}">{_figure(value)}</text>'
                )
    parts.append(_dendrogram(joints, left + count * cell + 12, top, cell, 120.0))
    bottom = top + count * cell
    parts.append(_scale(left, bottom + 14, low, high, said))
    width = max(left + count * cell + 150, 800)
    return (
        f'<svg viewBox="0 0 {width:.0f} {bottom + 48:.0f}" role="img" aria-label="{escape(said)} of all networks">'
        f"{''.join(parts)}</svg>"
    )


def alone(svg: str) -> str:
    """A picture as a file of its own, with the colours that a report would give it."""
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        ">", f"><style>{STYLE}</style>", 1
    )


def _tree(similarity: Matrix) -> tuple[list[int], list[tuple[float, float, float, float, float]]]:
    """The order of the leaves, and every joint: heights and places of what it joins, and its own height, in [0, 1]."""
    from scipy.cluster.hierarchy import leaves_list, linkage  # a second to import, and only here

    count = len(similarity)
    most = max(max(row) for row in similarity)
    apart = [
        max(most - (similarity[p][q] + similarity[q][p]) / 2, 0.0)
        for p in range(count)
        for q in range(p + 1, count)
    ]
    merges = linkage(apart, "average", optimal_ordering=count > 2)
    order = [int(leaf) for leaf in leaves_list(merges)]
    tallest = float(merges[-1, 2]) or 1.0
    at = {leaf: (float(place), 0.0) for place, leaf in enumerate(order)}
    joints = []
    for number, (one, other, height, _) in enumerate(merges):
        (first, low), (second, below) = at[int(one)], at[int(other)]
        own = float(height) / tallest
        joints.append((low, first, below, second, own))
        at[count + number] = ((first + second) / 2, own)
    return order, joints


def _dendrogram(
    joints: Sequence[tuple[float, float, float, float, float]],
    left: float,
    top: float,
    cell: float,
    width: float,
) -> str:
    lines = []
    for low, first, below, second, own in joints:
        x0, x1, x2 = (left + width * height for height in (low, below, own))
        y0, y1 = (top + (place + 0.5) * cell for place in (first, second))
        lines.append(f"M{x0:.1f} {y0:.1f}H{x2:.1f}V{y1:.1f}H{x1:.1f}")
    return f'<path d="{"".join(lines)}" fill="none" stroke="var(--dim)" stroke-width="1.2"/>'


def _scale(left: float, top: float, low: float, high: float, said: str) -> str:
    steps = "".join(
        f'<rect x="{left + place * 8:.1f}" y="{top:.1f}" width="8" height="9" fill="var(--now)" '
        f'fill-opacity="{0.06 + 0.94 * place / 15:.3f}"/>'
        for place in range(16)
    )
    return (
        f'{steps}<text x="{left:.1f}" y="{top + 22:.1f}">{_signed(low, 2)}</text>'
        f'<text x="{left + 128:.1f}" y="{top + 22:.1f}" text-anchor="end">{_signed(high, 2)}</text>'
        f'<text x="{left + 140:.1f}" y="{top + 9:.1f}">{escape(said)}</text>'
    )


def _figure(value: float) -> str:
    """Two digits behind the point, without the zero in front of it."""
    return _signed(value, 2).replace("0.", ".", 1) if abs(value) < 1 else _signed(value, 1)


def _signed(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _margin(names: Sequence[str]) -> float:
    return 24 + 6.6 * max(len(_cut(name)) for name in names)


def _cut(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
