"""Rebuild the network that lies beside this file, to predict with or to train on.

    from load import load

    network = load()                     # on the CPU, in evaluation mode
    network.train()                      # an ordinary nn.Module from here on

PyTorch and safetensors are all it needs. `structure.json` says which layers there are and in which order
they are called; `weights.safetensors` holds the numbers. Both are data: layers come from `torch.nn` alone,
functions from `torch`, `torch.nn.functional`, `operator`, `math` and the methods of a tensor, and a name from
anywhere else is refused. Only a network that PyTorch could not trace is built by a function of its owner's
package, which then has to be trusted by name: `load(trust=("their_package",))`.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib
import importlib.util
import json
import math
import operator
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, fx, nn

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
ATTRIBUTES = [
    ("shape",),
    ("dtype",),
    ("device",),
    ("ndim",),
    ("layout",),
    ("T",),
    ("H",),
    ("mT",),
    ("mH",),
    ("real",),
    ("imag",),
    ("is_cuda",),
    ("data",),
]
_HELPERS = {"boolean_dispatch", "handle_torch_function", "assert_int_or_pair"}
_CALLERS = {"attrgetter", "itemgetter", "methodcaller", "call"}
_METHODS_REFUSED = {
    "apply_",
    "map_",
    "map2_",
    "numpy",
    "tolist",
    "storage",
    "untyped_storage",
    "register_hook",
    "set_",
}
_TABLES = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set")


def load(folder: str | Path = Path(__file__).parent, *, trust: Iterable[str] = ()) -> nn.Module:
    """The network of `folder`: all parameters trainable, on the CPU, in evaluation mode.

    `trust` names packages that may be imported to build it; most networks need none.
    Raises FileNotFoundError where a file is missing, and ValueError where one is damaged, the two do not
    belong together, or a package is needed that is not trusted or not installed.
    """
    structure, weights = Path(folder) / "structure.json", Path(folder) / "weights.safetensors"
    for path in (structure, weights):
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing: the network needs structure.json and weights.safetensors"
            )
    try:
        page = json.loads(structure.read_text(encoding="utf-8"))
        network, expected = page["network"], page["sha256"]
        sound = digest(network) == expected["network"]
    except (ValueError, KeyError, TypeError) as problem:
        raise ValueError(f"{structure} is damaged ({problem}): fetch the folder anew") from problem
    if not sound:
        raise ValueError(
            f"{structure} is damaged: its sha256 differs from the one it was saved with. "
            "Fetch the folder anew"
        )
    with open(weights, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected["weights"]:
        raise ValueError(
            f"{weights} is damaged: its sha256 is {found[:12]}... where structure.json says "
            f"{expected['weights'][:12]}... Fetch the folder anew"
        )
    with torch.random.fork_rng(devices=[]):  # building draws random weights that nobody will see
        module = rebuild(network, trust=trust, device="cpu" if network["form"] == "factory" else "meta")
    fill(module, network, load_file(weights))
    return module.eval()


def digest(network: Mapping[str, Any]) -> str:
    """The sha256 of a structure, whatever the spacing of its file."""
    return hashlib.sha256(json.dumps(network, sort_keys=True, allow_nan=False).encode()).hexdigest()


def rebuild(network: Mapping[str, Any], *, trust: Iterable[str] = (), device: str = "cpu") -> nn.Module:
    """The network a structure describes, its parameters freshly drawn. Raises ValueError if it is bad."""
    try:
        with torch.device(device):
            root = _made(network, trust) if network["form"] == "factory" else nn.Module()
            for name, part in network["parts"].items():
                _place(root, name, part)
        for name in network.get("removed", ()):
            path, _, last = name.rpartition(".")
            delattr(root.get_submodule(path), last)
        _tie(root, network)
        return root if network["form"] == "factory" else Network(root, _graph(network["nodes"], root))
    except (KeyError, AttributeError, TypeError, RuntimeError) as problem:
        raise ValueError(
            f"this structure cannot be rebuilt: {type(problem).__name__}: {problem}"
        ) from problem


def fill(module: nn.Module, network: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Put `tensors` into a rebuilt module: every one it has, and no other. Raises ValueError otherwise."""
    have = state(module, network)
    missing, unknown = sorted(have.keys() - tensors.keys()), sorted(tensors.keys() - have.keys())
    if missing or unknown:
        raise ValueError(
            f"the weights belong to another network: missing {missing[:5]}, unknown {unknown[:5]}"
        )
    short = halved(module)
    for name, old in have.items():
        new = tensors[name]
        if new.shape != old.shape:
            raise ValueError(
                f"'{name}' has shape {tuple(new.shape)} where the network wants {tuple(old.shape)}"
            )
        if name in short:
            new = new.to(old.dtype)
        # Memory of its own: tensors of a mapped file lie unaligned, and sums then differ in the last bit.
        layout = torch.channels_last if name in network["channels_last"] else torch.contiguous_format
        new = torch.empty_like(new, memory_format=layout).copy_(new)
        path, _, last = name.rpartition(".")
        trains = new.is_floating_point() or new.is_complex()
        setattr(
            module.get_submodule(path),
            last,
            nn.Parameter(new, trains) if isinstance(old, nn.Parameter) else new,
        )
    _tie(module, network)


