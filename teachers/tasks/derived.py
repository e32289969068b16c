"""Tasks made of other tasks, with the same images: what related teachers are taught, so that one can choose."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import KW_ONLY
from itertools import chain
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.task import Split, Splits, Task
from teachers.tasks.images import Images
from teachers.tasks.labelled import Labelled
from teachers.tasks.pixels import Masks, PixelSplits
from teachers.tasks.splits import MemorySplits, Samples, renumbering, stratified

Side = Annotated[int, Field(ge=1)]


@spec
class Derived(Labelled):
    """Images of another task, `of`, with its normalisation, its batches, and its share of val."""

    of: Task
    """the task whose images these are: of one size, one label each"""

    def __post_init__(self) -> None:
        if not isinstance(self.of, Images | Derived):
            raise ValueError(
                f"{type(self).__name__} is made of images with one label each, not of {type(self.of).__name__}"
            )

    @property
    def base(self) -> Images | Derived:
        """`of`, as what it is."""
        assert isinstance(self.of, Images | Derived)
        return self.of

    @property
    def root(self) -> Images:
        """The task that all of it is made of."""
        return self.base if isinstance(self.base, Images) else self.base.root

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.base.shape

    @property
    def scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of every channel."""
        return (self.base.mean, self.base.std) if isinstance(self.base, Images) else self.base.scale

    @property
    def flip(self) -> bool:
        """Whether train images are mirrored."""
        return self.base.flip

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes in the order of the network's outputs."""
        return self.base.labels

    @abstractmethod
    def change(self, samples: Samples, train: bool) -> Samples:
        """Other samples of these."""

    def read(self, folder: Path | None) -> tuple[Samples, Samples]:
        """All of train (val not yet held out) and of test."""
        train, test = self.base.read(folder)
        return self.change(train, True), self.change(test, False)

    def signature(self) -> Signature:
        """One image in, one number per label out."""
        return Signature((self.shape,), self.labels, *self.scale)

    def open(self, folder: Path | None) -> MemorySplits:
        """Read everything into memory, and hold val out of train."""
        train, test = self.read(folder)
        mean, std = self.scale
        root = self.root
        return MemorySplits(
            train, test, mean=mean, std=std, val=root.val, seed=root.split_seed, batch=root.batch,
            evaluation=root.evaluation, crop=root.crop, flip=self.flip,
        )  # fmt: skip


@spec
class Few(Derived):
    """At most so many train images of every class, and all of test."""

    per_class: Annotated[int, Field(ge=2)]
    """train images of every class, val included"""
    _: KW_ONLY
    seed: Annotated[int, Field(ge=0)] = 0
    """of the choice"""

    def change(self, samples: Samples, train: bool) -> Samples:
        """Drawn at random, in their old order."""
        if not train:
            return samples
        order = torch.randperm(len(samples.labels), generator=torch.Generator().manual_seed(self.seed))
        rows = [order[samples.labels[order] == label][: self.per_class] for label in range(len(self.labels))]
        chosen = torch.cat(rows).sort().values
        return Samples(samples.images[chosen], samples.labels[chosen])


