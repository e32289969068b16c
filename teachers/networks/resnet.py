"""Residual networks for 32x32 images, of He et al. 2015, section 4.2."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from teachers.networks.network import Network
from teachers.spec import Field, spec

WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), 3x3 convolutions, the first with `stride`.

    Where the shape changes the shortcut is, by option, A: every second pixel, and channels of zeros on both
    sides, without weights; B: a 1x1 convolution and a batch norm. Elsewhere it is x itself.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Literal["A", "B"]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        changes = stride != 1 or inputs != outputs
        self.subsample = stride if changes and shortcut == "A" else 0
        self.shortcut = nn.Sequential()
        if changes and shortcut == "B":
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, inputs, h, w); result (n, outputs, h / stride, w / stride)."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.bypass(x))

    def bypass(self, x: Tensor) -> Tensor:
        """The shortcut's half of the block."""
        if not self.subsample:
            shortcut: Tensor = self.shortcut(x)
            return shortcut
        # Read off the convolutions whenever it runs: they follow where channels are cut, and a tracer sees
        # plain numbers, so that the shortcut does not depend on the residual path and outlives it.
        missing = self.conv2.out_channels - self.conv1.in_channels
        before = missing // 2
        return F.pad(x[:, :, :: self.subsample, :: self.subsample], (0, 0, 0, 0, before, missing - before))


class ResidualNetwork(nn.Module):
    """A 3x3 stem, three stages of `blocks` blocks of 16, 32, 64 channels, mean over pixels, a classifier."""

    def __init__(self, blocks: int, classes: int, shortcut: Literal["A", "B"], channels: int) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.conv1 = nn.Conv2d(channels, first, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, 1, blocks, shortcut)
        self.layer2 = _stage(first, second, 2, blocks, shortcut)
        self.layer3 = _stage(second, third, 2, blocks, shortcut)
        self.linear = nn.Linear(third, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, channels, h, w); result (n, classes), logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def _stage(inputs: int, outputs: int, stride: int, blocks: int, shortcut: Literal["A", "B"]) -> nn.Sequential:
    rest = (Block(outputs, outputs, 1, shortcut) for _ in range(blocks - 1))
    return nn.Sequential(Block(inputs, outputs, stride, shortcut), *rest)


@spec
class ResNet(Network):
    """A CIFAR ResNet: 16-32-64 channels, (depth - 2) / 6 blocks a stage.

    Modules: `conv1 bn1 layer{1,2,3}.N.{conv1,bn1,conv2,bn2} linear`, with option B also `shortcut.{0,1}`:
    the names most published CIFAR checkpoints use. Depth 20: 0.27 M parameters, 40.6 M MACs at 32x32
    (option B: 40.8 M); depth 56: 0.85 M, 125.5 M; depth 110: 1.73 M, 252.9 M.
    Source: He et al., "Deep Residual Learning for Image Recognition", 2015.
    """

    depth: Literal[20, 32, 44, 56, 110] = 20
    """layers with weights"""
    classes: Annotated[int, Field(ge=1)] = 10
    """outputs"""
    shortcut: Literal["A", "B"] = "A"
    """where the shape changes: "A" subsamples and pads with zeros, "B" is a 1x1 convolution"""
    channels: Annotated[int, Field(ge=1)] = 3
    """of the input image"""

    def build(self) -> nn.Module:
        """A fresh network."""
        return ResidualNetwork((self.depth - 2) // 6, self.classes, self.shortcut, self.channels)
