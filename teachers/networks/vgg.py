"""VGG-16 with batch norm, in the form customary for 32x32 images."""

from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from teachers.networks.network import Network
from teachers.spec import Field, spec

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
HIDDEN = 512


class VGGNetwork(nn.Module):
    """13 convolutions with batch norm, four times halved by max pooling; two linear layers."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, group in enumerate(WIDTHS):
            if number:
                layers.append(nn.MaxPool2d(2))
            for inputs, outputs in pairwise((channels, *group)):
                # Batch norm subtracts the mean right away, so that a bias before it would do nothing.
                layers += [
                    nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(),
                ]
            channels = group[-1]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(channels, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, channels, h, w), h and w at least 16; result (n, classes), logits."""
        x = F.adaptive_avg_pool2d(self.features(x), 1)
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits


@spec
class VGG(Network):
    """VGG-16-BN for CIFAR: 13 convolutions, a hidden linear layer of 512 with batch norm, a classifier.

    14.99 M parameters, 313.5 M MACs at 32x32. Modules: `features.N`, `classifier.N`.
    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks", 2014, configuration D.
    """

    classes: Annotated[int, Field(ge=1)] = 10
    """outputs"""
    channels: Annotated[int, Field(ge=1)] = 3
    """of the input image"""

    def build(self) -> nn.Module:
        """A fresh network."""
        return VGGNetwork(self.classes, self.channels)