@spec
class Canvas(Derived):
    """The same images in the middle of a black one of another size; grey ones with three channels, if asked."""

    size: tuple[Side, Side]
    """height and width, no smaller than they were"""
    channels: Annotated[int, Field(ge=1)] = 3
    """as many as there were, or 3 of 1"""

    def __post_init__(self) -> None:
        Derived.__post_init__(self)
        channels, height, width = self.base.shape
        if (
            self.size[0] < height
            or self.size[1] < width
            or self.channels not in (channels, 3 * (channels == 1))
        ):
            raise ValueError(
                f"a Canvas of {self.channels} channels and {self.size[0]}x{self.size[1]} does not hold images of "
                f"{self.base.shape}: no smaller sides, and the same channels, or 3 for 1"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (self.channels, *self.size)

    @property
    def scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of every channel."""
        mean, std = Derived.scale.fget(self)  # type: ignore[attr-defined]
        return (mean, std) if len(mean) == self.channels else (mean * self.channels, std * self.channels)

    def change(self, samples: Samples, train: bool) -> Samples:
        """Padded, and repeated over channels."""
        _, height, width = self.base.shape
        down, right = self.size[0] - height, self.size[1] - width
        images = F.pad(samples.images, (right // 2, right - right // 2, down // 2, down - down // 2))
        return Samples(images.expand(-1, self.channels, -1, -1), samples.labels)


@spec
class Grouped(Derived):
    """Classes put together under new names; those in no group are left out.

    Grouped(of=Digits(), groups={"even": ("0", "2", "4", "6", "8"), "odd": ("1", "3", "5", "7", "9")})
    """

    groups: Annotated[dict[str, tuple[str, ...]], Field(min_length=2)]
    """the old classes of every new one"""

    def __post_init__(self) -> None:
        Derived.__post_init__(self)
        named = list(chain(*self.groups.values()))
        if odd := sorted(set(named) - set(self.base.labels)):
            raise ValueError(
                f"Grouped names {', '.join(odd)}, and the classes are {', '.join(self.base.labels)}"
            )
        if len(set(named)) < len(named) or not all(self.groups.values()):
            raise ValueError(
                "Grouped puts every class into one group at most, and none of the groups is empty"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """The groups."""
        return tuple(self.groups)

    def change(self, samples: Samples, train: bool) -> Samples:
        """Those in a group."""
        old = self.base.labels
        groups = [[old.index(name) for name in names] for names in self.groups.values()]
        labels = renumbering(len(old), groups)[samples.labels]
        return Samples(samples.images[labels >= 0], labels[labels >= 0])


@spec
class Rotated(Derived):
    """By how many quarter turns was this image turned? Each is turned once, by a draw; the old labels are gone.

    Images are square. They are not mirrored in training, since a mirrored quarter turn is three of them.
    Source of the task: Gidaris et al. 2018.
    """

    _: KW_ONLY
    seed: Annotated[int, Field(ge=0)] = 0
    """of the draw"""

    def __post_init__(self) -> None:
        Derived.__post_init__(self)
        if self.base.shape[1] != self.base.shape[2]:
            raise ValueError(
                f"Rotated turns square images, not ones of {self.base.shape[1]}x{self.base.shape[2]}"
            )

    @property
    def flip(self) -> bool:
        """Never."""
        return False

    @property
    def labels(self) -> tuple[str, ...]:
        """Degrees, against the clock."""
        return ("0", "90", "180", "270")

    def change(self, samples: Samples, train: bool) -> Samples:
        """Turned, every way alike often."""
        labels = _even(len(samples.labels), 4, self.seed + train)
        images = samples.images.clone()
        for turns in range(1, 4):
            images[labels == turns] = samples.images[labels == turns].rot90(turns, (2, 3))
        return Samples(images, labels)


@spec
class Shuffled(Derived):
    """Labels drawn at random: what a network learns here can only be known by heart. Its score on val is chance.

    Source: Zhang et al. 2017.
    """

    _: KW_ONLY
    seed: Annotated[int, Field(ge=0)] = 0
    """of the draw"""

    def change(self, samples: Samples, train: bool) -> Samples:
        """The same images, every label alike often."""
        return Samples(samples.images, _even(len(samples.labels), len(self.labels), self.seed + train))


@spec
class Levels(Labelled):
    """Every pixel's brightness, in steps that are alike often over train: what an autoencoder gives back.

    Judged by the share of pixels in their right step. The old labels are gone.
    """

    of: Task
    """the task whose images these are"""
    levels: Annotated[int, Field(ge=2, le=255)] = 8
    """how many steps there are"""

    def __post_init__(self) -> None:
        if not isinstance(self.of, Images | Derived):
            raise ValueError(f"Levels is made of images with one label each, not of {type(self.of).__name__}")

    @property
    def root(self) -> Images:
        """The task that all of it is made of."""
        assert isinstance(self.of, Images | Derived)
        return self.of if isinstance(self.of, Images) else self.of.root

    @property
    def labels(self) -> tuple[str, ...]:
        """The steps, from dark to bright."""
        return tuple(f"level {place}" for place in range(self.levels))

    def signature(self) -> Signature:
        """One image in, one number per step and pixel out."""
        of = self.of.signature()
        return Signature(of.inputs, self.labels, of.mean, of.std)

    def open(self, folder: Path | None) -> Splits:
        """Read everything into memory, measure the steps on train, and hold val out of it."""
        assert isinstance(self.of, Images | Derived)
        train, test = self.of.read(folder)
        kept, held = stratified(train.labels, self.root.val, self.root.split_seed)
        grey = [_grey(part.images) for part in (train, test)]
        some = grey[0][kept].flatten()[:: max(1, grey[0].numel() // 10**6)].float()
        # Where many pixels are black, several steps would begin at once: such are one, and later ones are not reached.
        ends = torch.quantile(some, torch.arange(1, self.levels) / self.levels)
        labels = [torch.bucketize(part.float(), ends).to(torch.uint8) for part in grey]
        images = [part.images.permute(0, 2, 3, 1).contiguous() for part in (train, test)]
        signature = self.of.signature()
        assert signature.mean is not None
        assert signature.std is not None
        return PixelSplits(
            {
                Split.TRAIN: Masks(images[0][kept], labels[0][kept]),
                Split.VAL: Masks(images[0][held], labels[0][held]),
                Split.TEST: Masks(images[1], labels[1]),
            },
            mean=signature.mean, std=signature.std, batch=self.root.batch, evaluation=self.root.evaluation,
        )  # fmt: skip


def _even(count: int, classes: int, seed: int) -> Tensor:
    """So many labels, each class alike often, in random order."""
    return (torch.arange(count) % classes)[
        torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    ]


def _grey(images: Tensor) -> Tensor:
    """(n, channels, h, w) of bytes to (n, h, w), the mean over channels."""
    return images.float().mean(1).round().to(torch.uint8)
