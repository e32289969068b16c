"""Point clouds: objects by points of their surface, in ModelNet's layout, and digits by the pixels with most ink."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.task import Batch, Split, Splits
from teachers.tasks.decode import keep, recall, some
from teachers.tasks.labelled import Labelled
from teachers.tasks.splits import steps_of, stratified

MODELNET40 = (
    "airplane", "bathtub", "bed", "bench", "bookshelf", "bottle", "bowl", "car", "chair", "cone", "cup", "curtain",
    "desk", "door", "dresser", "flower_pot", "glass_box", "guitar", "keyboard", "lamp", "laptop", "mantel", "monitor",
    "night_stand", "person", "piano", "plant", "radio", "range_hood", "sink", "sofa", "stairs", "stool", "table",
    "tent", "toilet", "tv_stand", "vase", "wardrobe", "xbox",
)  # fmt: skip


class Clouds(NamedTuple):
    """Points (clouds, points, numbers a point) as float32, and the clouds' labels."""

    points: Tensor
    labels: Tensor


@spec
class PointClouds(Labelled):
    """Clouds of as many points each, one label a cloud. A network is called with (batch, points, numbers a point)."""

    _: KW_ONLY
    points: Annotated[int, Field(ge=2)] = 1024
    """of each cloud"""
    batch: Annotated[int, Field(ge=1)] = 32
    """clouds per batch of train"""
    evaluation: Annotated[int, Field(ge=1)] = 32
    """clouds per batch of val and test"""
    augment: bool = True
    """clouds of train are stretched by 2/3 to 3/2 along each axis and shifted by up to 0.2"""
    val: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """the share of train that is held out to choose by"""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """of the choice of that share"""

    @abstractmethod
    def read(self, folder: Path | None) -> tuple[Clouds, Clouds]:
        """All of train (val not yet held out) and of test. Raises ValueError with what is missing."""

    def signature(self) -> Signature:
        """One cloud in, one number per label out."""
        return Signature(((self.points, 3),), self.labels)

    def open(self, folder: Path | None) -> Splits:
        """Read everything into memory, and hold val out of train."""
        train, test = self.read(folder)
        taught, held = stratified(train.labels, self.val, self.split_seed)
        parts = {
            Split.TRAIN: Clouds(train.points[taught], train.labels[taught]),
            Split.VAL: Clouds(train.points[held], train.labels[held]),
            Split.TEST: test,
        }
        return CloudSplits(parts, self.batch, self.evaluation, self.augment)


