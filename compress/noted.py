"""Looking into networks: the features that named modules take or give, and which layers of two networks are paired."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compress.hooks import Point, hooked
from teachers.nearest import did_you_mean
from teachers.teacher import Teacher

Where = Literal["before", "after"]
_HIDDEN = re.compile(r"(^|\.)activations\.\d+$")
_DYNAMIC = re.compile(r"(^|\.)layers\.\d+\.features$")


@dataclass
class Seen:
    """What one layer gave for a batch.

    features  (N, width), nodes of all graphs of the batch one after another; None where only scores are kept
    edges     (2, E) that the layer looked along, where it builds a graph of its own; else None
    scores    of a kernel, for the edges of the batch
    """

    features: Tensor | None = None
    edges: Tensor | None = None
    scores: Tensor | None = None

    def the_features(self) -> Tensor:
        """The features, which are there."""
        assert self.features is not None
        return self.features


class Noted:
    """A network, and what some of its modules take or give while somebody watches."""

    def __init__(self, network: nn.Module, names: Sequence[str], where: Where) -> None:
        self.network, self.names, self.where = network, tuple(names), where
        modules = dict(network.named_modules())
        for name in names:
            if name not in modules or not name:
                hint = did_you_mean(name, [known for known in modules if known])
                raise ValueError(
                    f"{type(network).__name__} has no module '{name}' whose features could be compared{hint}"
                )
        graphs = {name: f"{name.rpartition('.')[0]}.graph" for name in names}
        self._graphs = {name: graph for name, graph in graphs.items() if graph in modules}

    @contextmanager
    def watching(self, wanted: bool = True) -> Iterator[dict[str, Seen]]:
        """What the modules saw, filled when the network is called. Raises ValueError where one was not called."""
        found: dict[str, Seen] = {}
        if not wanted:
            yield found
            return

        def features(name: str, value: Tensor) -> None:
            found.setdefault(name, Seen()).features = value.flatten(0, -2)

        def graph(name: str, near: Tensor) -> None:
            found.setdefault(name, Seen()).edges = edges_of(near)

        layers = {name: Point(name, self.where == "before") for name in self.names}
        graphs = {name: Point(graph) for name, graph in self._graphs.items()}
        with hooked(self.network, layers, features), hooked(self.network, graphs, graph):
            yield found
        for name in self.names:
            if name not in found or found[name].features is None:
                raise ValueError(
                    f"the network never calls its module '{name}': name one that is called, an activation say"
                )


def edges_of(near: Tensor) -> Tensor:
    """The edges of graphs of nearest neighbours (B, n, k), the graphs one after another: (2, B * n * k)."""
    clouds, points, k = near.shape
    first = torch.arange(clouds, device=near.device).view(-1, 1, 1) * points
    centre = torch.arange(points, device=near.device).view(1, -1, 1) + first
    return torch.stack([(near + first).flatten(), centre.expand(-1, -1, k).flatten()])


def default_pairs(student: nn.Module, teacher: nn.Module) -> dict[str, str]:
    """The last hidden layers of both; of networks that build graphs all layers but the first, where they are as many.

    Raises ValueError where a network's layers are not named as those of this house.
    """
    names = []
    for who, network in (("student", student), ("teacher", teacher)):
        every = [name for name, _ in network.named_modules()]
        found = [name for name in every if _DYNAMIC.search(name)]
        found = found or [name for name in every if _HIDDEN.search(name)][-1:]
        if not found:
            raise ValueError(
                f"no module of the {who} is called activations.N or layers.N.features, so nobody knows where its "
                f"features "
                f"are: name them in pairs. It has {', '.join(name for name in every if name)[:200]}"
            )
        names.append(found)
    mine, its = names
    if len(mine) == len(its) > 1:
        return dict(zip(mine[1:], its[1:], strict=True))
    return {mine[-1]: its[-1]}


def check_pairs(
    student: nn.Module, teacher: Teacher, pairs: Mapping[str, str], where: Where, method: str
) -> list[tuple[int, int]]:
    """How wide the features of each pair are (student's, teacher's), found by calling both with a small example.

    Raises ValueError where a name matches nothing, the networks do not take the inputs or answer otherwise, or features
    are not of the same nodes.
    """
    sides: list[tuple[dict[str, Seen], Tensor]] = []
    inputs = teacher.signature.example(2)
    for who, network, names in (
        ("student", student, list(pairs)),
        ("teacher", teacher.module, list(pairs.values())),
    ):
        device, training = next(network.parameters()).device, network.training
        noted = Noted(network.eval(), names, where)
        try:
            with torch.no_grad(), noted.watching() as seen:
                outputs = network(*(x.to(device) for x in inputs))
        except (RuntimeError, TypeError, IndexError) as problem:
            shapes = " and ".join(str(tuple(x.shape)) for x in inputs)
            raise ValueError(f"the {who} does not take what the task gives, {shapes}: {problem}") from problem
        finally:
            network.train(training)
        sides.append((seen, outputs))
    (mine, given), (its, wanted) = sides
    if given.shape != wanted.shape:
        raise ValueError(
            f"student and teacher answer differently, {tuple(given.shape)} and {tuple(wanted.shape)} for the same "
            f"inputs: "
            f"{method} needs the same classes of both"
        )
    widths = []
    for name, other in pairs.items():
        x, y = mine[name].the_features(), its[other].the_features()
        if len(x) != len(y):
            raise ValueError(
                f"'{name}' has features of {len(x)} nodes and the teacher's '{other}' of {len(y)}: layers are "
                f"compared "
                "node by node"
            )
        widths.append((x.shape[1], y.shape[1]))
    return widths
