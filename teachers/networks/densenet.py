"""DenseNet for 32x32 images: every layer of a block reads all layers before it."""

from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from teachers.networks.network import Network
from teachers.spec import Field, spec

BLOCKS = 3


class DenseLayer(nn.Module):
    """cat(x, conv(relu(bn(x)))): `growth` channels are put behind those that came in."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, inputs, h, w); result (n, inputs + growth, h, w)."""
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], 1)


class Transition(nn.Module):
    """Batch norm, ReLU, a 1x1 convolution that keeps all channels, and the mean of 2x2 pixels."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, inputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, inputs, h, w); result (n, inputs, h / 2, w / 2)."""
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNetwork(nn.Module):
    """A 3x3 stem of 2 growth channels, three dense blocks with transitions between, a classifier."""

    def __init__(self, layers: int, growth: int, classes: int, channels: int) -> None:
        super().__init__()
        width = 2 * growth
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        rows: list[nn.Module] = []
        for block in range(BLOCKS):
            if block:
                rows.append(Transition(width))
            rows.append(nn.Sequential(*(DenseLayer(width + i * growth, growth) for i in range(layers))))
            width += layers * growth
        self.features = nn.Sequential(*rows)
        self.bn = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, channels, h, w); result (n, classes), logits."""
        x = F.relu(self.bn(self.features(self.conv(x))))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


@spec
class DenseNet(Network):
    """A CIFAR DenseNet without bottlenecks or compression: three blocks of (depth - 4) / 3 layers.

    Depth 40, growth 12: 1.06 M parameters, 282.9 M MACs at 32x32.
    Modules: `conv`, `features.N`, `bn`, `linear`.
    Source: Huang et al., "Densely Connected Convolutional Networks", 2016.
    """

    depth: Annotated[int, Field(ge=7)] = 40
    """layers with weights; depth - 4 is a multiple of 3"""
    growth: Annotated[int, Field(ge=1)] = 12
    """channels a layer adds"""
    classes: Annotated[int, Field(ge=1)] = 10
    """outputs"""
    channels: Annotated[int, Field(ge=1)] = 3
    """of the input image"""

    @model_validator(mode="after")
    def _depth_divides(self) -> Self:
        if (self.depth - 4) % BLOCKS:
            near = self.depth - (self.depth - 4) % BLOCKS
            raise ValueError(
                f"a DenseNet of depth {self.depth} does not divide into {BLOCKS} equal blocks: "
                f"depth - 4 must be a multiple of {BLOCKS}, so {near} or {near + BLOCKS}"
            )
        return self

    def build(self) -> nn.Module:
        """A fresh network."""
        return DenseNetwork((self.depth - 4) // BLOCKS, self.growth, self.classes, self.channels)
