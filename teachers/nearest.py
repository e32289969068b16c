"""Nearest names, for messages about misspelt ones."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """What to put behind a message about an unknown `name`: "; did you mean 'x' or 'y'?", or nothing."""
    folded = {other.lower(): other for other in names}  # `kse` is near KSE
    if name.lower() in folded:
        return f"; did you mean {folded[name.lower()]!r}?"
    near = [folded[match] for match in get_close_matches(name.lower(), folded, n=3, cutoff=0.6)]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
