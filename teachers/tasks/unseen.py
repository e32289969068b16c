"""A task whose data is gone, or may not leave: what the network takes and gives, and no sample of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

import torch

from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.task import Batch, Split, Splits
from teachers.tasks.images import Positive
from teachers.tasks.labelled import Labelled

Side = Annotated[int, Field(ge=1)]


@spec
class Unseen(Labelled):
    """Images that nobody has: for networks that are compressed with nothing but their own weights.

    Nothing can be scored: neither teacher nor student, and a run says so. `mean` and `std` are what the network was
    taught with; without them a generator has to guess.
    """

    shape: tuple[Side, Side, Side]
    """channels, height, width"""
    classes: Annotated[int, Field(ge=2)]
    """how many outputs there are"""
    _: KW_ONLY
    mean: tuple[float, ...] | None = None
    """per channel, of images in [0, 1]"""
    std: tuple[Positive, ...] | None = None
    """per channel, of images in [0, 1]"""
    labels: tuple[str, ...] = ()
    """names of the outputs, in order; without, they are numbered"""

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ValueError("Unseen takes mean and std together, or neither")
        for name in ("mean", "std"):
            given = getattr(self, name)
            if given is not None and len(given) != self.shape[0]:
                raise ValueError(
                    f"Unseen has {self.shape[0]} channels: {name} needs as many numbers, not {len(given)}"
                )
        if self.labels and len(self.labels) != self.classes:
            raise ValueError(f"Unseen has {self.classes} classes, but {len(self.labels)} labels")

    def signature(self) -> Signature:
        """One image in, one number per class out."""
        names = self.labels or tuple(str(number) for number in range(self.classes))
        return Signature((self.shape,), names, self.mean, self.std)

    def open(self, folder: Path | None) -> Splits:
        """Splits without samples; `folder` is not looked at."""
        return Nothing()


class Nothing(Splits):
    """No sample in any split."""

    def samples(self, split: Split) -> int:
        """None."""
        return 0

    def steps(self, split: Split) -> int:
        """Raises ValueError: who asks wants to learn from data."""
        raise ValueError(
            f"there is no {split.value} data: the task is Unseen. Stages that see nothing can be used: Generate, "
            "DFAD, KSE, Prune by weights, and those with generated: true"
        )

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Raises as `steps` does."""
        self.steps(split)
        yield Batch(())
