"""Differences told and not told, against slow twins and scipy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reports.evaluate import wilson
from reports.paired import Paired, holm, over_both, over_seeds, paired, spread, swap, verdict

tables = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(-1, 2, (3, 40)).astype(float)
)


def answers(seed: int, right: float, agree: float, seeds: int = 5, samples: int = 400) -> Paired:
    """Two recipes, the second right on `agree` of what the first is right on."""
    generator = np.random.default_rng(seed)
    merits = {}
    for number in range(seeds):
        first = generator.random(samples) < right
        other = np.where(generator.random(samples) < agree, first, generator.random(samples) < 0.5)
        merits[number] = (first.astype(float), other.astype(float))
    return paired({n: (a.mean(), b.mean()) for n, (a, b) in merits.items()}, merits)


def test_over_seeds_is_the_paired_t_test() -> None:
    first, other = np.array([0.91, 0.92, 0.905, 0.93]), np.array([0.92, 0.918, 0.921, 0.935])
    told = over_seeds((other - first).tolist())
    twin = stats.ttest_rel(other, first)
    assert told.p == pytest.approx(twin.pvalue)
    interval = twin.confidence_interval(0.95)
    assert (told.low, told.high) == pytest.approx((interval.low, interval.high))
    assert told.value == pytest.approx((other - first).mean())


def test_equal_differences_leave_t_nothing() -> None:
    assert over_seeds([0.0, 0.0]).p == 1
    assert over_seeds([0.1, 0.1, 0.1]).p is None
    assert over_seeds([0.3 - 0.2, 0.2 - 0.1]).p is None, "equal but for the last bits"


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (9, 2), (5, 5), (30, 61)])
def test_mcnemar_is_a_sum_of_binomials(better: int, worse: int) -> None:
    found = swap(np.array([1.0] * better + [-1.0] * worse + [0.0] * 7), 3)
    n, k = better + worse, min(better, worse)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    if n:
        assert found.p == pytest.approx(stats.binomtest(better, n).pvalue)
    assert (found.seed, found.better, found.worse) == (3, better, worse)


def test_over_both_against_drawing_one_by_one() -> None:
    table = np.random.default_rng(3).choice([-1.0, 0.0, 1.0], (4, 60), p=[0.1, 0.65, 0.25])
    told = over_both(table, draws=8000)
    generator = np.random.default_rng(1)
    means = []
    for _ in range(8000):
        rows, columns = generator.integers(4, size=4), generator.integers(60, size=60)
        means.append(table[np.ix_(rows, columns)].mean())
    low, high = np.quantile(means, (0.025, 0.975))
    assert (told.low, told.high) == pytest.approx((low, high), abs=0.008)
    assert told.value == pytest.approx(table.mean())


def test_over_both_of_scores_that_all_differ() -> None:
    table = np.random.default_rng(4).normal(0.01, 0.1, (1, 500))
    told = over_both(table)
    half = 1.96 * table.std() / math.sqrt(500)
    assert (told.low, told.high) == pytest.approx((table.mean() - half, table.mean() + half), abs=0.0015)


@given(tables)
@settings(max_examples=15, deadline=None)
def test_swapping_turns_the_sign(table: np.ndarray) -> None:
    right = {n: (np.maximum(-row, 0), np.maximum(row, 0)) for n, row in enumerate(table)}
    scores = {n: (a.mean(), b.mean()) for n, (a, b) in right.items()}
    one = paired(scores, right)
    other = paired({n: (b, a) for n, (a, b) in scores.items()}, {n: (b, a) for n, (a, b) in right.items()})
    assert other.value == -one.value
    assert one.both is not None
    assert other.both is not None
    assert (other.both.low, other.both.high, other.both.p) == (-one.both.high, -one.both.low, one.both.p)
    assert one.seed is not None
    assert other.seed is not None
    assert (other.seed.low, other.seed.high, other.seed.p) == (-one.seed.high, -one.seed.low, one.seed.p)
    assert [(s.better, s.worse, s.p) for s in other.swaps] == [(s.worse, s.better, s.p) for s in one.swaps]
    turned = {"better": "worse", "worse": "better"}
    assert verdict(other, other.p) == turned.get(verdict(one, one.p), verdict(one, one.p))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_holm_is_the_closure_of_bonferroni(values: list[float]) -> None:
    """Slow twin: a member is told where every family with it has a member below its share of the level."""
    raised = holm(values)
    for place in range(len(values)):
        families = [
            family
            for size in range(1, len(values) + 1)
            for family in itertools.combinations(range(len(values)), size)
            if place in family
        ]
        slow = max(min(1.0, len(family) * min(values[n] for n in family)) for family in families)
        assert raised[place] == pytest.approx(slow)


def test_holm_leaves_out_what_has_none() -> None:
    assert holm([None, 0.01, 0.04]) == [None, 0.02, 0.04]
    assert holm([]) == []


def test_a_difference_is_told() -> None:
    found = answers(0, 0.95, 0.8)
    assert found.value < 0
    assert verdict(found, found.p) == "worse"
    assert found.samples == 400
    assert found.seeds == (0, 1, 2, 3, 4)


def test_chance_is_told_as_a_difference_seldom() -> None:
    """Two recipes that are equally good: at most about one in twenty is told, and the strictest test decides."""
    told = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        merits = {n: tuple((generator.random((2, 200)) < 0.9).astype(float)) for n in range(4)}
        found = paired({n: (a.mean(), b.mean()) for n, (a, b) in merits.items()}, merits)  # type: ignore[arg-type]
        assert found.seed is not None
        assert found.both is not None
        assert found.p == max(p for p in (found.seed.p, found.both.p) if p is not None)
        told += verdict(found, found.p) != "no difference told"
    assert told <= 6


def test_ties() -> None:
    same = np.array([1.0, 0.0, 1.0])
    found = paired({0: (2 / 3, 2 / 3), 1: (2 / 3, 2 / 3)}, {0: (same, same), 1: (same, same)})
    assert found.equal
    assert verdict(found, found.p) == "equal"
    crossed = paired({0: (2 / 3, 2 / 3)}, {0: (same, same[[1, 0, 2]])})
    assert not crossed.equal
    assert verdict(crossed, crossed.p) == "no difference told"
    assert crossed.p == 1


def test_one_seed_has_samples_alone() -> None:
    first, other = np.array([1.0] * 50 + [0.0] * 50), np.array([1.0] * 80 + [0.0] * 20)
    found = paired({7: (0.5, 0.8)}, {7: (first, other)})
    assert found.seed is None
    assert found.p == found.swaps[0].p == pytest.approx(2 * 0.5**30)
    assert verdict(found, found.p) == "better"
    bare = paired({7: (0.5, 0.8)})
    assert (bare.p, bare.both) == (None, None)
    assert verdict(bare, bare.p) == "no difference told"


def test_scores_of_samples_have_no_mcnemar() -> None:
    generator = np.random.default_rng(0)
    merits = {n: (generator.random(30), generator.random(30)) for n in range(3)}
    found = paired(dict.fromkeys(range(3), (0.5, 0.6)), merits, labels=False)
    assert (found.swaps, found.pooled) == ((), None)
    assert found.both is not None


def test_spread() -> None:
    assert spread([0.9], 100) == pytest.approx(wilson(0.9, 100))
    assert spread([0.9, 0.9], 100) == pytest.approx(wilson(0.9, 100))
    low, high = spread([0.90, 0.91, 0.92], None)
    half = stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(3)
    assert (low, high) == pytest.approx((0.91 - half, 0.91 + half))
    wide = spread([0.90, 0.91, 0.92], 100)
    assert wide[0] < low
    assert spread([1.0, 1.0], 50)[1] == 1
    assert spread([0.2, 0.9], 50) == (0, 1)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="no seed that both"):
        paired({})
    with pytest.raises(ValueError, match=r"seed 2 are not finite"):
        paired({2: (0.5, math.nan)})
    with pytest.raises(ValueError, match=r"\[2, 3\] samples"):
        paired({0: (0.5, 0.5)}, {0: (np.zeros(2), np.zeros(3))})
