"""Segmentation: a class for every pixel, judged by the mean intersection over union."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.task import Split, Task
from teachers.tasks.decode import decoded, image_files, some
from teachers.tasks.images import Positive, a_number_each
from teachers.tasks.pixels import IGNORED, VOID, Masks, PixelSplits
from teachers.tasks.splits import stratified

Side = Annotated[int, Field(ge=1)]


@spec
class Segmentation(Task):
    """Images of one size, with a class for every pixel; pixels that belong to none are void, and not judged.

    Networks are taught on crops and mirrored images, and judged on whole ones.
    """

    metric = "mIoU"

    _: KW_ONLY
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """per channel, of images in [0, 1]; ImageNet's by default"""
    std: tuple[Positive, ...] = (0.229, 0.224, 0.225)
    """per channel, of images in [0, 1]; ImageNet's by default"""
    crop: tuple[Side, Side] | None = None
    """height and width of the windows that train images are cut to; None takes them whole"""
    flip: bool = True
    """train images are mirrored left to right, half of the time"""
    batch: Annotated[int, Field(ge=1)] = 16
    """images per batch of train"""
    evaluation: Annotated[int, Field(ge=1)] = 16
    """images per batch of val and test"""
    val: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """the share of train that is held out to choose by, where there is no val of its own"""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """of the choice of that share"""

    def __post_init__(self) -> None:
        channels, height, width = self.shape
        name = type(self).__name__
        a_number_each(name, channels, self.mean, self.std)
        if self.crop is not None and (self.crop[0] > height or self.crop[1] > width):
            raise ValueError(
                f"{name} cannot cut windows of {self.crop[0]}x{self.crop[1]} out of images of {height}x{width}"
            )

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of whole images."""

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """The names of the classes in the order of the network's outputs."""

    @abstractmethod
    def read(self, folder: Path | None) -> dict[Split, Masks]:
        """Train and test, and val where the data has its own. Raises ValueError with what is missing."""

    def signature(self) -> Signature:
        """One image in, one number per label and pixel out."""
        return Signature((self.shape,), self.labels, self.mean, self.std)

    def open(self, folder: Path | None) -> PixelSplits:
        """Read everything into memory; val is held out of train where there is none."""
        parts = self.read(folder)
        if Split.VAL not in parts:
            train = parts[Split.TRAIN]
            taught, held = stratified(
                torch.zeros(len(train.images), dtype=torch.long), self.val, self.split_seed
            )
            parts = {
                **parts,
                Split.TRAIN: Masks(*(part[taught] for part in train)),
                Split.VAL: Masks(*(part[held] for part in train)),
            }
        return PixelSplits(
            parts,
            mean=self.mean,
            std=self.std,
            batch=self.batch,
            evaluation=self.evaluation,
            crop=self.crop,
            flip=self.flip,
        )

    def predict(self, outputs: Tensor) -> Tensor:
        """The label with the largest output, pixel by pixel: (n, classes, h, w) -> (n, h, w)."""
        return outputs.argmax(dim=1)

    def score(self, predictions: Tensor, targets: Tensor) -> float:
        """The mean intersection over union (`mean_iou`)."""
        return mean_iou(predictions, targets, len(self.labels))

    @property
    def chance(self) -> float:
        """One out of the number of classes: more is not to be had by naming one class everywhere."""
        return 1 / len(self.labels)


def mean_iou(predictions: Tensor, targets: Tensor, classes: int) -> float:
    """The mean over classes of  |predicted and true| / |predicted or true|,  over all pixels together.

    Classes that are neither predicted nor true anywhere are left out; pixels whose target is IGNORED do not count.
    Shapes: both (n, ...), integers. 0 where no pixel counts.
    """
    judged = targets != IGNORED
    pairs = targets[judged].long() * classes + predictions[judged].long()
    table = torch.bincount(pairs, minlength=classes * classes).view(classes, classes).double()
    both, either = table.diag(), table.sum(0) + table.sum(1) - table.diag()
    there = either > 0
    return float((both[there] / either[there]).mean()) if bool(there.any()) else 0.0


