"""Batch norms folded into the convolutions before them: a network as it is used, no longer as it is trained."""

from __future__ import annotations

import copy
import operator
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from students.trace import Untraceable, trace

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def folded(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode that answers the same, to rounding, with fewer layers; `network` stays as it is.

        gamma * (W x + b - mean) / sqrt(var + eps) + beta  =  W' x + b',
        W' = W * gamma / sqrt(var + eps),   b' = beta + (b - mean) * gamma / sqrt(var + eps)

    for every batch norm with running statistics that alone reads a convolution called once. A norm of any other
    kind or place stays, and a network that torch.fx cannot trace comes back as a plain copy.
    """
    twin = copy.deepcopy(network).eval()
    try:
        graph, constants = trace(network, training=False)
    except Untraceable:
        return twin
    for name, value in constants.items():
        if (
            "." not in name
        ):  # tensors that the code makes: the tracer names them, the network does not know them
            setattr(twin, name, value)
    whole = fx.GraphModule(twin, graph)
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in list(graph.nodes):
        pair = _pair(whole, node, calls)
        if pair is None:
            continue
        convolution, norm = pair
        source = node.args[0]
        fused = fuse_conv_bn_eval(convolution, norm)
        whole.set_submodule(source.target, fused)
        node.replace_all_uses_with(source)
        graph.erase_node(node)
    whole.delete_all_unused_submodules()
    whole.recompile()
    return whole


@torch.no_grad()
def swift(network: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """`folded`, for answering without gradients alone: sums and ReLUs are written over what nobody else reads.

    It answers as `folded` does, to the bit, which is tried out on `inputs`; where it does not (a sum that grows its
    first part), or torch.fx cannot trace the network, that comes back.
    """
    plain = folded(network)
    if not isinstance(plain, fx.GraphModule):
        return plain
    whole = copy.deepcopy(plain)
    _overwrite(whole)
    try:
        return whole if torch.equal(whole(*inputs), plain(*inputs)) else plain
    except RuntimeError:
        return plain


def _overwrite(whole: fx.GraphModule) -> None:
    fresh: set[fx.Node] = set()  # whose output is a tensor of its own, which no other tensor looks into
    for node in whole.graph.nodes:
        if node.op == "call_module":
            part = whole.get_submodule(str(node.target))
            if type(part) in (*_CONVOLUTIONS, *_NORMS, nn.Linear):
                fresh.add(node)
        if node.op != "call_function" or node.target not in (operator.add, F.relu, torch.relu):
            continue
        first = node.args[0] if node.args else None
        alone = isinstance(first, fx.Node) and first in fresh and len(first.users) == 1
        fresh.add(node)
        if not alone:
            continue
        if node.target is F.relu:
            node.kwargs = {**node.kwargs, "inplace": True}
        elif node.target is torch.relu:
            node.target = torch.relu_
        elif len(node.args) == 2 and isinstance(node.args[1], fx.Node) and node.args[1] is not first:
            node.target = torch.Tensor.add_
    whole.recompile()


def _pair(
    whole: fx.GraphModule, node: fx.Node, calls: Counter[fx.node.Target]
) -> tuple[nn.Conv1d | nn.Conv2d | nn.Conv3d, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d] | None:
    """The convolution and the norm that reads it, where `node` calls such a norm."""
    if node.op != "call_module" or len(node.args) != 1 or not isinstance(node.args[0], fx.Node):
        return None
    source = node.args[0]
    if source.op != "call_module" or len(source.users) != 1 or calls[source.target] != 1:
        return None
    convolution, norm = whole.get_submodule(str(source.target)), whole.get_submodule(str(node.target))
    # Exact classes: a subclass may do more than its parent. Transposed convolutions keep their norm, since
    # PyTorch's own fusion mistakes the groups of theirs.
    if not isinstance(norm, _NORMS) or type(norm) not in _NORMS:
        return None
    if not isinstance(convolution, _CONVOLUTIONS) or type(convolution) not in _CONVOLUTIONS:
        return None
    return None if norm.running_mean is None else (convolution, norm)
