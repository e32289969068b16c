"""A task and a network as users bring them: an image and a mask, the mask by keyword alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from teachers.signature import Signature
from teachers.spec import spec
from teachers.task import Batch, HandedOn, Split, Splits
from teachers.tasks import Toy


class _Masked(HandedOn):
    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        for batch in super().batches(split, device, generator):
            (images,) = batch.inputs
            mask = torch.ones((len(images), *images.shape[2:]), dtype=torch.bool, device=device)
            mask[:, :, -2:] = False
            yield replace(batch, inputs=(images, mask))


@spec
class Masked(Toy):
    """Toy, whose last two columns are not to be looked at."""

    def signature(self) -> Signature:
        """Image and mask, by name."""
        plain = super().signature()
        size = (self.size, self.size)
        return replace(plain, inputs=(*plain.inputs, size), names=("image", "mask"), types=("float", "bool"))

    def open(self, folder: Path | None) -> Splits:
        """Toy's samples, each with its mask."""
        return _Masked(super().open(folder))


class Looking(nn.Module):
    """Two convolutions, and the mean of what the mask lets through."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.linear = nn.Linear(32 * 16, classes)

    def forward(self, image: Tensor, *, mask: Tensor) -> Tensor:
        """Shapes: image (n, 1, 8, 8), mask (n, 8, 8), result (n, classes)."""
        x = torch.relu(self.norm(self.conv1(image)))
        x = torch.relu(self.conv2(x)) * mask.to(x.dtype).unsqueeze(1)
        logits: Tensor = self.linear(torch.flatten(nn.functional.avg_pool2d(x, 2), 1))
        return logits


def make(classes: int) -> nn.Module:
    """A fresh one."""
    return Looking(classes)
