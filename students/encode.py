"""Values of a network's code as JSON, and the names of functions: the counterpart of `students.load`."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx


def encode_both(evaluating: Any, training: Any) -> Any:
    """Encode a value that may differ between the two modes."""
    if isinstance(evaluating, fx.Node) or isinstance(training, fx.Node):
        if getattr(evaluating, "name", None) != getattr(training, "name", None):
            raise ValueError(f"it is {training} in training and {evaluating} in evaluation mode")
        return {"node": evaluating.name}
    if isinstance(evaluating, list | tuple) and isinstance(training, list | tuple):
        items = [encode_both(*pair) for pair in zip(evaluating, training, strict=True)]
        return {"tuple": items} if isinstance(evaluating, tuple) else items
    if isinstance(evaluating, slice) and isinstance(training, slice):
        ends = [(getattr(evaluating, end), getattr(training, end)) for end in ("start", "stop", "step")]
        return {"slice": [encode_both(*pair) for pair in ends]}
    if isinstance(evaluating, Mapping) and isinstance(training, Mapping):
        if not all(isinstance(key, str) for key in evaluating) or evaluating.keys() != training.keys():
            raise ValueError(f"a dictionary with the keys {list(evaluating)}")
        return {"dict": {key: encode_both(value, training[key]) for key, value in evaluating.items()}}
    same, other = _plain(evaluating), _plain(training)
    return same if same == other else {"training": [same, other]}


def encode(value: Any) -> Any:
    """Encode a value that is the same in both modes. Raises ValueError for what JSON cannot hold."""
    return encode_both(value, value)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, types.EllipsisType):
        return {"ellipsis": True}
    for kind in ("dtype", "memory_format", "layout"):
        if isinstance(value, getattr(torch, kind)):
            return {kind: short(value)}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    raise ValueError(f"a {type(value).__name__}: {value!r:.80}")


def short(thing: Any) -> str:
    return str(thing).removeprefix("torch.")
