"""Graphs: Spearman as SciPy has it, the definition written out, and properties that must hold for any numbers."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays
from scipy.stats import rankdata, spearmanr
from torch import Tensor, nn

from compress.attribution import Maps
from compress.attribution_graph import (
    VARIANTS,
    AttributionGraph,
    Variant,
    attribution_graphs,
    edge_similarity,
    graph_of,
    node_cosines,
    ranks,
    similarities,
    similarity,
)
from compress.probe import Probe

numbers = arrays.arrays(np.float64, some.integers(3, 40), elements=some.integers(-3, 3).map(float))


def maps(seed: int, n: int = 8, d: int = 12, width: int = 5) -> Maps:
    generator = torch.Generator().manual_seed(seed)
    return Maps(torch.randn((n, d), generator=generator), torch.randn((n, width), generator=generator))


def graph(seed: int, variant: Variant = Variant(), **more: Any) -> AttributionGraph:
    return graph_of(maps(seed, **more), f"net {seed}", "", "p", variant)


@given(numbers, some.data())
@settings(deadline=None)
def test_spearman_is_scipys_also_with_ties(values: np.ndarray, data: Any) -> None:
    others = data.draw(arrays.arrays(np.float64, len(values), elements=some.integers(-3, 3).map(float)))
    found = float(ranks(values) @ ranks(others))
    if len(set(values)) == 1 or len(set(others)) == 1:
        assert found == 0
    else:
        assert found == pytest.approx(spearmanr(values, others).statistic, abs=1e-12)


@given(numbers, some.sampled_from(["average", "ordinal"]))
@settings(deadline=None)
def test_ranks_are_scipys(values: np.ndarray, ties: Any) -> None:
    want = rankdata(values, method=ties).astype(float)
    want -= want.mean()
    length = np.linalg.norm(want)
    np.testing.assert_allclose(ranks(values, ties).numpy(), want / length if length else want, atol=1e-12)


def slow(one: Maps, other: Maps, variant: Variant) -> tuple[float, float]:
    """The definition, in loops: mean cosine of maps, and 1 - 6 sum d^2 / (m^3 - m) where no two edges are equal."""

    def cosine(a: Tensor, b: Tensor) -> float:
        size = float(a.norm() * b.norm())
        return float(a @ b) / size if size else 0.0

    n = len(one.maps)
    V = sum(cosine(one.maps[k].double(), other.maps[k].double()) for k in range(n)) / n
    orders = []
    for made in (one, other):
        rows = made.maps if variant.edges == "maps" else made.embeddings
        rows = rows.double()
        rows = rows - rows.mean(0) if variant.edges == "centered" else rows
        first = 0 if variant.diagonal else 1
        edges = [cosine(rows[p], rows[q]) for p in range(n) for q in range(p + first, n)]
        if not variant.diagonal:
            assert len(set(edges)) == len(edges)
        orders.append(rankdata(np.round(edges, 12), method=variant.ties))
    m = len(orders[0])
    return V, 1 - 6 * float(((orders[0] - orders[1]) ** 2).sum()) / (m**3 - m)


@pytest.mark.parametrize("name", list(VARIANTS))
@pytest.mark.parametrize("seed", range(3))
def test_the_definition_written_out(name: Any, seed: int) -> None:
    variant = VARIANTS[name]
    one, other = maps(2 * seed), maps(2 * seed + 1)
    a, b = (graph_of(made, "x", "", "p", variant) for made in (one, other))
    V, E = slow(one, other, variant)
    assert float(node_cosines(a, b).mean()) == pytest.approx(V, abs=1e-6)
    assert edge_similarity(a, b) == pytest.approx(E, abs=1e-9)
    assert similarity(a, b, lam=0.3) == pytest.approx(V + 0.3 * E, abs=1e-6)


@given(some.integers(0, 9999), some.integers(2, 5))
@settings(deadline=None, max_examples=25)
def test_properties(seed: int, count: int) -> None:
    """One with itself, symmetric, within [-1, 1], and the order of the probe does not matter."""
    made = [maps(seed + place) for place in range(count)]
    V, E = similarities([graph_of(m, "x", "", "p", Variant()) for m in made])
    for matrix in (V, E):
        torch.testing.assert_close(matrix, matrix.T)
        torch.testing.assert_close(
            matrix.diagonal(), torch.ones(count, dtype=torch.float64), atol=1e-6, rtol=0
        )
        assert matrix.abs().max() <= 1 + 1e-6
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    shuffled = [graph_of(Maps(m.maps[order], m.embeddings[order]), "x", "", "p", Variant()) for m in made]
    for matrix, again in zip((V, E), similarities(shuffled), strict=True):
        torch.testing.assert_close(matrix, again, atol=1e-6, rtol=0)


@given(some.integers(0, 9999))
@settings(deadline=None, max_examples=20)
def test_width_and_scale_of_embeddings_do_not_matter(seed: int) -> None:
    """A rotation of the embedding into more dimensions, and any scale, leave all edges where they were."""
    made = maps(seed)
    turn, _ = torch.linalg.qr(
        torch.randn((9, 9), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )
    wide = 17 * made.embeddings.double() @ turn[:5]
    one = graph_of(made, "x", "", "p", Variant())
    assert edge_similarity(one, graph_of(Maps(made.maps, wide), "y", "", "p", Variant())) > 0.999


def test_similarities_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from compress import attribution_graph

    graphs = [graph(seed) for seed in range(4)]
    whole = similarities(graphs)
    monkeypatch.setattr(attribution_graph, "_CHUNK", 20)
    for matrix, again in zip(whole, similarities(graphs), strict=True):
        torch.testing.assert_close(matrix, again, atol=1e-6, rtol=0)
    assert float(whole[0][1, 2]) == pytest.approx(float(node_cosines(graphs[1], graphs[2]).mean()), abs=1e-6)
    assert float(whole[1][1, 2]) == pytest.approx(edge_similarity(graphs[1], graphs[2]), abs=1e-12)


def test_zero_maps_are_counted_and_count_as_zero() -> None:
    made = maps(0)
    made.maps[2:5] = 0
    one = graph_of(made, "x", "", "p", Variant())
    assert one.zeros == 3
    assert node_cosines(one, graph(1))[2:5].abs().max() == 0
    assert float(node_cosines(one, one).mean()) == pytest.approx(5 / 8, abs=1e-6)


def test_absolute_maps_are_always_alike() -> None:
    """Why the default keeps signs: non-negative maps of unrelated networks have large cosines."""
    torch.manual_seed(0)
    probe = Probe(torch.rand(6, 3, 8, 8))
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 2)) for _ in range(2)]
    found = {}
    for name in ("paper", "vgg"):
        a, b = (attribution_graphs(net, probe, variant=VARIANTS[name])[""] for net in nets)  # type: ignore[index]
        found[name] = float(node_cosines(a, b).mean())
    assert abs(found["paper"]) < 0.3
    assert found["vgg"] > 0.7


def test_what_cannot_be_compared() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 2))
    first, second = Probe(torch.rand(6, 3, 8, 8)), Probe(torch.rand(6, 3, 8, 8))
    one = attribution_graphs(net, first, name="one")[""]
    with pytest.raises(
        ValueError, match=r"'one' and 'two' were asked about different probes \(sha256 \w{8} and \w{8}\)"
    ):
        similarity(one, attribution_graphs(net, second, name="two")[""])
    other = attribution_graphs(net, first, name="two", attribution="saliency")[""]
    with pytest.raises(ValueError, match=r"'one' and 'two' were made in different ways.*saliency"):
        similarities([one, other])
