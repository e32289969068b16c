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
    names   of the inputs, where the network takes some by name: forward(image, *, mask); empty, where by position
    types   of each input, "float", "bool", or n for whole numbers below n; empty, where all are floats
    """

    inputs: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    kind: Kind = "softmax"
    nodes: int | None = None
    edges: int | None = None
    names: tuple[str, ...] = ()
    types: tuple[Literal["float", "bool"] | int, ...] = ()

    def __post_init__(self) -> None:
        for what, given in (("names", self.names), ("types", self.types)):
            if given and (len(given) != len(self.inputs) or self.is_graph):
                raise ValueError(
                    f"the signature has {len(given)} {what} for {len(self.inputs)} inputs"
                    f"{' of a graph' if self.is_graph else ''}: give one for each, or none"
                )
        if bad := [name for name in self.names if not name.isidentifier() or self.names.count(name) > 1]:
            raise ValueError(f"{bad[0]!r} is no name for an input: each is a word of its own, as in Python")
        if odd := [kind for kind in self.types if kind not in ("float", "bool") and not _counts(kind)]:
            raise ValueError(
                f"{odd[0]!r} is no type of an input: float, bool, or n for whole numbers below n"
            )

    @property
    def is_graph(self) -> bool:
        """Whether the samples are nodes, which are answered together."""
        return self.nodes is not None

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return len(self.labels)

    @property
    def names_of_inputs(self) -> tuple[str, ...]:
        """What the inputs are called where they need names: those given, else features and edges, or x, x1, x2, ..."""
        if self.is_graph:
            return ("features", "edges")[: len(self.inputs)]
        return self.names or ("x", *(f"x{place}" for place in range(1, len(self.inputs))))

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
        """Random inputs of shape (batch, *shape) each, standard normal where they are floats: for trying out.

        Of a graph, `batch` times 32 nodes with as many edges each as usual.
        """
        if self.is_graph:
            return self._graph(_NODES * batch, seed)
        generator = torch.Generator().manual_seed(seed)
        kinds = self.types or ("float",) * len(self.inputs)
        return tuple(
            _drawn((batch, *shape), kind, generator) for shape, kind in zip(self.inputs, kinds, strict=True)
        )

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


def _counts(kind: object) -> bool:
    return isinstance(kind, int) and not isinstance(kind, bool) and kind > 0


def _drawn(shape: tuple[int, ...], kind: str | int, generator: torch.Generator) -> Tensor:
    if kind == "float":
        return torch.randn(shape, generator=generator)
    if kind == "bool":  # mostly true: a mask that hides everything shows nothing
        return torch.rand(shape, generator=generator) < 0.75
    return torch.randint(0, int(kind), shape, generator=generator)
