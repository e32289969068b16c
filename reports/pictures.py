"""Pictures that a stage leaves for the report: what it looked at, and what became of it. SVG as text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

Rows = Sequence[Sequence[float]]


def strips(rows: Sequence[tuple[str, Sequence[float]]], said: str) -> str:
    """Per layer a strip of cells, one a channel, in the order given: full where the share is 1, empty at 0.

    rows are (layer, shares in [0, 1]); `said` explains the cells. Raises ValueError without a row.
    """
    if not rows:
        raise ValueError("a picture of strips needs a layer")
    left, width, step = 150.0, 640.0, 15.0
    parts = []
    for place, (name, shares) in enumerate(rows):
        top = 18 + place * step
        label = name if len(name) <= 24 else f"…{name[-23:]}"
        parts.append(f'<text x="{left - 8}" y="{top + 9:.1f}" text-anchor="end">{escape(label)}</text>')
        cell = width / max(len(shares), 1)
        # Runs of equal cells are drawn as one: a wide layer has thousands.
        start = 0
        for end in range(1, len(shares) + 1):
            if end < len(shares) and shares[end] == shares[start]:
                continue
            opacity = 0.0 if shares[start] <= 0 else 0.15 + 0.85 * min(shares[start], 1.0)
            parts.append(
                f'<rect x="{left + start * cell:.1f}" y="{top:.1f}" width="{(end - start) * cell:.1f}" height="11" '
                f'fill="var(--now)" fill-opacity="{opacity:.2f}"/>'
            )
            start = end
        parts.append(
            f'<rect x="{left}" y="{top:.1f}" width="{width}" height="11" fill="none" stroke="var(--line)"/>'
        )
    height = 24 + len(rows) * step
    return (
        f'<svg viewBox="0 0 {left + width + 10:.0f} {height:.0f}" role="img" aria-label="{escape(said)}">'
        f'<text x="{left}" y="10">{escape(said)}</text>{"".join(parts)}</svg>'
    )


def kernels(pairs: Sequence[tuple[str, Sequence[Rows], Sequence[Rows]]], said: str) -> str:
    """Small kernels as grey squares: for every channel a row as they were, and under it a row as they are.

    pairs are (channel, kernels before, kernels after), each kernel a matrix; one scale of grey for a channel.
    """
    if not pairs:
        raise ValueError("a picture of kernels needs a channel")
    left, gap, cell = 90.0, 5.0, 5.0
    parts, top, right = [], 20.0, left
    for name, before, after in pairs:
        most = max(abs(v) for matrix in (*before, *after) for row in matrix for v in row) or 1.0
        parts.append(f'<text x="{left - 8}" y="{top + 12:.1f}" text-anchor="end">{escape(name)}</text>')
        for matrices in (before, after):
            across, high = left, 0.0
            for matrix in matrices:
                for y, row in enumerate(matrix):
                    for x, value in enumerate(row):
                        grey = round(127.5 * (1 + value / most))
                        parts.append(
                            f'<rect x="{across + x * cell:.0f}" y="{top + y * cell:.0f}" width="{cell:.0f}" '
                            f'height="{cell:.0f}" fill="#{grey:02x}{grey:02x}{grey:02x}"/>'
                        )
                across += gap + cell * len(matrix[0])
                high = max(high, cell * len(matrix))
            right = max(right, across)
            top += high + 3
        top += 8
    return (
        f'<svg viewBox="0 0 {max(right + 10, 800):.0f} {top:.0f}" role="img" aria-label="{escape(said)}">'
        f'<text x="{left}" y="11">{escape(said)}</text>{"".join(parts)}</svg>'
    )
