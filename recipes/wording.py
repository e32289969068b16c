"""What pydantic found wrong with a spec, in the words of this house: the field, the bound and the value."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue, ValidationError

from recipes.names import DOTTED, fields, is_spec, name_of, parts
from recipes.writing import show
from teachers.nearest import did_you_mean

Steps = tuple[Any, ...]


class Broken:
    """Stands where a value could not be read; the reason has been noted, so no second one is."""


@dataclass(frozen=True)
class Wrong:
    """One mistake: the steps from the call's fields to the place, and what to say about it."""

    steps: Steps
    text: str


@dataclass(frozen=True)
class _Found:
    kind: str
    steps: Steps
    fork: Steps | None  # where the ways of a union part, if they do
    text: str


def wrongs(cls: type, given: Mapping[str, Any], problem: ValidationError) -> list[Wrong]:
    """Every mistake in `cls(**given)`, once each; none about values that were broken before."""
    found = [_read(cls, given, dict(error)) for error in problem.errors(include_url=False)]
    kept = [error for error in found if error is not None]
    # Of the ways a union offers, the one that fits best is the one that was meant: it got furthest.
    furthest: dict[Steps, int] = {}
    for error in kept:
        if error.fork is not None:
            furthest[error.fork] = max(furthest.get(error.fork, 0), len(error.steps))
    merged: dict[Steps, list[str]] = {}
    for error in kept:
        if error.fork is None or len(error.steps) == furthest[error.fork]:
            texts = merged.setdefault(error.steps, [])
            if error.text not in texts:
                texts.append(error.text)
    return [Wrong(steps, _sentence(cls, given, steps, texts)) for steps, texts in merged.items()]


def switches(cls: type, given: Mapping[str, Any]) -> list[Wrong]:
    """Where `true` or `false` is given for a number, which pydantic takes for 1 or 0 without a word."""
    found = []
    for field, info in fields(cls).items():
        inside = list(parts(info.annotation))
        numbers = any(part is kind for part in inside for kind in (int, float))
        switch = any(part is kind for part in inside for kind in (bool, Any, object, JsonValue))
        if numbers and not switch and (at := _first_bool(given.get(field), (field,))) is not None:
            found.append(Wrong(at, f"{name_of(cls)}'s {place(at)} must be a number, not true or false"))
    return found


def place(steps: Steps) -> str:
    """Steps as one writes them: `budget['macs'][0]` or, between names, `teachers[0].name`."""
    text = ""
    for step in steps:
        if isinstance(step, str) and step.isidentifier():
            text += f".{step}" if text else step
        else:
            text += f"[{step!r}]"
    return text


def _read(cls: type, given: Mapping[str, Any], error: Mapping[str, Any]) -> _Found | None:
    kind, ctx = error["type"], error.get("ctx", {})
    location = error["loc"]
    naming = kind in ("missing", "unexpected_keyword_argument", "extra_forbidden")
    steps, fork, at = _walk(given, location[:-1] if naming else location)
    # To pydantic a list with a wrong item in it is also too short: only the item was wrong.
    if not naming and (_has_broken(at) or (kind == "too_short" and len(at) >= ctx["min_length"])):
        return None
    if naming and steps:
        if (inner := _written_plainly(cls, steps)) and kind != "missing":
            said = f"{name_of(inner)} has no field {location[-1]!r}{_nearest(inner, location[-1])}"
            return _Found(kind, steps, fork, said)
        return _Found(
            kind, steps, fork, f"must be a call, one dotted name with its fields below, not {show(at)}"
        )
    if kind == "missing":
        meaning = fields(cls)[location[-1]].description
        return _Found(
            kind, (location[-1],), None, f"needs {location[-1]!r}" + (f", {meaning}" if meaning else "")
        )
    if naming:
        return _Found(
            kind, (location[-1],), None, f"has no field {location[-1]!r}{_nearest(cls, location[-1])}"
        )
    if kind in ("value_error", "assertion_error"):
        return _Found(kind, steps, fork, str(ctx["error"]))
    return _Found(kind, steps, fork, _bound(kind, ctx, at, error["msg"]))


def _walk(given: Any, location: Sequence[Any]) -> tuple[Steps, Steps | None, Any]:
    """Follow pydantic's location through the values; steps that are not there name the ways of a union."""
    steps: Steps = ()
    fork: Steps | None = None
    for step in location:
        if isinstance(given, dict) and step in given:
            given = given[step]
        elif isinstance(given, dict) and (same := [key for key in given if str(key) == str(step)]):
            given = given[same[0]]
        elif isinstance(given, list | tuple) and isinstance(step, int) and step < len(given):
            given = given[step]
        else:
            fork = steps if fork is None else fork
            continue
        if isinstance(given, Broken):
            break
        steps = (*steps, step)
    return steps, fork, given


