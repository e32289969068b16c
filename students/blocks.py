"""What may be taken out whole: residual blocks and branches of a concatenation, found in the traced graph.

A block is the residual operand of an addition whose other operand goes around it; a branch is one operand of a
channel-wise concatenation whose operands share an origin. Both end, but for operations that commute with a
factor >= 0 (ReLU, pooling, dropout), in a linear map or a norm: there the scalar mask acts and is folded.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from students.groups import Locked
from students.layers import layer
from students.trial import first_line

_ADDS: Collection[object] = {operator.add, operator.iadd, torch.add}
_MULS: Collection[object] = {operator.mul, operator.imul, torch.mul}
_CATS: Collection[object] = {torch.cat, torch.concat, torch.concatenate}
# f(c x) = c f(x) for every c >= 0: a factor behind these may be moved before them.
_SCALES_MODULES = (
    nn.ReLU, nn.LeakyReLU, nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten,
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd,
)  # fmt: skip
_SCALES_FUNCTIONS: Collection[object] = {
    torch.relu, F.relu, F.leaky_relu, F.dropout, F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d, torch.flatten,
    torch.permute, torch.transpose,
}  # fmt: skip
_SCALES_NAMES = {"stochastic_depth"}  # torchvision's, which its tracer sees as one function
_SCALES_METHODS = {"relu", "relu_", "contiguous", "flatten", "permute", "transpose"}
_SWITCH = "training"  # the attribute a graph reads where a number depends on the mode
# Layers whose weight and bias carry a factor of all they give.
_CARRIERS = (_ConvNd, nn.Linear, _NormBase, nn.LayerNorm, nn.GroupNorm)


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


class _Tracer(fx.Tracer):
    """Stops at layers of torch.nn, and at those that derive from one and compute the same."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        # Found now: while a trace is on, reading a layer's bias would leave a node in the graph.
        self.layers = {id(inner) for inner in root.modules() if layer(inner) is not None}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) in self.layers or super().is_leaf_module(m, module_qualified_name)


def trace(network: nn.Module) -> fx.GraphModule:
    """The network as a graph that shares its modules and, like it, behaves one way in training and one in evaluation.

    A number that depends on the mode (F.dropout(x, training=self.training)) is looked up when the graph is called.
    Raises ValueError where Python control flow forbids a trace, or the two modes call different things.
    """
    modes = {module: module.training for module in network.modules()}
    try:
        graphs = []
        for training in (False, True):
            network.train(training)
            graphs.append(_Tracer(network).trace(network))
    except Exception as problem:
        raise ValueError(
            f"{type(network).__name__} cannot be traced, so its blocks cannot be found ({first_line(problem)}): "
            "prune channels instead, or free its forward() of branches that depend on values"
        ) from problem
    finally:
        for module, mode in modes.items():
            module.training = mode
    evaluating, training_ = graphs
    _join_modes(evaluating, training_, type(network).__name__)
    traced = fx.GraphModule(network, evaluating, type(network).__name__)
    for module in traced.modules():  # containers are made anew, layers are shared
        module.training = modes.get(module, network.training)
    return traced


def _join_modes(evaluating: fx.Graph, training: fx.Graph, name: str) -> None:
    """Make every constant of `evaluating` that `training` has otherwise a choice between the two."""
    pairs = list(zip(evaluating.nodes, training.nodes, strict=False))
    same = all((e.op, e.name, str(e.target)) == (t.op, t.name, str(t.target)) for e, t in pairs)
    if not same or len(evaluating.nodes) != len(training.nodes):
        raise ValueError(
            f"{name} calls other things in training mode than in evaluation, so that no one graph is the network: "
            "prune channels instead, or give each mode the same calls"
        )
    switch: list[fx.Node] = []

    def choose(one: object, other: object) -> object:
        if isinstance(one, fx.Node):
            return one
        if isinstance(one, tuple | list) and isinstance(other, tuple | list) and len(one) == len(other):
            return type(one)([choose(*pair) for pair in zip(one, other, strict=True)])
        if type(one) is type(other) and one == other:
            return one
        if not switch:
            *_, last = evaluating.find_nodes(op="placeholder")
            with evaluating.inserting_after(last):
                switch.append(evaluating.create_node("get_attr", _SWITCH))
        with evaluating.inserting_after(switch[0]):
            return evaluating.call_function(operator.getitem, ((one, other), switch[0]))  # type: ignore[arg-type]

    for e, t in pairs:
        e.args = tuple(choose(*pair) for pair in zip(e.args, t.args, strict=True))  # type: ignore[assignment]
        e.kwargs = {key: choose(value, t.kwargs[key]) for key, value in e.kwargs.items()}  # type: ignore[assignment]


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
            result = _study(kind, node, operand, exclusive, modules)
            if isinstance(result, Whole):
                found.append(result)
            else:
                locked.append(result)
    return tuple(_told_apart(found)), tuple(locked)


