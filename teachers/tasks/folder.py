"""Images in folders, one folder per class."""

import os
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Literal

import torch

from teachers.spec import Field, spec
from teachers.tasks.decode import SUFFIXES, File, decoded, image_files, some
from teachers.tasks.images import Images, Positive
from teachers.tasks.splits import Samples, stratified

Side = Annotated[int, Field(ge=1)]


@spec
class ImageFolder(Images):
    """Images of your own: `<data folder>/<path>/{train,test}/<class>/*.jpg` (or png, bmp, webp).

    Images of another size are cut in the middle to the shape of `size` and scaled (bilinear, antialiased).
    Without a test folder a share of every class is held out of train for it. Decoded images are kept in
    memory, and beside the data in `.decoct-cache`, where that can be written: the next opening takes no time.
    """

    path: str
    """below the data folder, or absolute"""
    size: tuple[Side, Side]
    """height and width of the network's input, in pixels"""
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    """the names of the class folders, in the order of the network's outputs"""
    _: KW_ONLY
    channels: Literal[1, 3] = 3
    """3 for colour, 1 for gray"""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """per channel, of images in [0, 1]; ImageNet's by default"""
    std: tuple[Positive, ...] = (0.229, 0.224, 0.225)
    """per channel, of images in [0, 1]; ImageNet's by default"""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """the share of each class that becomes the test split, where there is no test folder"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"ImageFolder: a class is named twice in {', '.join(self.classes)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (self.channels, *self.size)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, as the page gives them."""
        return self.classes

    def read(self, folder: Path | None) -> tuple[Samples, Samples]:
        """Find, check and decode. Raises ValueError naming the folder, class or files that are wrong."""
        if folder is None and not Path(self.path).is_absolute():
            raise ValueError(
                f"ImageFolder '{self.path}' lies below the data folder, and none is set: name it"
            )
        root = (folder or Path()) / self.path
        if not (root / "train").is_dir():
            raise ValueError(f"{root}/train is not there: put images at {root}/train/<class>/<name>.jpg")
        asked = (root / "test").is_dir()
        train = self._samples(root, "train", least=2 if asked else 3)
        if asked:
            return train, self._samples(root, "test", least=1)
        # By a fixed seed: another split_seed chooses another val, never another test.
        rest, held = stratified(train.labels, self.test, seed=0)
        return Samples(*(part[rest] for part in train)), Samples(*(part[held] for part in train))

    def _samples(self, root: Path, split: str, least: int) -> Samples:
        files = self._files(root / split, least)
        labels = torch.repeat_interleave(torch.arange(len(files)), torch.tensor([len(of) for of in files]))
        pixels = decoded([file for of in files for file in of], self.size, self.channels, root, split)
        return Samples(pixels.permute(0, 3, 1, 2), labels)

    def _files(self, folder: Path, least: int) -> list[list[File]]:
        """The files of a split, class by class. Raises ValueError where classes or images lack."""
        there = {
            entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")
        }
        if not there:
            raise ValueError(f"{folder} is empty: it needs a folder for each class: {some(self.classes)}")
        missing = [name for name in self.classes if name not in there]
        strange = sorted(there.difference(self.classes))
        if missing or strange:
            raise ValueError(
                f"the folders in {folder} are not the classes on the page: "
                + "; ".join(
                    f"{what} {some(names)}"
                    for what, names in (("not there:", missing), ("not on the page:", strange))
                    if names
                )
            )
        files = [image_files(folder / name) for name in self.classes]
        few = [f"{name} ({len(of)})" for name, of in zip(self.classes, files, strict=True) if len(of) < least]
        if few:
            raise ValueError(
                f"each class in {folder} needs at least {least} images ({', '.join(SUFFIXES)}), so that "
                f"every split has one; too few: {some(few)}"
            )
        return files
