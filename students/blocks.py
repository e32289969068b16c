"""What may be taken out whole: residual blocks and branches of a concatenation, found in the traced graph.

A block is the residual operand of an addition whose other operand goes around it; a branch is one operand of a
channel-wise concatenation whose operands share an origin. Both end, but for operations that commute with a
factor >= 0 (ReLU, pooling, dropout), in a linear map or a norm: there the scalar mask acts and is folded.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from students.groups import Locked

_ADDS: Collection[object] = {operator.add, operator.iadd, torch.add}
_CATS: Collection[object] = {torch.cat, torch.concat}
# f(c x) = c f(x) for every c >= 0: a factor behind these may be moved before them.
_SCALES_MODULES = (
    nn.ReLU, nn.LeakyReLU, nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten,
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd,
)  # fmt: skip
_SCALES_FUNCTIONS: Collection[object] = {
    torch.relu, F.relu, F.leaky_relu, F.dropout, F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d, torch.flatten,
}  # fmt: skip
_SCALES_METHODS = {"relu", "relu_", "contiguous", "flatten"}


@dataclass(frozen=True)
class Whole:
    """A block or a branch: something that is there or is not.

    kind    what it is
    name    the module path it lives in
    node    the graph node that joins it: the addition, or the concatenation
    operand which argument of that node it is
    tail    the module whose weight and bias carry its scalar
    inside  the modules that vanish with it
    """

    kind: Literal["block", "branch"]
    name: str
    node: str
    operand: int
    tail: str
    inside: frozenset[str]


def trace(network: nn.Module) -> fx.GraphModule:
    """The network as a graph that shares its modules. Raises ValueError where Python control flow forbids it."""
    try:
        return fx.symbolic_trace(network)
    except Exception as problem:
        first = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise ValueError(
            f"{type(network).__name__} cannot be traced, so its blocks cannot be found ({first}): "
            "prune channels instead, or free its forward() of branches that depend on values"
        ) from problem


def find_wholes(network: nn.Module, kinds: Sequence[str]) -> tuple[tuple[Whole, ...], tuple[Locked, ...]]:
    """Blocks and branches (as far as `kinds` asks for them) that the graph allows to take out, and those it does not.

    Raises ValueError where the network cannot be traced.
    """
    graph = trace(network)
    modules = dict(graph.named_modules())
    ancestors = _ancestors(graph.graph)
    found: list[Whole] = []
    locked: list[Locked] = []
    for node in graph.graph.nodes:
        if "block" in kinds and (
            _is(node, _ADDS) or (node.op == "call_method" and node.target in ("add", "add_"))
        ):
            candidates = _residual(node, ancestors, modules)
        elif "branch" in kinds and _is(node, _CATS):
            candidates = _operands(node, ancestors, modules)
        else:
            continue
        kind: Literal["block", "branch"] = "branch" if _is(node, _CATS) else "block"
        for operand, exclusive in candidates:
            tail = _tail(_parts(node)[operand], node, modules)
            inside = frozenset(str(n.target) for n in exclusive if n.op == "call_module")
            name = (
                _common(inside)
                if kind == "block"
                else (str(tail.target) if isinstance(tail, fx.Node) else node.name)
            )
            if not isinstance(tail, fx.Node):
                locked.append(Locked(name, tail))
            elif leak := [
                n.name for n in exclusive for user in n.users if user not in exclusive and user is not node
            ]:
                locked.append(Locked(name, f"'{leak[0]}' inside it is also read elsewhere"))
            else:
                found.append(Whole(kind, name, node.name, operand, str(tail.target), inside))
    return tuple(found), tuple(locked)


def take_out(network: nn.Module, dead: Iterable[Whole]) -> fx.GraphModule:
    """The network without `dead`, as a graph module that shares the modules left; nothing of the dead stays in it."""
    graph = trace(network)
    nodes = {node.name: node for node in graph.graph.nodes}
    by_node: dict[str, list[Whole]] = {}
    for whole in dead:
        by_node.setdefault(whole.node, []).append(whole)
    for name, wholes in by_node.items():
        node = nodes[name]
        parts = _parts(node)
        left = [part for place, part in enumerate(parts) if place not in {whole.operand for whole in wholes}]
        if not left:
            raise ValueError(
                f"'{name}' would lose everything it joins ({', '.join(w.name for w in wholes)}): keep one"
            )
        if len(left) == 1:
            node.replace_all_uses_with(left[0])
            graph.graph.erase_node(node)
        else:
            node.args = (type(node.args[0])(left), *node.args[1:]) if node.args else node.args
            if "tensors" in node.kwargs:
                node.kwargs = {**node.kwargs, "tensors": left}
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    graph.train(network.training)
    return graph


# -- reading the graph --------------------------------------------------------------------------------------


def _is(node: fx.Node, functions: Collection[object]) -> bool:
    return node.op == "call_function" and node.target in functions


def _parts(node: fx.Node) -> list[fx.Node]:
    """The tensors a node joins: both operands of an addition, or the list given to a concatenation."""
    if _is(node, _CATS):
        joined = node.args[0] if node.args else node.kwargs["tensors"]
        return [part for part in joined if isinstance(part, fx.Node)]  # type: ignore[union-attr]
    return [part for part in node.args[:2] if isinstance(part, fx.Node)]


def _ancestors(graph: fx.Graph) -> dict[fx.Node, frozenset[fx.Node]]:
    known: dict[fx.Node, frozenset[fx.Node]] = {}
    for node in graph.nodes:
        above: set[fx.Node] = {node}
        for source in node.all_input_nodes:
            above |= known[source]
        known[node] = frozenset(above)
    return known


def _weights(nodes: Iterable[fx.Node], modules: dict[str, nn.Module]) -> int:
    """Weights of the convolutions and linear layers among the nodes."""
    layers = [modules[str(n.target)] for n in nodes if n.op == "call_module"]
    return sum(layer.weight.numel() for layer in layers if isinstance(layer, _ConvNd | nn.Linear))


Ancestors = dict[fx.Node, frozenset[fx.Node]]
Candidates = list[tuple[int, frozenset[fx.Node]]]


def _residual(node: fx.Node, ancestors: Ancestors, modules: dict[str, nn.Module]) -> Candidates:
    parts = _parts(node)
    if len(parts) != 2 or parts[0] is parts[1]:
        return []
    exclusive = [ancestors[parts[i]] - ancestors[parts[1 - i]] for i in (0, 1)]
    weights = [_weights(nodes, modules) for nodes in exclusive]
    residual = 0 if weights[0] >= weights[1] else 1
    # Two operands of like weight are two branches, not a block and the way around it.
    if weights[residual] == 0 or weights[1 - residual] * 2 > weights[residual]:
        return []
    return [(residual, exclusive[residual])]


def _operands(node: fx.Node, ancestors: Ancestors, modules: dict[str, nn.Module]) -> Candidates:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    parts = _parts(node)
    if dim not in (1, -3) or len(parts) < 2 or len(set(parts)) != len(parts):
        return []
    candidates = []
    for place, part in enumerate(parts):
        others = frozenset().union(*(ancestors[other] for other in parts if other is not part))
        exclusive = ancestors[part] - others
        if _weights(exclusive, modules):
            candidates.append((place, exclusive))
    return candidates


def _tail(part: fx.Node, join: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | str:
    """The last module of a path with a weight to carry a factor, or why there is none."""
    node = part
    while True:
        if len(node.users) != 1:
            return f"'{node.name}' at its end is also read elsewhere"
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, _ConvNd | nn.Linear) or (isinstance(module, _BatchNorm) and module.affine):
            calls = [n for n in node.graph.nodes if n.op == "call_module" and n.target == node.target]
            return node if len(calls) == 1 else f"'{node.target}' is used more than once"
        passes = (
            isinstance(module, _SCALES_MODULES)
            or _is(node, _SCALES_FUNCTIONS)
            or (node.op == "call_method" and node.target in _SCALES_METHODS)
        )
        if not passes or len(node.all_input_nodes) != 1:
            return f"it ends in '{node.name}', behind which no factor can be moved into a layer"
        node = node.all_input_nodes[0]


def _common(names: Iterable[str]) -> str:
    """The longest module path that all names share."""
    paths = [name.split(".") for name in names]
    shared = []
    for steps in zip(*paths, strict=False):
        if len(set(steps)) != 1:
            break
        shared.append(steps[0])
    return ".".join(shared) or "+".join(sorted(names)[:2])
