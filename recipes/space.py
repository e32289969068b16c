"""What a sweep may change in a page: a range or a choice for each path, checked against the field's own bounds.

stages.0.macs     0.3..0.7         any number between
stages.0.l1       log:1e-3..1e-1   the same on a logarithmic scale
stages.1.epochs   1..5             whole numbers, for both ends are written whole; 1.0..5.0 is any number
stages.0.macs     0.3..0.7:0.1     in steps
stages.0.saliency bn_scale,l2      one of these, read as on a page; of calls, too
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes import pointer
from recipes.page import values
from recipes.recipe import Recipe
from recipes.writing import canonical, inline, show

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(log:)?\s*({_NUMBER})\s*\.\.\s*({_NUMBER})(?:\s*:\s*({_NUMBER}))?", re.ASCII)
_WHOLE = re.compile(r"[-+]?\d+", re.ASCII)
_FIXED = {
    "name": "a name changes nothing that is measured",
    "seed": "a seed is not chosen by its luck: ask for several with --seeds",
    "task": "trials are compared on one and the same val (only task.batch may vary)",
    "at_most": "what trials are held to has to stay the same",
}
"""fields of a recipe that no sweep may vary, and why"""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    path: str
    low: float
    high: float
    whole: bool = False
    log: bool = False
    step: float | None = None

    @property
    def tries(self) -> tuple[Any, ...]:
        """The values whose being taken says that all are: the two ends."""
        return (self.low, self.high)

    def distribution(self) -> BaseDistribution:
        """As Optuna knows it."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def value(self, drawn: Any) -> Any:
        """What goes into the field, of what was drawn."""
        return drawn

    def drawn(self, value: Any) -> Any:
        """What would have to be drawn for this value; None where it cannot be."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if not self.low <= value <= self.high or (self.whole and value != int(value)):
            return None
        step = self.step or (1 if self.whole else None)
        if step is not None and abs((value - self.low) / step - round((value - self.low) / step)) > 1e-9:
            return None
        return int(value) if self.whole else float(value)

    def __str__(self) -> str:
        kind = "whole numbers " if self.whole else ""
        step = f" in steps of {self.step:g}" if self.step else ""
        return f"{kind}{self.low:g} to {self.high:g}{step}{', logarithmic' if self.log else ''}"


@dataclass(frozen=True)
class Choice:
    """One of several values, known by the words that stand for them on a page."""

    path: str
    options: Mapping[str, Any]

    @property
    def tries(self) -> tuple[Any, ...]:
        """All of them."""
        return tuple(self.options.values())

    def distribution(self) -> BaseDistribution:
        """As Optuna knows it: the words."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(tuple(self.options))

    def value(self, drawn: Any) -> Any:
        """What goes into the field, of the word that was drawn."""
        return self.options[drawn]

    def drawn(self, value: Any) -> Any:
        """The word for this value; None where it is none of them."""
        return next((word for word, option in self.options.items() if _same(option, value)), None)

    def __str__(self) -> str:
        return " or ".join(self.options)


Dimension = Range | Choice


@dataclass(frozen=True)
class Space:
    """All that a sweep may change, in the order in which it was named."""

    dimensions: tuple[Dimension, ...]
    _known: dict[str, Dimension] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_known", {each.path: each for each in self.dimensions})

    def __iter__(self) -> Iterator[Dimension]:
        return iter(self.dimensions)

    def recipe(self, base: Recipe, drawn: Mapping[str, Any]) -> Recipe:
        """The page with what was drawn in its place. Raises ValueError where the fields do not go together."""
        # Whole stages first: a field is set in what then stands there.
        for path in sorted(drawn, key=lambda path: len(pointer.steps(path))):
            base = pointer.put(base, path, self._known[path].value(drawn[path]))
        return base

    def of_page(self, base: Recipe) -> dict[str, Any] | None:
        """What would have to be drawn for the page as it is; None where its values lie outside."""
        found = {each.path: each.drawn(pointer.at(base, each.path)) for each in self}
        return found if all(value is not None for value in found.values()) else None

    def shared(self, base: Recipe) -> int:
        """How many of the page's first stages no trial changes; 0 where teachers or precision vary."""
        first = len(base.stages)
        for each in self:
            top, *rest = pointer.steps(each.path)
            first = min(first, int(rest[0]) if top == "stages" and rest else 0)
        return first

    def canonical(self) -> dict[str, Any]:
        """Plain data that two equal spaces have in common."""
        return {
            each.path: {word: canonical(value) for word, value in each.options.items()}
            if isinstance(each, Choice)
            else {"low": each.low, "high": each.high, "whole": each.whole, "log": each.log, "step": each.step}
            for each in sorted(self, key=lambda each: each.path)
        }


