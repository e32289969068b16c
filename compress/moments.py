"""Mean and variance of every channel, as a batch norm takes them, and the batch norms that remember such."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_TINY = 1e-30  # so that a channel that does not vary has variance 0, in place of a division by it


class _Moments(torch.autograd.Function):
    # Tensor.var takes four to ten times as long over a channel of a channels_last image, and wants it in fp32 first.

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        # Weights in fp32 have the kernel give its statistics in fp32 as well, where x is in half precision.
        fine = torch.promote_types(x.dtype, torch.float32)
        weight, bias = x.new_ones(x.shape[1], dtype=fine), x.new_zeros(x.shape[1], dtype=fine)
        _, mean, inverse = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, _TINY)
        ctx.save_for_backward(x, mean)
        return mean, inverse.square().reciprocal()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        of_mean, of_variance = gradients
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        # d mean / dx = 1 / m, d variance / dx = 2 (x - mean) / m
        slope = 2 * of_variance / count
        offset = of_mean / count - slope * mean
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return torch.addcmul(offset.view(shape), x, slope.view(shape)).to(x.dtype)


def norms_of(network: nn.Module, but: Collection[str] = ()) -> dict[str, _BatchNorm]:
    """Its batch norms with running statistics by name, but for those named."""
    return {
        name: part
        for name, part in network.named_modules()
        if isinstance(part, _BatchNorm) and part.track_running_stats and name not in but
    }


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of x (n, C, ...), (C,) each; in fp32 where x is coarser."""
    mean, variance = _Moments.apply(x)
    return mean, variance
