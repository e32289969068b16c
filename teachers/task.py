"""A task is data and judgement: where the samples come from, and how an answer is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from teachers.signature import Signature


class Split(Enum):
    """Train teaches, val chooses, test is read once, at the end, by the runner alone."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


Open = Literal[Split.TRAIN, Split.VAL]
"""The splits a stage may be handed: a type checker refuses `Split.TEST` where this is asked for."""


@dataclass(frozen=True)
class Part:
    """Which part of a task's graph a batch is: of the graph that all of the task's nodes and edges make together.

    nodes     (n,) their numbers; None where the batch is all of it
    edges     (e,) which edges lie between them; None where all do
    seeds     how many of the nodes, the first ones, the batch is about; the others are their surroundings
    complete  every node has all of its neighbours here, so that what is found for it holds in every pass
    whole     features and edges of the whole graph, where the batch is a part of it that was drawn
    """

    nodes: Tensor | None
    edges: Tensor | None
    seeds: int
    complete: bool
    whole: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Batch:
    """A few samples: `inputs` is what the network is called with, `target` the truth, where it may be seen.

    Of a graph: features (n, width) and edges (2, E), targets of all nodes in order, those below 0 (NaN, where several
    labels may hold) of nodes that belong to another split, and `part`. `part` is there where features never change.

    rows  (n,) which samples of the data these are, as whole numbers that tell the samples of a split apart; None where
          the data give them none
    """

    inputs: tuple[Tensor, ...]
    target: Tensor | None = None
    part: Part | None = None
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def unlabeled(self) -> Batch:
        """The same samples without the truth."""
        return replace(self, target=None)


class Splits(ABC):
    """A task's data, opened: in memory or at hand, split once and for all.

    notes  what was done to the data on the way, for the reader
    """

    notes: tuple[str, ...] = ()

    @abstractmethod
    def samples(self, split: Split) -> int:
        """How many samples the split holds."""

    @abstractmethod
    def steps(self, split: Split) -> int:
        """How many batches one pass over the split takes."""

    @abstractmethod
    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """One pass over the split, on `device`.

        With a generator (CPU) the samples come shuffled and, where the task augments and the split is TRAIN,
        augmented; every random number of it comes from that generator. Without one they come in order, as
        they are, the last batch possibly smaller.
        """


class HandedOn(Splits):
    """Another's splits as they are; a subclass changes what it overrides."""

    def __init__(self, splits: Splits) -> None:
        self._splits, self.notes = splits, splits.notes

    def samples(self, split: Split) -> int:
        """How many samples the split holds."""
        return self._splits.samples(split)

    def steps(self, split: Split) -> int:
        """How many batches one pass takes."""
        return self._splits.steps(split)

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """One pass, as `Splits.batches` says."""
        return self._splits.batches(split, device, generator)


class Task(ABC):
    """Data and judgement. Subclasses are specs (`teachers.spec`): cheap, comparable, without data inside."""

    metric: str = "accuracy"

    @abstractmethod
    def signature(self) -> Signature:
        """What a network for this task takes and gives."""

    @abstractmethod
    def open(self, folder: Path | None) -> Splits:
        """Read the data, from `folder` where it is not embedded. Raises ValueError with what is missing."""

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """Turn a network's outputs into answers."""

    @abstractmethod
    def score(self, predictions: Tensor, targets: Tensor) -> float:
        """How good the answers are, in [0, 1], higher is better."""

    @property
    def scores_one(self) -> bool:
        """Whether `score` says something of a single sample, as of one image's pixels, where answers are not one label.

        An area under a curve, or a precision over ranks, is of all samples together and of none by itself.
        """
        return self.metric in ("mIoU", "delta1", "worse_of_both", "micro_f1")

    @property
    @abstractmethod
    def chance(self) -> float:
        """The score of guessing: what a teacher must beat clearly before a run is spent on it."""
