"""Classifying images: what all such tasks share, and the data sets that are known by name."""

from abc import abstractmethod
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Any

import torch

from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.tasks.labelled import Labelled
from teachers.tasks.splits import MemorySplits, Samples, stratified

Positive = Annotated[float, Field(gt=0)]
Pixels = Annotated[int, Field(ge=0)]


def a_number_each(name: str, channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Raises ValueError where mean or std has not one number for every channel."""
    if not len(mean) == len(std) == channels:
        raise ValueError(
            f"{name} has {channels} channels: mean and std need {channels} numbers each, "
            f"not {len(mean)} and {len(std)}"
        )


@spec
class Images(Labelled):
    """Images of one size, one label each, judged by the share of right answers.

    Images in [0, 1] enter the network as (x - mean) / std. Val is held out of train, the same share of each
    class.
    """

    _: KW_ONLY
    mean: tuple[float, ...]
    """per channel, of images in [0, 1]"""
    std: tuple[Positive, ...]
    """per channel, of images in [0, 1]"""
    crop: Pixels = 0
    """train images are shifted by up to this many pixels each way, black coming in from outside"""
    flip: bool = False
    """train images are mirrored left to right, half of the time"""
    batch: Annotated[int, Field(ge=1)] = 128
    """samples per batch of train"""
    evaluation: Annotated[int, Field(ge=1)] = 256
    """samples per batch of val and test"""
    val: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """the share of train that is held out to choose by"""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """of the choice of that share"""

    def __post_init__(self) -> None:
        a_number_each(type(self).__name__, self.shape[0], self.mean, self.std)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""

    @abstractmethod
    def read(self, folder: Path | None) -> tuple[Samples, Samples]:
        """All of train (val not yet held out) and of test. Raises ValueError with what is missing."""

    def signature(self) -> Signature:
        """One image in, one number per label out."""
        return Signature((self.shape,), self.labels, self.mean, self.std)

    def open(self, folder: Path | None) -> MemorySplits:
        """Read everything into memory, and hold val out of train."""
        train, test = self.read(folder)
        return MemorySplits(
            train,
            test,
            mean=self.mean,
            std=self.std,
            val=self.val,
            seed=self.split_seed,
            batch=self.batch,
            evaluation=self.evaluation,
            crop=self.crop,
            flip=self.flip,
        )


@spec
class Digits(Images):
    """The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn: a data set without a download.

    A fifth of each class, always the same, is the test split.
    """

    _: KW_ONLY
    mean: tuple[float, ...] = (0.3053,)
    """per channel, of images in [0, 1]"""
    std: tuple[Positive, ...] = (0.3761,)
    """per channel, of images in [0, 1]"""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (1, 8, 8)

    @property
    def labels(self) -> tuple[str, ...]:
        """The digits."""
        return tuple("0123456789")

    def read(self, folder: Path | None) -> tuple[Samples, Samples]:
        """The digits are embedded: `folder` is not looked at."""
        from sklearn.datasets import load_digits  # a second and more, and only this task needs it

        data: Any = load_digits()
        # Ink goes from 0 to 16.
        images = torch.from_numpy(data.images).mul(255 / 16).round().to(torch.uint8)[:, None]
        labels = torch.from_numpy(data.target).to(torch.int64)
        train, test = stratified(labels, 0.2, seed=0)
        return Samples(images[train], labels[train]), Samples(images[test], labels[test])
