"""The well-known data sets, read from the files their authors publish, where you have put them."""

from abc import abstractmethod
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Any, ClassVar

import torch

from teachers.spec import spec
from teachers.tasks.images import Images, Pixels, Positive
from teachers.tasks.splits import Samples


@spec
class _Published(Images):
    """A data set that torchvision knows how to read; nothing is ever downloaded here.

    home   its folder below the data folder
    files  what lies in it
    """

    home: ClassVar[str]
    files: ClassVar[tuple[str, ...]]

    @abstractmethod
    def _read(self, folder: Path, train: bool) -> Samples:
        """Read one half with torchvision, which raises what it likes for damaged files."""

    def read(self, folder: Path | None) -> tuple[Samples, Samples]:
        """Read both halves. Raises ValueError naming the folder and the files that are missing or damaged."""
        name = type(self).__name__
        if folder is None:
            raise ValueError(f"{name} is read from {self.home}/ in the data folder, and none is set: name it")
        missing = [file for file in self.files if not (folder / self.home / file).is_file()]
        if missing:
            raise ValueError(
                f"{name} is not complete in {folder / self.home}: there is no {', '.join(missing)}. "
                "Unpack the published files there, or name the data folder that has them"
            )
        try:
            train, test = self._read(folder, train=True), self._read(folder, train=False)
        except (RuntimeError, ValueError, AssertionError, EOFError) as problem:
            raise ValueError(
                f"{name} in {folder / self.home} is damaged ({str(problem) or 'a file is cut short'}): "
                f"replace {', '.join(self.files)}"
            ) from problem
        for part in (train, test):
            if part.images.shape[1:] != self.shape or len(part.images) != len(part.labels):
                raise ValueError(
                    f"{name} in {folder / self.home} is damaged: {len(part.images):,} images of "
                    f"{tuple(part.images.shape[1:])} pixels, where {self.shape} are expected, and "
                    f"{len(part.labels):,} labels"
                )
        return train, test


@spec
class MNIST(_Published):
    """Handwritten digits: 60,000 train and 10,000 test images, gray, 28x28. LeCun et al. 1998."""

    home: ClassVar[str] = "MNIST/raw"
    files: ClassVar[tuple[str, ...]] = (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )

    _: KW_ONLY
    mean: tuple[float, ...] = (0.1307,)
    """per channel, of images in [0, 1]"""
    std: tuple[Positive, ...] = (0.3081,)
    """per channel, of images in [0, 1]"""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (1, 28, 28)

    @property
    def labels(self) -> tuple[str, ...]:
        """The digits."""
        return tuple("0123456789")

    def _read(self, folder: Path, train: bool) -> Samples:
        from torchvision import datasets  # seconds: only when data is read

        data: Any = getattr(datasets, type(self).__name__)(str(folder), train=train, download=False)
        return Samples(data.data[:, None], data.targets.to(torch.int64))


@spec
class FashionMNIST(MNIST):
    """Pieces of clothing, in the form of MNIST: 60,000 train, 10,000 test, gray, 28x28. Xiao et al. 2017."""

    home: ClassVar[str] = "FashionMNIST/raw"

    _: KW_ONLY
    mean: tuple[float, ...] = (0.2860,)
    """per channel, of images in [0, 1]"""
    std: tuple[Positive, ...] = (0.3530,)
    """per channel, of images in [0, 1]"""
    flip: bool = True
    """train images are mirrored left to right, half of the time"""

    @property
    def labels(self) -> tuple[str, ...]:
        """The pieces."""
        return (
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
            "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
        )  # fmt: skip


@spec
class CIFAR10(_Published):
    """Small photographs of 10 things: 50,000 train and 10,000 test images, colour, 32x32. Krizhevsky 2009.

    The files are the "python version": checked against the published MD5 sums before they are unpickled.
    """

    home: ClassVar[str] = "cifar-10-batches-py"
    files: ClassVar[tuple[str, ...]] = (
        *(f"data_batch_{number}" for number in range(1, 6)),
        "test_batch",
        "batches.meta",
    )

    _: KW_ONLY
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    """per channel, of images in [0, 1]"""
    std: tuple[Positive, ...] = (0.2470, 0.2435, 0.2616)
    """per channel, of images in [0, 1]"""
    crop: Pixels = 4
    """train images are shifted by up to this many pixels each way, black coming in from outside"""
    flip: bool = True
    """train images are mirrored left to right, half of the time"""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (3, 32, 32)

    @property
    def labels(self) -> tuple[str, ...]:
        """The things."""
        return ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def _read(self, folder: Path, train: bool) -> Samples:
        from torchvision import datasets  # seconds: only when data is read

        data: Any = getattr(datasets, type(self).__name__)(str(folder), train=train, download=False)
        return Samples(torch.from_numpy(data.data).permute(0, 3, 1, 2), torch.tensor(data.targets))


@spec
class CIFAR100(CIFAR10):
    """Small photographs of 100 things: 50,000 train and 10,000 test images, colour, 32x32. Krizhevsky 2009.

    The files are the "python version": checked against the published MD5 sums before they are unpickled.
    """

    home: ClassVar[str] = "cifar-100-python"
    files: ClassVar[tuple[str, ...]] = ("train", "test", "meta")

    _: KW_ONLY
    mean: tuple[float, ...] = (0.5071, 0.4865, 0.4409)
    """per channel, of images in [0, 1]"""
    std: tuple[Positive, ...] = (0.2673, 0.2564, 0.2762)
    """per channel, of images in [0, 1]"""

    @property
    def labels(self) -> tuple[str, ...]:
        """The things, by name."""
        return _THINGS


_THINGS = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
    "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair",
    "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin",
    "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp",
    "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck",
    "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television",
    "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)  # fmt: skip
