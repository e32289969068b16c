"""Images with several labels: two of a task's images side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.task import Task
from teachers.tasks.images import Images
from teachers.tasks.scoring import Scored
from teachers.tasks.splits import MemorySplits, Samples, stratified


@spec
class Pairs(Scored):
    """Two images side by side, drawn at random, with the labels of both: any of a task's labels may be true.

    Pairs of train are made of images of train, those of val and test of images that are held out there. Judged by the
    mean average precision.
    """

    of: Task
    """where the images come from: a task of images with one label each"""
    samples: Annotated[int, Field(ge=10)] = 10000
    """pairs in train, val included; test has a fifth as many"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of the pairing"""

    def __post_init__(self) -> None:
        if not isinstance(self.of, Images):
            raise ValueError(
                f"Pairs puts images with one label each side by side, and {type(self.of).__name__} has none"
            )

    @property
    def _whole(self) -> Images:
        assert isinstance(self.of, Images)
        return self.of

    def signature(self) -> Signature:
        """Images twice as wide, the same labels, each true or not."""
        whole = self.of.signature()
        ((channels, high, wide),) = whole.inputs
        return replace(whole, inputs=((channels, high, 2 * wide),), kind="sigmoid")

    def open(self, folder: Path | None) -> MemorySplits:
        """Read the images, and pair them."""
        train, test = self._whole.read(folder)
        generator = torch.Generator().manual_seed(self.seed)
        classes = len(self._whole.labels)
        taught, held = stratified(train.labels, self._whole.val, self._whole.split_seed)
        count = max(round(self._whole.val * self.samples), 1)
        parts = [
            paired(train, rows, many, classes, generator)
            for rows, many in ((taught, self.samples - count), (held, count))
        ]
        whole = Samples(*(torch.cat(part) for part in zip(*parts, strict=True)))
        unseen = paired(test, torch.arange(len(test.labels)), max(self.samples // 5, 1), classes, generator)
        return MemorySplits(
            whole, unseen, mean=self._whole.mean, std=self._whole.std, batch=self._whole.batch,
            evaluation=self._whole.evaluation,
            held=torch.arange(self.samples - count, self.samples),
        )  # fmt: skip

    @property
    def chance(self) -> float:
        """How often a label is true: what ranking at random scores."""
        classes = len(self._whole.labels)
        return 1 - (1 - 1 / classes) ** 2


def paired(samples: Samples, rows: Tensor, count: int, classes: int, generator: torch.Generator) -> Samples:
    """`count` pairs of the samples at `rows`, side by side."""
    left, right = (rows[torch.randint(len(rows), (count,), generator=generator)] for _ in range(2))
    images = torch.cat([samples.images[left], samples.images[right]], 3)
    labels = torch.zeros(count, classes)
    for half in (left, right):
        labels[torch.arange(count), samples.labels[half]] = 1
    return Samples(images, labels)