class CloudSplits(Splits):
    """Clouds in memory. A shuffled pass over train drops its last batch where that is smaller than the others."""

    def __init__(self, parts: dict[Split, Clouds], batch: int, evaluation: int, augment: bool) -> None:
        self._parts, self._augment = parts, augment
        self._size = {Split.TRAIN: batch, Split.VAL: evaluation, Split.TEST: evaluation}

    def samples(self, split: Split) -> int:
        """How many clouds the split holds."""
        return len(self._parts[split].labels)

    def steps(self, split: Split) -> int:
        """How many batches one pass takes: shuffled over train, in order over val and test."""
        return steps_of(self.samples(split), self._size[split], split)

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """One pass, as `Splits.batches` says."""
        (points, labels), size = self._parts[split], self._size[split]
        rows = torch.arange(len(labels))
        if generator is not None:
            rows = rows[torch.randperm(len(rows), generator=generator)]
        steps = self.steps(split) if generator is not None else -(-len(rows) // size)
        for step in range(steps):
            chosen = rows[step * size : (step + 1) * size]
            clouds = points[chosen]
            if generator is not None and split is Split.TRAIN and self._augment:
                stretch, shift = torch.rand((2, len(clouds), 1, 3), generator=generator)
                clouds = clouds * (2 / 3 + stretch * (3 / 2 - 2 / 3)) + 0.4 * (shift - 0.5)
            yield Batch((clouds.to(device),), labels[chosen].to(device), rows=chosen)


@spec
class ModelNet(PointClouds):
    """Objects as meshes, `<path>/<class>/{train,test}/<name>.off`: points drawn evenly from their surface, once.

    A cloud has its centre at 0 and its farthest point at distance 1. What was drawn is kept beside the meshes in
    `.decoct-cache`, where that can be written. Source: Wu et al. 2015.
    """

    path: str = "modelnet40"
    """below the data folder, or absolute"""
    classes: Annotated[tuple[str, ...], Field(min_length=2)] = MODELNET40
    """the names of the class folders, in the order of the network's outputs"""

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, as the page gives them."""
        return self.classes

    def read(self, folder: Path | None) -> tuple[Clouds, Clouds]:
        """Find the meshes and draw. Raises ValueError naming the class or the files that are wrong."""
        if folder is None and not Path(self.path).is_absolute():
            raise ValueError(f"ModelNet '{self.path}' lies below the data folder, and none is set: name it")
        root = (folder or Path()) / self.path
        train, test = (self._clouds(root, split) for split in ("train", "test"))
        return train, test

    def _clouds(self, root: Path, split: str) -> Clouds:
        files = [sorted((root / name / split).glob("*.off")) for name in self.classes]
        least = 2 if split == "train" else 1
        if few := [
            f"{name} ({len(of)})" for name, of in zip(self.classes, files, strict=True) if len(of) < least
        ]:
            raise ValueError(
                f"each class needs at least {least} meshes at {root}/<class>/{split}/<name>.off; too few: {some(few)}"
            )
        labels = torch.repeat_interleave(torch.arange(len(files)), torch.tensor([len(of) for of in files]))
        every = [file for of in files for file in of]
        told = "\n".join(
            f"{file.relative_to(root)} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in every
        )
        prefix = f"{split}-{self.points}-points-"
        cache = (
            root / ".decoct-cache" / f"{prefix}{hashlib.sha256(told.encode()).hexdigest()[:16]}.safetensors"
        )
        shape = (len(every), self.points, 3)
        points = recall(cache, shape, torch.float32)
        if points is None:
            points = torch.from_numpy(np.stack([_drawn(file, self.points) for file in every]))
            keep(cache, prefix, points)
        return Clouds(points, labels)


def _drawn(file: Path, count: int) -> Any:
    """Points spread evenly over the surface of a mesh, always the same: (count, 3), float32."""
    try:
        corners, faces = off(file.read_text(encoding="utf-8"))
    except (ValueError, IndexError, UnicodeDecodeError) as problem:
        raise ValueError(f"{file} is no mesh in OFF format: {problem}") from problem
    a, b, c = (corners[faces[:, side]] for side in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    if not area.sum() > 0:
        raise ValueError(f"{file} has no surface to draw points from")
    dice = np.random.default_rng(int(hashlib.sha256(file.name.encode()).hexdigest()[:8], 16))
    chosen = dice.choice(len(area), count, p=area / area.sum())
    u, v = dice.random((2, count, 1))
    over = u + v > 1  # folded back into the triangle
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    points = a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
    points -= points.mean(0)
    return (points / max(np.linalg.norm(points, axis=1).max(), 1e-12)).astype(np.float32)


def off(text: str) -> tuple[Any, Any]:
    """Corners (n, 3) and triangles (m, 3) of a mesh in OFF format; larger faces become fans of triangles."""
    words = " ".join(line.partition("#")[0] for line in text.splitlines()).split()
    if not words or not words[0].startswith("OFF"):
        raise ValueError("it does not begin with OFF")
    # In some files of ModelNet the first number stands right behind the word.
    words = ([words[0][3:]] if words[0] != "OFF" else []) + words[1:]
    corners, faces = int(words[0]), int(words[1])
    points = np.array(words[3 : 3 + 3 * corners], dtype=np.float64).reshape(corners, 3)
    triangles, at = [], 3 + 3 * corners
    for _ in range(faces):
        sides = int(words[at])
        face = [int(word) for word in words[at + 1 : at + 1 + sides]]
        triangles += [(face[0], face[side], face[side + 1]) for side in range(1, sides - 1)]
        at += 1 + sides
    found = np.array(triangles, dtype=np.int64).reshape(-1, 3)
    if found.size and not (found.min() >= 0 and found.max() < corners):
        raise ValueError(f"a face names a corner beyond the {corners} there are")
    return points, found


@spec
class DigitsCloud(PointClouds):
    """Scikit-learn's digits as clouds: of each the pixels with most ink, by place and ink. A fifth of each class
    tests.
    """

    _: KW_ONLY
    points: Annotated[int, Field(ge=2, le=64)] = 24
    """pixels of each digit"""
    augment: bool = False
    """clouds of train are stretched by 2/3 to 3/2 along each axis and shifted by up to 0.2"""

    @property
    def labels(self) -> tuple[str, ...]:
        """The digits."""
        return tuple("0123456789")

    def read(self, folder: Path | None) -> tuple[Clouds, Clouds]:
        """The digits are embedded: `folder` is not looked at."""
        from sklearn.datasets import load_digits  # a second and more, and only this task needs it

        data: Any = load_digits()
        ink = torch.from_numpy(data.data).float() / 16
        labels = torch.from_numpy(data.target).long()
        most = ink.argsort(dim=1, descending=True, stable=True)[:, : self.points]
        place = torch.stack([most % 8, torch.div(most, 8, rounding_mode="floor")], dim=2) / 3.5 - 1
        points = torch.cat([place, ink.gather(1, most).unsqueeze(2)], dim=2)
        rest, held = stratified(labels, 0.2, seed=0)
        return Clouds(points[rest], labels[rest]), Clouds(points[held], labels[held])
