"""Choosing a student without labels: by how near it is to the teacher on generated images that were held out."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.average import Average
from compress.bank import Bank
from compress.losses import relative_gap
from compress.session import Session


class Choice:
    """Which student to return, judged on held-out images; and its running average, where one is kept."""

    def __init__(self, student: nn.Module, decay: float) -> None:
        self.mean = Average(student, decay) if decay else None
        self.best: dict[str, Tensor] = {}
        self.epoch, self.ratio, self.agreement = -1, math.inf, 0.0
        self.smooth, self.lowest = math.inf, math.inf
        self.steps = 0
        self.mark, self.stale = math.inf, 0

    def follow(self, student: nn.Module) -> None:
        """Count a step, and take it into the average."""
        self.steps += 1
        if self.mean is not None:
            self.mean.follow(student)

    @torch.no_grad()
    def judge(
        self, student: nn.Module, held: Bank, session: Session, epoch: int, epochs: int
    ) -> dict[str, float]:
        """Agreement and relative gap on all held-out images; the best of the second half of the epochs is kept."""
        network = self.mean.network if self.mean is not None else student
        training = network.training
        network.eval()
        given, wanted = [], []
        for images, answers in held.all():
            with session.autocast():
                given.append(network(images).float())
            wanted.append(answers)
        network.train(training)
        mine, its = torch.cat(given), torch.cat(wanted)
        ratio, agreement = (
            relative_gap(mine, its).item(),
            (mine.argmax(1) == its.argmax(1)).double().mean().item(),
        )
        # Early students are measured on images of few generators: their numbers do not compare, nor smooth.
        anew = epoch <= epochs // 2
        self.smooth = ratio if anew else 0.5 * self.smooth + 0.5 * ratio
        if anew or self.smooth <= self.lowest:
            self.lowest = self.smooth
            self.epoch, self.ratio, self.agreement = epoch, ratio, agreement
            self.best = copy.deepcopy(network.state_dict())
        # How long ago the smoothed gap last fell by a hundredth.
        gained = anew or self.smooth <= 0.99 * self.mark
        self.mark, self.stale = (self.smooth, 0) if gained else (self.mark, self.stale + 1)
        return {"held_ratio": ratio, "agreement": agreement}

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        plain = {name: value for name, value in vars(self).items() if name not in ("mean", "best")}
        return {**plain, "best": self.best, "mean": None if self.mean is None else self.mean.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        for name in vars(self):
            if name != "mean":
                setattr(self, name, state[name])
        if self.mean is not None:
            self.mean.load_state_dict(state["mean"])
