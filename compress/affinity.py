"""How near two nodes are: the kernels of local structure, computed for the edges of a graph and nothing else.

No kernel but those of the L1 distance needs more memory than a number an edge: inner products are taken edge by edge
(`torch.sparse.sampled_addmm`, or on few threads columns that fit the cache), and |x - y|^2 = |x|^2 + |y|^2 - 2 x.y. L1
goes edge by edge (CPU) or block by block.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.neighbours import Neighbours
from teachers.spec import Field, spec

Measure = Literal["cosine", "dot", "l1", "l2", "squared_l2"]
Preset = Literal[
    "cosine", "dot", "l2", "poly2", "official", "paper_rbf", "binary_rbf", "gcrd_cosine", "gcrd_poly", "gcrd_l2",
    "gcrd_rbf",
]  # fmt: skip
Array = NDArray[Any]

BLOCK = 2**18
"""numbers of a block of differences, where L1 goes by blocks: a megabyte"""
NEAR_BY = 5 * 2**18
"""bytes of the columns whose inner products are taken at a time: what a core's own cache holds"""
FEW = 4
"""threads, from which on a product that shares the work among them is quicker than one thread that minds the cache"""


@spec
class Kernel:
    """How near node j is to node i, a number:  K = sign * (gamma * m + c)^degree,  or  sign * exp(-gamma * m).

    m is the measure of the two nodes' features; scores are K / temperature.
    """

    measure: Measure = "cosine"
    """m: the cosine, the inner product, sum |x - y|, |x - y|, or |x - y|^2"""
    exponential: bool = False
    """exp(-gamma * m), as in an RBF kernel, in place of a power"""
    gamma: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """what m is multiplied with"""
    c: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """what is added before the power is taken"""
    degree: Annotated[int, Field(ge=1)] = 1
    """the power"""
    sign: Literal[1, -1] = 1
    """-1: distances count the other way, the nearest most"""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """what K is divided by"""

    def __post_init__(self) -> None:
        if self.exponential and (self.c or self.degree != 1):
            raise ValueError("an exponential kernel is exp(-gamma * m): it takes neither c nor degree")

    def scores(self, features: Tensor, near: Neighbours) -> Tensor:
        """K / temperature for every edge: features (N, D) -> (E,), differentiable in the features.

        Raises ValueError where there are as many rows as nodes in another graph.
        """
        if features.dim() != 2 or len(features) != near.nodes:
            raise ValueError(
                f"features of shape {tuple(features.shape)} do not belong to a graph of {near.nodes} nodes: one row "
                "a node is needed, in the order of the edges"
            )
        m = _measure(self.measure, features, near)
        if self.exponential:
            k = torch.exp(-self.gamma * m)
        else:
            k = self.gamma * m + self.c if self.gamma != 1 or self.c else m
            k = k**self.degree if self.degree > 1 else k
        scale = self.sign / self.temperature
        return k * scale if scale != 1 else k


PRESETS: dict[Preset, Kernel] = {
    # Knows no scale, so that one temperature serves all widths; the others are as published.
    "cosine": Kernel(temperature=0.2),
    "dot": Kernel(measure="dot"),
    "l2": Kernel(measure="squared_l2"),
    "poly2": Kernel(measure="dot", degree=2),
    "official": Kernel(measure="l1", exponential=True, gamma=0.01),
    "paper_rbf": Kernel(measure="squared_l2", exponential=True, gamma=0.005),
    "binary_rbf": Kernel(measure="squared_l2", exponential=True),
    "gcrd_cosine": Kernel(),
    "gcrd_poly": Kernel(degree=2),
    "gcrd_l2": Kernel(measure="l2"),
    "gcrd_rbf": Kernel(measure="squared_l2", exponential=True, gamma=0.5),
}
"""Kernels by name: dot, poly2 and paper_rbf (gamma = 1 / 2 sigma, sigma = 100) as in Yang et al. 2020, l2 as surveys
quote it (the farthest gets most), official what its released code runs (L1 / 100), binary_rbf BinaryGNN's, gcrd_* those
of G-CRD's code."""