def space(recipe: Recipe, over: Mapping[str, str | list[Any]], trust: tuple[str, ...] = ()) -> Space:
    """The space that was asked for: a text as above, or a list of values, for each path of the recipe.

    Raises ValueError, before anything runs, for a path that leads nowhere (with the nearest names), a range or a
    value outside the field's type and bounds, and for what leaves nothing to choose.
    """
    if not over:
        raise ValueError("there is nothing to sweep over: name a field, --over stages.0.macs=0.3..0.7")
    made = []
    for path, wanted in over.items():
        pointer.at(recipe, path)  # says what is wrong with a path, before what is wrong with its values
        top = pointer.steps(path)[0]
        if top in _FIXED and path != "task.batch":
            raise ValueError(f"{path!r} cannot be swept over: {_FIXED[str(top)]}")
        dimension = _dimension(path, wanted, trust)
        for value in dimension.tries:
            _check(recipe, dimension, value)
        made.append(dimension)
    _apart([each.path for each in made])
    return Space(tuple(made))


def read(file: Path, trust: tuple[str, ...] = ()) -> dict[str, str | list[Any]]:
    """The space in a YAML file: a mapping from paths to a range as text, or to a list of values.

    Raises ValueError for anything else, OSError where the file cannot be read.
    """
    found = values(file.read_text(encoding="utf-8"), trust, name=str(file))
    if not isinstance(found, dict):
        raise ValueError(
            f"{file} holds {show(found)}: a space is a mapping, `stages.0.macs: 0.3..0.7` on each line"
        )
    for path, wanted in found.items():
        if not isinstance(path, str) or not isinstance(wanted, str | list):
            raise ValueError(
                f"{file}: {path} is {show(wanted)}: write a range, 0.3..0.7, or a list of values, [l1, l2]"
            )
    return found


def merged(read: Mapping[str, str | list[Any]], over: list[str]) -> dict[str, str | list[Any]]:
    """A file's space and the command line's `path=values`, which win. Raises ValueError for what is neither."""
    found = dict(read)
    named: set[str] = set()
    for text in over:
        path, equals, wanted = (part.strip() for part in text.partition("="))
        if not equals or not path or not wanted:
            raise ValueError(f"--over {text}: write a path and what it may be, --over stages.0.macs=0.3..0.7")
        if path in named:
            raise ValueError(f"--over names {path} twice: say once what it may be")
        named.add(path)
        found[path] = wanted
    return found


def _dimension(path: str, wanted: str | list[Any], trust: tuple[str, ...]) -> Dimension:
    if isinstance(wanted, str):
        if match := _RANGE.fullmatch(wanted.strip()):
            return _range(path, *match.groups())
        if ".." in wanted:
            raise ValueError(
                f"{path}: {wanted!r} is no range: write 0.3..0.7, 1..5, log:1e-3..1e-1 or 8..64:8"
            )
        wanted = values(f"[{wanted}]", trust, name=f"{path}={wanted}")
    words = {inline(value): value for value in wanted}
    if len(words) < len(wanted):
        raise ValueError(f"{path} has the same value twice: {', '.join(map(inline, wanted))}")
    if len(words) < 2:
        raise ValueError(
            f"{path} has {', '.join(words) or 'nothing'} to choose from: name two values, or a range 0.3..0.7"
        )
    return Choice(path, words)


def _range(path: str, log: str | None, low: str, high: str, step: str | None) -> Range:
    whole = all(_WHOLE.fullmatch(number) for number in (low, high, step or "1"))
    start, end, stride = float(low), float(high), float(step) if step else None
    said = f"{path}: {log or ''}{low}..{high}{f':{step}' if step else ''}"
    if not start < end or not math.isfinite(end - start):
        raise ValueError(f"{said} is empty: the first number has to be the smaller one")
    if log and start <= 0:
        raise ValueError(f"{said}: a logarithmic range begins above 0")
    if log and stride:
        raise ValueError(f"{said}: a logarithmic range has no steps")
    if stride is not None and (
        stride <= 0 or abs((end - start) / stride - round((end - start) / stride)) > 1e-9
    ):
        raise ValueError(f"{said}: steps of {step} do not lead from {low} to {high}")
    kind: Any = int if whole else float
    return Range(path, kind(start), kind(end), whole, bool(log), kind(stride) if stride is not None else None)


def _check(recipe: Recipe, dimension: Dimension, value: Any) -> None:
    try:
        pointer.put(recipe, dimension.path, value)
    except pointer.Refused as problem:
        # What only other fields forbid may be allowed beside other values of theirs: that is for the trial to find out.
        if problem.own:
            raise ValueError(f"--over {problem}; asked for: {dimension}") from problem


def _apart(paths: list[str]) -> None:
    for path in paths:
        inside = next((other for other in paths if other.startswith(f"{path}.")), None)
        if inside is not None:
            raise ValueError(f"{inside} lies inside {path}, which is swept over as a whole: name one of them")


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
