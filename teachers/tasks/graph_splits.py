"""Graphs in memory: one whose nodes are divided among the splits, or several, each of one split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from teachers.task import Batch, Part, Split, Splits
from teachers.tasks.pixels import IGNORED
from teachers.tasks.splits import steps_of


@dataclass(frozen=True)
class Graph:
    """A graph as a task reads it.

    features  (N, width), float32
    edges     (2, E), row 0 the nodes that send, row 1 those that receive; none twice, none from a node to itself
    target    (N,) whole numbers, or (N, labels) 0.0 and 1.0 where several may hold, NaN where nobody knows
    rows      the nodes of each split
    ends      (graphs + 1,) where each of several graphs begins and ends; None where it is one
    notes     what was done to it, for the reader
    """

    features: Tensor
    edges: Tensor
    target: Tensor
    rows: Mapping[Split, Tensor]
    ends: Tensor | None = None
    notes: tuple[str, ...] = ()

    def tidy(self, where: str) -> Graph:
        """The same without edges that are there twice, and without self loops; what was left out is noted.

        Raises ValueError for features that are not finite, edges beyond the node count, no edges at all, and splits
        that are empty.
        """
        nodes, edges = len(self.features), self.edges
        if bad := int((~self.features.isfinite()).any(1).sum()):
            raise ValueError(
                f"{where}: the features of {bad} of {nodes} nodes hold NaN or infinities: mend them, or leave"
            )
        if edges.dim() != 2 or len(edges) != 2 or edges.is_floating_point():
            raise ValueError(
                f"{where}: edges have shape {tuple(edges.shape)} and type {edges.dtype}, but are whole numbers (2, E)"
            )
        if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= nodes):
            wrong = int(((edges < 0) | (edges >= nodes)).any(0).sum())
            raise ValueError(
                f"{where}: {wrong} of {edges.shape[1]} edges lead beyond the {nodes} nodes there are (0 to {nodes - 1})"
            )
        if len(self.target) != nodes:
            raise ValueError(f"{where}: {nodes} nodes have features, but {len(self.target)} a label")
        for split in Split:
            if not len(self.rows.get(split, ())):
                raise ValueError(f"{where}: no node belongs to {split.value}")
        notes = list(self.notes)
        apart = edges[:, edges[0] != edges[1]]
        if loops := edges.shape[1] - apart.shape[1]:
            notes.append(f"{where}: {loops} self loops were left out (layers that want some add their own)")
        key = (apart[1] * nodes + apart[0]).unique()
        if twice := apart.shape[1] - len(key):
            notes.append(f"{where}: {twice} of {apart.shape[1]} edges were there twice, and are taken once")
        if not len(key):
            what = f"all {loops} edges are self loops" if loops else "it has no edges"
            raise ValueError(
                f"{where}: {what}, so no node has a neighbour: for such data take a task of rows"
            )
        edges = torch.stack([key % nodes, torch.div(key, nodes, rounding_mode="floor")])
        alone = nodes - len(edges.unique())
        if alone:
            notes.append(f"{where}: {alone} of {nodes} nodes have no neighbour")
        return replace(self, edges=edges, features=self.features.float().contiguous(), notes=tuple(notes))


def judged(target: Tensor, rows: Tensor) -> Tensor:
    """The targets (N, ...) with all but `rows` left out: below 0, or NaN where several labels may hold."""
    left = torch.full_like(target, torch.nan if target.is_floating_point() else IGNORED)
    left[rows] = target[rows]
    return left


class NodeSplits(Splits):
    """One graph, its nodes divided among the splits: every batch shows the graph, or its part around some seeds.

    batch       seeds per batch of train; None shows the whole graph
    evaluation  the same of val and test
    around      neighbours that are drawn, hop by hop, from a seed outwards; -1 takes all
    exact       hops after which a node's surroundings are complete: the layers of the deepest network
    """

    def __init__(
        self,
        graph: Graph,
        batch: int | None = None,
        evaluation: int | None = None,
        around: tuple[int, ...] = (-1, -1),
    ) -> None:
        self.graph, self.notes = graph, graph.notes
        self._size = {Split.TRAIN: batch, Split.VAL: evaluation, Split.TEST: evaluation}
        self._around = around
        self._placed: dict[tuple[Split, torch.device], Batch] = {}
        self._arriving: Any = None

    def samples(self, split: Split) -> int:
        """How many nodes belong to the split."""
        return len(self.graph.rows[split])

    def steps(self, split: Split) -> int:
        """How many batches one pass takes."""
        size = self._size[split]
        return 1 if size is None else steps_of(self.samples(split), size, split)

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """One pass, as `Splits.batches` says: features, edges, and targets of the split's nodes alone."""
        size = self._size[split]
        if size is None:
            yield self._whole(split, device)
            return
        from teachers.tasks.sampling import (  # torch-geometric takes seconds, and only this needs it
            Arriving,
            loader,
        )

        if self._arriving is None:
            self._arriving = Arriving.of(self.graph.edges, len(self.graph.features))
        rows = self.graph.rows[split]
        drawn = generator if split is Split.TRAIN else None
        around = self._around if drawn is not None else tuple(-1 for _ in self._around)
        steps = self.steps(split) if generator is not None else -(-len(rows) // size)
        parts = loader(self.graph.edges, self._arriving, rows, around, size, drawn)
        for _, data in zip(range(steps), parts, strict=False):
            nodes, seeds = data.n_id, int(data.batch_size)
            target = judged(self.graph.target[nodes], torch.arange(seeds))
            inputs = (self.graph.features[nodes].to(device), data.edge_index.to(device))
            whole = (self.graph.features, self.graph.edges)
            part = Part(nodes, data.e_id, seeds, complete=False, whole=whole)
            yield Batch(inputs, target.to(device), part)

    def _whole(self, split: Split, device: torch.device) -> Batch:
        # Placed once: the tensors of one pass are those of the next.
        if (split, device) not in self._placed:
            graph = self.graph
            others = [batch for (_, where), batch in self._placed.items() if where == device]
            inputs = others[0].inputs if others else (graph.features.to(device), graph.edges.to(device))
            target = judged(graph.target, graph.rows[split]).to(device)
            part = Part(None, None, len(graph.features), complete=True)
            self._placed[split, device] = Batch(inputs, target, part)
        return self._placed[split, device]


class GraphsSplits(Splits):
    """Several graphs, each of one split: batches of whole graphs, side by side.

    batch  graphs per batch
    """

    def __init__(self, graph: Graph, batch: int) -> None:
        assert graph.ends is not None
        self.graph, self.notes, self._batch = graph, graph.notes, batch
        order = graph.edges[1].argsort(stable=True)
        self._edges, self._numbers = graph.edges[:, order], order
        self._edge_ends = torch.searchsorted(self._edges[1].contiguous(), graph.ends)
        starts = graph.ends[:-1]
        self._graphs = {
            split: torch.isin(starts, rows).nonzero().flatten() for split, rows in graph.rows.items()
        }

    def samples(self, split: Split) -> int:
        """How many nodes belong to the split."""
        return len(self.graph.rows[split])

    def steps(self, split: Split) -> int:
        """How many batches one pass takes."""
        return steps_of(len(self._graphs[split]), self._batch, split)

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """One pass, as `Splits.batches` says."""
        graphs = self._graphs[split]
        if generator is not None:
            graphs = graphs[torch.randperm(len(graphs), generator=generator)]
        steps = self.steps(split) if generator is not None else -(-len(graphs) // self._batch)
        for step in range(steps):
            yield self._together(graphs[step * self._batch : (step + 1) * self._batch].tolist(), device)

    def _together(self, graphs: list[int], device: torch.device) -> Batch:
        assert self.graph.ends is not None
        nodes, edges, numbers, offset = [], [], [], 0
        for number in graphs:
            start, end = self.graph.ends[number : number + 2].tolist()
            low, high = self._edge_ends[number : number + 2].tolist()
            nodes.append(torch.arange(start, end))
            edges.append(self._edges[:, low:high] - start + offset)
            numbers.append(self._numbers[low:high])
            offset += end - start
        rows = torch.cat(nodes)
        part = Part(rows, torch.cat(numbers), len(rows), complete=True)
        inputs = (self.graph.features[rows].to(device), torch.cat(edges, 1).to(device))
        return Batch(inputs, self.graph.target[rows].to(device), part)
