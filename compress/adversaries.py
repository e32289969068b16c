"""Networks that live only while a method runs."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class Discriminator(nn.Module):
    """Tells a teacher's logits from a student's: K -> 128 -> 256 -> 128 -> 1, LeakyReLU(0.2) between the layers.

    Takes logits (n, K), gives one logit per sample (n, 1): the sigmoid belongs to the loss. The first layer sees
    logits divided by the teacher's spread (`calibrate`), so that its scale does not depend on K or on the teacher.

    official=True is the released form, an affine map with a sigmoid inside, kept to compare with: it sees only a
    shift along one direction. Source: Lin et al. 2019, and its code.
    """

    spread: Tensor

    def __init__(self, classes: int, *, official: bool = False) -> None:
        super().__init__()
        self.official = official
        self.register_buffer("spread", torch.ones(()))
        widths = (classes, 128, 256, 128, 1)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            # N(0, 0.01) leaves outputs at 0.5 +- 0.0002 for long; He's scale lets the game begin at once.
            if official:
                nn.init.normal_(layer.weight, std=0.01)
            else:
                nn.init.kaiming_normal_(layer.weight, a=0.2)
            nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def calibrate(self, logits: Tensor) -> None:
        """Take the spread of a teacher's logits as the unit of the input."""
        self.spread.fill_(1.0 if self.official else max(logits.float().std().item(), 1e-6))

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (n, K) -> (n, 1)."""
        x = logits.to(self.spread.dtype) / self.spread
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if not self.official and number < len(self.layers) - 1:
                x = nn.functional.leaky_relu(x, 0.2)
        return torch.sigmoid(x) if self.official else x