def _has_broken(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_broken, value.values()))
    return any(map(_has_broken, value)) if isinstance(value, list | tuple) else isinstance(value, Broken)


def _first_bool(value: Any, steps: Steps) -> Steps | None:
    if isinstance(value, bool):
        return steps
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list | tuple)
        else ()
    )
    return next((at for step, item in inner if (at := _first_bool(item, (*steps, step))) is not None), None)


def _written_plainly(cls: type, steps: Steps) -> type | None:
    """The only spec that a field of `cls` takes, which may be written without its name: a recipe's `at_most`."""
    inside = [part for part in parts(fields(cls)[steps[0]].annotation) if is_spec(part)]
    return inside[0] if len(steps) == len(inside) == 1 and not inspect.isabstract(inside[0]) else None


def _nearest(cls: type, word: Any) -> str:
    known = fields(cls)
    return did_you_mean(str(word), known) or (f"; it has {', '.join(known)}" if known else "; it has none")


def _sentence(cls: type, given: Mapping[str, Any], steps: Steps, texts: list[str]) -> str:
    name = name_of(cls)
    bounds = [text for text in texts if text.startswith("must be ")]
    if len(bounds) > 1:  # "must be a number or a list, not 'abc'"
        parts = [text.removeprefix("must be ").rpartition(", not ") for text in bounds]
        texts = [f"must be {' or '.join(part[0] for part in parts)}, not {parts[0][2]}"]
    text = "; ".join(texts)
    if text.startswith("must be "):
        return f"{name}'s {place(steps)} {text}"
    if text.startswith(("needs ", "has no field ")):
        return f"{name} {text}"
    return f"{name}'s {place(steps)}: {text}" if steps else f"{name}: {text}"


_BOUNDS: dict[str, Callable[[Mapping[str, Any], Any], str]] = {
    "greater_than": lambda ctx, at: f"more than {ctx['gt']:g}",
    "greater_than_equal": lambda ctx, at: f"at least {ctx['ge']:g}",
    "less_than": lambda ctx, at: f"less than {ctx['lt']:g}",
    "less_than_equal": lambda ctx, at: f"at most {ctx['le']:g}",
    "multiple_of": lambda ctx, at: f"a multiple of {ctx['multiple_of']:g}",
    "finite_number": lambda ctx, at: "a finite number",
    "string_pattern_mismatch": lambda ctx, at: f"text that matches {ctx['pattern']}",
    "string_too_short": lambda ctx, at: f"text of at least {ctx['min_length']} characters",
    "string_too_long": lambda ctx, at: f"text of at most {ctx['max_length']} characters",
    "too_short": lambda ctx, at: f"at least {ctx['min_length']} long",
    "too_long": lambda ctx, at: f"at most {ctx['max_length']} long",
    "is_instance_of": lambda ctx, at: f"a {ctx['class'].rpartition('.')[2]}",
    "dataclass_type": lambda ctx, at: f"a {ctx['class_name']}",
    "dataclass_exact_type": lambda ctx, at: f"a {ctx['class_name']}",
    "none_required": lambda ctx, at: "null",
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "path": "a path",
}


def _bound(kind: str, ctx: Mapping[str, Any], at: Any, message: str) -> str:
    family = re.sub(r"_(type|parsing|parsing_size|from_float)$", "", kind)
    hint = ""
    if kind in ("literal_error", "enum"):
        expected = ctx["expected"]
        choices = re.findall(r"'([^']*)'", expected)
        return f"must be {expected}, not {show(at)}{did_you_mean(at, choices) if isinstance(at, str) else ''}"
    if kind in _BOUNDS:
        wanted = _BOUNDS[kind](ctx, at)
    elif family in _KINDS:
        wanted = _KINDS[family]
    else:
        return f"{message[:1].lower()}{message[1:]}, not {show(at)}"
    if kind == "string_type" and isinstance(at, int | float):
        hint = ": put it in quotes"
    elif kind in ("is_instance_of", "dataclass_type") and isinstance(at, str) and DOTTED.fullmatch(at):
        hint = f": put a colon behind the name, '{at}:'"
    return f"must be {wanted}, not {show(at)}{hint}"