def state(module: nn.Module, network: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every parameter and buffer that a weights file keeps, those outside the state dict included."""
    constants = {name for name, part in network["parts"].items() if part["type"] == "constant"}
    return {
        name: tensor
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
        if name not in constants and name not in network["tied"]
    }


def halved(module: nn.Module) -> set[str]:
    """Names of the parameters that a weights file keeps in 16 bits: kernels that are shared, by option."""
    return {
        f"{name}.kernels" for name, inner in module.named_modules() if getattr(inner, "half_stored", False)
    }


@functools.cache
def _kernels() -> types.ModuleType:
    """kernels.py, which lies beside this file where a network shares kernels."""
    if __package__:
        return importlib.import_module(f"{__package__}.kernels")
    path = Path(__file__).with_name("kernels.py")
    if not path.exists():
        raise ValueError(f"{path} is missing: this network shares kernels, fetch the whole folder")
    spec = importlib.util.spec_from_file_location("kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Network(fx.GraphModule):
    """A network rebuilt from its graph; `network.code` shows it as Python.

    Unlike its base it keeps modules in the order they were registered in, and those that no node calls, so
    that parameters, state dict and optimiser states are in the order of the network it was made from.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        super().__init__(root, graph)
        self.__dict__.update({table: root.__dict__[table] for table in _TABLES})

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        root = nn.Module()
        root.__dict__.update({table: copy.deepcopy(self.__dict__[table], memo) for table in _TABLES})
        root.training = self.training
        memo[id(self)] = twin = Network(root, copy.deepcopy(self.graph))
        return twin


def _made(network: Mapping[str, Any], trust: Iterable[str]) -> nn.Module:
    source, _, name = network["factory"].partition(":")
    package = source.partition(".")[0]
    if package not in trust:
        raise ValueError(
            f"this network is built by {network['factory']}. If you trust the package '{package}', "
            f"say so: load(trust=('{package}',))"
        )
    try:
        factory = operator.attrgetter(name)(importlib.import_module(source))
    except (ImportError, AttributeError) as problem:
        raise ValueError(
            f"this network is built by {network['factory']}, which cannot be imported ({problem}): "
            f"install the package '{package}'"
        ) from problem
    built = factory(**{key: _decode(value) for key, value in network["arguments"].items()})
    module = built if isinstance(built, nn.Module) else built.build()
    if not isinstance(module, nn.Module):
        raise ValueError(f"{network['factory']} gives a {type(module).__name__}, not a torch.nn.Module")
    return module


def _place(root: nn.Module, name: str, part: Mapping[str, Any]) -> None:
    """Put one module, parameter, buffer or constant where its dotted name says."""
    *path, last = name.split(".")
    if not all(step.replace("-", "_").isidentifier() or step.isdecimal() for step in (*path, last)):
        raise ValueError(f"{name!r} is no name of a module or tensor")
    owner = root
    for step in path:
        if step not in owner._modules:
            owner.add_module(step, nn.Module())
        owner = owner.get_submodule(step)
    kind = part["type"]
    if kind == "same":
        owner.add_module(last, root.get_submodule(part["as"]))
    elif kind == "parameter":
        new = torch.zeros(part["shape"], dtype=_torch("dtype", part["dtype"]))
        owner.register_parameter(last, nn.Parameter(new, new.is_floating_point() or new.is_complex()))
    elif kind == "buffer":
        new = torch.zeros(part["shape"], dtype=_torch("dtype", part["dtype"]))
        owner.register_buffer(last, new, persistent=part["persistent"])
    elif kind == "constant":
        flat = torch.tensor(_decode(part["value"]), dtype=_torch("dtype", part["dtype"]), device="cpu")
        owner.register_buffer(last, flat.reshape(part["shape"]), persistent=False)
    else:
        if kind == "kernels.SharedConvolution":
            layer = _kernels().SharedConvolution
        else:
            layer = (
                getattr(nn, kind.removeprefix("torch.nn."), None) if kind.startswith("torch.nn.") else None
            )
        if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
            raise ValueError(f"'{name}' is a {kind}, but only layers of torch.nn can be built")
        owner.add_module(last, layer(**{key: _decode(value) for key, value in part.get("args", {}).items()}))


def _tie(root: nn.Module, network: Mapping[str, Any]) -> None:
    for name, original in network["tied"].items():
        path, _, last = name.rpartition(".")
        setattr(root.get_submodule(path), last, root.get_parameter(original))


def _graph(steps: Iterable[Mapping[str, Any]], root: nn.Module) -> fx.Graph:
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    training: list[fx.Node] = []  # at most one: reads `self.training` when the network is called

    def switch(evaluating: Any, training_: Any) -> fx.Node:
        if not training:
            training.append(graph.create_node("get_attr", "training"))
        if (evaluating, training_) == (False, True):
            return training[0]
        return graph.call_function(operator.getitem, ((evaluating, training_), training[0]))

    for step in steps:
        op, target = step["op"], step["target"]
        args = tuple(_decode(value, nodes, switch) for value in step.get("args", ()))
        kwargs = {key: _decode(value, nodes, switch) for key, value in step.get("kwargs", {}).items()}
        if not all(key.isidentifier() for key in kwargs):
            raise ValueError(f"node '{step['name']}' has a bad argument name among {sorted(kwargs)}")
        nodes[step["name"]] = graph.create_node(
            op, _target(op, target, args, root), args, kwargs, step["name"]
        )
    return graph


def _target(op: str, target: str, args: tuple[Any, ...], root: nn.Module) -> Any:
    if op == "call_function":
        if target == "builtins.getattr" and not (isinstance(args[0], fx.Node) and args[1:] in ATTRIBUTES):
            raise ValueError(f"a structure may not read the attribute {args[1:]}")
        return function(target)
    if op == "call_method" and (not method(target) or not args or not isinstance(args[0], fx.Node)):
        raise ValueError(f"a structure may not call the method '{target}'")
    if op == "call_module":
        root.get_submodule(target)
    if op == "get_attr":
        path, _, last = target.rpartition(".")
        owner = root.get_submodule(path)
        if last not in owner._parameters and last not in owner._buffers:
            raise ValueError(f"'{target}' is no parameter or buffer of this network")
    if op == "placeholder" and not target.lstrip("*").isidentifier():
        raise ValueError(f"{target!r} is no name of an input")
    if op not in ("call_method", "call_module", "get_attr", "placeholder", "output"):
        raise ValueError(f"'{op}' is no step of a network")
    return target


def method(name: str) -> bool:
    """Whether a structure may call this method of a tensor."""
    known = name.isidentifier() and not name.startswith("_") and name not in _METHODS_REFUSED
    return known and callable(getattr(Tensor, name, None))


def function(name: str) -> Callable[..., Any]:
    """The function a structure names. Raises ValueError for all but plain tensor arithmetic."""
    space, _, last = name.rpartition(".")
    plain = not last.startswith("_")
    if (
        space == "torch"
        and last != "from_file"
        and (
            last in torch.functional.__all__
            or last == "_assert"
            or (plain and hasattr(torch._C._VariableFunctions, last))
        )
    ):
        return getattr(torch, last)  # type: ignore[no-any-return]
    if space == "torch.nn.functional" and plain and last not in _HELPERS and not last.startswith("has_torch"):
        found = getattr(F, last, None)
        if isinstance(found, types.FunctionType | types.BuiltinFunctionType):
            return found
    if space == "operator" and last in operator.__all__ and last not in _CALLERS:
        return getattr(operator, last)  # type: ignore[no-any-return]
    if space == "math" and plain and callable(getattr(math, last, None)):
        return getattr(math, last)  # type: ignore[no-any-return]
    if name == "builtins.getattr":
        return getattr
    raise ValueError(
        f"a structure may not call '{name}': only functions on tensors, of torch, "
        "torch.nn.functional, operator and math"
    )


def _torch(kind: str, name: str) -> Any:
    found = getattr(torch, name, None)
    if not isinstance(found, getattr(torch, kind)):
        raise ValueError(f"torch.{name} is no {kind}")
    return found


def _decode(
    value: Any, nodes: Mapping[str, fx.Node] | None = None, switch: Callable[..., Any] | None = None
) -> Any:
    """Turn a JSON value back: {"tuple": [...]}, {"slice": [...]}, {"node": "relu"}, ..."""
    if isinstance(value, list):
        return [_decode(item, nodes, switch) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind in ("tuple", "slice", "training"):
        items = tuple(_decode(item, nodes, switch) for item in inner)
        if kind == "training" and switch is not None:
            return switch(*items)
        return items if kind == "tuple" else slice(*items)
    if kind == "node" and nodes is not None:
        return nodes[inner]
    if kind == "dict":
        return {key: _decode(item, nodes, switch) for key, item in inner.items()}
    if kind == "float":
        return float(inner)
    if kind in ("dtype", "memory_format", "layout"):
        return _torch(kind, inner)
    if kind == "device":
        return torch.device(inner)
    if kind == "ellipsis":
        return ...
    raise ValueError(f"a structure may not hold {value!r:.80}")
