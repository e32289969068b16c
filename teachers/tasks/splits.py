"""Small image sets in memory: split once, shuffled, augmented and normalised a batch at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from teachers.task import Batch, Split, Splits


class Samples(NamedTuple):
    """Images as uint8 of shape (samples, channels, height, width), and their labels as int64.

    Where a sample may have several labels, these are (samples, classes) of 0 and 1, as float32.
    """

    images: Tensor
    labels: Tensor


def stratified(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Hold `share` of every class out: the row numbers of the rest and of what was held out, both rising.

    The held-out number of each class is rounded, at least one, and leaves at least one. The choice depends on
    `labels`, `share` and `seed` alone. Raises ValueError for a class with fewer than two samples.
    """
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        rows = (labels == label).nonzero().flatten()
        if len(rows) < 2:
            raise ValueError(
                f"class {label} has one sample, which cannot be both taught and held out: add more"
            )
        count = min(max(round(len(rows) * share), 1), len(rows) - 1)
        held[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def crop_and_flip(images: Tensor, padding: int, down: Tensor, right: Tensor, mirror: Tensor) -> Tensor:
    """Pad each image with black, cut a window of the old size out of it, mirror it left to right where asked.

    Shapes: images (n, height, width, channels), the pixel last because it is moved as a whole; down, right
    (n,) in [0, 2 * padding], where `padding` means not moved at all; mirror (n,) bool; result like images.
    """
    n, height, width, channels = images.shape
    device = images.device
    tall, wide = height + 2 * padding, width + 2 * padding
    padded = F.pad(images, (0, 0, padding, padding, padding, padding)) if padding else images
    rows = torch.arange(height, device=device) + down[:, None]
    columns = torch.arange(width, device=device).expand(n, width)
    columns = torch.where(mirror[:, None], width - 1 - columns, columns) + right[:, None]
    rows = rows + torch.arange(n, device=device)[:, None] * tall
    pixels = rows[:, :, None] * wide + columns[:, None, :]
    # One flat index_select is twice as fast as indexing three dimensions at once.
    return padded.reshape(-1, channels).index_select(0, pixels.flatten()).view(images.shape)


def steps_of(samples: int, size: int, split: Split) -> int:
    """Batches of `size` in a pass: over train whole ones only (one at least), over val and test all."""
    whole, rest = divmod(samples, size)
    return max(whole, 1) if split is Split.TRAIN else whole + bool(rest)


def renumbering(labels: int, groups: Sequence[Sequence[int]]) -> Tensor:
    """The new number of each of so many labels, that of the group it is in; -1 where it is in none: (labels,)."""
    numbers = torch.full((labels,), -1)
    for new, group in enumerate(groups):
        numbers[list(group)] = new
    return numbers


class MemorySplits(Splits):
    """Images held as uint8; val is held out of train, stratified, by a seed.

    A shuffled pass over train drops its last batch where that is smaller than the others, unless it is the
    only one: batch statistics of a handful of images would be noise. `steps` counts that pass.

    train, test  the samples
    val          the share of train that is held out
    seed         of that choice
    batch        samples per batch of train; `evaluation` of val and test
    mean, std    per channel, of images in [0, 1]
    crop, flip   augmentation: up to this many pixels of shift in each direction, mirroring left to right
    held         the rows of train that are val, where that is settled already
    """

    def __init__(
        self,
        train: Samples,
        test: Samples,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        val: float = 0.1,
        seed: int = 0,
        batch: int = 128,
        evaluation: int = 256,
        crop: int = 0,
        flip: bool = False,
        held: Tensor | None = None,
    ) -> None:
        channels = train.images.shape[1]
        if not len(mean) == len(std) == channels:
            raise ValueError(
                f"images of {channels} channels need as many means and deviations, "
                f"not {len(mean)} and {len(std)}"
            )
        if held is None:
            taught, held = stratified(train.labels, val, seed)
        else:
            apart = torch.ones(len(train.labels), dtype=torch.bool)
            apart[held] = False
            taught = apart.nonzero().flatten()
        # Pixels are stored whole, (n, height, width, channels): seen as NCHW that is channels_last for free.
        pixels, unseen = (part.images.permute(0, 2, 3, 1).contiguous() for part in (train, test))
        self._images = {Split.TRAIN: pixels, Split.VAL: pixels, Split.TEST: unseen}
        self._labels = {Split.TRAIN: train.labels, Split.VAL: train.labels, Split.TEST: test.labels}
        self._rows = {Split.TRAIN: taught, Split.VAL: held, Split.TEST: torch.arange(len(test.labels))}
        self._size = {Split.TRAIN: batch, Split.VAL: evaluation, Split.TEST: evaluation}
        # (x / 255 - mean) / std  =  x * scale + shift
        self._scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        self._shift = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self._crop, self._flip = crop, flip

    def narrowed(self, labels: Sequence[int]) -> Self:
        """The same images, shared, with these labels alone, numbered anew in this order; others are left out.

        What is train stays train, and val val. Where samples have several labels, none is left out.
        """
        made = copy.copy(self)
        if self._labels[Split.TEST].dim() == 2:
            made._labels = {split: of[:, list(labels)] for split, of in self._labels.items()}
            return made
        most = max(int(of.max()) for of in self._labels.values() if len(of))
        numbers = renumbering(max(most, *labels) + 1, [(label,) for label in labels])
        made._labels = {split: numbers[of] for split, of in self._labels.items()}
        made._rows = {split: rows[made._labels[split][rows] >= 0] for split, rows in self._rows.items()}
        return made

    def samples(self, split: Split) -> int:
        """How many samples the split holds."""
        return len(self._rows[split])

    def steps(self, split: Split) -> int:
        """How many batches one pass takes: shuffled over train, in order over val and test."""
        return steps_of(self.samples(split), self._size[split], split)

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """One pass, as `Splits.batches` says: float32 images, channels_last, normalised; labels int64."""
        rows, size = self._rows[split], self._size[split]
        shuffled = generator is not None
        if generator is not None:
            rows = rows[torch.randperm(len(rows), generator=generator)]
        scale = self._scale.to(torch.float32).to(device)
        shift = self._shift.to(torch.float32).to(device)
        steps = self.steps(split) if shuffled else -(-len(rows) // size)
        for step in range(steps):
            chosen = rows[step * size : (step + 1) * size]
            pixels = _take(self._images[split], chosen).to(device)
            if generator is not None and split is Split.TRAIN:
                pixels = self._augment(pixels, generator)
            images = pixels.to(torch.float32).mul_(scale).add_(shift).permute(0, 3, 1, 2)
            yield Batch((images,), self._labels[split][chosen].to(device), rows=chosen)

    def _augment(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        if not (self._crop or self._flip):
            return pixels
        n, device = len(pixels), pixels.device
        down, right = torch.randint(0, 2 * self._crop + 1, (2, n), generator=generator).to(device)
        mirror = (torch.rand(n, generator=generator) < 0.5).to(device) & self._flip
        return crop_and_flip(pixels, self._crop, down, right, mirror)


def _take(images: Tensor, rows: Tensor) -> Tensor:
    # Row by row of flat memory: ten times faster than indexing a 4-D tensor.
    return images.flatten(1).index_select(0, rows).view(len(rows), *images.shape[1:])
