"""The two small networks of the MNIST literature, both for grey images of 28x28."""

from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from teachers.networks.network import Network
from teachers.spec import Field, spec

Width = Annotated[int, Field(ge=1)]
Widths = tuple[Width, Width, Width, Width]
PIXELS = 16  # a 28x28 image is 4x4 after two unpadded 5x5 convolutions with pooling


class LeNet5Network(nn.Module):
    """Two 5x5 convolutions with ReLU and 2x2 max pooling, three linear layers."""

    def __init__(self, classes: int, first: int, second: int, hidden: int, last: int) -> None:
        super().__init__()
        # The original sees 32x32 images: digits of 28x28 with a margin of 2, which the padding adds.
        self.conv1 = nn.Conv2d(1, first, 5, padding=2)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.fc1 = nn.Linear(25 * second, hidden)
        self.fc2 = nn.Linear(hidden, last)
        self.fc3 = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, 1, 28, 28); result (n, classes), logits."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        logits: Tensor = self.fc3(F.relu(self.fc2(x)))
        return logits


class LeNetNetwork(nn.Module):
    """Two unpadded 5x5 convolutions with ReLU and 2x2 max pooling, a hidden linear layer, a classifier."""

    def __init__(self, classes: int, first: int, second: int, flat: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, first, 5)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.fc1 = nn.Linear(flat, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, 1, 28, 28); result (n, classes), logits."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        logits: Tensor = self.fc2(x)
        return logits


@spec
class LeNet5(Network):
    """LeNet-5 with ReLU and max pooling: by default 6 and 16 channels, then 120 and 84 neurons.

    Input 1x28x28, padded to the 32x32 of the original inside the first convolution. 61 706 parameters,
    416 520 MACs. Modules: `conv1 conv2 fc1 fc2 fc3`.
    Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """

    classes: Annotated[int, Field(ge=1)] = 10
    """outputs"""
    widths: Widths = (6, 16, 120, 84)
    """channels of both convolutions, neurons of both hidden layers; (3, 8, 60, 42) is LeNet-5-half"""

    def build(self) -> nn.Module:
        """A fresh network."""
        return LeNet5Network(self.classes, *self.widths)


@spec
class LeNet(Network):
    """The LeNet of the pruning literature, 20-50-800-500 wide, for 1x28x28.

    431 080 parameters, 2.293 M MACs. Modules: `conv1 conv2 fc1 fc2`.
    """

    classes: Annotated[int, Field(ge=1)] = 10
    """outputs"""
    widths: Widths = (20, 50, 800, 500)
    """channels of both convolutions, the second's output laid flat (16 pixels a channel), hidden neurons"""

    @model_validator(mode="after")
    def _flat_follows(self) -> Self:
        _, second, flat, _ = self.widths
        if flat != PIXELS * second:
            raise ValueError(
                f"{second} channels of 4x4 pixels lie flat as {PIXELS * second} numbers, but the third "
                f"width is {flat}: write {PIXELS * second}"
            )
        return self

    def build(self) -> nn.Module:
        """A fresh network."""
        return LeNetNetwork(self.classes, *self.widths)
