"""In which fields two recipes differ; stages are set side by side by what they are, not by their number."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from compress.stage import Stage
from recipes.names import DOTTED
from recipes.recipe import Recipe
from recipes.writing import call, canonical, line

GONE = "–"
"""what stands where one recipe has nothing"""


@dataclass(frozen=True)
class Difference:
    """One field: where it is, and what the two recipes say there, as a page would."""

    path: str
    left: str
    right: str


def difference(left: Recipe, right: Recipe) -> tuple[Difference, ...]:
    """Every field in which two recipes differ, defaults included, in the order of a page.

    A stage that one of them lacks is one line, with the fields that are not as by default; where two specs of different
    kinds stand in one place, so are they. Empty for equal recipes.
    """
    plain = [canonical(recipe)["recipes.Recipe"] for recipe in (left, right)]
    found: list[Difference] = []
    for field in plain[0]:
        if field == "stages":
            found += _stages(left.stages, right.stages)
        else:
            found += _apart(field, plain[0][field], plain[1][field])
    return tuple(found)


def aligned(left: Sequence[str], right: Sequence[str]) -> list[tuple[int | None, int | None]]:
    """Places of equal names in two rows, set side by side in order: as many pairs as can be, others alone.

    The longest common subsequence; of several, the one whose pairs come first.
    """
    n, m = len(left), len(right)
    longest = [[0] * (m + 1) for _ in range(n + 1)]
    for i in range(n - 1, -1, -1):
        for j in range(m - 1, -1, -1):
            same = longest[i + 1][j + 1] + 1 if left[i] == right[j] else 0
            longest[i][j] = max(same, longest[i + 1][j], longest[i][j + 1])
    pairs: list[tuple[int | None, int | None]] = []
    i = j = 0
    while i < n or j < m:
        if i < n and j < m and left[i] == right[j] and longest[i][j] == longest[i + 1][j + 1] + 1:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif i < n and (j == m or longest[i + 1][j] >= longest[i][j + 1]):
            pairs.append((i, None))
            i += 1
        else:
            pairs.append((None, j))
            j += 1
    return pairs


def _stages(left: Sequence[Stage], right: Sequence[Stage]) -> Iterator[Difference]:
    kinds = [[type(stage).__name__ for stage in stages] for stages in (left, right)]
    for mine, its in aligned(*kinds):
        if mine is None or its is None:
            number, stage = (mine, left[mine]) if mine is not None else (its, right[its or 0])
            told = line(call(stage))
            where = f"stages.{number}"
            yield Difference(where, told, GONE) if its is None else Difference(where, GONE, told)
        else:
            # The number alone would not say which stage; where both differ, the left one's is told.
            where = f"stages.{mine} {kinds[0][mine]}"
            yield from _apart(where, canonical(left[mine]), canonical(right[its]))


def _apart(path: str, left: Any, right: Any) -> Iterator[Difference]:
    """Differences of plain values, as `canonical` makes them, from here on."""
    if left == right:
        return
    one, other = _named(left), _named(right)
    if one is not None and other is not None and one[0] == other[0]:
        left, right = one[1], other[1]
    elif one is not None and other is not None:
        yield Difference(path, one[0], other[0])
        return
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [*left, *(key for key in right if key not in left)]:
            yield from _apart(f"{path}.{_key(key)}", left.get(key, GONE), right.get(key, GONE))
    elif isinstance(left, list) and isinstance(right, list) and any(map(_named, [*left, *right])):
        for place in range(max(len(left), len(right))):
            pair = [row[place] if place < len(row) else GONE for row in (left, right)]
            yield from _apart(f"{path}.{place}", *pair)
    else:
        yield Difference(path, _told(left), _told(right))


def _named(value: Any) -> tuple[str, Any] | None:
    """Name and fields of a spec in plain form."""
    if isinstance(value, dict) and len(value) == 1 and DOTTED.fullmatch(key := next(iter(value))):
        return key, value[key]
    return None


def _key(key: str) -> str:
    return str(json.loads(key)) if key.startswith('"') else key


def _told(value: Any) -> str:
    if isinstance(value, str):
        return value
    named = _named(value)
    return named[0] if named else json.dumps(value, ensure_ascii=False)
