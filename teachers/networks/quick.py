"""Messages summed edge by edge on a CPU, without a row an edge: for wide features and many edges (`passing`)."""

from __future__ import annotations

from typing import Any

import numba
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


def weighted_sum(features: Tensor, shares: Tensor | None, edges: Tensor) -> Tensor:
    """Sum over edges j -> i of a_ij x_j, head by head: features (N, heads * width), shares (E, heads) -> like features.

    Without shares all are 1. Differentiable in both.
    """
    result: Tensor = _Weighted.apply(features, shares, edges)  # type: ignore[no-untyped-call]
    return result


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, shares: Tensor | None, edges: Tensor) -> Tensor:
        features = features.contiguous()
        shares = None if shares is None else shares.contiguous()
        ctx.save_for_backward(features, shares, edges)
        send, receive = edges.numpy()
        result = torch.zeros_like(features)
        if shares is None:
            _sum(features.detach().numpy(), send, receive, result.numpy())
        else:
            _weigh(features.detach().numpy(), shares.detach().numpy(), send, receive, result.numpy())
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        features, shares, edges = ctx.saved_tensors
        send, receive = edges.numpy()
        gradient = gradient.contiguous()
        back = torch.zeros_like(features)
        if shares is None:
            _sum(gradient.numpy(), receive, send, back.numpy())
            return back, None, None
        on_shares = torch.empty_like(shares)
        _back(
            features.detach().numpy(), shares.detach().numpy(), send, receive, gradient.numpy(), back.numpy(),
            on_shares.numpy(),
        )  # fmt: skip
        return back, on_shares, None


@numba.njit(cache=True)
def _sum(x: Array, send: Array, receive: Array, result: Array) -> None:
    for edge in range(len(send)):
        one, other = x[send[edge]], result[receive[edge]]
        for d in range(x.shape[1]):
            other[d] += one[d]


@numba.njit(cache=True)
def _weigh(x: Array, shares: Array, send: Array, receive: Array, result: Array) -> None:
    heads = shares.shape[1]
    width = x.shape[1] // heads
    for edge in range(len(send)):
        one, other = x[send[edge]], result[receive[edge]]
        for head in range(heads):
            share, start = shares[edge, head], head * width
            for d in range(start, start + width):
                other[d] += share * one[d]


@numba.njit(cache=True, fastmath={"reassoc", "nsz"})
def _back(
    x: Array, shares: Array, send: Array, receive: Array, gradient: Array, back: Array, on_shares: Array
) -> None:
    heads = shares.shape[1]
    width = x.shape[1] // heads
    for edge in range(len(send)):
        one, pull, goes = x[send[edge]], gradient[receive[edge]], back[send[edge]]
        for head in range(heads):
            share, start = shares[edge, head], head * width
            total = x.dtype.type(0)
            for d in range(start, start + width):
                goes[d] += share * pull[d]
                total += one[d] * pull[d]
            on_shares[edge, head] = total
