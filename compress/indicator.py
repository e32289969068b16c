"""How many kernels an input channel deserves: kernel sparsity, kernel entropy, and the levels made of them.

Kernels come as (..., C, N, D): C input channels, each read by N output channels through kernels of D numbers.
Source of everything here: Li et al., CVPR 2019, arXiv 1812.04368 (KSE), and its code where that is said.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Indicator = Literal["kse", "sparsity", "entropy"]
Layout = Literal["intended", "released"]

NEIGHBOURS = 5
_BLOCK = 2**25  # distances held at once, in numbers of 8 bytes


def sparsity(kernels: Tensor) -> Tensor:
    """s_c = sum_n |W_{n,c}|_1; kernels (..., C, N, D) -> (..., C), in float64."""
    return kernels.double().abs().sum((-1, -2))


def density(kernels: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """dm_{c,n}: the sum of the distances |W_{n,c} - W_{m,c}|_2 to the nearest m; (..., C, N, D) -> (..., C, N).

    `neighbours` of them, or all others where there are fewer. float64, and distances without the shortcut by a
    matrix product, whose cancellation ruins the small ones that matter here. Raises ValueError where N < 2.
    """
    *outer, channels, outputs, numbers = kernels.shape
    if outputs < 2:
        raise ValueError(f"a kernel's neighbours are asked for, but the channel has {outputs} kernel")
    nearest = min(neighbours, outputs - 1)
    flat = kernels.double().reshape(-1, outputs, numbers)
    if numbers == 1:
        return _density_of_scalars(flat[..., 0], nearest).reshape(*outer, channels, outputs)
    rows = max(1, _BLOCK // outputs**2)
    parts = []
    for part in flat.split(rows):
        distances = torch.cdist(part, part, compute_mode="donot_use_mm_for_euclid_dist")
        distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        # NumPy's selection takes a fifth of the time of topk here.
        least = np.partition(distances.cpu().numpy(), nearest - 1, axis=-1)[..., :nearest]
        parts.append(torch.from_numpy(least).sum(-1).to(kernels.device))
    return torch.cat(parts).reshape(*outer, channels, outputs)


def _density_of_scalars(values: Tensor, nearest: int) -> Tensor:
    """The same for D = 1, values (B, N): in a sorted row the nearest lie within `nearest` places, so O(N log N)."""
    ordered, order = values.sort(-1)
    count = ordered.shape[-1]
    gaps = []
    for step in range(1, nearest + 1):
        gap = ordered[:, step:] - ordered[:, :-step]
        far = torch.full((len(values), min(step, count)), torch.inf, dtype=values.dtype)
        gaps += [torch.cat([gap, far], -1)[:, :count], torch.cat([far, gap], -1)[:, :count]]
    sums = torch.stack(gaps, -1).topk(nearest, largest=False, sorted=False).values.sum(-1)
    return torch.empty_like(sums).scatter_(-1, order, sums)


def entropy(kernels: Tensor, neighbours: int = NEIGHBOURS, layout: Layout = "intended") -> Tensor:
    """e_c = -sum_n p_n log2 p_n, p_n = dm_n / sum dm, in [0, log2 N]; (..., C, N, D) -> (..., C).

    0 where all kernels of the channel are the same. layout="released" is what the published code computes: it
    reshapes where it should transpose, so that the N kernels it looks at are not those of one input channel (for
    N = C they are those of output channel c).
    """
    if layout == "released":
        *outer, channels, outputs, numbers = kernels.shape
        kernels = kernels.contiguous().reshape(*outer, outputs, channels, numbers).transpose(-2, -3)
    spread = density(kernels, neighbours)
    share = spread / spread.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    bits: Tensor = torch.special.entr(share).sum(-1) / math.log(2.0)
    return bits


def normalised(values: Tensor, flat: float) -> Tensor:
    """(v - min) / (max - min) over the last dimension; `flat` where all are the same."""
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    spread = high - low
    return torch.where(spread > 0, (values - low) / spread.where(spread > 0, 1.0), flat)


def indicator(
    kernels: Tensor,
    kind: Indicator = "kse",
    *,
    alpha: float = 1.0,
    neighbours: int = NEIGHBOURS,
    layout: Layout = "intended",
    renormalise: bool = False,
) -> Tensor:
    """v_c = sqrt( s~_c / (1 + alpha e~_c) ), in [0, 1]; kernels (..., C, N, D) -> (..., C), in float64.

    s~ and e~ are sparsity and entropy, each brought to [0, 1] over the channels; where all channels are alike s~ is
    1 and e~ is 0. kind="sparsity" is sqrt(s~), kind="entropy" sqrt(1 / (1 + alpha e~)).
    renormalise  brings v itself to [0, 1] once more, as the published code does and the published sizes do not
    """
    s = normalised(sparsity(kernels), flat=1.0) if kind != "entropy" else torch.ones(())
    e = normalised(entropy(kernels, neighbours, layout), flat=0.0) if kind != "sparsity" else torch.zeros(())
    v = (s / (1.0 + alpha * e)).sqrt()
    return normalised(v, flat=1.0) if renormalise else v


def levels(values: Tensor, granularity: int) -> Tensor:
    """G = floor(v G), at most G - 1; v (..., C) in [0, 1] -> (..., C), integers."""
    return (values * granularity).floor().long().clamp(0, granularity - 1)


def kernels_of_level(level: int, outputs: int, granularity: int, shift: int) -> int:
    """q, how many kernels a channel of that level keeps of its N = `outputs`.

    q(0) = 0,   q(G-1) = N,   q(g) = ceil(N * 2^(g + 1 - T - G)), at most N, between.
    """
    if level == 0:
        return 0
    if level == granularity - 1:
        return outputs
    part = int(2 ** (granularity + shift - 1 - level))
    return min(outputs, -(-outputs // part))
