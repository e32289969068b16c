"""DeepLabV3 in small: a residual trunk that keeps an eighth of the size, and one look at many scales."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from teachers.networks.network import Network
from teachers.spec import Field, spec

Width = Annotated[int, Field(ge=1)]


def _unit(inputs: int, outputs: int, size: int = 1, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (size // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class DilatedBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), 3x3 convolutions that skip `dilation` - 1 pixels.

    Where the shape changes the shortcut is a 1x1 convolution and a batch norm, elsewhere x itself.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, inputs, h, w); result (n, outputs, h / stride, w / stride)."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.shortcut(x))


class Pyramid(nn.Module):
    """A 1x1 convolution, 3x3 ones of several dilations and the mean over all pixels side by side, then a 1x1 one.

    Source: Chen et al. 2017, atrous spatial pyramid pooling.
    """

    def __init__(self, inputs: int, outputs: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.near = _unit(inputs, outputs)
        self.wider = nn.ModuleList(_unit(inputs, outputs, 3, dilation=rate) for rate in rates)
        self.whole = _unit(inputs, outputs)
        self.project = _unit((2 + len(rates)) * outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, inputs, h, w); result (n, outputs, h, w)."""
        whole = F.interpolate(self.whole(F.adaptive_avg_pool2d(x, 1)), size=x.shape[-2:])
        looks = [self.near(x), *(look(x) for look in self.wider), whole]
        joined: Tensor = self.project(torch.cat(looks, 1))
        return joined


class DeepLabNetwork(nn.Module):
    """A 3x3 stem of stride 2, three stages of blocks (strides 2, 2, and a dilation of 2), pyramid, classifier."""

    def __init__(
        self, widths: tuple[int, int, int, int], blocks: int, head: int, rates: tuple[int, ...], classes: int,
        channels: int,
    ) -> None:  # fmt: skip
        super().__init__()
        stem, first, second, third = widths
        self.stem = _unit(channels, stem, 3, 2)
        self.layer1 = _stage(stem, first, blocks, stride=2)
        self.layer2 = _stage(first, second, blocks, stride=2)
        self.layer3 = _stage(second, third, blocks, dilation=2)
        self.pyramid = Pyramid(third, head, rates)
        self.classifier = nn.Conv2d(head, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, channels, h, w), of any size; result (n, classes, h, w), logits."""
        coarse = self.classifier(self.pyramid(self.layer3(self.layer2(self.layer1(self.stem(x))))))
        return F.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=False)


def _stage(inputs: int, outputs: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    rest = (DilatedBlock(outputs, outputs, 1, dilation) for _ in range(blocks - 1))
    return nn.Sequential(DilatedBlock(inputs, outputs, stride, dilation), *rest)


@spec
class DeepLab(Network):
    """A small DeepLabV3 for segmentation: one row of logits a pixel, made at an eighth of the size and enlarged.

    By default 1.65 M parameters, 2.45 G MACs at 240x320. Fully convolutional: taught on crops, it takes whole
    images. Modules: `stem layer{1,2,3}.N.{conv1,bn1,conv2,bn2,shortcut} pyramid.{near,wider.N,whole,project}
    classifier`. Source: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017.
    """

    classes: Width = 11
    """outputs a pixel"""
    widths: tuple[Width, Width, Width, Width] = (32, 64, 128, 128)
    """channels of the stem and of the three stages"""
    blocks: Width = 2
    """residual blocks a stage"""
    head: Width = 96
    """channels of every part of the pyramid"""
    rates: tuple[Width, ...] = (3, 6, 9)
    """dilations of the pyramid's 3x3 convolutions, in pixels of an eighth of the size"""
    channels: Width = 3
    """of the input image"""

    def build(self) -> nn.Module:
        """A fresh network."""
        return DeepLabNetwork(self.widths, self.blocks, self.head, self.rates, self.classes, self.channels)
