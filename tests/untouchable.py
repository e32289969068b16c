"""Data that nobody may look at."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from teachers.task import Batch, Split, Splits


class Untouchable(Splits):
    """Data that raises when touched."""

    def samples(self, split: Split) -> int:
        """Raise."""
        raise AssertionError(f"{split.value} was counted")

    def steps(self, split: Split) -> int:
        """Raise."""
        raise AssertionError(f"{split.value} was counted")

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Raise."""
        raise AssertionError(f"{split.value} was read")