def _measure(measure: Measure, features: Tensor, near: Neighbours) -> Tensor:
    if _walks(features) and not (features.requires_grad and torch.is_grad_enabled()):
        return _walked(measure, features, near)
    if measure == "cosine":
        return inner(features / _lengths(features), near)
    if measure == "dot":
        return inner(features, near)
    if measure == "l1":
        return manhattan(features, near)
    # Distances do not see a shift, and rounding does: features far from 0 are brought back first.
    centred = features - features.mean(0, keepdim=True).detach()
    squares: Tensor = torch.linalg.vector_norm(centred, dim=1).square()
    squared = squares.index_select(0, near.centre) + squares.index_select(0, near.neighbour)
    squared = squared - 2 * inner(centred, near)
    # What rounding leaves of nothing: below 0, or a node's distance to itself, of which a root would make much.
    squared = squared.masked_fill((squared.detach() <= 0) | (near.centre == near.neighbour), 0.0)
    if measure == "squared_l2":
        return squared
    zero = squared.detach() == 0
    return squared.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


def _lengths(features: Tensor) -> Tensor:
    # Nothing points nowhere: its cosine is 0, and so is its gradient, which would else be without bounds.
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return length.masked_fill(length.detach() == 0, torch.inf)


def inner(features: Tensor, near: Neighbours) -> Tensor:
    """x_i . x_j for every edge j -> i: (N, D) -> (E,), in time E * D and memory E."""
    product: Tensor = _Inner.apply(features, near)  # type: ignore[no-untyped-call]
    return product


def manhattan(features: Tensor, near: Neighbours, block: int | None = None) -> Tensor:
    """sum_d |x_id - x_jd| for every edge j -> i: (N, D) -> (E,).

    In blocks of so many differences; None goes edge by edge on a CPU, which needs no memory, and elsewhere takes BLOCK.
    """
    if block is None and features.device.type != "cpu":
        block = BLOCK
    distance: Tensor = _Manhattan.apply(features, near, block)  # type: ignore[no-untyped-call]
    return distance


