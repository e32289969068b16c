"""DGCNN: a graph of nearest neighbours, built anew in every layer from what the layer before made of the points."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn

from teachers.networks.network import Network
from teachers.spec import Field, spec

Width = Annotated[int, Field(ge=1)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1)]


def nearest(x: Tensor, k: int) -> Tensor:
    """The k nearest points of each point, itself among them, in clouds (B, n, width): (B, n, k), numbers 0 to n - 1."""
    squares = x.square().sum(2)
    # Twice the inner product less |y|^2 orders the same as -|x - y|^2, whose |x|^2 is the same for all of a row.
    return (2 * torch.matmul(x, x.transpose(1, 2)) - squares.unsqueeze(1)).topk(k, dim=2)[1]


class EdgeConv(nn.Module):
    """max over j of LeakyReLU( norm( W (x_j - x_i) + V x_i ) ),  j the k nearest of i; norm a batch norm over edges.

    W x_j and (V - W) x_i are computed node by node, not edge by edge: k times fewer products, the same numbers.
    The modules `graph` and `features` do nothing: through them go the neighbours (B, n, k) and the result.
    """

    def __init__(self, ins: int, outs: int, k: int) -> None:
        super().__init__()
        self.centre = nn.Linear(ins, outs, bias=False)
        self.neighbours = nn.Linear(ins, outs, bias=False)
        self.norm = nn.BatchNorm1d(outs)
        self.activation = nn.LeakyReLU(0.2)
        self.graph, self.features = nn.Identity(), nn.Identity()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (B, n, ins); result (B, n, outs)."""
        near = self.graph(nearest(x.detach(), self.k))
        first = torch.arange(x.shape[0], device=x.device).view(-1, 1, 1) * x.shape[1]
        theirs = self.neighbours(x).flatten(0, 1).index_select(0, (near + first).flatten())
        mine = self.centre(x).flatten(0, 1).unsqueeze(1)
        pairs = (theirs.view(mine.shape[0], self.k, -1) + mine).flatten(0, 1)
        pairs = self.activation(self.norm(pairs))
        result: Tensor = self.features(pairs.view(x.shape[0], x.shape[1], self.k, -1).amax(2))
        return result


class DGCNNetwork(nn.Module):
    """EdgeConvs, their results side by side, an embedding of every point; a head over clouds or over points."""

    def __init__(
        self, inputs: int, classes: int, widths: tuple[int, ...], embedding: int, head: tuple[int, ...], k: int,
        dropout: float, per_node: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layers = nn.ModuleList(EdgeConv(*pair, k) for pair in pairwise((inputs, *widths)))
        self.embed = nn.Linear(sum(widths), embedding, bias=False)
        self.norm = nn.BatchNorm1d(embedding)
        self.activation = nn.LeakyReLU(0.2)
        sizes = (embedding if per_node else 2 * embedding, *head)
        self.head = nn.ModuleList(nn.Linear(*pair, bias=False) for pair in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in head)
        self.activations = nn.ModuleList(nn.LeakyReLU(0.2) for _ in head)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(sizes[-1], classes)

    def embedded(self, x: Tensor) -> Tensor:
        """(B, n, inputs) to (B * n, embedding)."""
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        result: Tensor = self.activation(self.norm(self.embed(torch.cat(found, dim=2).flatten(0, 1))))
        return result

    def answer(self, x: Tensor) -> Tensor:
        """The head."""
        for layer, norm, activation in zip(self.head, self.norms, self.activations, strict=True):
            x = self.dropout(activation(norm(layer(x))))
        result: Tensor = self.classifier(x)
        return result


class CloudNetwork(DGCNNetwork):
    """One answer a cloud: the largest and the mean of its points' embeddings go into the head."""

    def forward(self, points: Tensor) -> Tensor:
        """Shapes: points (B, n, inputs); result (B, classes), logits."""
        x = self.embedded(points).view(points.shape[0], points.shape[1], -1)
        return self.answer(torch.cat([x.amax(1), x.mean(1)], dim=1))


class PointNetwork(DGCNNetwork):
    """One answer a node, all nodes together one cloud. Edges may be given, and are not looked at."""

    def forward(self, features: Tensor, edges: Tensor | None = None) -> Tensor:
        """Shapes: features (N, inputs); result (N, classes), logits."""
        return self.answer(self.embedded(features.unsqueeze(0)))


@spec
class DGCNN(Network):
    """Dynamic graph CNN (Wang et al. 2019) for clouds (B, points, inputs): modules `layers.N.graph layers.N.features`.

    1.81 M parameters as it is, for 40 classes. With `per_node` all nodes of a graph are one cloud, and each has an
    answer.
    """

    classes: Width
    """outputs"""
    inputs: Width = 3
    """numbers a point"""
    widths: Widths = (64, 64, 128, 256)
    """of the EdgeConvs"""
    embedding: Width = 1024
    """numbers a point after them"""
    head: Widths = (512, 256)
    """hidden layers after that"""
    k: Width = 20
    """neighbours of a point, itself among them"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """in the head"""
    per_node: bool = False
    """features (N, inputs) in, an answer a node out"""

    def build(self) -> nn.Module:
        """A fresh network."""
        kind = PointNetwork if self.per_node else CloudNetwork
        return kind(
            self.inputs,
            self.classes,
            self.widths,
            self.embedding,
            self.head,
            self.k,
            self.dropout,
            self.per_node,
        )
