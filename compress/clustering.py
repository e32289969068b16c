"""Clustering the kernels of many input channels at once: k-means in a batch, and the exact optimum in one dimension.

Every problem of a batch is one channel: N points of D numbers, q clusters. All is done on the CPU, seeded, and gives
the same whenever it is run: centroids come sorted, ties go to the lowest index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

RESTARTS = 4
_STEPS = 100
_BLOCK = 2**24  # distances held at once, in numbers of 4 bytes


@dataclass(frozen=True)
class Clusters:
    """What a batch of B channels became.

    centroids (B, q, D), in the points' dtype: plain means; index (B, N): which of them each point took
    error     (B,), float64: the sum of squared distances of the points to their centroids
    """

    centroids: Tensor
    index: Tensor
    error: Tensor


def cluster(points: Tensor, count: int, *, seed: int = 0, restarts: int = RESTARTS) -> Clusters:
    """Cluster every channel of `points` (B, N, D) into `count` clusters, 1 <= count <= N.

        minimise over centroids and index:  sum_n | x_n - centroid_{index_n} |^2

    For D = 1 the global optimum (`scalars.optimum`); else the best of `restarts` runs of Lloyd's algorithm, begun
    by greedy k-means++ (Arthur and Vassilvitskii 2007). A cluster that runs empty takes the point that lies
    farthest from its centroid. Where a channel has fewer distinct points than clusters, some are alike.
    Raises ValueError on a count out of range, or points that are not finite.
    """
    channels, number, size = points.shape
    if not 1 <= count <= number:
        raise ValueError(f"{number} kernels cannot be shared out to {count} clusters: ask for 1 to {number}")
    if not points.isfinite().all():
        raise ValueError("kernels that are not finite cannot be clustered")
    exact = points.detach().cpu().double()
    if size == 1:
        from compress.scalars import (
            optimum,  # compiled when first used: seconds that nobody else should wait for
        )

        found = optimum(exact[..., 0].numpy(), count)
        return _told(points, exact, torch.from_numpy(found), count)
    if count == number:
        return _told(points, exact, torch.arange(number).expand(channels, number), count)
    rows = max(1, _BLOCK // (number * max(number, restarts * count)))
    generator = torch.Generator().manual_seed(seed)
    parts = [_best(part, count, restarts, generator) for part in exact.split(rows)]
    return _told(points, exact, torch.cat(parts) if parts else torch.zeros(0, number).long(), count)


def _told(points: Tensor, exact: Tensor, index: Tensor, count: int) -> Clusters:
    """Means in float64, sorted lexicographically, in the points' dtype, and the error with those."""
    centroids = _means(exact, index, count)[0]
    for column in reversed(range(exact.shape[-1])):
        order = centroids[..., column].argsort(dim=-1, stable=True)
        centroids = centroids.gather(1, order[..., None].expand_as(centroids))
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(count).expand_as(order))
        index = rank.gather(1, index)
    centroids = centroids.to(points.dtype)
    own = centroids.double().gather(1, index[..., None].expand_as(exact))
    return Clusters(centroids.to(points.device), index.to(points.device), (exact - own).square().sum((1, 2)))


def _best(exact: Tensor, count: int, restarts: int, generator: torch.Generator) -> Tensor:
    """Index (B, N) of the best of several runs, all in one batch."""
    channels, number, _ = exact.shape
    points = exact.float()
    # In units of the channel's spread, and around its mean: float32 then loses nothing that matters.
    points = points - points.mean(1, keepdim=True)
    points = points / points.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-30)
    starts = torch.cat([_seeds(points, count, generator) for _ in range(restarts)])
    many = points.repeat(restarts, 1, 1)
    index = _lloyd(many, many.gather(1, starts[..., None].expand(-1, -1, many.shape[-1])))
    twice = exact.repeat(restarts, 1, 1)
    means = _means(twice, index, count)[0]
    error = (twice - means.gather(1, index[..., None].expand_as(twice))).square().sum((1, 2))
    best = error.view(restarts, channels).argmin(0)
    return index.view(restarts, channels, number)[best, torch.arange(channels)]


def _seeds(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Which points to begin with (B, q): of a few candidates, drawn by squared distance, the best each round."""
    channels, number, _ = points.shape
    candidates = 2 + int(math.log(count))
    squares = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square()
    rows = torch.arange(channels)[:, None]
    chosen = torch.randint(number, (channels, 1), generator=generator)
    nearest = squares[rows[:, 0], chosen[:, 0]]
    for _ in range(count - 1):
        # All at 0: fewer distinct points than clusters, and it no longer matters which is taken.
        weight = nearest + (nearest.sum(1, keepdim=True) <= 0)
        drawn = torch.rand(channels, candidates, generator=generator) * weight.sum(1, keepdim=True)
        drawn = torch.searchsorted(weight.cumsum(1), drawn, right=True).clamp_max(number - 1)
        closer = torch.minimum(nearest[:, None], squares[rows, drawn])
        best = closer.sum(-1).argmin(1)
        nearest = closer[rows[:, 0], best]
        chosen = torch.cat([chosen, drawn[rows[:, 0], best][:, None]], 1)
    return chosen


def _lloyd(points: Tensor, centroids: Tensor) -> Tensor:
    """Lloyd's algorithm until no assignment changes; index (B, N). Channels that are done leave the batch."""
    channels, number, _ = points.shape
    count = centroids.shape[1]
    result = torch.full((channels, number), -1)
    going = torch.arange(channels)
    for _ in range(_STEPS):
        squares = torch.baddbmm(centroids.square().sum(-1)[:, None], points, centroids.mT, alpha=-2)
        least, index = squares.min(-1)
        moved = (index != result[going]).any(1)
        result[going] = index
        if not moved.any():
            break
        going, points, index, least = going[moved], points[moved], index[moved], least[moved]
        centroids, sizes = _means(points, index, count)
        for row in (sizes == 0).any(1).nonzero()[:, 0].tolist():
            empty = (sizes[row] == 0).nonzero()[:, 0]
            away = (least[row] + points[row].square().sum(-1)).argsort(dim=-1, descending=True, stable=True)
            centroids[row, empty] = points[row, away[: len(empty)]]
    return result


def _means(points: Tensor, index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Centroids (B, q, D) and sizes (B, q); an empty cluster's centroid is 0."""
    channels, _, size = points.shape
    flat = (index + count * torch.arange(channels)[:, None]).reshape(-1)
    sums = points.new_zeros(channels * count, size).index_add_(0, flat, points.reshape(-1, size))
    sizes = torch.bincount(flat, minlength=channels * count)
    centroids = sums / sizes.clamp_min(1)[:, None]
    return centroids.view(channels, count, size), sizes.view(channels, count)
