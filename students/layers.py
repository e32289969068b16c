"""Which layers and tensors a network holds: classes of torch.nn with their arguments, by dotted name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from students import load
from students.encode import encode, short
from students.kernels import SharedConvolution


def parts_of(module: nn.Module) -> tuple[dict[str, Any], dict[str, str]]:
    """Layers and bare tensors in the order of registration, and the parameters tied to an earlier one."""
    parts: dict[str, Any] = {}
    tied: dict[str, str] = {}
    seen: dict[int, str] = {}
    tensors: dict[int, str] = {}

    def tie(name: str, parameter: nn.Parameter) -> bool:
        first = tensors.setdefault(id(parameter), name)
        if first != name:
            tied[name] = first
        return first != name

    def walk(inner: nn.Module, name: str) -> None:
        if id(inner) in seen:
            parts[name] = {"type": "same", "as": seen[id(inner)]}
            return
        seen[id(inner)] = name
        found = layer(inner)
        if found is not None and name:
            _compare(inner, found, name)
            parts[name] = found
            for key, parameter in inner.named_parameters(prefix=name):
                tie(key, parameter)
            return
        dot = f"{name}." if name else ""
        if name and isinstance(inner, load.CONTAINERS) and found is None:
            parts.update(_container(inner, name))
        for key, own in inner._parameters.items():
            if own is not None:
                tie(dot + key, own)
                parts[dot + key] = {
                    "type": "parameter",
                    "shape": list(own.shape),
                    "dtype": short(own.dtype),
                }
        for key, buffer in inner._buffers.items():
            if buffer is not None:
                parts[dot + key] = {
                    "type": "buffer",
                    "shape": list(buffer.shape),
                    "dtype": short(buffer.dtype),
                    "persistent": key not in inner._non_persistent_buffers_set,
                }
        for key, child in inner._modules.items():
            if child is not None:
                walk(child, dot + key)

    walk(module, "")
    return parts, tied


def _container(module: nn.Module, name: str) -> dict[str, Any]:
    for kind in load.CONTAINERS:
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return {name: {"type": f"torch.nn.{kind.__name__}"}}
    return {}


def layer(module: nn.Module) -> dict[str, Any] | None:
    """Class and constructor arguments of a layer of torch.nn, or one with shared kernels; None for all else.

    A subclass counts as the layer it derives from where it overrides nothing but its constructor.
    Arguments at their default are left out.
    """
    if type(module) is SharedConvolution:
        given = {key: encode(value) for key, value in module.arguments().items()}
        return {"type": "kernels.SharedConvolution", "args": given}
    base = _base(type(module))
    if base is None:
        return None
    arguments: dict[str, Any] = {}
    for parameter in _parameters(base):
        optional = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if optional or parameter.name in ("device", "dtype"):
            continue
        value = _argument(module, parameter)
        if value is parameter.empty:
            return None
        if value != parameter.default or type(value) is not type(parameter.default):
            arguments[parameter.name] = encode(value)
    return {"type": f"torch.nn.{base.__name__}", **({"args": arguments} if arguments else {})}


def _parameters(base: type[nn.Module]) -> list[inspect.Parameter]:
    if not issubclass(base, nn.RNNBase):
        return list(inspect.signature(base.__init__).parameters.values())[1:]
    # Recurrent layers take *args and hand them on; `mode` is what their name says.
    own = [inspect.Parameter("nonlinearity", inspect.Parameter.KEYWORD_ONLY)] if base is nn.RNN else []
    return [*list(inspect.signature(nn.RNNBase.__init__).parameters.values())[2:], *own]


def _base(kind: type[nn.Module]) -> type[nn.Module] | None:
    plain = (nn.Module, *load.CONTAINERS, nn.ParameterList, nn.ParameterDict)
    for base in kind.__mro__:
        if getattr(nn, base.__name__, None) is base and issubclass(base, nn.Module):
            between = kind.__mro__[: kind.__mro__.index(base)]
            overridden = {
                key
                for over in between
                for key in vars(over)
                if hasattr(base, key)
                and (key == "forward" or not key.startswith("__"))
                and key != "extra_repr"
            }
            return None if base in plain or overridden else base
    return None


def _argument(module: nn.Module, parameter: inspect.Parameter) -> Any:
    """The value a constructor's argument must have had; `empty` where the layer does not tell."""
    name = parameter.name
    if isinstance(module, nn.MultiheadAttention) and name in ("bias", "add_bias_kv"):
        return (module.in_proj_bias if name == "bias" else module.bias_k) is not None
    value = getattr(module, name, parameter.default)
    if name == "bias" and not isinstance(value, bool):
        # A norm without scale has no shift either, and needs not say so.
        bare = not getattr(module, "affine", getattr(module, "elementwise_affine", True))
        return parameter.default if bare else value is not None
    return parameter.empty if isinstance(value, Tensor | nn.Module) or callable(value) else value


def _compare(module: nn.Module, found: Mapping[str, Any], name: str) -> None:
    """Raise ValueError where the layer, built from what it says of itself, is another one."""
    root = nn.Module()
    try:
        with torch.device("meta"):
            load._place(root, "layer", found)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise ValueError(
            f"'{name}' ({found['type']}) cannot be built from its own attributes: {problem}"
        ) from problem
    twin = root.get_submodule("layer")
    for key in sorted(module.state_dict().keys() | twin.state_dict().keys()):
        have, says = module.state_dict().get(key), twin.state_dict().get(key)
        shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (have, says)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"'{name}' is {module}, but its {key} has shape {shapes[0]} where that means {shapes[1]}: "
                "a cut must change a layer's attributes together with its tensors"
            )
    for key, value in vars(twin).items():
        told = key != "training" and not key.startswith("_")
        simple = told and isinstance(value, bool | int | float | str | tuple)
        if simple and getattr(module, key, value) != value:
            raise ValueError(
                f"'{name}' ({found['type']}) has {key} = {getattr(module, key)!r}, which none of its "
                f"arguments gives it (it would be {value!r})"
            )


def channels_last(module: nn.Module) -> list[str]:
    return [
        name
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
        if tensor.dim() == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and tensor.stride() != torch.empty(tensor.shape, device="meta").stride()
    ]
