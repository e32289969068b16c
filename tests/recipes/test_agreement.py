"""The numbers that rankings are judged by: oracle, random and reversed scores, and what is known of means."""

import math
from itertools import permutations

import pytest
from scipy.stats import ttest_rel

from recipes.benchmarks.agreement import agreement, mean_and_error, paired, precision, ranks_of, top


def test_an_oracle_and_its_opposite() -> None:
    truth = [0.1, 0.5, 0.3, 0.9, 0.7]
    assert agreement(truth, truth) == {
        "spearman": pytest.approx(1), "kendall": pytest.approx(1), "weighted": pytest.approx(1), "p1": 1.0, "p3": 1.0,
        "in3": 1.0, "regret": 0.0,
    }  # fmt: skip
    found = agreement([-value for value in truth], truth)
    assert found["spearman"] == pytest.approx(-1)
    assert found["p1"] == found["in3"] == 0
    assert found["p3"] == pytest.approx(1 / 3)
    assert found["regret"] == pytest.approx(0.8)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_random_scores_have_k_of_n(count: int) -> None:
    truth = [0.4, 0.1, 0.3, 0.2]
    found = [precision(order, truth, count) for order in permutations([1.0, 2.0, 3.0, 4.0])]
    assert sum(found) / len(found) == pytest.approx(count / 4)


def test_scores_that_say_nothing() -> None:
    found = agreement([1.0, 1.0, 1.0], [0.1, 0.3, 0.2])
    assert found["spearman"] == found["kendall"] == found["weighted"] == 0
    assert top([1.0, 1.0, 2.0], 2) == {0, 2}
    assert ranks_of([5.0, 1.0, 5.0]) == [0.75, 0.0, 0.75]


def test_means_and_pairs() -> None:
    one, other = [0.7, 0.8, 0.6, 0.9], [0.5, 0.7, 0.6, 0.6]
    mean, error = mean_and_error(one)
    assert mean == pytest.approx(0.75)
    assert error == pytest.approx(math.sqrt(sum((v - 0.75) ** 2 for v in one) / 3 / 4))
    interval = ttest_rel(one, other).confidence_interval()
    assert paired(one, other) == pytest.approx((0.15, interval.low, interval.high))
    assert math.isnan(mean_and_error([1.0])[1])
