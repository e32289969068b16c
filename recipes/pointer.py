"""A dotted path into a recipe, `stages.0.macs`: what stands there, and the recipe with something else in its place."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from recipes.names import fields, is_spec, name_of
from recipes.recipe import Recipe
from recipes.wording import switches, wrongs
from recipes.writing import show
from teachers.nearest import did_you_mean

Steps = tuple[str | int, ...]


class Refused(ValueError):
    """A value that a field does not take; `own` where the field's own type and bounds say so, whatever the rest is."""

    def __init__(self, text: str, *, own: bool) -> None:
        super().__init__(text)
        self.own = own


def steps(path: str) -> Steps:
    """The steps of a path: `stages.0.macs` is ("stages", 0, "macs"). Raises ValueError for an empty one."""
    words = path.split(".")
    if not all(words):
        raise ValueError(f"{path!r} is no path into a recipe: write stages.0.macs, the first stage's macs")
    return tuple(int(word) if word.isdecimal() else word for word in words)


def at(recipe: Recipe, path: str) -> Any:
    """What stands at the path. Raises ValueError where it leads nowhere, with the nearest names."""
    here: Any = recipe
    done = ""
    for step in steps(path):
        here = _below(here, step, path, done)
        done = f"{done}.{step}" if done else str(step)
    return here


def put(recipe: Recipe, path: str, value: object) -> Recipe:
    """The recipe with `value` at the path; everything around it is made anew, and so checked.

    Raises Refused where the field does not take the value, and ValueError where the path leads nowhere.
    """
    at(recipe, path)
    made: Recipe = _put(recipe, steps(path), value, path)
    return made


def _put(here: Any, way: Steps, value: object, path: str) -> Any:
    if not way:
        return value
    step, rest = way[0], way[1:]
    inside = _put(_below(here, step, path, ""), rest, value, path)
    if isinstance(here, dict):
        return {**here, step: inside}
    if isinstance(here, list | tuple):
        items = [inside if place == step else item for place, item in enumerate(here)]
        return items if isinstance(here, list) else tuple(items)
    cls = type(here)
    given = {name: getattr(here, name) for name in fields(cls)} | {str(step): inside}
    if wrong := switches(cls, given):
        raise Refused(f"{path}: {wrong[0].text}", own=not rest)
    try:
        return cls(**given)
    except ValidationError as problem:
        found = wrongs(cls, given, problem)
        own = next((each for each in found if each.steps[:1] == (step,)), None)
        raise Refused(f"{path}: {(own or found[0]).text}", own=own is not None) from problem
    except Refused:
        raise
    except ValueError as problem:
        raise Refused(f"{path}: {problem}", own=False) from problem


def _below(here: Any, step: str | int, path: str, done: str) -> Any:
    """What lies one step further in."""
    where = f"{path!r} leads nowhere: {done or 'the recipe'}"
    if is_spec(type(here)):
        known = fields(type(here))
        if step in known:
            return getattr(here, str(step))
        near = did_you_mean(str(step), known) or f"; it has {', '.join(known) or 'none'}"
        raise ValueError(f"{path!r} leads nowhere: {name_of(type(here))} has no field {step!r}{near}")
    if isinstance(here, list | tuple):
        if isinstance(step, int) and step < len(here):
            return here[step]
        held = ", ".join(f"{place} ({show(item, 30)})" for place, item in enumerate(here)) or "nothing"
        raise ValueError(f"{where} holds {held}, and no {step!r}")
    if isinstance(here, dict):
        if step in here:
            return here[step]
        near = did_you_mean(str(step), map(str, here)) or f"; it has {', '.join(map(str, here)) or 'none'}"
        raise ValueError(f"{where} has no key {step!r}{near}")
    raise ValueError(f"{where} is {show(here)}, and nothing lies below it")
