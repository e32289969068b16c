"""Epsilon-LRP through Captum, for networks written with functions as well as with modules.

Captum propagates relevance from module to module. Whatever a network does between its modules (`F.relu`, a residual's
sum, a mean over pixels) it would take for a gradient, and be wrong without a word: so that the network is traced first,
and every step of it becomes a module with a rule of its own.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from captum.attr import LRP
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from compress.attribution import Scalar, scalar_of
from compress.hooks import Point
from compress.tracing import Tracer

_TINY = 1e-12  # in place of epsilon where a step has no weights: those only pass relevance on
_WEIGHTED = (nn.Linear, _ConvNd, _BatchNorm)
_MODULES = (
    nn.ReLU, nn.LeakyReLU, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d, nn.ZeroPad2d, nn.Upsample,
)  # fmt: skip
_FUNCTIONS = {
    F.relu, torch.relu, F.leaky_relu, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.dropout, F.pad,
    F.interpolate, torch.flatten, torch.cat, torch.add, torch.mean, torch.reshape, torch.sum, operator.add,
    operator.iadd, operator.sub, operator.getitem,
}  # fmt: skip
_METHODS = {
    "relu",
    "relu_",
    "flatten",
    "view",
    "reshape",
    "mean",
    "add",
    "add_",
    "sum",
    "contiguous",
    "permute",
}


class _Step(nn.Module):
    """One step of a traced network that has no weights."""

    def __init__(self, work: Callable[..., Tensor]) -> None:
        super().__init__()
        self.work = work

    def forward(self, *tensors: Tensor) -> Tensor:
        """What the step makes of its tensors; a copy, where it would only be another view of them."""
        made = self.work(*tensors)
        return made.clone() if any(made is tensor or made._is_view() for tensor in tensors) else made


class _Head(nn.Module):
    """The network up to a layer F, and on it one output, 1, whose gradient at F is the relevance to begin with."""

    def __init__(self, body: nn.Module, scalar: Scalar) -> None:
        super().__init__()
        self.body, self.scalar = body, scalar

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, ...) to (n,). Captum multiplies by the output, and takes the gradient at F for its relevance."""
        embedding = self.body(inputs).flatten(1)
        with torch.enable_grad():
            twin = embedding.detach().requires_grad_()
            (slope,) = torch.autograd.grad(scalar_of(twin, self.scalar), twin)
        told = (embedding * (twin * slope).detach()).sum(1)
        answer: Tensor = 1 + told - told.detach()
        return answer


def relevance_of(
    module: nn.Module, point: Point, scalar: Scalar, epsilon: float, name: str = "the network"
) -> Callable[[Tensor], Tensor]:
    """A function from inputs (n, ...) to the relevance of every value of them, in the same shape.

        R_in = x * W^T ( R_out / (z + epsilon sign z) ),   z = W x + b,   and at the layer  R = F * ds/dF

    With ReLU, max and mean pooling and a tiny epsilon it is gradient x input. Works on a copy of the network. Raises
    ValueError where the network cannot be traced, or takes a step that is not known to pass relevance on as it is; the
    function does, where a layer is called twice.
    Source: Bach et al. 2015.
    """
    network = _Head(_stepwise(copy.deepcopy(module), point, name), scalar)
    ruled = [part for part in network.modules() if isinstance(part, (_Step, *_WEIGHTED))]

    def relevances(inputs: Tensor) -> Tensor:
        for part in ruled:  # Captum takes the rules away again
            part.rule = EpsilonRule(epsilon if isinstance(part, _WEIGHTED) else _TINY)  # type: ignore[assignment]
        try:
            found: Tensor = LRP(network).attribute(inputs.detach().clone().requires_grad_())
        except RuntimeError as problem:
            if "more than once" not in str(problem):
                raise
            raise ValueError(
                f"{name!r} calls one of its layers more than once, which LRP cannot follow: use gradient_x_input"
            ) from problem
        return found.detach()

    return relevances


def _stepwise(module: nn.Module, point: Point, name: str) -> nn.Module:
    """The network up to a point, every step of it a module."""
    tracer = Tracer()
    try:
        graph = tracer.trace(module.eval())
    except Exception as problem:
        raise ValueError(
            f"{name!r} cannot be traced, which LRP needs ({problem}): use gradient_x_input, which does not"
        ) from problem
    end = (tracer.taken if point.before else tracer.given)[point.module].node
    (output,) = graph.find_nodes(op="output")
    output.args = (end,)
    whole = fx.GraphModule(module, graph)
    graph = whole.graph
    graph.eliminate_dead_code()
    for number, node in enumerate(list(graph.nodes)):
        work = _work(node, whole, name)
        if work is None:
            continue
        tensors = node.all_input_nodes
        step = f"_step_{number}"
        whole.add_module(step, _Step(_filled(work, node, tensors)))
        with graph.inserting_after(node):
            new = graph.call_module(step, tuple(tensors))
        node.replace_all_uses_with(new)
        new.args = tuple(tensors)
        graph.erase_node(node)
    whole.delete_all_unused_submodules()
    whole.recompile()
    return whole


def _work(node: fx.Node, root: nn.Module, name: str) -> Callable[..., Any] | None:
    """What a node does, to be made a step of; None for nodes that stay. Raises ValueError for what is not known."""
    target: Any = node.target
    if node.op == "call_module":
        part = root.get_submodule(target)
        if isinstance(part, _WEIGHTED):
            return None
        if isinstance(part, _MODULES):
            plain = copy.copy(part)
            if hasattr(plain, "inplace"):
                plain.inplace = False
            return plain
        what = f"'{target}', a {type(part).__name__}"
    elif node.op == "call_function":
        if target in _FUNCTIONS:
            return {operator.iadd: operator.add}.get(target, target)  # type: ignore[no-any-return]
        what = getattr(target, "__name__", str(target))
    elif node.op == "call_method":
        if target in _METHODS:
            return getattr(torch.Tensor, target.rstrip("_"))  # type: ignore[no-any-return]
        what = f".{target}()"
    else:
        return None
    raise ValueError(
        f"{name!r} goes through {what}, of which LRP's rules do not say how relevance passes: use gradient_x_input"
    )


def _filled(work: Callable[..., Any], node: fx.Node, tensors: list[fx.Node]) -> Callable[..., Tensor]:
    """The node's call as a function of its tensors alone."""
    args, kwargs = node.args, {k: v for k, v in node.kwargs.items() if k != "inplace"}
    places = {tensor: place for place, tensor in enumerate(tensors)}

    def call(*given: Tensor) -> Tensor:
        def fill(value: Any) -> Any:
            return fx.node.map_arg(value, lambda inner: given[places[inner]])

        made: Tensor = work(*fill(args), **fill(kwargs))
        return made

    return call
