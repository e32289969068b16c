"""Checkpoints we know of: what they are, their sha256, and how well they were seen to do.

The files themselves are found, not shipped: put one where a page's weights are looked up, or pass its folder
to `Checkpoint.load`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from teachers.networks import ResNet
from teachers.task import Task
from teachers.tasks import CIFAR10, ImageFolder
from teachers.teacher import Checkpoint

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""What all four were trained with: ImageNet's normalisation, on CIFAR-10."""

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

__all__ = ["RESNET20", "RESNET20_JPEG", "RESNET56", "RESNET56_JPEG", "Known"]


@dataclass(frozen=True)
class Known:
    """A checkpoint and what is known of it.

    score   accuracy on the test split of its task, in [0, 1]
    source  who says so
    """

    checkpoint: Checkpoint
    score: float
    source: str


def _resnet(name: str, depth: Literal[20, 56], task: Task, weights: str, sha256: str) -> Checkpoint:
    return Checkpoint(name=name, network=ResNet(depth=depth), task=task, weights=weights, sha256=sha256)


_PIXELS = CIFAR10(mean=MEAN, std=STD)
# CIFAR-10 as JPEG files in class folders: close to the published pixels, not equal to them.
_JPEG = ImageFolder(path="cifar10", size=(32, 32), classes=CLASSES, mean=MEAN, std=STD, crop=4, flip=True)

RESNET20 = Known(
    _resnet(
        "resnet20",
        20,
        _PIXELS,
        "resnet20-12fca82f.th",
        "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
    ),
    score=0.917,
    source="as published; the file itself says 91.78 %. On JPEG images it scores 81.0 %",
)
RESNET56 = Known(
    _resnet(
        "resnet56",
        56,
        _PIXELS,
        "resnet56-4bfd9763.th",
        "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
    ),
    score=0.934,
    source="as published; the file itself says 93.62 %. On JPEG images it scores 83.2 %",
)
RESNET20_JPEG = Known(
    _resnet(
        "resnet20-jpeg",
        20,
        _JPEG,
        "resnet20-cifar10-jpeg.safetensors",
        "99c840851deb0a37a63ce487571f19dde27a638dd2a2b83128cbfa9943e1b0c3",
    ),
    score=0.881,
    source="RESNET20 fine-tuned for 6 epochs on JPEG training images, measured on JPEG test images",
)
RESNET56_JPEG = Known(
    _resnet(
        "resnet56-jpeg",
        56,
        _JPEG,
        "resnet56-cifar10-jpeg.safetensors",
        "9ee85abecafcbd89317b53ef8598ecc3f7638231c7b6f6ccde3c6325b84d1d52",
    ),
    score=0.8985,
    source="RESNET56 fine-tuned for 4 epochs on JPEG training images, measured on JPEG test images",
)
