"""How far a ranking can be trusted: the same ranking from random halves of the probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compress.attribution_graph import AttributionGraph, comparable, node_cosines, ranks


@dataclass(frozen=True)
class Halves:
    """What random halves of the probe say of M networks; B splits make 2B halves.

    nodes, edges  s(V, V') and s(E, E') of each network with the target, on each half, (2B, M); rows 2b and 2b + 1 are
                  the two halves of one split
    """

    nodes: Tensor
    edges: Tensor

    def scores(self, lam: float) -> Tensor:
        """S = V + lambda E, (2B, M)."""
        return self.nodes + lam * self.edges


def halves(
    graphs: Sequence[AttributionGraph], target: AttributionGraph, splits: int, seed: int = 0
) -> Halves:
    """Compare every graph with the target again, on both halves of `splits` random splits of the probe.

    On a half, s(V, V') is the mean over its inputs, and s(E, E') Pearson's correlation of the ranks that its edges
    have among all: what Spearman's becomes as the probe grows, without ranking anew. Raises ValueError for a probe of
    which a half would have fewer than three inputs.
    """
    comparable((target, *graphs))
    n = len(target.nodes)
    if n < 6:
        raise ValueError(f"a probe of {n} cannot be halved: 6 inputs at least, or none of it (resamples: 0)")
    cosines = torch.stack([node_cosines(graph, target) for graph in graphs])
    edges = torch.stack([graph.edges for graph in (*graphs, target)])
    diagonal = int(edges.shape[1] > n * (n - 1) // 2)
    above = np.triu_indices(n, 1 - diagonal)
    place = np.zeros((n, n), dtype=np.int64)
    place[above] = np.arange(len(above[0]))
    generator = np.random.default_rng(seed)
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for _ in range(splits):
        order = generator.permutation(n)
        for rows in (np.sort(order[: n // 2]), np.sort(order[n // 2 :])):
            inner = np.triu_indices(len(rows), 1 - diagonal)
            part = edges[:, torch.from_numpy(place[rows[inner[0]], rows[inner[1]]])]
            part = part - part.mean(1, keepdim=True)
            part = part / torch.linalg.vector_norm(part, dim=1, keepdim=True).clamp_min(1e-30)
            found[0].append(cosines[:, torch.from_numpy(rows)].mean(1))
            found[1].append(part[:-1] @ part[-1])
    return Halves(torch.stack(found[0]), torch.stack(found[1]))


def interval(scores: Tensor, whole: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The 95 % interval of each network's score: lower ends and upper ends.

    scores (2B, M) are those on halves, whole (M,) that on the whole probe. The scores of half a sample, drawn without
    putting back, spread as that of the whole sample does (the jackknife that leaves half out; Shao and Wu 1989), so
    that the distances of their percentiles from their mean are those of the interval's ends from the score.
    """
    ends = (
        torch.quantile(scores, torch.tensor([0.025, 0.975], dtype=scores.dtype), dim=0)
        - scores.mean(0)
        + whole
    )
    return tuple(ends[0].tolist()), tuple(ends[1].tolist())


def split_half(scores: Tensor) -> float:
    """How well the two halves of a split agree on the order of the networks: Spearman, mean over splits.

    scores (2B, M), M >= 2. 1 where every half ranks alike, about 0 where the probe decides by chance.
    """
    found = [
        float(ranks(one.numpy()) @ ranks(other.numpy()))
        for one, other in zip(scores[::2], scores[1::2], strict=True)
    ]
    return sum(found) / len(found)


def first_share(scores: Tensor) -> tuple[float, ...]:
    """In which share of the halves each network comes out first; scores (2B, M)."""
    best = scores.argmax(1)
    return tuple((best == place).double().mean().item() for place in range(scores.shape[1]))
