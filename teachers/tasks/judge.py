"""How the answers for nodes are judged: accuracy, micro-F1, area under the ROC curve."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Metric = Literal["accuracy", "micro_f1", "roc_auc"]


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    """The share of right answers (N,) among those whose target is not below 0."""
    known = targets >= 0
    return float((predictions[known] == targets[known]).double().mean()) if bool(known.any()) else 0.0


def micro_f1(predictions: Tensor, targets: Tensor) -> float:
    """2 TP / (2 TP + FP + FN) over all nodes and labels together; predictions and targets (N, labels), NaN is
    unknown.
    """
    known = ~targets.isnan()
    said, true = predictions.bool() & known, (targets > 0.5) & known
    both = int((said & true).sum())
    total = int(said.sum()) + int(true.sum())
    return 2 * both / total if total else 0.0


def roc_auc(scores: Tensor, targets: Tensor) -> float:
    """How often a node that has a label scores above one that has not, ties half; the mean over labels with both.

    Scores and targets (N, labels), NaN is unknown; 0.5 where no label has both.
    """
    areas = []
    for score, target in zip(scores.t().double(), targets.t(), strict=True):
        known = ~target.isnan()
        score, true = score[known], target[known] > 0.5
        positive, negative = int(true.sum()), int((~true).sum())
        if not positive or not negative:
            continue
        _, place, counts = score.unique(return_inverse=True, return_counts=True)
        ends = counts.cumsum(0)
        rank = (ends - (counts - 1) / 2)[place]  # the mean rank of equal scores
        above = float(rank[true].sum()) - positive * (positive + 1) / 2
        areas.append(above / (positive * negative))
    return float(torch.tensor(areas).mean()) if areas else 0.5
