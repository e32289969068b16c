"""The running average of a network that learns: slower than it, and steadier."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class Average:
    """mean <- d * mean + (1 - d) * network, weights and statistics alike, with d the decay.

    Early on, after s steps, d is at most s / (s + 10): the average is over what there is.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.steps = copy.deepcopy(network), decay, 0

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """Take a step of `network` into the average."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        for mine, its in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(its, 1 - decay)
            else:
                mine.copy_(its)

    def state_dict(self) -> dict[str, Any]:
        """The average, and over how many steps."""
        return {"network": self.network.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.network.load_state_dict(state["network"])
        self.steps = int(state["steps"])
