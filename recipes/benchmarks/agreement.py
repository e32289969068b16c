"""How well a score ranks networks: its agreement with what came of each, and what a mean of such numbers is worth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import kendalltau, spearmanr, t, weightedtau


def top(scores: Sequence[float], count: int) -> set[int]:
    """Places of the best `count`; of equal ones the first first."""
    return set(sorted(range(len(scores)), key=lambda place: -scores[place])[:count])


def precision(scores: Sequence[float], truth: Sequence[float], count: int) -> float:
    """P@K: which share of the score's best K is among the truly best K. A random score has K / n."""
    return len(top(scores, count) & top(truth, count)) / count


def agreement(scores: Sequence[float], truth: Sequence[float]) -> dict[str, float]:
    """Spearman, Kendall's tau and the weighted one, P@1, P@3, whether the first is truly among three, and the regret.

    regret  by how much the truth of the score's best falls short of the best there is
    Of scores that are all equal, correlations are 0.
    """
    flat = len(set(scores)) == 1
    best = next(iter(top(scores, 1)))
    return {
        "spearman": 0.0 if flat else float(spearmanr(scores, truth).statistic),
        "kendall": 0.0 if flat else float(kendalltau(scores, truth).statistic),
        "weighted": 0.0 if flat else float(weightedtau(scores, truth).statistic),
        "p1": precision(scores, truth, 1), "p3": precision(scores, truth, 3), "in3": float(best in top(truth, 3)),
        "regret": max(truth) - truth[best],
    }  # fmt: skip


def ranks_of(scores: Sequence[float]) -> list[float]:
    """Ranks in [0, 1], equal scores their average: what scores of different units can be added up as."""
    from scipy.stats import rankdata

    return [float(rank - 1) / max(len(scores) - 1, 1) for rank in rankdata(scores)]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and its standard error; that of one value is NaN."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def paired(values: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """Mean difference of pairs, and its 95 % interval (Student's t)."""
    differences = [one - other for one, other in zip(values, others, strict=True)]
    mean, error = mean_and_error(differences)
    half = float(t.ppf(0.975, len(differences) - 1)) * error if len(differences) > 1 else math.nan
    return mean, mean - half, mean + half
