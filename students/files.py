"""Writing so that nothing is lost: atomically, without pickles, and saying what failed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_TREE = "tree"


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a file beside `path`, then put it in place in one move.

    A reader sees the old file or the new one, never half of one. Where the disk is full the old file stays,
    the half-written one is removed, and the OSError names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    half = Path(name)
    try:
        fill(half)
        with open(half, "rb") as file:
            os.fsync(file.fileno())
        half.chmod(0o644)
        half.replace(path)
    except BaseException as problem:
        half.unlink(missing_ok=True)
        if isinstance(problem, OSError) or "No space left" in str(problem):
            raise OSError(
                f"{path} was not written ({problem}); what was there before is intact. "
                "Free some space and resume"
            ) from problem
        raise


def write_text(path: Path, text: str) -> None:
    """Write text atomically, as UTF-8."""
    write(path, lambda half: half.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically; NaN is refused, since most readers of JSON refuse it too."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def save_states(path: Path, states: Mapping[str, Any]) -> None:
    """Put nested state dicts away: tensors as safetensors, the tree around them as JSON in its header.

    Trees are made of dict (keys str or int), list, tuple, None, bool, int, float, str and tensors.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _pack(states, tensors)
    write(path, lambda half: save_file(tensors, half, metadata={_TREE: json.dumps(tree)}))


def load_states(path: Path) -> dict[str, Any]:
    """Read what `save_states` wrote. Raises ValueError where the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tree = json.loads((file.metadata() or {})[_TREE])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        states: dict[str, Any] = _unpack(tree, tensors)
        if not isinstance(states, dict):
            raise ValueError(f"it holds a {type(states).__name__} in place of states")
    except OSError:
        raise
    except Exception as problem:
        raise ValueError(f"{path} is damaged ({problem}): delete it to start this stage anew") from problem
    return states


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        key = str(len(tensors))
        # safetensors stores plain row-major memory; the strides come back with the module's own layout.
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str | int)]:
            raise TypeError(f"a dict with the key {odd[0]!r:.80} cannot be put away: keys are str or int")
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be put away without a pickle: {value!r:.80}")


def _unpack(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in value}
    if kind not in ("list", "tuple"):
        raise ValueError(f"it holds a {kind!r}")
    items = [_unpack(item, tensors) for item in value]
    return tuple(items) if kind == "tuple" else items
