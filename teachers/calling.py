"""Networks are called by position, with a batch's inputs in their order; some want theirs by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from teachers.nearest import did_you_mean


def by_position(module: nn.Module, names: tuple[str, ...]) -> nn.Module:
    """The module, which from now on takes the inputs of these names in this order: forward(image, *, mask), say.

    names  of all that it is given; none leaves it as it is, and so does a forward whose first parameters are these

    Nothing else of it changes, neither modules nor names of weights: only its class, to one of the same name that
    derives from it. Raises ValueError where its forward has no parameter of a name, or needs others.
    """
    if not names:
        return module
    given = inspect.signature(module.forward).parameters
    named = {
        name: one for name, one in given.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }
    kind = type(module).__name__
    if not any(one.kind is one.VAR_KEYWORD for one in given.values()):
        for name in names:
            if name not in named:
                raise ValueError(
                    f"the task gives an input {name!r}, but forward of {kind} takes {', '.join(given)}"
                    f"{did_you_mean(name, named)}"
                )
    lacking = [name for name, one in named.items() if one.default is one.empty and name not in names]
    if lacking:
        raise ValueError(
            f"forward of {kind} needs {', '.join(map(repr, lacking))} besides what the task gives, {', '.join(names)}"
        )
    places = [name for name, one in named.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    if tuple(places[: len(names)]) == names:
        return module
    if len(names) > len(_FORMS):
        raise ValueError(
            f"{kind} has {len(names)} inputs by name: at most {len(_FORMS)} can be brought into an order"
        )
    fields = {"forward": _FORMS[len(names) - 1], "input_names": names, "__doc__": type(module).__doc__}
    module.__class__ = type(kind, (type(module),), {**fields, "__module__": type(module).__module__})
    return module


def _call(self: Any, *inputs: Any) -> Any:
    kind = type(self)
    return super(kind, self).forward(**dict(zip(kind.input_names, inputs, strict=True)))


# Tracers read a function's parameters off its code, so that each number of inputs has one of its own.
_FORMS: tuple[Callable[..., Any], ...] = (
    lambda self, a: _call(self, a),
    lambda self, a, b: _call(self, a, b),
    lambda self, a, b, c: _call(self, a, b, c),
    lambda self, a, b, c, d: _call(self, a, b, c, d),
    lambda self, a, b, c, d, e: _call(self, a, b, c, d, e),
    lambda self, a, b, c, d, e, f: _call(self, a, b, c, d, e, f),
)
