"""What LSP is compared with: soft targets alone, FitNet, attention transfer, and contrast (G-CRD); on any student.

GLNN (Zhang et al. 2022) is `SoftTargets` with a `NodeMLP` for a student: a network that sees no edge learns from the
teacher's answers for all nodes.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.distillation import Distillation, Hint
from compress.noted import Seen
from teachers.spec import Field, spec
from teachers.task import Batch


@spec
class SoftTargets(Distillation):
    """Labels and the teacher's soft targets, no hint. Source: Hinton et al. 2015; for students without edges GLNN."""

    def hint(self, mine: int, theirs: int) -> None:
        """There is none."""
        return


@spec
class FitNet(Distillation):
    """mean |W z_i - t_i|^2,  W a linear map that learns along, z and t the features. Source: Romero et al. 2015."""

    def hint(self, mine: int, theirs: int) -> Hint:
        """A map from the student's width to the teacher's."""
        return _Regression(mine, theirs)


@spec
class AttentionTransfer(Distillation):
    """|a / |a| - b / |b||^2,  a_i and b_i the mean squared feature of node i. Source: Zagoruyko and Komodakis 2017."""

    def hint(self, mine: int, theirs: int) -> Hint:
        """No parameters, any widths."""
        return _Attention()


@spec
class GCRD(Distillation):
    """Contrast: cross-entropy of  softmax over j of  cos(W z_i, V t_j) / tau  with j = i, W and V learnt along.

    The student's feature of a node is to be told from the teacher's features of others, neighbours or not.
    Source: Joshi et al. 2022 (G-CRD), arXiv 2111.04964.
    """

    tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.075
    """what cosines are divided by"""
    width: Annotated[int, Field(ge=1)] = 64
    """of the space both are mapped to"""
    others: Annotated[int, Field(ge=2)] = 4096
    """nodes at most that are told apart at a step, drawn anew"""

    def hint(self, mine: int, theirs: int) -> Hint:
        """Two maps to one space."""
        return _Contrast(mine, theirs, self.width, self.tau, self.others)


def seeds(features: Tensor, batch: Batch) -> Tensor:
    """The rows of the nodes that the batch is about."""
    part = batch.part
    return features if part is None or part.complete else features[: part.seeds]


class _Regression(Hint):
    def __init__(self, mine: int, theirs: int) -> None:
        super().__init__()
        self.map = nn.Linear(mine, theirs)

    def forward(self, mine: Seen, theirs: Seen, batch: Batch) -> Tensor:
        return F.mse_loss(
            self.map(seeds(mine.the_features(), batch)).float(), seeds(theirs.the_features(), batch).float()
        )


class _Attention(Hint):
    def forward(self, mine: Seen, theirs: Seen, batch: Batch) -> Tensor:
        a, b = (
            F.normalize(seeds(s.the_features(), batch).float().square().mean(1), dim=0)
            for s in (mine, theirs)
        )
        return (a - b).square().sum()


class _Contrast(Hint):
    def __init__(self, mine: int, theirs: int, width: int, tau: float, others: int) -> None:
        super().__init__()
        self.mine, self.theirs = nn.Linear(mine, width), nn.Linear(theirs, width)
        self.tau, self.others = tau, others

    def forward(self, mine: Seen, theirs: Seen, batch: Batch) -> Tensor:
        z, t = seeds(mine.the_features(), batch), seeds(theirs.the_features(), batch)
        if len(z) > self.others:
            chosen = torch.randperm(len(z))[: self.others].to(z.device)
            z, t = z[chosen], t[chosen]
        z, t = F.normalize(self.mine(z).float(), dim=1), F.normalize(self.theirs(t).float(), dim=1)
        return F.cross_entropy(z @ t.t() / self.tau, torch.arange(len(z), device=z.device))