class _Inner(torch.autograd.Function):
    """Products of the edges' ends, and their gradient, G x + G^T x, where G is the graph with the gradients on it."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, near: Neighbours) -> Tensor:
        ctx.save_for_backward(features)
        ctx.near = near
        if _walks(features):
            return _walked("dot", features, near)
        pattern = near.matrix(features.new_zeros(len(near)))
        products: Tensor = torch.sparse.sampled_addmm(pattern, features, features.t(), beta=0.0)
        return products.values()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (features,) = ctx.saved_tensors
        # Shares of nearly nothing leave numbers too small for full precision, with which every product takes long.
        least = torch.finfo(gradient.dtype).tiny * 2**20
        if _walks(features):
            start, neighbour = (where.numpy() for where in ctx.near.compressed)
            x, result = (
                features.detach().contiguous(),
                torch.zeros_like(features, memory_format=torch.contiguous_format),
            )
            _pull_products(x.numpy(), start, neighbour, gradient.contiguous().numpy(), least, result.numpy())
            return result, None
        gradient = gradient.masked_fill(gradient.abs() < least, 0.0)
        return ctx.near.matrix(gradient) @ features + ctx.near.transposed(gradient) @ features, None


class _Manhattan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, near: Neighbours, block: int | None) -> Tensor:
        features = features.contiguous()
        ctx.save_for_backward(features)
        ctx.near, ctx.block = near, block
        if block is None:
            return _walked("l1", features, near)
        distance = features.new_empty(len(near))
        for some, i, j in _blocks(near, features.shape[1], block):
            distance[some] = (features[i] - features[j]).abs_().sum(1)
        return distance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (features,) = ctx.saved_tensors
        near, result = ctx.near, torch.zeros_like(features)
        if ctx.block is None:
            _pull(
                features.detach().numpy(), near.centre.numpy(), near.neighbour.numpy(), gradient.contiguous().numpy(),
                result.numpy(),
            )  # fmt: skip
        else:
            for some, i, j in _blocks(near, features.shape[1], ctx.block):
                pull = (features[i] - features[j]).sign_().mul_(gradient[some, None])
                result.index_add_(0, i, pull).index_add_(0, j, pull, alpha=-1)
        return result, None, None


def _blocks(near: Neighbours, width: int, block: int) -> Any:
    size = max(block // max(width, 1), 1)
    for start in range(0, len(near), size):
        some = slice(start, start + size)
        yield some, near.centre[some], near.neighbour[some]


_POWERS: dict[Measure, int] = {"dot": 0, "cosine": 0, "l1": 1, "l2": 2, "squared_l2": 2}


def _walks(features: Tensor) -> bool:
    return features.device.type == "cpu" and torch.get_num_threads() < FEW


def _walked(measure: Measure, features: Tensor, near: Neighbours) -> Tensor:
    """The measure edge by edge, without a gradient: exact where nodes lie near each other, and no (E, D) anywhere."""
    # Rows are met in no order, once an edge: a few columns of all of them stay in the cache, all columns do not.
    start, neighbour = (where.numpy() for where in near.compressed)
    features = features.detach()
    found = features.new_zeros(len(near))
    columns = max(NEAR_BY // (max(near.nodes, 1) * features.element_size()) // 64, 1) * 64  # whole vectors
    lengths = _lengths(features) if measure == "cosine" else None
    for some in features.split(columns, dim=1):
        part = some / lengths if lengths is not None else some.contiguous()
        _add(part.numpy(), start, neighbour, found.numpy(), _POWERS[measure])
    return found.sqrt_() if measure == "l2" else found


@numba.njit(cache=True, fastmath={"reassoc", "nsz", "contract"})
def _product(one: Array, other: Array) -> Any:
    total = one.dtype.type(0)
    for d in range(len(one)):
        total += one[d] * other[d]
    return total


@numba.njit(cache=True, fastmath={"reassoc", "nsz", "contract"})
def _distance(one: Array, other: Array) -> Any:
    total = one.dtype.type(0)
    for d in range(len(one)):
        total += abs(one[d] - other[d])
    return total


@numba.njit(cache=True, fastmath={"reassoc", "nsz", "contract"})
def _square(one: Array, other: Array) -> Any:
    total = one.dtype.type(0)
    for d in range(len(one)):
        total += (one[d] - other[d]) * (one[d] - other[d])
    return total


@numba.njit(cache=True, fastmath={"reassoc", "nsz", "contract"})
def _add(x: Array, start: Array, neighbour: Array, found: Array, power: int) -> None:
    """Add to every edge what its ends make: sum x y for power 0, sum |x - y| for 1, sum (x - y)^2 for 2."""
    for i in range(len(start) - 1):
        one = x[i]
        for edge in range(start[i], start[i + 1]):
            other = x[neighbour[edge]]
            if power == 0:
                found[edge] += _product(one, other)
            elif power == 1:
                found[edge] += _distance(one, other)
            else:
                found[edge] += _square(one, other)


@numba.njit(cache=True, fastmath={"contract"})
def _pull_products(
    x: Array, start: Array, neighbour: Array, gradient: Array, least: float, result: Array
) -> None:
    for i in range(len(start) - 1):
        one, mine = x[i], result[i]
        for edge in range(start[i], start[i + 1]):
            g = gradient[edge]
            if abs(g) < least:
                continue
            other, its = x[neighbour[edge]], result[neighbour[edge]]
            for d in range(x.shape[1]):
                mine[d] += g * other[d]
            for d in range(x.shape[1]):
                its[d] += g * one[d]


@numba.njit(cache=True)
def _pull(x: Array, centre: Array, neighbour: Array, gradient: Array, result: Array) -> None:
    for edge in range(len(centre)):
        i, j, g = centre[edge], neighbour[edge], gradient[edge]
        for d in range(x.shape[1]):
            pull = g * np.sign(x[i, d] - x[j, d])
            result[i, d] += pull
            result[j, d] -= pull
