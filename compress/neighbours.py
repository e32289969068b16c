"""Who is near whom: the edges of a graph, sorted by the node that looks, as local structure needs them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

SelfLoops = Literal["keep", "drop", "add"]

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")  # said at the first matrix


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Directed edges j -> i, each once, sorted by their centre i and then by the neighbour j.

    nodes       how many nodes there are
    centre      (E,) i, rising
    neighbour   (E,) j
    place       (E,) which of the edges that were given each is; -1 for a self loop that was added
    duplicates  how many edges were given more than once, and left out
    """

    nodes: int
    centre: Tensor
    neighbour: Tensor
    place: Tensor
    duplicates: int = 0

    @classmethod
    def of(cls, edges: Tensor, nodes: int, self_loops: SelfLoops = "drop") -> Neighbours:
        """Sort edges (2, E), row 0 the neighbour and row 1 the centre, as torch-geometric has it.

        self_loops  "drop" leaves them out, "keep" takes those that are given, "add" gives one to every node

        Raises ValueError for another shape or type, an edge beyond the node count, and where no edge is left.
        """
        if edges.dim() != 2 or edges.shape[0] != 2 or edges.is_floating_point() or edges.is_complex():
            raise ValueError(
                f"edges have shape {tuple(edges.shape)} and type {edges.dtype}: they are whole numbers (2, E), row 0 "
                "the neighbours and row 1 the nodes that look at them"
            )
        edges = edges.long()
        if not edges.shape[1] and self_loops != "add":
            raise ValueError("this graph has no edges: local structure needs nodes with neighbours")
        if edges.shape[1]:
            low, high = int(edges.min()), int(edges.max())
            if low < 0 or high >= nodes:
                raise ValueError(
                    f"an edge leads to node {low if low < 0 else high}, but there are {nodes} nodes (0 to "
                    f"{nodes - 1}): are these the edges of another graph, or nodes in another order?"
                )
        neighbour, centre = edges[0], edges[1]
        place = torch.arange(len(centre), device=edges.device)
        if self_loops != "keep":
            apart = neighbour != centre
            neighbour, centre, place = neighbour[apart], centre[apart], place[apart]
        if self_loops == "add":
            all_nodes = torch.arange(nodes, device=edges.device)
            neighbour, centre = torch.cat([neighbour, all_nodes]), torch.cat([centre, all_nodes])
            place = torch.cat([place, all_nodes.new_full((nodes,), -1)])
        if not len(centre):
            raise ValueError(
                f"all {edges.shape[1]} edges of this graph are self loops, and those are dropped: a node has nobody "
                "but itself to be compared with. Set self_loops to keep or add, or give it neighbours"
            )
        key = centre * nodes + neighbour
        key, order = key.sort(stable=True)
        first = torch.ones_like(key, dtype=torch.bool)
        torch.ne(key[1:], key[:-1], out=first[1:])
        order, key = order[first], key[first]
        return cls(
            nodes, torch.div(key, nodes, rounding_mode="floor"), key % nodes, place[order],
            len(first) - len(order),
        )  # fmt: skip

    @classmethod
    def union(cls, *edges: Tensor, nodes: int, self_loops: SelfLoops = "drop") -> Neighbours:
        """The edges of several sets together, each once: what teacher and student look at, say, where they differ."""
        return cls.of(torch.cat(edges, dim=1), nodes, self_loops)

    def with_strangers(self, count: int, generator: torch.Generator | None = None) -> Neighbours:
        """The same edges and, for every node that has some, `count` random nodes besides, each met once."""
        looking = self.centre.unique()
        strangers = torch.randint(self.nodes, (len(looking) * count,), generator=generator)
        both = torch.stack([strangers.to(looking.device), looking.repeat_interleave(count)])
        edges = torch.cat([torch.stack([self.neighbour, self.centre]), both], dim=1)
        return Neighbours.of(
            edges, self.nodes, "keep" if bool((self.neighbour == self.centre).any()) else "drop"
        )

    def to(self, device: torch.device) -> Neighbours:
        """The same on a device."""
        if self.centre.device == device:
            return self
        centre, neighbour, place = (t.to(device) for t in (self.centre, self.neighbour, self.place))
        return Neighbours(self.nodes, centre, neighbour, place, self.duplicates)

    def __len__(self) -> int:
        return len(self.centre)

    @cached_property
    def degree(self) -> Tensor:
        """(N,) how many neighbours each node looks at."""
        return torch.bincount(self.centre, minlength=self.nodes)

    @cached_property
    def start(self) -> Tensor:
        """(N + 1,) where each node's edges begin."""
        ends = self.degree.cumsum(0)
        return torch.cat([ends.new_zeros(1), ends])

    @cached_property
    def compressed(self) -> tuple[Tensor, Tensor]:
        """Where each node's edges begin (N + 1,), and the neighbours (E,): the rows of `matrix`."""
        # Four bytes where they suffice: half of what is read, and what the libraries underneath want.
        kind = torch.int32 if max(len(self), self.nodes) < 2**31 else torch.int64
        return self.start.to(kind), self.neighbour.to(kind)

    @cached_property
    def _columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same edges by neighbour: where each one's begin, their centres, and which edges they are."""
        order = (self.neighbour * self.nodes + self.centre).argsort()
        ends = torch.bincount(self.neighbour, minlength=self.nodes).cumsum(0)
        kind = self.compressed[0].dtype
        return torch.cat([ends.new_zeros(1), ends]).to(kind), self.centre[order].to(kind), order

    def matrix(self, values: Tensor) -> Tensor:
        """The sparse matrix (N, N) with values[e] in row i and column j of edge e = j -> i, rows compressed."""
        start, neighbour = self.compressed
        return torch.sparse_csr_tensor(
            start, neighbour, values, (self.nodes, self.nodes), check_invariants=False
        )

    def transposed(self, values: Tensor) -> Tensor:
        """The transpose of `matrix(values)`, rows compressed."""
        start, centre, order = self._columns
        return torch.sparse_csr_tensor(
            start, centre, values[order], (self.nodes, self.nodes), check_invariants=False
        )

    def said(self) -> Mapping[str, int]:
        """What a reader should know: nodes, edges, duplicates left out, and nodes that nobody is near."""
        return {
            "nodes": self.nodes,
            "edges": len(self),
            "duplicates": self.duplicates,
            "isolated": int((self.degree == 0).sum()),
        }
