"""Attribution graphs: a network's view of a probe as nodes and edges, compared with another's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from compress.attribution import EMBEDDING, Attribution, Maps, Reduction, Scalar, attribution_maps, cosines
from compress.probe import Preprocess, Probe

Edges = Literal["raw", "centered", "maps"]
Ties = Literal["average", "ordinal"]
Name = Literal["paper", "taskonomy", "vgg", "kamal"]
_CHUNK = 2**22  # numbers of all graphs together that are compared at a time


@dataclass(frozen=True)
class Variant:
    """What the published forms of the method differ in.

    scalar     what is differentiated (`attribution.attribution_maps`)
    reduction  of a map over its channels
    edges      cosines of the embeddings, "raw" or "centered" (the mean over the probe taken away first), or of the
               attribution "maps"
    ties       equal edges share their "average" rank, or get "ordinal" ones in the order they stand in
    diagonal   whether every input has an edge to itself as well
    """

    scalar: Scalar = "norm"
    reduction: Reduction = "flatten"
    edges: Edges = "raw"
    ties: Ties = "average"
    diagonal: bool = False


VARIANTS: Mapping[Name, Variant] = {
    "paper": Variant(),
    "taskonomy": Variant("sum", "mean_channel", "centered", "ordinal"),
    "vgg": Variant("mean", "abs_mean_channel", "raw", "ordinal"),
    "kamal": Variant("norm", "flatten", "maps", "ordinal", diagonal=True),
}
"""the paper's definition, the two paths of the authors' code, and KamalEngine's module"""


@dataclass(frozen=True)
class AttributionGraph:
    """Nodes and edges of one layer of a network, ready to be compared.

    name, layer  whose
    probe        hash of what it was asked about, and `kind` how: graphs that differ in either cannot be compared
    nodes        (n, d) float32, one map a row, of length 1, or 0 where the map was zero
    edges        (m,) float64, ranks of the m = n (n - 1) / 2 edges (upper triangle, row by row), their mean taken away
                 and scaled to length 1: Spearman's correlation of two graphs is one dot product
    zeros        how many maps were zero: their cosine with any other counts as 0
    """

    name: str
    layer: str
    probe: str
    kind: tuple[object, ...]
    nodes: Tensor
    edges: Tensor
    zeros: int


def attribution_graphs(
    module: nn.Module,
    probe: Probe,
    layers: Sequence[str] = (EMBEDDING,),
    *,
    name: str = "the network",
    preprocess: Preprocess | None = None,
    attribution: Attribution = "gradient_x_input",
    variant: Variant = VARIANTS["paper"],
    epsilon: float = 1e-9,
    size: int = 64,
    batch: int = 50,
) -> dict[str, AttributionGraph]:
    """One graph a layer. Fields and errors are those of `attribution.attribution_maps`."""
    made = attribution_maps(
        module, probe, layers, name=name, preprocess=preprocess, attribution=attribution, scalar=variant.scalar,
        reduction=variant.reduction, epsilon=epsilon, size=size, batch=batch,
    )  # fmt: skip
    kind = (attribution, variant, size, *((epsilon,) if attribution == "lrp" else ()))
    return {layer: graph_of(made.pop(layer), name, layer, probe.hash, variant, kind) for layer in layers}


def graph_of(
    made: Maps, name: str, layer: str, probe: str, variant: Variant, kind: tuple[object, ...] = ()
) -> AttributionGraph:
    """The graph of maps and embeddings that are there already."""
    lengths = torch.linalg.vector_norm(made.maps, dim=1, keepdim=True)
    nodes = torch.where(lengths > 0, made.maps / lengths.clamp_min(torch.finfo(lengths.dtype).tiny), 0)
    of = cosines(made.maps if variant.edges == "maps" else made.embeddings, variant.edges == "centered")
    rows, columns = torch.triu_indices(len(of), len(of), 0 if variant.diagonal else 1)
    edges = ranks(of[rows, columns].numpy(), variant.ties)
    return AttributionGraph(name, layer, probe, kind, nodes.float(), edges, int((lengths == 0).sum()))


def ranks(values: np.ndarray, ties: Ties = "average") -> Tensor:
    """Ranks of (m,) values, their mean taken away, scaled to length 1; zeros where all are equal.

    The dot product of two such rows is Spearman's correlation. It agrees with 1 - 6 sum d^2 / (m^3 - m) where no two
    values are equal; where some are, average ranks make it Pearson's correlation of the ranks, as SciPy has it.
    """
    # Equal cosines come out of a sum of products a few bits apart: what differs by less is a tie.
    values = np.round(values, 12)
    places = np.arange(len(values), dtype=np.float64)
    order = np.argsort(
        values, kind="stable" if ties == "ordinal" else None
    )  # the other kind is three times as fast
    if ties == "average":
        risen = values[order]
        starts = np.flatnonzero(np.append(True, risen[1:] != risen[:-1]))
        if len(starts) < len(values):
            ends = np.append(starts[1:], len(values))
            places = np.repeat((starts + ends - 1) / 2, ends - starts)
    found = np.empty(len(values))
    found[order] = places
    made = torch.from_numpy(found - found.mean())
    length = torch.linalg.vector_norm(made)
    return made / length if length > 0 else made


# -- comparing ------------------------------------------------------------------------------------------------


def comparable(graphs: Sequence[AttributionGraph]) -> None:
    """Raises ValueError where graphs are of different probes, or made in different ways."""
    first = graphs[0]
    for other in graphs[1:]:
        if other.probe != first.probe:
            raise ValueError(
                f"{first.name!r} and {other.name!r} were asked about different probes (sha256 {first.probe[:8]} and "
                f"{other.probe[:8]}): make both graphs from one, images and order the same"
            )
        if other.kind != first.kind or other.nodes.shape != first.nodes.shape:
            raise ValueError(
                f"the graphs of {first.name!r} and {other.name!r} were made in different ways, {first.kind} with nodes "
                f"{tuple(first.nodes.shape)} and {other.kind} with {tuple(other.nodes.shape)}: use one way for both"
            )


def node_cosines(graph: AttributionGraph, other: AttributionGraph) -> Tensor:
    """cos(v_k, v'_k) of every input k, (n,) float64; their mean is the similarity of nodes, s(V, V')."""
    comparable((graph, other))
    return (graph.nodes.double() * other.nodes).sum(1)


def edge_similarity(graph: AttributionGraph, other: AttributionGraph) -> float:
    """Spearman's correlation of the edges, s(E, E')."""
    comparable((graph, other))
    return float(graph.edges @ other.edges)


def similarity(graph: AttributionGraph, other: AttributionGraph, lam: float = 1.0) -> float:
    """S = s(V, V') + lambda s(E, E')."""
    return float(node_cosines(graph, other).mean()) + lam * edge_similarity(graph, other)


def similarities(graphs: Sequence[AttributionGraph]) -> tuple[Tensor, Tensor]:
    """s(V, V') and s(E, E') of every two graphs, two float64 matrices (M, M).

    Two products of matrices, taken a part of the numbers at a time: nothing as large as all graphs is made.
    """
    comparable(graphs)
    nodes = [graph.nodes.flatten() for graph in graphs]
    edges = [graph.edges for graph in graphs]
    return _products(nodes) / len(graphs[0].nodes), _products(edges)


def _products(rows: Sequence[Tensor]) -> Tensor:
    total = torch.zeros((len(rows), len(rows)), dtype=torch.float64)
    step = max(1, _CHUNK // len(rows))
    for start in range(0, len(rows[0]), step):
        part = torch.stack([row[start : start + step] for row in rows])
        total += (part @ part.T).double()
    return total
