"""Layers that pass messages along the edges of a graph, in plain PyTorch: torch.fx and torch.export read them whole.

Features are (N, width), edges (2, E): row 0 the nodes that send, row 1 those that receive, as in torch-geometric, whose
layers these equal (the tests compare them). Graphs are expected without self loops; a layer adds those that it wants.
Their parameters lie in layers of torch.nn, but for the biases: so a pruned network can be written down and built again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def received(messages: Tensor, edges: Tensor, like: Tensor) -> Tensor:
    """The sum of the messages (E, width) that arrive at each node: (N, width), as many rows as `like`."""
    return torch.zeros_like(like).index_add(0, edges[1], messages)


QUICK = 2**20
"""numbers in all messages together above which they are not made, on a CPU: each is added where it arrives"""


def _quick(h: Tensor, edges: Tensor) -> bool:
    """Whether the loop of `quick` may stand in: for plain tensors that nobody traces, exports or counts."""
    return (
        type(h) is Tensor
        and edges.shape[1] * h.shape[1] >= QUICK
        and h.device.type == "cpu"
        and h.dtype in (torch.float32, torch.float64)
        and not is_in_torch_dispatch_mode()
        and not torch.compiler.is_compiling()
    )


def passed(h: Tensor, edges: Tensor) -> Tensor:
    """The sum over neighbours j of h_j: (N, width) -> (N, width)."""
    if _quick(h, edges):
        from teachers.networks.quick import weighted_sum  # compiles, which small graphs need not wait for

        return weighted_sum(h, None, edges)
    return received(h.index_select(0, edges[0]), edges, h)


def passed_by_heads(h: Tensor, shares: Tensor, edges: Tensor) -> Tensor:
    """The sum over neighbours j of a_ij h_j for every head: h (N, heads * width), shares (E, heads) -> like h."""
    if _quick(h, edges):
        from teachers.networks.quick import weighted_sum  # compiles, which small graphs need not wait for

        return weighted_sum(h, shares, edges)
    by_head = h.index_select(0, edges[0]).view(shares.shape[0], shares.shape[1], -1)
    return received((by_head * shares.unsqueeze(2)).flatten(1), edges, h)


def indegree(edges: Tensor, like: Tensor) -> Tensor:
    """(N, 1) how many edges arrive at each node."""
    ones = torch.ones_like(edges[1], dtype=like.dtype)
    return torch.zeros_like(like[:, 0]).index_add(0, edges[1], ones).unsqueeze(1)


def softmax_at(scores: Tensor, edges: Tensor, like: Tensor) -> Tensor:
    """Softmax of scores (E, heads) over the edges that arrive at one node; `like` is (N, heads)."""
    receiver = edges[1]
    # Any number near the largest does, since it cancels: no gradient goes through it.
    index = receiver.unsqueeze(1).expand_as(scores)
    most = torch.full_like(like, -1e30).scatter_reduce(0, index, scores.detach(), "amax")
    powers = torch.exp(scores - most.index_select(0, receiver))
    total = received(powers, edges, like)
    return powers / total.index_select(0, receiver)


def with_loops(edges: Tensor, like: Tensor) -> Tensor:
    """The edges, and one from every node to itself."""
    nodes = torch.arange(like.shape[0], device=like.device)
    return torch.cat([edges, torch.stack([nodes, nodes])], dim=1)


def linear(ins: int, outs: int, bias: bool = True) -> nn.Linear:
    """A linear layer with Glorot's first weights and no bias yet, as graph networks are begun."""
    layer = nn.Linear(ins, outs, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class GCNLayer(nn.Module):
    """sum_j W x_j / sqrt(d_i d_j) + b,  over neighbours j and the node itself, d the degree with that loop.

    Source: Kipf and Welling 2017.
    """

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.linear = linear(ins, outs, bias=False)
        self.bias = nn.Parameter(torch.zeros(outs))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Shapes: x (N, ins), edges (2, E); result (N, outs)."""
        h = self.linear(x)
        root = (indegree(edges, h) + 1).rsqrt()
        h = h * root
        result: Tensor = (passed(h, edges) + h) * root + self.bias
        return result


class GATLayer(nn.Module):
    """sum_j a_ij W x_j + b for every head,  a_ij = softmax over j of LeakyReLU( u . W x_j + v . W x_i ),  j = i too.

    Heads lie side by side, or are averaged (`mean`). With `residual` a linear map of x is added. `u` and `v` are the
    weights of two convolutions with one group a head, which are read and never called.
    Source: Velickovic et al. 2018.
    """

    def __init__(
        self, ins: int, width: int, heads: int, *, mean: bool = False, residual: bool = False, slope: float = 0.2,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        outs = width if mean else heads * width
        self.linear = linear(ins, heads * width, bias=False)
        self.source = nn.Conv1d(heads * width, heads, 1, groups=heads, bias=False)
        self.target = nn.Conv1d(heads * width, heads, 1, groups=heads, bias=False)
        for vector in (self.source, self.target):
            bound = (6 / (heads + width)) ** 0.5  # Glorot's for (heads, width), as torch-geometric draws them
            nn.init.uniform_(vector.weight, -bound, bound)
        self.residual = linear(ins, outs, bias=False) if residual else None
        self.bias = nn.Parameter(torch.zeros(outs))
        self.dropout = nn.Dropout(dropout)
        self.mean, self.slope = mean, slope

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Shapes: x (N, ins), edges (2, E); result (N, heads * width), or (N, width) where heads are averaged."""
        h = self.linear(x)
        edges = with_loops(edges, h)
        shape = self.source.weight.shape
        by_head = h.view(h.shape[0], shape[0], shape[1]).transpose(0, 1)
        sends = torch.bmm(by_head, self.source.weight).squeeze(2).t()
        looks = torch.bmm(by_head, self.target.weight).squeeze(2).t()
        scores = sends.index_select(0, edges[0]) + looks.index_select(0, edges[1])
        shares = self.dropout(softmax_at(F.leaky_relu(scores, self.slope), edges, sends))
        result = passed_by_heads(h, shares, edges)
        if self.mean:
            result = result.view(h.shape[0], shape[0], shape[1]).mean(1)
        if self.residual is not None:
            result = result + self.residual(x)
        return result + self.bias


class SAGELayer(nn.Module):
    """W mean_j x_j + V x_i + b,  over neighbours j; nothing comes from none. Source: Hamilton et al. 2017."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.neighbours = linear(ins, outs, bias=False)
        self.root = linear(ins, outs)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Shapes: x (N, ins), edges (2, E); result (N, outs)."""
        h = self.neighbours(x)  # the mean of maps is the map of the mean, and outs are fewer than ins
        result: Tensor = passed(h, edges) / indegree(edges, h).clamp(min=1.0) + self.root(x)
        return result


class GINLayer(nn.Module):
    """V ReLU( norm( W ( x_i + sum_j x_j ) ) ) + b,  over neighbours j; norm a batch norm. Source: Xu et al. 2019."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.first = linear(ins, outs, bias=False)  # the norm has a shift of its own
        self.norm = nn.BatchNorm1d(outs)
        self.relu = nn.ReLU()
        self.second = linear(outs, outs)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Shapes: x (N, ins), edges (2, E); result (N, outs)."""
        h = self.first(x)  # before the sum, which is over fewer numbers then
        h = h + passed(h, edges)
        result: Tensor = self.second(self.relu(self.norm(h)))
        return result
