"""Parts of a graph around seed nodes, for torch-geometric's loaders: its own samplers want libraries that are compiled.

`torch_geometric.loader.NeighborLoader` refuses to start without pyg-lib or torch-sparse, which cannot be had
everywhere. Its base, `NodeLoader`, takes any `BaseSampler`: the one here is a loop that numba compiles, and gives
the numbers of the edges as well as those of the nodes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.loader import NodeLoader
from torch_geometric.sampler import BaseSampler, NodeSamplerInput, SamplerOutput

Integers = NDArray[np.int64]


class Arriving(NamedTuple):
    """The edges of a graph by the node that receives: where each one's begin, who sends, and their numbers."""

    start: Integers
    send: Integers
    number: Integers

    @classmethod
    def of(cls, edges: Tensor, nodes: int) -> Arriving:
        """Sort edges (2, E), once for a graph."""
        order = edges[1].argsort(stable=True)
        ends = torch.bincount(edges[1], minlength=nodes).cumsum(0)
        start = torch.cat([ends.new_zeros(1), ends])
        return cls(start.numpy(), edges[0][order].numpy(), order.numpy())


class Around(BaseSampler):  # type: ignore[misc]
    """For every seed so many of the nodes that send to it, for each of those again, and so on.

    arriving   the edges of the whole graph
    counts     how many neighbours of a node, hop by hop; -1 takes all. Without replacement; a node that comes up
               again is not looked around a second time
    generator  where random numbers come from, one a batch
    """

    def __init__(
        self, arriving: Arriving, counts: tuple[int, ...], generator: torch.Generator | None = None
    ) -> None:
        self.arriving = arriving
        self.counts = np.array(counts, np.int64)
        self.generator = generator
        self._place = np.full(
            len(arriving.start) - 1, -1, np.int64
        )  # where a node lies in the batch; put back after each

    def sample_from_nodes(self, index: NodeSamplerInput, **_: Any) -> SamplerOutput:
        """The nodes (seeds first), the edges between them that were drawn, and those edges' numbers."""
        seeds = index.node.numpy()
        draw = int(torch.randint(2**62, (), generator=self.generator)) if self.generator is not None else 0
        nodes, send, receive, edges = _around(*self.arriving, seeds, self.counts, draw, self._place)
        made = (torch.from_numpy(part) for part in (nodes, send, receive, edges))
        return SamplerOutput(*made, metadata=(index.input_id, index.time))

    def sample_from_edges(self, index: Any, neg_sampling: Any = None) -> Any:
        """Raises NotImplementedError: batches here begin with nodes."""
        raise NotImplementedError("batches begin with nodes, not with edges")


def loader(
    edges: Tensor, arriving: Arriving, seeds: Tensor, counts: tuple[int, ...], batch: int,
    generator: torch.Generator | None = None,
) -> NodeLoader:  # fmt: skip
    """Batches of `batch` seeds and what lies around them, shuffled where there is a generator.

    What it gives are torch_geometric `Data` with `n_id` (nodes, seeds first), `e_id`, `edge_index` and `batch_size`.
    """
    sampler = Around(arriving, counts, generator)
    data = Data(edge_index=edges, num_nodes=len(arriving.start) - 1)
    return NodeLoader(
        data, sampler, input_nodes=seeds, batch_size=batch, shuffle=generator is not None, generator=generator
    )


@numba.njit(cache=True)
def _next(state: np.uint64) -> tuple[np.uint64, np.uint64]:
    """SplitMix64 (Steele et al. 2014): the state, and a number of 64 bits."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    z = state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, z ^ (z >> np.uint64(31))


@numba.njit(cache=True)
def _around(
    start: Integers,
    send: Integers,
    order: Integers,
    seeds: Integers,
    counts: Integers,
    draw: int,
    place: Integers,
) -> tuple[Integers, Integers, Integers, Integers]:
    nodes = numba.typed.List.empty_list(numba.int64)
    senders = numba.typed.List.empty_list(numba.int64)
    receivers = numba.typed.List.empty_list(numba.int64)
    edges = numba.typed.List.empty_list(numba.int64)
    state = np.uint64(draw)
    for seed in seeds:
        place[seed] = len(nodes)
        nodes.append(seed)
    first = 0
    chosen = np.empty(0, np.int64)
    for count in counts:
        last = len(nodes)
        for centre in range(first, last):
            begin, end = start[nodes[centre]], start[nodes[centre] + 1]
            degree = end - begin
            few = degree if count < 0 else min(count, degree)
            if few < degree and len(chosen) < few:
                chosen = np.empty(few, np.int64)
            for step in range(few):
                if few == degree:
                    at = begin + step
                else:  # Floyd's way: a set of distinct numbers without a list of all of them
                    top = degree - few + step
                    state, number = _next(state)
                    at = np.int64(number % np.uint64(top + 1))
                    for earlier in range(step):
                        if chosen[earlier] == at:
                            at = top
                            break
                    chosen[step] = at
                    at = begin + at
                node = send[at]
                if place[node] < 0:
                    place[node] = len(nodes)
                    nodes.append(node)
                senders.append(place[node])
                receivers.append(centre)
                edges.append(order[at])
        first = last
    found = np.empty(len(nodes), np.int64)
    for at in range(len(nodes)):
        found[at] = nodes[at]
        place[nodes[at]] = -1
    count_edges = len(edges)
    rows, columns, numbers = (
        np.empty(count_edges, np.int64),
        np.empty(count_edges, np.int64),
        np.empty(count_edges, np.int64),
    )
    for at in range(count_edges):
        rows[at], columns[at], numbers[at] = senders[at], receivers[at], edges[at]
    return found, rows, columns, numbers
