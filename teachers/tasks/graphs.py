"""Classifying the nodes of graphs: what all such tasks share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

from torch import Tensor

from teachers.signature import Kind, Signature
from teachers.spec import Field, spec
from teachers.task import Splits, Task
from teachers.tasks.graph_splits import Graph, GraphsSplits, NodeSplits
from teachers.tasks.judge import Metric, accuracy, micro_f1, roc_auc

Count = Annotated[int, Field(ge=1)]


@spec
class Graphs(Task):
    """Nodes of a graph with features, one label each, or several where the metric is not accuracy.

    A network is called with features (N, width) and edges (2, E). Where the nodes of one graph are divided among the
    splits, all of them are shown, and only those of the split are judged.
    """

    _: KW_ONLY
    batch: Count | None = None
    """seeds per batch of train, with their surroundings; None shows the whole graph. Of several graphs: graphs a
    batch"""
    evaluation: Count | None = None
    """the same of val and test, always with all of their surroundings"""
    around: Annotated[tuple[int, ...], Field(min_length=1)] = (10, 10)
    """how many neighbours are drawn, from a seed outwards, one number a hop; -1 takes all"""

    def __post_init__(self) -> None:
        if any(count < -1 or count == 0 for count in self.around):
            raise ValueError(
                f"{type(self).__name__} draws {self.around} neighbours: each is at least 1, or -1 for all"
            )

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers a node."""

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """The names of the classes in the order of the network's outputs."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Nodes and edges of a usual graph: for counting what a network costs."""

    @property
    def judge(self) -> Metric:
        """What answers are judged by."""
        return "accuracy"

    @property
    def metric(self) -> str:  # type: ignore[override]
        """Its name, for records and reports."""
        return self.judge

    @abstractmethod
    def read(self, folder: Path | None) -> Graph:
        """All of it. Raises ValueError with what is missing."""

    def signature(self) -> Signature:
        """Features of the nodes and edges in, one number per label and node out."""
        nodes, edges = self.size
        kind: Kind = "softmax" if self.judge == "accuracy" else "sigmoid"
        return Signature(((self.width,), (2,)), self.labels, kind=kind, nodes=nodes, edges=edges)

    def open(self, folder: Path | None) -> Splits:
        """Read everything into memory, tidied (`Graph.tidy`)."""
        graph = self.read(folder).tidy(type(self).__name__)
        if graph.features.shape[1] != self.width:
            raise ValueError(
                f"{type(self).__name__} has {graph.features.shape[1]} numbers a node, not {self.width}: say so on "
                f"the page"
            )
        if graph.ends is not None:
            return GraphsSplits(graph, self.batch or 1)
        return NodeSplits(graph, self.batch, self.evaluation, self.around)

    def predict(self, outputs: Tensor) -> Tensor:
        """The label with the largest output; those with an output above 0, where several may hold; or all outputs."""
        if self.judge == "accuracy":
            return outputs.argmax(dim=1)
        return outputs > 0 if self.judge == "micro_f1" else outputs

    def score(self, predictions: Tensor, targets: Tensor) -> float:
        """By the metric (`judge`)."""
        judges = {"accuracy": accuracy, "micro_f1": micro_f1, "roc_auc": roc_auc}
        return judges[self.judge](predictions, targets)

    @property
    def chance(self) -> float:
        """One out of the classes; 0.5 of the area under the curve; 0 for micro-F1, where it depends on the labels."""
        return {"accuracy": 1 / len(self.labels), "micro_f1": 0.0, "roc_auc": 0.5}[self.judge]
