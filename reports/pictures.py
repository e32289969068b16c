"""Pictures that a stage leaves for the report: what it looked at, and what became of it. SVG as text."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape

Rows = Sequence[Sequence[float]]
Image = Sequence[Sequence[Sequence[int]]]


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


def grid(rows: Sequence[tuple[str, Sequence[Image]]], said: str) -> str:
    """Small images in rows, each row with its name, drawn as one picture of whole pixels.

    An image is (channels, height, width), 0 to 255, of 1 or 3 channels, all of one size. Raises ValueError without an
    image, and for other channels.
    """
    if not rows or not rows[0][1]:
        raise ValueError("a grid of images needs an image")
    first = rows[0][1][0]
    channels, high, wide = len(first), len(first[0]), len(first[0][0])
    if channels not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels, not {channels}")
    across = max(len(images) for _, images in rows)
    lines = bytearray()
    blank = bytes(channels)
    for _, images in rows:
        for y in range(high):
            lines.append(0)  # PNG: this line is stored as it is
            for image in images:
                lines += bytes(image[c][y][x] for x in range(wide) for c in range(channels)) + blank
            lines += blank * (wide + 1) * (across - len(images))
        lines += bytes(1 + channels * (wide + 1) * across)
    png = _png(bytes(lines), across * (wide + 1), len(rows) * (high + 1), 0 if channels == 1 else 2)
    scale = max(1, round(36 / high))
    left, top, line = 110.0, 18.0, scale * (high + 1)
    names = "".join(
        f'<text x="{left - 8}" y="{top + (row + 0.5) * line + 4:.1f}" text-anchor="end">{escape(name)}</text>'
        for row, (name, _) in enumerate(rows)
    )
    width, height = scale * across * (wide + 1), line * len(rows)
    return (
        f'<svg viewBox="0 0 {max(left + width + 10, 800):.0f} {top + height + 4:.0f}" role="img" '
        f'aria-label="{escape(said)}"><text x="{left}" y="11">{escape(said)}</text>{names}'
        f'<image x="{left}" y="{top}" width="{width}" height="{height}" style="image-rendering: pixelated" '
        f'href="data:image/png;base64,{base64.b64encode(png).decode()}"/></svg>'
    )


def shares(rows: Sequence[tuple[str, Sequence[float], Sequence[float]]], said: str) -> str:
    """For every row two groups of bars, shares in [0, 1]: grey above as they should be, coloured below as they are.

    rows are (name, wanted, given), both as long. Raises ValueError without a row.
    """
    if not rows:
        raise ValueError("a picture of shares needs a row")
    left, high, bar, step = 110.0, 26.0, 22.0, 66.0
    parts = []
    for place, (name, wanted, given) in enumerate(rows):
        middle = 22 + place * step + high
        parts.append(f'<text x="{left - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        most = max(*wanted, *given, 1e-12)
        for at, pair in enumerate(zip(wanted, given, strict=True)):
            for value, above in zip(pair, (True, False), strict=True):
                tall = high * value / most
                fill = "var(--was)" if above else "var(--now)"
                parts.append(
                    f'<rect x="{left + at * bar:.1f}" y="{middle - tall if above else middle + 1:.1f}" '
                    f'width="{bar - 4:.1f}" height="{tall:.1f}" fill="{fill}"><title>{value:.3f}</title></rect>'
                )
        end = left + bar * len(wanted)
        parts.append(
            f'<line x1="{left}" x2="{end:.1f}" y1="{middle + 0.5:.1f}" y2="{middle + 0.5:.1f}" stroke="var(--line)"/>'
        )
    return (
        f'<svg viewBox="0 0 800 {22 + len(rows) * step:.0f}" role="img" aria-label="{escape(said)}">'
        f'<text x="{left}" y="11">{escape(said)}</text>{"".join(parts)}</svg>'
    )


def scatter(
    panels: Sequence[tuple[str, Sequence[Sequence[float]]]], colours: Sequence[int], said: str
) -> str:
    """Dots on planes side by side, the same dots in each: panels are (name, (x, y) of each dot), colours numbers.

    Raises ValueError without a dot.
    """
    if not panels or not panels[0][1]:
        raise ValueError("a picture of dots needs a dot")
    side, gap, top = 360.0, 30.0, 34.0
    parts = []
    for place, (name, dots) in enumerate(panels):
        left = 20 + place * (side + gap)
        low = [min(dot[axis] for dot in dots) for axis in (0, 1)]
        span = [max(dot[axis] for dot in dots) - low[axis] or 1.0 for axis in (0, 1)]
        parts.append(f'<text x="{left}" y="{top - 8}">{escape(name)}</text>')
        parts.append(
            f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="var(--line)"/>'
        )
        for dot, colour in zip(dots, colours, strict=True):
            x, y = (6 + (side - 12) * (dot[axis] - low[axis]) / span[axis] for axis in (0, 1))
            hue = round(colour * 137.5) % 360  # the golden angle: neighbours in number lie far apart
            parts.append(
                f'<circle cx="{left + x:.1f}" cy="{top + y:.1f}" r="2.5" style="fill:hsl({hue},65%,48%);stroke:none"/>'
            )
    width = 20 + len(panels) * (side + gap)
    return (
        f'<svg viewBox="0 0 {max(width, 800):.0f} {top + side + 8:.0f}" role="img" aria-label="{escape(said)}">'
        f'<text x="20" y="11">{escape(said)}</text>{"".join(parts)}</svg>'
    )


def _png(lines: bytes, width: int, height: int, colour: int) -> bytes:
    """A PNG file of 8 bits a channel: colour 0 is grey, 2 is RGB; lines each begin with their filter, 0."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
