"""Tables: rows of numbers, one label each; the data sets that come with scikit-learn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.task import Batch, Split, Splits
from teachers.tasks.labelled import Labelled
from teachers.tasks.splits import stratified


@spec
class Table(Labelled):
    """Rows of numbers, judged by the share of right answers; each column enters with mean 0 and deviation 1 over train.

    A fifth of each class, always the same, is the test split; val is held out of the rest.
    """

    _: KW_ONLY
    batch: Annotated[int, Field(ge=1)] = 32
    """rows per batch of train"""
    val: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """the share of train that is held out to choose by"""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """of the choice of that share"""

    @property
    @abstractmethod
    def width(self) -> int:
        """How many columns there are."""

    @abstractmethod
    def read(self, folder: Path | None) -> tuple[Tensor, Tensor]:
        """All rows (n, width), as they are, and their labels (n,). Raises ValueError with what is missing."""

    def signature(self) -> Signature:
        """One row in, one number per label out."""
        return Signature(((self.width,),), self.labels)

    def open(self, folder: Path | None) -> Splits:
        """Read everything into memory, and split it."""
        rows, labels = self.read(folder)
        taught, test = stratified(labels, 0.2, seed=0)
        kept, held = stratified(labels[taught], self.val, self.split_seed)
        return TableSplits(rows, labels, {
            Split.TRAIN: taught[kept], Split.VAL: taught[held], Split.TEST: test,
        }, self.batch)  # fmt: skip


@spec
class BreastCancer(Table):
    """569 biopsies, 30 measurements of cell nuclei each, malignant or benign: comes with scikit-learn."""

    @property
    def width(self) -> int:
        """The measurements."""
        return 30

    @property
    def labels(self) -> tuple[str, ...]:
        """What was found."""
        return ("malignant", "benign")

    def read(self, folder: Path | None) -> tuple[Tensor, Tensor]:
        """The rows are embedded: `folder` is not looked at."""
        from sklearn.datasets import load_breast_cancer  # a second and more, and only this task needs it

        data: Any = load_breast_cancer()
        return torch.from_numpy(data.data).float(), torch.from_numpy(data.target).to(torch.int64)


class TableSplits(Splits):
    """Rows in memory, in the mean and deviation of those in train.

    A shuffled pass over train drops its last batch where that is smaller than the others, unless it is the only one.
    """

    def __init__(self, rows: Tensor, labels: Tensor, splits: dict[Split, Tensor], batch: int) -> None:
        taught = rows[splits[Split.TRAIN]]
        self.mean, self.std = taught.mean(0), taught.std(0).clamp_min(1e-12)
        self._rows, self._labels = (rows - self.mean) / self.std, labels
        self._splits, self._batch = splits, batch

    def samples(self, split: Split) -> int:
        """How many rows the split holds."""
        return len(self._splits[split])

    def steps(self, split: Split) -> int:
        """How many batches one pass takes: shuffled over train, in order over val and test."""
        whole, rest = divmod(self.samples(split), self._batch)
        return max(whole, 1) if split is Split.TRAIN else whole + bool(rest)

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """One pass, as `Splits.batches` says."""
        chosen = self._splits[split]
        if generator is not None:
            chosen = chosen[torch.randperm(len(chosen), generator=generator)]
        steps = self.steps(split) if generator is not None else -(-len(chosen) // self._batch)
        for step in range(steps):
            some = chosen[step * self._batch : (step + 1) * self._batch]
            yield Batch((self._rows[some].to(device),), self._labels[some].to(device), rows=some)
