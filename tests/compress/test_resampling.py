"""Halves of a probe: what each says is what a graph of those inputs alone says, and what follows from many."""

import pytest
import torch

from compress.attribution import Maps
from compress.attribution_graph import Variant, graph_of, node_cosines
from compress.resampling import first_share, halves, interval, split_half


def maps(seed: int, n: int = 40) -> Maps:
    generator = torch.Generator().manual_seed(seed)
    return Maps(torch.randn((n, 6), generator=generator), torch.randn((n, 4), generator=generator))


@pytest.mark.parametrize("variant", [Variant(), Variant(edges="maps", diagonal=True)])
def test_a_half_is_the_graph_of_half_the_probe(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    made = [maps(seed) for seed in range(3)]
    graphs = [graph_of(m, "x", "", "p", variant) for m in made]
    rows = torch.tensor([0, 3, 4, 7, 8, 9, 12, 13, 17, 20, 21, 22, 25, 28, 30, 31, 33, 36, 38, 39])

    class Fixed:
        def permutation(self, n: int) -> np.ndarray:
            rest = sorted(set(range(n)) - set(rows.tolist()))
            return np.array([*reversed(rows.tolist()), *rest])

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Fixed())
    found = halves(graphs[:2], graphs[2], 1)
    alone = [graph_of(Maps(m.maps[rows], m.embeddings[rows]), "x", "", "h", variant) for m in made]
    for place in (0, 1):
        V = float(node_cosines(alone[place], alone[2]).mean())
        E = float(alone[place].edges @ alone[2].edges)
        assert float(found.nodes[0, place]) == pytest.approx(V, abs=1e-6)
        # Ranks among all edges in place of ranks among the half's own: alike, not equal.
        assert float(found.edges[0, place]) == pytest.approx(E, abs=0.06)


def test_the_spread_of_halves_is_that_of_the_whole() -> None:
    """The mean cosine of n random maps has standard deviation s / sqrt(n): intervals are 3.92 of those wide."""
    one, target = (graph_of(maps(seed, 200), "x", "", "p", Variant()) for seed in (1, 2))
    whole = node_cosines(one, target).mean()[None]
    low, high = interval(halves([one], target, 400).nodes, whole)
    assert low[0] < float(whole) < high[0]
    deviation = float(node_cosines(one, target).std()) / 200**0.5
    assert high[0] - low[0] == pytest.approx(3.92 * deviation, rel=0.15)


def test_agreement_of_halves() -> None:
    clear = torch.tensor([[3.0, 2.0, 1.0], [3.1, 1.9, 1.2]] * 4)
    assert split_half(clear) == pytest.approx(1)
    assert split_half(torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])) == pytest.approx(-1)
    assert first_share(clear) == (1.0, 0.0, 0.0)
    assert first_share(torch.tensor([[1.0, 2.0], [2.0, 1.0], [2.0, 0.0], [5.0, 1.0]])) == (0.75, 0.25)


def test_a_probe_too_small_to_halve() -> None:
    one, other = (graph_of(maps(seed, 5), "x", "", "p", Variant()) for seed in (0, 1))
    with pytest.raises(ValueError, match=r"a probe of 5 cannot be halved: 6 inputs at least.*resamples: 0"):
        halves([one], other, 10)
