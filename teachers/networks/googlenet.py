"""GoogLeNet for 32x32 images: nine inception modules of four branches each."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from teachers.networks.network import Network
from teachers.spec import Field, spec

STEM = 192
# Per module: 1x1 | 1x1, 3x3 | 1x1, 3x3 twice | 1x1 after pooling. The names are those of the paper's table 1.
MODULES = {
    "a3": (64, 96, 128, 16, 32, 32),
    "b3": (128, 128, 192, 32, 96, 64),
    "a4": (192, 96, 208, 16, 48, 64),
    "b4": (160, 112, 224, 24, 64, 64),
    "c4": (128, 128, 256, 24, 64, 64),
    "d4": (112, 144, 288, 32, 64, 64),
    "e4": (256, 160, 320, 32, 128, 128),
    "a5": (256, 160, 320, 32, 128, 128),
    "b5": (384, 192, 384, 48, 128, 128),
}


def _unit(inputs: int, outputs: int, size: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return (
        nn.Conv2d(inputs, outputs, size, padding=size // 2),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Inception(nn.Module):
    """Four branches side by side, their channels put one behind the other.

    b1  1x1
    b2  1x1, 3x3
    b3  1x1, 3x3, 3x3: two small convolutions see what one 5x5 would
    b4  3x3 max pooling, 1x1
    """

    def __init__(self, inputs: int, one: int, two: int, b2: int, three: int, b3: int, b4: int) -> None:
        super().__init__()
        self.b1 = nn.Sequential(*_unit(inputs, one, 1))
        self.b2 = nn.Sequential(*_unit(inputs, two, 1), *_unit(two, b2, 3))
        self.b3 = nn.Sequential(*_unit(inputs, three, 1), *_unit(three, b3, 3), *_unit(b3, b3, 3))
        self.b4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), *_unit(inputs, b4, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, inputs, h, w); result (n, one + b2 + b3 + b4, h, w)."""
        return torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], 1)


class GoogLeNetwork(nn.Module):
    """A 3x3 stem of 192 channels, nine inception modules with pooling between, a classifier."""

    a3: Inception
    b3: Inception
    a4: Inception
    b4: Inception
    c4: Inception
    d4: Inception
    e4: Inception
    a5: Inception
    b5: Inception

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.pre_layers = nn.Sequential(*_unit(channels, STEM, 3))
        width = STEM
        for name, (one, two, b2, three, b3, b4) in MODULES.items():
            self.add_module(name, Inception(width, one, two, b2, three, b3, b4))
            width = one + b2 + b3 + b4
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, channels, h, w); result (n, classes), logits."""
        x = self.maxpool(self.b3(self.a3(self.pre_layers(x))))
        x = self.maxpool(self.e4(self.d4(self.c4(self.b4(self.a4(x))))))
        x = self.b5(self.a5(x))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


@spec
class GoogLeNet(Network):
    """GoogLeNet with batch norm and without auxiliary classifiers, for CIFAR.

    6.17 M parameters, 1.52 G MACs at 32x32. Modules: `pre_layers a3 b3 a4 b4 c4 d4 e4 a5 b5 linear`, branches
    `b1 b2 b3 b4`. Source: Szegedy et al., "Going Deeper with Convolutions", 2014.
    """

    classes: Annotated[int, Field(ge=1)] = 10
    """outputs"""
    channels: Annotated[int, Field(ge=1)] = 3
    """of the input image"""

    def build(self) -> nn.Module:
        """A fresh network."""
        return GoogLeNetwork(self.classes, self.channels)
