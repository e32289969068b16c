"""Images with a label for every pixel, in memory: cropped and mirrored together, a batch at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from teachers.task import Batch, Split, Splits
from teachers.tasks.splits import renumbering, steps_of

VOID = 255
"""the label in memory of a pixel that is not judged"""
IGNORED = -100
"""the same in a batch: what PyTorch's cross-entropy passes over unless told otherwise"""


class Masks(NamedTuple):
    """Images (samples, height, width, channels) and the labels of their pixels (samples, height, width), uint8."""

    images: Tensor
    labels: Tensor


class PixelSplits(Splits):
    """Images and labels of pixels as uint8. A shuffled pass over train drops its last batch where that is smaller.

    parts        what each split holds
    mean, std    per channel, of images in [0, 1]
    crop         height and width of the windows that train images are cut to, anywhere; None takes them whole
    flip         mirror train images left to right, half of them
    """

    def __init__(
        self,
        parts: dict[Split, Masks],
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        batch: int,
        evaluation: int,
        crop: tuple[int, int] | None = None,
        flip: bool = False,
    ) -> None:
        self._parts, self._crop, self._flip = parts, crop, flip
        self._size = {Split.TRAIN: batch, Split.VAL: evaluation, Split.TEST: evaluation}
        # (x / 255 - mean) / std  =  x * scale + shift
        self._scale = 1 / (255 * torch.tensor(std))
        self._shift = -torch.tensor(mean) / torch.tensor(std)

    def narrowed(self, labels: Sequence[int]) -> Self:
        """The same images with these labels alone, numbered anew in this order; all other pixels are void.

        Images without a pixel that is left are left out.
        """
        made = copy.copy(self)
        numbers = renumbering(256, [(label,) for label in labels]).to(torch.uint8)  # -1 becomes VOID
        made._parts = {}
        for split, part in self._parts.items():
            masks = numbers[part.labels.int()]
            rows = (masks != VOID).flatten(1).any(1)
            made._parts[split] = Masks(part.images[rows], masks[rows])
        return made

    def samples(self, split: Split) -> int:
        """How many images the split holds."""
        return len(self._parts[split].images)

    def steps(self, split: Split) -> int:
        """How many batches one pass takes: shuffled over train, in order over val and test."""
        return steps_of(self.samples(split), self._size[split], split)

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """One pass, as `Splits.batches` says: float32 images, channels_last; labels int64, IGNORED where void."""
        part, size = self._parts[split], self._size[split]
        rows = torch.arange(len(part.images))
        if generator is not None:
            rows = rows[torch.randperm(len(rows), generator=generator)]
        steps = self.steps(split) if generator is not None else -(-len(rows) // size)
        for step in range(steps):
            chosen = rows[step * size : (step + 1) * size]
            images, labels = part.images[chosen], part.labels[chosen]
            if generator is not None and split is Split.TRAIN:
                images, labels = self._augment(images, labels, generator)
            pixels = images.to(device).float() * self._scale.to(device) + self._shift.to(device)
            truth = labels.to(device).long()
            masks = truth.masked_fill_(truth == VOID, IGNORED)
            yield Batch((pixels.permute(0, 3, 1, 2),), masks, rows=chosen)

    def _augment(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same window, and the same mirror, for an image and for its labels."""
        n, height, width = labels.shape
        high, wide = self._crop or (height, width)
        down = torch.randint(0, height - high + 1, (n,), generator=generator).tolist()
        right = torch.randint(0, width - wide + 1, (n,), generator=generator).tolist()
        mirror = (torch.rand(n, generator=generator) < 0.5).tolist()
        cut = []
        for row in range(n):
            window = slice(down[row], down[row] + high), slice(right[row], right[row] + wide)
            pair = images[row][window], labels[row][window]
            cut.append(tuple(part.flip(1) for part in pair) if self._flip and mirror[row] else pair)
        pictures, truths = zip(*cut, strict=True)
        return torch.stack(pictures), torch.stack(truths)
