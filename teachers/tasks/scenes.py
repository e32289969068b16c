"""Two dense tasks over the same images, made on the spot: which shape a pixel belongs to, and how far away it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

from teachers.signature import Kind, Signature
from teachers.spec import Field, spec
from teachers.task import Batch, Split, Splits, Task
from teachers.tasks.scoring import within_a_quarter
from teachers.tasks.segmentation import mean_iou
from teachers.tasks.splits import steps_of

SHAPES = ("ground", "disc", "square")
DEPTH = "depth"


@spec
class Scenes(Task):
    """Discs and squares in a mist: what is further away is paler. For trying out students of two dense tasks.

    A pixel at depth d, in metres from 1 to 4, has its colour c mixed with white, c m + 1 - m, m = exp(-(d - 1) / 3).
    Shapes are judged by the mean intersection over union, depths by the share that is right within a quarter, and
    both together by whichever of the two is worse.
    """

    ask: Literal["both", "shapes", "depth"] = "both"
    """what a network for this task answers"""
    size: Annotated[int, Field(ge=16, multiple_of=8)] = 32
    """height and width in pixels"""
    samples: Annotated[int, Field(ge=4)] = 240
    """images in train, val included, and as many in test"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of everything that is drawn"""
    _: KW_ONLY
    noise: Annotated[float, Field(ge=0)] = 0.02
    """standard deviation of the noise, of images in [0, 1]"""
    batch: Annotated[int, Field(ge=1)] = 16
    """images per batch"""
    val: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """the share of train that is held out to choose by"""

    @property
    def metric(self) -> str:  # type: ignore[override]
        """By what answers are judged."""
        return {"shapes": "mIoU", "depth": "delta1", "both": "worse_of_both"}[self.ask]

    def signature(self) -> Signature:
        """An image in; numbers for the shapes, the depth in metres, or one behind the other out, for every pixel."""
        labels = {"shapes": SHAPES, "depth": (DEPTH,), "both": (*SHAPES, DEPTH)}[self.ask]
        kind: Kind = {"shapes": "softmax", "depth": "regression", "both": "mixed"}[self.ask]  # type: ignore[assignment]
        return Signature(((3, self.size, self.size),), labels, (0.6,) * 3, (0.25,) * 3, kind)

    def open(self, folder: Path | None) -> Splits:
        """Make the images; `folder` is not looked at."""
        generator = torch.Generator().manual_seed(self.seed)
        train, test = (_draw(self.samples, self.size, self.noise, generator) for _ in range(2))
        held = max(round(self.val * self.samples), 1)
        mean, std = (torch.tensor(row).view(3, 1, 1) for row in ((0.6,) * 3, (0.25,) * 3))
        parts: dict[Split, tuple[Tensor, Tensor]] = {}
        for split, (images, truth) in (
            (Split.TRAIN, tuple(part[held:] for part in train)), (Split.VAL, tuple(part[:held] for part in train)),
            (Split.TEST, test),
        ):  # fmt: skip
            target = {"shapes": truth[:, 0].long(), "depth": truth[:, 1:], "both": truth}[self.ask]
            parts[split] = ((images - mean) / std, target)
        return SceneSplits(parts, self.batch)

    def predict(self, outputs: Tensor) -> Tensor:
        """The shape with the largest output, the depth, or both in two channels."""
        if self.ask == "shapes":
            return outputs.argmax(1)
        if self.ask == "depth":
            return outputs
        return torch.cat([outputs[:, :-1].argmax(1, keepdim=True).to(outputs.dtype), outputs[:, -1:]], 1)

    def score(self, predictions: Tensor, targets: Tensor) -> float:
        """As `ask` says."""
        if self.ask == "shapes":
            return mean_iou(predictions, targets, len(SHAPES))
        if self.ask == "depth":
            return within_a_quarter(predictions, targets)
        shapes = mean_iou(predictions[:, 0].long(), targets[:, 0].long(), len(SHAPES))
        return min(shapes, within_a_quarter(predictions[:, 1:], targets[:, 1:]))

    @property
    def chance(self) -> float:
        """One shape everywhere, or one depth: a third is not to be had like that."""
        return 1 / len(SHAPES)


class SceneSplits(Splits):
    """Images and their answers in memory; a shuffled pass over train drops a last batch that is smaller."""

    def __init__(self, parts: dict[Split, tuple[Tensor, Tensor]], batch: int) -> None:
        self._parts, self._batch = parts, batch

    def samples(self, split: Split) -> int:
        """How many images the split holds."""
        return len(self._parts[split][0])

    def steps(self, split: Split) -> int:
        """How many batches one pass takes."""
        return steps_of(self.samples(split), self._batch, split)

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """One pass, as `Splits.batches` says."""
        images, truth = self._parts[split]
        rows = torch.arange(len(images))
        if generator is not None:
            rows = rows[torch.randperm(len(rows), generator=generator)]
        steps = self.steps(split) if generator is not None else -(-len(rows) // self._batch)
        for step in range(steps):
            chosen = rows[step * self._batch : (step + 1) * self._batch]
            yield Batch((images[chosen].to(device),), truth[chosen].to(device), rows=chosen)


def _draw(count: int, size: int, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (n, 3, size, size) in [0, 1]; shape and depth of every pixel, (n, 2, size, size)."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    side = torch.arange(size) + 0.5
    down, right = side[None, :, None], side[None, None, :]
    labels = torch.zeros(count, size, size)
    depth = uniform(3, 4).expand(-1, size, size).clone()
    colour = torch.tensor([0.1, 0.1, 0.5]).view(1, 3, 1, 1).expand(count, 3, size, size).clone()
    for label in (1, 2):
        radius = uniform(size / 8, size / 4)
        y, x = ((axis - uniform(0.25 * size, 0.75 * size)).abs() for axis in (down, right))
        inside = (y.square() + x.square()).sqrt() < radius if label == 1 else torch.maximum(y, x) < radius
        labels[inside] = label
        depth = torch.where(inside, uniform(1, 2.5), depth)
        paint = torch.tensor([0.6, 0.1, 0.1] if label == 1 else [0.1, 0.5, 0.1]).view(1, 3, 1, 1)
        colour = torch.where(inside[:, None], paint, colour)
    clear = torch.exp(-(depth - 1) / 3)[:, None]
    images = colour * clear + 1 - clear + noise * torch.randn(count, 3, size, size, generator=generator)
    return images.clamp(0, 1), torch.stack([labels, depth], 1)
