"""A part of a task: the same images, some of the labels; what a teacher of a part was taught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from torch import Tensor

from teachers.labels import LabelSpace
from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.task import Splits, Task
from teachers.tasks.derived import Derived
from teachers.tasks.images import Images
from teachers.tasks.scoring import Scored
from teachers.tasks.segmentation import Segmentation, mean_iou


@spec
class Subset(Task):
    """The samples of a task that have one of these labels; what is train, val and test there is so here.

    Where every pixel has a label, pixels of other labels are void. Where a sample may have several labels, all samples
    stay, and answers are asked about these labels alone.
    """

    of: Task
    """the whole: images, segmentation, or images with several labels"""
    keep: Annotated[tuple[str, ...], Field(min_length=1)]
    """the labels that stay, in the order of the network's outputs"""

    def __post_init__(self) -> None:
        if not isinstance(self.of, Images | Derived | Segmentation | Scored):
            raise ValueError(
                f"Subset keeps labels of images, with one label each, several, or one a pixel, not of a "
                f"{type(self.of).__name__}"
            )
        self._places()
        if len(self.keep) == 1 and self.of.signature().kind == "softmax":
            raise ValueError(
                f"Subset keeps one label, {self.keep[0]!r}, and there is nothing to tell it from: keep two at least"
            )

    @property
    def metric(self) -> str:  # type: ignore[override]
        """That of the whole."""
        return self.of.metric

    def signature(self) -> Signature:
        """That of the whole, with these labels."""
        return replace(self.of.signature(), labels=self.keep)

    def open(self, folder: Path | None) -> Splits:
        """Open the whole, and leave out what is not kept."""
        assert isinstance(self.of, Images | Derived | Segmentation | Scored)
        return self.of.open(folder).narrowed(self._places())

    def predict(self, outputs: Tensor) -> Tensor:
        """As the whole does."""
        return self.of.predict(outputs)

    def score(self, predictions: Tensor, targets: Tensor) -> float:
        """As the whole does, over these labels."""
        if isinstance(self.of, Segmentation):
            return mean_iou(predictions, targets, len(self.keep))
        return self.of.score(predictions, targets)

    @property
    def chance(self) -> float:
        """One out of the number of labels; where a sample may have several, that of the whole."""
        return 1 / len(self.keep) if self.signature().kind == "softmax" else self.of.chance

    def _places(self) -> tuple[int, ...]:
        whole = LabelSpace(self.of.signature().labels, type(self.of).__name__)
        return LabelSpace(self.keep, "Subset").index_map(whole)
