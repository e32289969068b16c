"""Batch norms folded into the convolutions before them: a network as it is used, no longer as it is trained."""

from __future__ import annotations

import copy
from collections import Counter

from torch import fx, nn
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
