"""Judging answers that are not one label: average precision of several, and depths within a quarter."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from teachers.task import Task
from teachers.tasks.splits import MemorySplits

SHALLOWEST = 1e-3
"""depths below this are judged as this"""


class Scored(Task):
    """Any number of labels a sample, targets (n, classes) of 0 and 1, judged by the mean average precision."""

    metric = "mAP"

    @abstractmethod
    def open(self, folder: Path | None) -> MemorySplits:
        """Read the data into memory."""

    def predict(self, outputs: Tensor) -> Tensor:
        """How sure the network is of every label: (n, classes), in [0, 1]."""
        return outputs.sigmoid()

    def score(self, predictions: Tensor, targets: Tensor) -> float:
        """The mean over labels of `average_precision`."""
        return float(average_precision(predictions, targets).nanmean().nan_to_num())


def average_precision(scores: Tensor, truth: Tensor) -> Tensor:
    """For every label the mean, over its samples, of the precision at the rank that each takes: (classes,).

        AP = (1 / P) sum over positives i of  |positives ranked no lower than i| / |samples ranked no lower than i|

    Samples of equal score share the rank of the last of them. NaN for a label that no sample has. Shapes: both
    (n, classes). Source: the area under the precision-recall curve without interpolation, as scikit-learn takes it.
    """
    order = scores.argsort(0, descending=True)
    ranked, hits = scores.gather(0, order), truth.double().gather(0, order)
    found, seen = hits.cumsum(0), torch.arange(1, len(scores) + 1, dtype=torch.float64)[:, None]
    # The last of a run of equal scores: its precision holds for all of them.
    last = torch.ones_like(hits, dtype=torch.bool)
    last[:-1] = ranked[1:] != ranked[:-1]
    places = torch.where(last, torch.arange(len(scores))[:, None], len(scores))
    ends = places.flip(0).cummin(0).values.flip(0)
    precision = (found / seen).gather(0, ends)
    return (precision * hits).sum(0) / hits.sum(0)


def within_a_quarter(predictions: Tensor, targets: Tensor) -> float:
    """The share of depths that are right within a quarter: max(d / d*, d* / d) < 1.25.

    Shapes alike; targets above 0. Source: Eigen et al. 2014, the threshold measure.
    """
    given = predictions.clamp_min(SHALLOWEST)
    return float((torch.maximum(given / targets, targets / given) < 1.25).double().mean())