def _study(
    kind: Literal["block", "branch"],
    node: fx.Node,
    operand: int,
    exclusive: frozenset[fx.Node],
    modules: dict[str, nn.Module],
) -> Whole | Locked:
    """One operand of a joining node, `exclusive` being what serves no other: what is taken out, or why it stays."""
    tail = _tail(_parts(node)[operand], node, modules)
    used = frozenset(str(n.target) for n in exclusive if n.op == "call_module")
    outside = {str(n.target) for n in node.graph.nodes if n.op == "call_module" and n not in exclusive}
    shared = sorted(n for n in used & outside if isinstance(modules[n], _ConvNd | nn.Linear))
    leaks = [n.name for n in exclusive for user in n.users if user not in exclusive and user is not node]
    end = str(tail.target) if isinstance(tail, fx.Node) else node.name
    name = _common(used) if kind == "block" else end
    if not isinstance(tail, fx.Node):
        return Locked(name, tail, used)
    if shared:
        return Locked(name, f"'{shared[0]}' inside it is also used elsewhere", used)
    if leaks:
        return Locked(name, f"'{leaks[0]}' inside it is also read elsewhere", used)
    return Whole(kind, name, node.name, operand, str(tail.target), used - outside)


def _told_apart(found: list[Whole]) -> list[Whole]:
    """The same, where two go by one name with the node that joins them added to it."""
    names = [whole.name for whole in found]
    return [
        replace(whole, name=f"{whole.name}:{whole.node}") if names.count(whole.name) > 1 else whole
        for whole in found
    ]


def take_out(network: nn.Module, dead: Iterable[Whole]) -> fx.GraphModule:
    """The network without `dead`, as a graph module that shares the modules left; nothing of the dead stays in it.

    Raises ValueError where the network cannot be traced, or a concatenation would lose all that it joins.
    """
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
        if node.op == "get_attr" and node.target == _SWITCH:
            known[node] = frozenset()  # no data: a mode read twice makes no two paths meet
            continue
        above: set[fx.Node] = {node}
        for source in node.all_input_nodes:
            above |= known[source]
        known[node] = frozenset(above)
    return known


def _sizes(nodes: Iterable[fx.Node], modules: dict[str, nn.Module]) -> list[int]:
    """Weights of each convolution and linear layer among the nodes."""
    layers = [modules[str(n.target)] for n in nodes if n.op == "call_module"]
    return [one.weight.numel() for one in layers if isinstance(one, _ConvNd | nn.Linear)]


Ancestors = dict[fx.Node, frozenset[fx.Node]]
Candidates = list[tuple[int, frozenset[fx.Node]]]


def _residual(node: fx.Node, ancestors: Ancestors, modules: dict[str, nn.Module]) -> Candidates:
    parts = _parts(node)
    # torch.add(x, y, alpha=2) gives its operands different factors.
    if len(parts) != 2 or parts[0] is parts[1] or node.kwargs or len(node.args) != 2:
        return []
    exclusive = [ancestors[parts[i]] - ancestors[parts[1 - i]] for i in (0, 1)]
    sizes = [_sizes(nodes, modules) for nodes in exclusive]
    residual = 0 if sum(sizes[0]) >= sum(sizes[1]) else 1
    block, around = sizes[residual], sizes[1 - residual]
    # The way around is bare, a projection, or light; two operands of like weight are no block and its shortcut.
    if not block or not (len(around) <= 1 < len(block) or sum(around) * 2 <= sum(block)):
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
        if _sizes(exclusive, modules):
            candidates.append((place, exclusive))
    return candidates


def _tail(part: fx.Node, join: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | str:
    """The last module of a path with a weight to carry a factor, or why there is none."""
    node = part
    while True:
        if len(node.users) != 1:
            return f"'{node.name}' at its end is also read elsewhere"
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, _CARRIERS) and isinstance(module.weight, nn.Parameter):
            calls = [n for n in node.graph.nodes if n.op == "call_module" and n.target == node.target]
            return node if len(calls) == 1 else f"'{node.target}' is used more than once"
        passes = (
            isinstance(module, _SCALES_MODULES)
            or _is(node, _SCALES_FUNCTIONS)
            or (node.op == "call_function" and getattr(node.target, "__name__", "") in _SCALES_NAMES)
            or (node.op == "call_method" and node.target in _SCALES_METHODS)
        )
        data = node.args[0] if node.args else node.kwargs.get("input")
        if _is(node, _MULS):  # a scale per channel, kept in a parameter of the network
            factors = [part for part in node.all_input_nodes if part.op == "get_attr"]
            others = [part for part in node.all_input_nodes if part.op != "get_attr"]
            passes, data = len(factors) == len(others) == 1, others[0] if others else None
        if not passes or not isinstance(data, fx.Node):
            return f"it ends in '{node.name}', behind which no factor can be moved into a layer"
        node = data


def _common(names: Iterable[str]) -> str:
    """The longest module path that all names share."""
    paths = [name.split(".") for name in names]
    shared = []
    for steps in zip(*paths, strict=False):
        if len(set(steps)) != 1:
            break
        shared.append(steps[0])
    return ".".join(shared) or "+".join(sorted(names)[:2])
