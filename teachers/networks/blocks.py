"""Small plain networks for images: blocks of a convolution each, and what is put on top of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from teachers.networks.network import Network
from teachers.spec import Field, spec

Width = Annotated[int, Field(ge=1)]


class BlocksNetwork(nn.Module):
    """Blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pooling; mean over pixels; a classifier."""

    def __init__(self, classes: int, widths: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.encoder = encoder(widths, channels)
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, channels, h, w); result (n, classes), logits."""
        x = self.encoder(x)
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


class AutoencoderNetwork(nn.Module):
    """The same blocks, and on them as many transposed convolutions, each of which doubles the sides again."""

    def __init__(self, classes: int, widths: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.encoder = encoder(widths, channels)
        back = [*reversed(widths), widths[0]]
        rows: list[nn.Module] = []
        for inputs, outputs in pairwise(back):
            rows += [
                nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.decoder = nn.Sequential(*rows)
        self.last = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, channels, h, w), sides multiples of 2^blocks; result (n, classes, h, w), logits."""
        logits: Tensor = self.last(self.decoder(self.encoder(x)))
        return logits


def encoder(widths: tuple[int, ...], channels: int) -> nn.Sequential:
    """One block a width, each of which halves the sides."""
    rows: list[nn.Module] = []
    for inputs, outputs in zip((channels, *widths[:-1]), widths, strict=True):
        rows += [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2),
        ]  # fmt: skip
    return nn.Sequential(*rows)


@spec
class Blocks(Network):
    """A plain CNN of a few blocks, 16-32-64 by default: 24 k parameters, 2.8 M MACs at 32x32.

    Modules: `encoder.{0,1,4,5,8,9} linear`; the encoder ends before the mean over pixels.
    """

    classes: Annotated[int, Field(ge=1)] = 10
    """outputs"""
    widths: Annotated[tuple[Width, ...], Field(min_length=1)] = (16, 32, 64)
    """channels of the blocks, each of which halves the sides"""
    channels: Annotated[int, Field(ge=1)] = 3
    """of the input image"""

    def build(self) -> nn.Module:
        """A fresh network."""
        return BlocksNetwork(self.classes, self.widths, self.channels)


@spec
class Autoencoder(Network):
    """The encoder of `Blocks`, and a decoder that gives every pixel its classes back.

    Modules: `encoder.{0,1,4,5,8,9} decoder.{0,1,3,4,6,7} last`.
    """

    classes: Annotated[int, Field(ge=1)] = 8
    """outputs for each pixel"""
    widths: Annotated[tuple[Width, ...], Field(min_length=1)] = (16, 32, 64)
    """channels of the blocks, each of which halves the sides"""
    channels: Annotated[int, Field(ge=1)] = 3
    """of the input image"""

    def build(self) -> nn.Module:
        """A fresh network."""
        return AutoencoderNetwork(self.classes, self.widths, self.channels)
