"""What goes into a network and what comes out: shapes, labels and normalisation, and no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["softmax", "sigmoid", "regression", "mixed"]
"""what outputs mean: exactly one label is true; any of them may be; each is a number; several of these side by side"""

_NODES = 32  # of an example: enough for networks that look for the twenty nearest


@dataclass(frozen=True)
class Signature:
    """The contract of a network, without the batch dimension.

    inputs  one shape per positional argument, for images ((channels, height, width),)
    labels  the names of the outputs in order; their number is the number of classes
    mean, std  per channel: an image x in [0, 1] enters the network as (x - mean) / std
    kind    what the outputs mean
    nodes, edges  how many a usual graph has, where the samples are the nodes of one: then the first input is (nodes,
            width), and a second of shape (2,) stands for the edges, whole numbers (2, E)
    """

    inputs: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    kind: Kind = "softmax"
    nodes: int | None = None
    edges: int | None = None

    @property
    def is_graph(self) -> bool:
        """Whether the samples are nodes, which are answered together."""
        return self.nodes is not None

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return len(self.labels)

    def unlike(self, task: Signature) -> str | None:
        """What of this a task does not have, in words; None where inputs, classes and their kind are the same."""
        if self.inputs == task.inputs and self.classes == task.classes:
            if self.kind == task.kind:
                return None
            return f"answers with {self.kind} outputs, the task has {task.kind} ones"
        return (
            f"takes {self.inputs} and answers with {self.classes} classes, the task has {task.inputs} and "
            f"{task.classes}"
        )

    def example(self, batch: int = 2, *, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs, standard normal, of shape (batch, *shape) each: for tracing and trying out.

        Of a graph, `batch` times 32 nodes with as many edges each as usual.
        """
        if self.is_graph:
            return self._graph(_NODES * batch, seed)
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn((batch, *shape), generator=generator) for shape in self.inputs)

    def usual(self, batch: int = 2, *, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs for counting and timing: `example`, or a graph of the usual size."""
        return self._graph(self.nodes, seed) if self.nodes is not None else self.example(batch, seed=seed)

    def _graph(self, nodes: int, seed: int) -> tuple[Tensor, ...]:
        assert self.nodes is not None
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn((nodes, *self.inputs[0]), generator=generator)
        if len(self.inputs) == 1:
            return (features,)
        count = round(nodes * (self.edges or 0) / self.nodes)
        receive = torch.arange(count) % nodes
        # Steps from 1 to n - 1: nobody is his own neighbour, unless he is alone.
        send = (receive + torch.randint(1, max(nodes, 2), (count,), generator=generator)) % nodes
        return features, torch.stack([send, receive])
