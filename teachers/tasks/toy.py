"""A task made on the spot, easy and small: for trying things out, and for tests."""

from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F

from teachers.spec import Field, spec
from teachers.tasks.images import Images, Positive
from teachers.tasks.splits import Samples


@spec
class Toy(Images):
    """Each class is a random pattern of blocks; an image is its class's pattern under noise.

    x = 0.5 + contrast * pattern + noise * n, cut to [0, 1], with pattern in {-1, 1} and n standard normal: a
    small network gets nearly all of them right. Train and test hold `samples` images each, of all classes
    alike.
    """

    classes: Annotated[int, Field(ge=2)] = 3
    """how many patterns there are"""
    size: Annotated[int, Field(ge=4)] = 8
    """height and width in pixels"""
    samples: Annotated[int, Field(ge=2)] = 240
    """images in train, val included, and as many in test"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of patterns and noise"""
    _: KW_ONLY
    contrast: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """how far the pattern departs from gray"""
    noise: Annotated[float, Field(ge=0)] = 0.25
    """standard deviation of the noise"""
    mean: tuple[float, ...] = (0.5,)
    """per channel, of images in [0, 1]; as many numbers as there are channels"""
    std: tuple[Positive, ...] = (0.35,)
    """per channel, of images in [0, 1]"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 2 * self.classes:
            raise ValueError(
                f"Toy has {self.samples} samples for {self.classes} classes: it needs two of each, "
                f"{2 * self.classes}, so that val has one"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (len(self.mean), self.size, self.size)

    @property
    def labels(self) -> tuple[str, ...]:
        """Pattern 0, pattern 1, ..."""
        return tuple(f"pattern {number}" for number in range(self.classes))

    def read(self, folder: Path | None) -> tuple[Samples, Samples]:
        """Make the samples; `folder` is not looked at."""
        generator = torch.Generator().manual_seed(self.seed)
        coarse = torch.randn((self.classes, len(self.mean), 4, 4), generator=generator).sign()
        patterns = F.interpolate(coarse, size=(self.size, self.size), mode="nearest")

        def draw() -> Samples:
            labels = torch.arange(self.samples) % self.classes
            noise = torch.randn((self.samples, *self.shape), generator=generator)
            images = 0.5 + self.contrast * patterns[labels] + self.noise * noise
            return Samples(images.clamp(0, 1).mul(255).round().to(torch.uint8), labels)

        return draw(), draw()