@spec
class SegmentationFolder(Segmentation):
    """Images and their labels in folders: `<path>/{train,test}/<name>.jpg`, `<path>/{train,test}annot/<name>.png`.

    The labels are one-channel images (or with a palette) whose values are the numbers of the classes. A `val` and
    `valannot` beside them is used where it is there. Images of another size are cut in the middle to the shape of
    `size` and scaled, labels to the nearest.
    """

    path: str
    """below the data folder, or absolute"""
    size: tuple[Side, Side]
    """height and width of whole images, in pixels"""
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=VOID)]
    """the names of the classes, in the order of their numbers"""
    _: KW_ONLY
    void: tuple[Annotated[int, Field(ge=0, le=255)], ...] = (VOID,)
    """values in the label images that belong to no class"""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of whole images."""
        return (3, *self.size)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, as the page gives them."""
        return self.classes

    def read(self, folder: Path | None) -> dict[Split, Masks]:
        """Find, check and decode. Raises ValueError naming the folder, files or labels that are wrong."""
        if folder is None and not Path(self.path).is_absolute():
            raise ValueError(
                f"{type(self).__name__} '{self.path}' lies below the data folder, and none is set: name it"
            )
        root = (folder or Path()) / self.path
        splits = [Split.TRAIN, Split.TEST, *([Split.VAL] if (root / "val").is_dir() else [])]
        for split in splits:
            for kind in (split.value, f"{split.value}annot"):
                if not (root / kind).is_dir():
                    raise ValueError(
                        f"{root / kind} is not there: put images at {root}/{split.value}/<name>.jpg and their "
                        f"labels at {root}/{split.value}annot/<name>.png"
                    )
        return {split: self._masks(root, split.value) for split in splits}

    def _masks(self, root: Path, split: str) -> Masks:
        images, labels = image_files(root / split), image_files(root / f"{split}annot")
        names = [{Path(file.path).stem for file in files} for files in (images, labels)]
        if alone := sorted(names[0] ^ names[1]):
            raise ValueError(
                f"each image in {root / split} needs its labels in {split}annot by the same name, and each of those "
                f"its image; alone: {some(alone)}"
            )
        if len(images) < 2:
            raise ValueError(f"{root / split} needs at least 2 images, and has {len(images)}")
        pixels = decoded(images, self.size, 3, root, split)
        values = decoded(labels, self.size, 1, root, f"{split}annot", labels=True)[..., 0]
        known = torch.full((256,), -1, dtype=torch.int16)
        known[: len(self.classes)] = torch.arange(len(self.classes), dtype=torch.int16)
        known[list(self.void)] = VOID
        strange = [v for v in values.unique().tolist() if known[v] < 0]
        if strange:
            raise ValueError(
                f"the labels in {root}/{split}annot hold {some(map(str, strange))}, which are neither one of "
                f"{len(self.classes)} classes (0 to {len(self.classes) - 1}) nor void ({some(map(str, self.void))})"
            )
        return Masks(pixels, known[values.int()].to(torch.uint8))


@spec
class CamVid(SegmentationFolder):
    """Street scenes from a car, 11 classes: 367 train, 101 val and 233 test images, in SegNet's layout.

    Source: Brostow et al. 2009; Badrinarayanan et al. 2015 (the split and the classes).
    """

    path: str = "camvid"
    """below the data folder, or absolute"""
    size: tuple[Side, Side] = (240, 320)
    """height and width of whole images, in pixels"""
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=VOID)] = (
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    )  # fmt: skip
    """the names of the classes, in the order of their numbers"""
    _: KW_ONLY
    void: tuple[Annotated[int, Field(ge=0, le=255)], ...] = (11,)
    """values in the label images that belong to no class"""
    crop: tuple[Side, Side] | None = (128, 128)
    """height and width of the windows that train images are cut to; None takes them whole"""


@spec
class Shapes(Segmentation):
    """Discs and squares before a grey ground, three classes, made on the spot: for trying things out, and for tests.

    Each image holds one of each, of a random place and size, in red and green shades; noise lies over everything.
    """

    size: Annotated[int, Field(ge=16, multiple_of=8)] = 32
    """height and width in pixels"""
    samples: Annotated[int, Field(ge=4)] = 240
    """images in train, val included, and as many in test"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of places, sizes and noise"""
    _: KW_ONLY
    noise: Annotated[float, Field(ge=0)] = 0.1
    """standard deviation of the noise, of images in [0, 1]"""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (3, self.size, self.size)

    @property
    def labels(self) -> tuple[str, ...]:
        """Ground, disc and square."""
        return ("ground", "disc", "square")

    def read(self, folder: Path | None) -> dict[Split, Masks]:
        """Make the images; `folder` is not looked at."""
        generator = torch.Generator().manual_seed(self.seed)
        return {split: self._draw(generator) for split in (Split.TRAIN, Split.TEST)}

    def _draw(self, generator: torch.Generator) -> Masks:
        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(self.samples, 1, 1, generator=generator)

        side = torch.arange(self.size) + 0.5
        down, right = side[None, :, None], side[None, None, :]
        labels = torch.zeros(self.samples, self.size, self.size, dtype=torch.uint8)
        images = uniform(0.3, 0.7)[..., None].expand(-1, self.size, self.size, 3).clone()
        for label in (1, 2):
            radius = uniform(self.size / 8, self.size / 4)
            y, x = (
                (down - uniform(0.25 * self.size, 0.75 * self.size)).abs(),
                (right - uniform(0.25 * self.size, 0.75 * self.size)).abs(),
            )
            inside = (y.square() + x.square()).sqrt() < radius if label == 1 else torch.maximum(y, x) < radius
            labels[inside] = label
            shade = torch.cat([uniform(0.0, 0.3), uniform(0.0, 0.3), uniform(0.0, 0.3)], 2)
            shade[..., label - 1 : label] = uniform(0.6, 1.0)
            images = torch.where(inside[..., None], shade[:, :, None, :], images)
        images = images + self.noise * torch.randn(images.shape, generator=generator)
        return Masks(images.clamp(0, 1).mul(255).round().to(torch.uint8), labels)
