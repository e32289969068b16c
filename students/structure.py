"""What a network is made of, as plain JSON: its layers, and the order in which they are called.

`describe` traces a network with torch.fx, in training and in evaluation mode, and writes down every layer of
`torch.nn` with its constructor's arguments; `rebuild` makes the same network from that, in `students.load`,
the file that travels with every compact student. The values of parameters and buffers are no part of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from students import load
from students.adapt import Adapt
from students.branches import Branched, ChannelCoding, Join, Weighed
from students.encode import encode
from students.kernels import SharedConvolution
from students.layers import channels_last, parts_of
from students.load import Network, rebuild
from students.trace import Untraceable, nodes_of

__all__ = [
    "Untraceable",
    "clean",
    "describe",
    "describe_factory",
    "origin",
    "rebuild",
    "stored",
    "stored_bytes",
    "tensors",
]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_WRAPPERS = (
    "DataParallel",
    "DistributedDataParallel",
    "FullyShardedDataParallel",
    "OptimizedModule",
    "ScriptModule",
    "RecursiveScriptModule",
    "TopLevelTracedModule",
    "AveragedModel",
)


def describe(module: nn.Module, inputs: tuple[Tensor, ...] | None = None) -> dict[str, Any]:
    """Write down a network whose code torch.fx can follow, as JSON values; the network stays untouched.

    parts          layers (class of torch.nn, arguments), parameters and buffers alone, by dotted name
    nodes          the calls; a constant that differs between the modes is {"training": [eval, train]}
    tied           parameters that are the same tensor as another
    channels_last  4-D tensors that lie in channels_last order

    With `inputs` the rebuilt network must answer bit for bit like the original, in both modes.
    Raises Untraceable with reason and place, and ValueError for hooks, wrappers, parametrizations, and layers
    whose attributes and tensors disagree.
    """
    clean(module)
    nodes, constants = nodes_of(module)
    parts, tied = parts_of(module)
    structure = {
        "form": "graph",
        "parts": {**parts, **constants},
        "nodes": nodes,
        "tied": tied,
        "channels_last": channels_last(module),
    }
    _prove(module, structure, inputs, ())
    return structure


def describe_factory(
    module: nn.Module, factory: Mapping[str, Any], inputs: tuple[Tensor, ...] | None = None
) -> dict[str, Any]:
    """Write down a network as the call that makes it and the layers that differ from what the call gives.

    `factory` is {"factory": "package.module:callable", "arguments": {...}}, see `origin`. Whoever loads the
    network needs that package. Raises ValueError where replacing and removing layers does not lead from the
    one to the other, or, with `inputs`, where the answers differ.
    """
    clean(module)
    call = {
        "factory": factory["factory"],
        "arguments": {key: encode(value) for key, value in factory.get("arguments", {}).items()},
    }
    trust = (call["factory"].partition(":")[0].partition(".")[0],)
    with torch.random.fork_rng(devices=[]):
        fresh = rebuild({"form": "factory", **call, "parts": {}, "tied": {}}, trust=trust)
    (mine, tied), (theirs, _) = parts_of(module), parts_of(fresh)
    names, made = dict(module.named_modules()), dict(fresh.named_modules())
    for name, inner in names.items():
        if name not in mine and (name not in made or type(made[name]) is not type(inner)):
            there = f"a {type(made[name]).__name__}" if name in made else "nothing"
            raise ValueError(
                f"'{name}' is a {type(inner).__name__}, but {call['factory']} makes {there} there: "
                "only layers of torch.nn can be replaced"
            )
    changed = {name: part for name, part in mine.items() if theirs.get(name) != part}
    gone = [
        name for name in dict.fromkeys([*made, *theirs]) if name and name not in names and name not in mine
    ]
    gone = [name for name in gone if not any(name.startswith(f"{top}.") for top in [*gone, *changed])]
    structure = {
        "form": "factory",
        **call,
        "parts": changed,
        "removed": gone,
        "tied": tied,
        "channels_last": channels_last(module),
    }
    _prove(module, structure, inputs, trust)
    return structure


def origin(network: Any) -> dict[str, Any]:
    """The call that makes a network, from its spec: {"factory": "package.module:name", "arguments": {...}}.

    A spec that names a factory itself (fields `factory` and `arguments`, or a method `origin`) hands on that one.
    Raises ValueError for what is no spec.
    """
    if isinstance(network, Mapping):
        return dict(network)
    if not is_dataclass(network) or isinstance(network, type):
        raise ValueError(
            f"a {type(network).__name__} does not say how its network is made: give a network's spec"
        )
    if callable(named := getattr(network, "origin", None)):
        return dict(named())
    values = {field.name: getattr(network, field.name) for field in fields(network)}
    if {"factory", "arguments"} <= values.keys():
        return {"factory": values["factory"], "arguments": dict(values["arguments"] or {})}
    return {"factory": f"{type(network).__module__}:{type(network).__qualname__}", "arguments": values}


def clean(module: nn.Module) -> None:
    """Raise ValueError, naming it, for anything that must not be left in a student.

    Hooks, parametrizations, wrappers around a network, a `forward` put on one object, and modules of the
    tools that shrink a network: what they do has to be folded into the layers first.
    """
    for name, inner in module.named_modules():
        kind, where = type(inner), f"'{name}'" if name else "the network itself"
        if any(getattr(inner, hooks) for hooks in _HOOKS):
            found = next(
                iter(next(getattr(inner, hooks) for hooks in _HOOKS if getattr(inner, hooks)).values())
            )
            raise ValueError(
                f"{where} ({kind.__name__}) still has a hook ({getattr(found, '__name__', found)!s}): "
                "remove it before the student is saved"
            )
        if parametrize.is_parametrized(inner):
            raise ValueError(
                f"{where} ({kind.__name__}) is parametrized: make it plain with "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
        if any(base.__name__ in _WRAPPERS for base in kind.__mro__):
            raise ValueError(f"{where} is a {kind.__name__}, a wrapper: save the network inside it")
        if "forward" in vars(inner) and not isinstance(inner, fx.GraphModule):
            raise ValueError(
                f"{where} ({kind.__name__}) has a forward of its own, put on this one object: make it a class"
            )
        tool = kind.__module__.partition(".")[0] in ("compress", "students")
        if tool and not isinstance(
            inner, Network | SharedConvolution | Adapt | Branched | ChannelCoding | Join | Weighed
        ):
            raise ValueError(
                f"{where} is a {kind.__name__} of {kind.__module__}, a tool for making students: "
                "fold it into the layers before the student is saved"
            )


def _prove(
    module: nn.Module, structure: dict[str, Any], inputs: tuple[Tensor, ...] | None, trust: tuple[str, ...]
) -> None:
    """Rebuild, fill, and compare with the original: names and shapes always, answers if there are inputs."""
    with torch.random.fork_rng(devices=[]):
        twin = rebuild(structure, trust=trust, device="cpu" if trust else "meta")
    load.fill(twin, structure, tensors(module, twin, structure))
    if inputs is None:
        return
    original = copy.deepcopy(module).cpu()
    for tensor in [*original.parameters(), *original.buffers()]:
        if not (tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)):
            tensor.data = tensor.data.contiguous()  # a view into a larger tensor is saved on its own
    for training in (False, True):
        mine, theirs = (_answer(network.train(training), inputs) for network in (original, twin))
        held = dict(twin.named_buffers(remove_duplicate=False))  # batch statistics move in training mode
        kept = [(old, held[name]) for name, old in original.named_buffers() if name in held]
        if len(mine) != len(theirs) or not all(
            _equal(*pair) for pair in [*zip(mine, theirs, strict=True), *kept]
        ):
            raise Untraceable(
                f"the {structure['form']} form of this network answers differently in "
                f"{'training' if training else 'evaluation'} mode: its code depends on what it cannot say"
            )


def _answer(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return list(_flat(network(*(tensor.cpu() for tensor in inputs))))


def tensors(module: nn.Module, twin: nn.Module, structure: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies, on the CPU and in row-major order, of what a weights file keeps of `module`.

    The names are those by which the rebuilt `twin` knows them.
    """
    have = dict(
        [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    )
    short = load.halved(twin)
    dtypes = {name: torch.float16 if name in short else tensor.dtype for name, tensor in have.items()}
    return {
        name: torch.empty(have[name].shape, dtype=dtypes[name]).copy_(have[name].detach())
        for name in load.state(twin, structure)
        if name in have
    }


def stored(network: nn.Module) -> dict[str, Tensor]:
    """The state dict in the types that a weights file keeps."""
    short = load.halved(network)
    return {
        name: (tensor.half() if name in short else tensor).detach()
        for name, tensor in network.state_dict().items()
    }


def stored_bytes(network: nn.Module) -> int:
    """Bytes of the tensors that a weights file keeps; the file's own header comes on top."""
    return sum(tensor.numel() * tensor.element_size() for tensor in stored(network).values())


def _flat(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        yield from (tensor for item in outputs.values() for tensor in _flat(item))
    elif isinstance(outputs, list | tuple):
        yield from (tensor for item in outputs for tensor in _flat(item))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
