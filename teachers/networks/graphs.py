"""Networks over the nodes of a graph: GCN, GAT, GraphSAGE, GIN, and a plain one that sees no edge."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from teachers.networks.network import Network
from teachers.networks.passing import GATLayer, GCNLayer, GINLayer, SAGELayer, linear
from teachers.spec import Field, spec

Width = Annotated[int, Field(ge=1)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class GraphNetwork(nn.Module):
    """Layers that pass messages, an activation and dropout between them: modules `layers.0 activations.0 layers.1 ...`.

    The features before an activation are what goes into `activations.N`, those after it what comes out.
    """

    def __init__(
        self, layers: Sequence[nn.Module], activation: type[nn.Module], dropout: float, input_dropout: float
    ) -> None:
        super().__init__()
        self.input_dropout = nn.Dropout(input_dropout)
        self.layers = nn.ModuleList(layers)
        self.activations = nn.ModuleList(activation() for _ in layers[1:])
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        """Shapes: features (N, inputs), edges (2, E); result (N, classes), logits."""
        x: Tensor = self.input_dropout(features)
        for place, layer in enumerate(self.layers):
            x = layer(x, edges)
            if place < len(self.activations):
                x = self.dropout(self.activations[place](x))
        return x


class NodeNetwork(nn.Module):
    """Linear layers, each node for itself: named as in a GraphNetwork. Edges may be given, and are not looked at."""

    def __init__(self, widths: Sequence[int], norm: bool, dropout: float, input_dropout: float) -> None:
        super().__init__()
        self.input_dropout = nn.Dropout(input_dropout)
        self.layers = nn.ModuleList(linear(*pair) for pair in pairwise(widths))
        hidden = widths[1:-1]
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) if norm else nn.Identity() for width in hidden)
        self.activations = nn.ModuleList(nn.ReLU() for _ in hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, edges: Tensor | None = None) -> Tensor:
        """Shapes: features (N, inputs); result (N, classes), logits."""
        x: Tensor = self.input_dropout(features)
        for place, layer in enumerate(self.layers):
            x = layer(x)
            if place < len(self.activations):
                x = self.dropout(self.activations[place](self.norms[place](x)))
        return x


@spec
class _OverNodes(Network):
    """What the networks here share: features (n, inputs) and edges (2, E) go in, logits (n, classes) come out."""

    inputs: Width
    """numbers a node"""
    classes: Width
    """outputs"""
    widths: Widths = (64,)
    """of the hidden layers"""
    dropout: Share = 0.5
    """of hidden features"""
    input_dropout: Share = 0.5
    """of the node features"""

    layer: ClassVar[type[nn.Module]]

    def build(self) -> nn.Module:
        """A fresh network."""
        layers = [self.layer(*pair) for pair in pairwise((self.inputs, *self.widths, self.classes))]
        return GraphNetwork(layers, nn.ReLU, self.dropout, self.input_dropout)


@spec
class GCN(_OverNodes):
    """Graph convolutions with ReLU between them (Kipf and Welling 2017): features (n, inputs) and edges (2, E)."""

    widths: Widths = (16,)
    """of the hidden layers"""

    layer = GCNLayer


@spec
class GAT(_OverNodes):
    """Graph attention with ELU between its layers (Velickovic et al. 2018), its output heads averaged.

    For PPI as in LSP: widths (256, 256), heads (4, 4), output_heads 6, residual, no dropout.
    """

    widths: Widths = (8,)
    """of every head, by hidden layer"""
    heads: Widths = (8,)
    """how many, by hidden layer"""
    output_heads: Width = 1
    """of the last layer, which are averaged"""
    residual: bool = False
    """add a linear map of what goes into a layer to what comes out, but for the first layer"""
    dropout: Share = 0.6
    """of hidden features"""
    input_dropout: Share = 0.6
    """of the node features"""
    attention_dropout: Share = 0.6
    """of the shares that neighbours have"""
    slope: Annotated[float, Field(ge=0)] = 0.2
    """of the leaky ReLU that scores go through"""

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.heads):
            raise ValueError(
                f"GAT has {len(self.widths)} hidden layers by its widths and {len(self.heads)} by its heads: give both "
                "for each"
            )

    def build(self) -> nn.Module:
        """A fresh network."""
        sizes = [width * heads for width, heads in zip(self.widths, self.heads, strict=True)]
        ins = (self.inputs, *sizes)
        more: Any = {"slope": self.slope, "dropout": self.attention_dropout}
        layers = [
            GATLayer(ins[place], width, heads, residual=self.residual and place > 0, **more)
            for place, (width, heads) in enumerate(zip(self.widths, self.heads, strict=True))
        ]
        layers.append(
            GATLayer(ins[-1], self.classes, self.output_heads, mean=True, residual=self.residual, **more)
        )
        return GraphNetwork(layers, nn.ELU, self.dropout, self.input_dropout)


@spec
class GraphSAGE(_OverNodes):
    """Layers that take the mean of the neighbours and the node itself, ReLU between them (Hamilton et al. 2017)."""

    layer = SAGELayer


@spec
class GIN(_OverNodes):
    """Graph isomorphism layers (Xu et al. 2019): sums over neighbours, two linear layers with a batch norm each."""

    input_dropout: Share = 0.0
    """of the node features"""

    layer = GINLayer


@spec
class NodeMLP(_OverNodes):
    """Linear layers with ReLU, each node by its own features: a student that needs no graph when it is used."""

    norm: bool = False
    """batch norm before every ReLU"""

    def build(self) -> nn.Module:
        """A fresh network."""
        sizes = (self.inputs, *self.widths, self.classes)
        return NodeNetwork(sizes, self.norm, self.dropout, self.input_dropout)
