"""A small convolutional network for the 8x8 digits that come with scikit-learn."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from teachers.networks.network import Network
from teachers.spec import Field, spec


class DigitsNetwork(nn.Module):
    """Three 3x3 convolutions with batch norm and ReLU, 2x2 max pooling after the second, mean over pixels."""

    def __init__(self, classes: int, first: int, second: int, third: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(third)
        self.linear = nn.Linear(third, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, 1, 8, 8), or larger; result (n, classes), logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.relu(self.bn3(self.conv3(x)))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


@spec
class DigitsCNN(Network):
    """Channels 32-64-64 by default, for grey images of 8x8: learns its task in seconds, and is far too wide for it.

    56 554 parameters, 1.79 M MACs at 8x8. Modules: `conv1 bn1 conv2 bn2 conv3 bn3 linear`.
    """

    classes: Annotated[int, Field(ge=1)] = 10
    """outputs"""
    widths: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (
        32,
        64,
        64,
    )
    """channels of the three convolutions"""

    def build(self) -> nn.Module:
        """A fresh network."""
        return DigitsNetwork(self.classes, *self.widths)
