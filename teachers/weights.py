"""Weights from files as found in the wild, without ever running code that a file carries."""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from teachers.nearest import did_you_mean

NESTED = ("state_dict", "model", "model_state_dict", "net")
PREFIXES = ("module.", "_orig_mod.")  # left behind by DataParallel and by torch.compile
SHOWN = 8

__all__ = ["digest", "existing", "load_into", "read"]


def existing(path: Path, *others: Path) -> Path:
    """The first of these paths that is a file. Raises ValueError, with the nearest names, where none is."""
    places = [place.absolute() for place in (path, *others)]
    for place in places:
        if place.is_file():
            return place
    for place in places:
        if place.is_dir():
            raise ValueError(f"{place} is a folder: name the file with the weights in it")
    gone = [place.parent for place in places if not place.parent.is_dir()]
    near = [
        file.name
        for place in places
        if place.parent.is_dir()
        for file in place.parent.iterdir()
        if file.is_file()
    ]
    hint = f" (there is no folder {' nor '.join(map(str, gone))})" if gone else ""
    raise ValueError(f"there is no {' nor '.join(map(str, places))}{hint}{did_you_mean(path.name, near)}")


def digest(path: Path) -> str:
    """The file's sha256, 64 hexadecimal digits."""
    with open(existing(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a PyTorch state dict, by name, on the CPU.

    What the file is, its first bytes say, whatever its name. A state dict may lie under `state_dict`,
    `model`, `model_state_dict` or `net`, and its keys may all begin with `module.` or `_orig_mod.`; neither
    is left in the result, nor is anything that is not a tensor.

    Raises ValueError where the file is missing, empty, cut short, neither format, a pickle that carries code,
    or without tensors.
    """
    with open(existing(path), "rb") as file:
        head = file.read(9)
    if not head:
        raise ValueError(f"{path} is empty: it was not written to the end; get it again")
    if head[:2] == b"PK" or head[:1] == b"\x80":
        tensors = _tensors(path, _read_torch(path))
    elif head[8:9] == b"{" or path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    else:
        raise ValueError(
            f"{path} is neither a safetensors file nor a PyTorch state dict: it begins with {head!r}"
        )
    for prefix in PREFIXES * 2:  # either may be around the other
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if not tensors:
        raise ValueError(f"{path} holds no tensors: save module.state_dict() into it")
    return tensors


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Fill all the module's parameters and buffers from `tensors`; `source` names these in messages.

    Batch norm's `num_batches_tracked`, which old files lack, may be missing, and so may all but one of the
    names of a tied parameter. Raises ValueError, and leaves the module as it was, where names or shapes
    differ or where a tensor holds NaN or infinity.
    """
    # Extra state that is not a tensor is the module's own affair.
    own = {
        name: entry for name, entry in module.state_dict(keep_vars=True).items() if isinstance(entry, Tensor)
    }
    _check_names(module, own, tensors, source)
    _check_shapes(module, own, tensors, source)
    _check_values(own, tensors, source)
    _check_ties(module, tensors, source)
    module.load_state_dict(dict(tensors), strict=False)


# -- reading ----------------------------------------------------------------------------------------------


def _damaged(path: Path, problem: Exception) -> ValueError:
    # PyTorch's own words stop at the first sentence: what follows advises running the file's code.
    line = re.split(r"\.\s|\n|Weights only load failed", str(problem), maxsplit=1)[0].strip()
    return ValueError(
        f"{path} is damaged or cut short at {path.stat().st_size} bytes ({line or type(problem).__name__}): "
        "get it again and compare its sha256"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as problem:
        raise _damaged(path, problem) from problem


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of old pickle protocols: it is read or refused, and that is said
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        # PyTorch names what it would not run; without such a name the pickle itself is broken.
        code = re.search(
            r"GLOBAL ([\w.]+)|attempted to load ([\w.]+)|instance of.*?class ([\w.]+)", str(problem)
        )
        if code is None and "Unsupported operand" in str(problem) and path.read_bytes()[1:2] >= b"\x04":
            # torch.save writes protocol 2: a newer one is pickle.dump's, whose objects PyTorch cannot even name.
            raise ValueError(
                f"{path} is a pickle that torch.save did not write and that may carry code, which is never run "
                "here: where you trust the file, load it yourself and save module.state_dict() with safetensors"
            ) from problem
        if code is None:
            raise _damaged(path, problem) from problem
        name = next(group for group in code.groups() if group)
        raise ValueError(
            f"{path} is a pickle that carries code ({name.rstrip('.')}), which is never run here: where you "
            "trust the file, load it yourself and save module.state_dict() with safetensors"
        ) from problem
    except (
        Exception
    ) as problem:  # what reading broken bytes ends in, nobody says: struct.error, EOFError, ...
        if "TorchScript" in str(problem):
            raise ValueError(
                f"{path} is a TorchScript archive, a program and not just weights: "
                "save module.state_dict() instead"
            ) from problem
        raise _damaged(path, problem) from problem


def _tensors(path: Path, found: object) -> dict[str, Tensor]:
    if isinstance(found, Tensor):
        raise ValueError(f"{path} holds one tensor of shape {tuple(found.shape)}, not a state dict")
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds a {type(found).__name__}, not a state dict")
    for name in NESTED:
        inner = found.get(name)
        if isinstance(inner, Mapping):
            return _tensors(path, inner)
    tensors = {
        name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        keys = ", ".join(map(repr, found)) or "nothing"
        raise ValueError(
            f"{path} holds no tensors: looked at its top level and under {', '.join(NESTED)}; "
            f"it has {keys:.300}"
        )
    return tensors


# -- checking ---------------------------------------------------------------------------------------------


def _check_names(
    module: nn.Module, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str
) -> None:
    twins = _twins(module)
    missing = [
        name
        for name in own
        if name not in tensors
        and not name.endswith("num_batches_tracked")
        and not any(twin in tensors for twin in twins.get(name, ()))
    ]
    unexpected = [name for name in tensors if name not in own]
    if not missing and not unexpected:
        return
    said = [f"{source} does not fit the network"]
    if missing:
        said.append(f"  {len(missing)} missing from the file:")
        said += _some(f"    {name}{did_you_mean(name, unexpected)}" for name in missing)
    if unexpected:
        said.append(f"  {len(unexpected)} in the file that the network does not have:")
        said += _some(f"    {name}{did_you_mean(name, missing)}" for name in unexpected)
    said.append("Check the network's fields (depth, shortcut): its names and the file's must be the same.")
    raise ValueError("\n".join(said))


def _twins(module: nn.Module) -> dict[str, list[str]]:
    """For every name of a tied parameter, all its names."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return {name: group for group in names.values() if len(group) > 1 for name in group}


def _check_shapes(
    module: nn.Module, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str
) -> None:
    wrong = [name for name, tensor in tensors.items() if tensor.shape != own[name].shape]
    if not wrong:
        return
    said = [f"{source} does not fit the network"]
    said += _ends(module, own, tensors, set(wrong))
    said += _some(
        f"  {name}: {tuple(own[name].shape)} in the network, {tuple(tensors[name].shape)} in the file"
        for name in wrong
    )
    raise ValueError("\n".join(said))


def _ends(
    module: nn.Module, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], wrong: set[str]
) -> list[str]:
    """What wrong shapes at the two ends of a network mean, in the words of its fields."""
    layers = [
        f"{name}.weight".removeprefix(".")
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    ]
    said = []
    for end, axis, takes, field in ((layers[-1:], 0, "has", "classes"), (layers[:1], 1, "takes", "channels")):
        for name in wrong.intersection(end):
            ours, theirs = own[name].shape, tensors[name].shape
            alike = len(ours) == len(theirs) and all(
                ours[i] == theirs[i] for i in range(len(ours)) if i != axis
            )
            if alike:
                a, b = ours[axis], theirs[axis]
                said.append(f"  the network {takes} {a} {field}, the file {b}: {field}={b}")
    return said


def _check_values(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in tensors.items():
        if own[name].is_floating_point() and not tensor.is_floating_point():
            raise ValueError(
                f"{source}: {name} is stored as {str(tensor.dtype).removeprefix('torch.')}, the network "
                "wants floating point: quantised weights must be dequantised first"
            )
        if tensor.is_floating_point():
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                raise ValueError(
                    f"{source}: {bad} of the {tensor.numel()} values of {name} are NaN or infinite: its "
                    "training diverged, or the file is damaged"
                )


def _check_ties(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    for name, group in _twins(module).items():
        for twin in group:
            if name in tensors and twin in tensors and not torch.equal(tensors[name], tensors[twin]):
                raise ValueError(
                    f"{source}: {name} and {twin} are one in the network, but differ in the file"
                )


def _some(lines: Iterable[str]) -> list[str]:
    all_lines = list(lines)
    more = len(all_lines) - SHOWN
    return [*all_lines[:SHOWN], f"    and {more} more"] if more > 0 else all_lines
