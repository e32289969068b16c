"""In which order a network calls its layers: torch.fx, in both modes, written down as JSON."""

from __future__ import annotations

import copy
import math
import operator
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from students import load
from students.encode import encode, encode_both, short
from students.layers import layer

_CONSTANT = 4096  # numbers in a tensor that is part of the code: more belong in a buffer
_SPACES = {"torch.nn.functional": torch.nn.functional, "torch": torch, "operator": operator, "math": math}


class Untraceable(ValueError):
    """torch.fx cannot follow this network; the message says why and where."""


class _Tracer(fx.Tracer):
    """Stops at layers of torch.nn, and remembers in which module it got stuck."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.stuck = ""
        # Found now: while a trace is on, reading a layer's bias would leave a node in the graph.
        self.layers = {id(inner) for inner in root.modules() if layer(inner) is not None}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) in self.layers

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.stuck = self.stuck or f"'{self.path_of_module(m)}', a {type(m).__name__}, "
            raise


def trace(module: nn.Module, training: bool) -> tuple[fx.Graph, dict[str, Tensor]]:
    """The graph in one mode, and the tensors in it that are neither parameter nor buffer, by name."""
    twin = copy.deepcopy(module).train(training)
    known = {
        name
        for name, _ in [
            *twin.named_parameters(remove_duplicate=False),
            *twin.named_buffers(remove_duplicate=False),
        ]
    }
    tracer = _Tracer(twin)
    try:
        graph = tracer.trace(twin)
    except Exception as problem:
        raise Untraceable(
            f"{tracer.stuck or 'this network '}cannot be traced by torch.fx: "
            f"{str(problem).rstrip('.')}{_place(problem)}"
        ) from problem
    constants: dict[str, Tensor] = {}
    for node in graph.find_nodes(op="get_attr"):
        if node.target not in known:
            value: Any = twin
            for step in str(node.target).split("."):
                value = getattr(value, step)
            constants[str(node.target)] = value
    return graph, constants


def _place(problem: BaseException) -> str:
    """Where in the network's own code it happened."""
    for frame in reversed(traceback.extract_tb(problem.__traceback__)):
        if "torch" not in Path(frame.filename).parts and Path(frame.filename) != Path(__file__):
            return f" ({Path(frame.filename).name}, line {frame.lineno}: {frame.line})"
    return ""


def nodes_of(module: nn.Module) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    if layer(module) is not None:
        raise Untraceable(f"a single {type(module).__name__} is no network: put it into an nn.Sequential")
    with torch.random.fork_rng(devices=[]):
        (evaluating, constants), (training, others) = trace(module, False), trace(module, True)
    steps = [_step(*pair) for pair in _pairs(evaluating, training)]
    parts: dict[str, Any] = {}
    for name, value in constants.items():
        if not isinstance(value, Tensor) or value.numel() > _CONSTANT:
            raise Untraceable(f"'{name}' is a plain attribute: make it a buffer with register_buffer")
        if not torch.equal(value, others[name]):
            raise Untraceable(
                f"'{name}' is drawn anew at every call and does not depend on the input, "
                "which a trace would freeze"
            )
        numbers = [encode(number) for number in value.detach().cpu().flatten().tolist()]
        parts[name] = {
            "type": "constant",
            "shape": list(value.shape),
            "dtype": short(value.dtype),
            "value": numbers,
        }
    return steps, parts


def _pairs(evaluating: fx.Graph, training: fx.Graph) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Node by node, the two modes side by side: they may differ in constants only."""
    one, other = list(evaluating.nodes), list(training.nodes)
    for e, t in zip(one, other, strict=False):
        if (e.op, e.name, str(e.target)) != (t.op, t.name, str(t.target)):
            raise Untraceable(
                f"in training mode this network calls {t.name} where it calls {e.name} in evaluation: "
                "one graph cannot say both"
            )
        yield e, t
    if len(one) != len(other):
        raise Untraceable(
            f"this network makes {len(other)} calls in training mode and {len(one)} in evaluation: "
            "one graph cannot say both"
        )


def _step(evaluating: fx.Node, training: fx.Node) -> dict[str, Any]:
    target = evaluating.target
    if callable(target):
        target = _name(target)
    if evaluating.op == "call_method" and not load.method(str(target)):
        raise Untraceable(f"'{evaluating.name}' calls the method '{target}', which cannot be written down")
    step: dict[str, Any] = {"op": evaluating.op, "name": evaluating.name, "target": target}
    try:
        args = [encode_both(*pair) for pair in zip(evaluating.args, training.args, strict=True)]
        kwargs = {key: encode_both(value, training.kwargs[key]) for key, value in evaluating.kwargs.items()}
    except (ValueError, KeyError) as problem:
        raise Untraceable(
            f"an argument of '{evaluating.name}' cannot be written down: {problem}"
        ) from problem
    return {**step, **({"args": args} if args else {}), **({"kwargs": kwargs} if kwargs else {})}


def _name(function: Callable[..., Any]) -> str:
    """The public name of a function a structure may call. Raises Untraceable for every other one."""
    if function is getattr:
        return "builtins.getattr"
    for space, module in _SPACES.items():
        names = [getattr(function, "__name__", ""), *vars(module)]
        for name in names:
            if getattr(module, name, None) is function:
                try:
                    load.function(f"{space}.{name}")
                except ValueError:
                    continue
                return f"{space}.{name}"
    where = getattr(function, "__module__", None) or type(function).__module__
    raise Untraceable(
        f"this network calls {where}.{getattr(function, '__name__', function)}, which is not of PyTorch"
    )
