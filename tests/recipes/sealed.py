"""A task whose test split raises when it is touched, and a stage that fails at will: for sweeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch

from compress.session import Sees, Session
from compress.stage import Stage, State
from teachers.spec import Field, spec
from teachers.task import Batch, HandedOn, Split
from teachers.tasks import Toy


class _Sealed(HandedOn):
    def _look(self, split: Split) -> None:
        if split is Split.TEST:
            raise AssertionError("test was touched")

    def samples(self, split: Split) -> int:
        """Of train and val."""
        self._look(split)
        return super().samples(split)

    def steps(self, split: Split) -> int:
        """Of train and val."""
        self._look(split)
        return super().steps(split)

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Of train and val."""
        self._look(split)
        return super().batches(split, device, generator)


@spec
class Sealed(Toy):
    """Toy, but nobody may look at test."""

    def open(self, folder: Path | None) -> Any:
        """Train and val as they are."""
        return _Sealed(super().open(folder))


@spec
class Halve(Stage):
    """Shrinks all weights, by a factor of 1 - `by`; refuses where `by` + `more` is above 1."""

    sees: ClassVar[Sees] = Sees.NOTHING
    by: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """by how much"""
    more: Annotated[float, Field(ge=0, le=1)] = 0.0
    """what is added to it"""
    epochs: Annotated[int, Field(ge=1)] = 1
    """how often it says so"""
    way: str = "all"
    """a word"""

    def __call__(self, state: State, session: Session) -> State:
        """Shrink a copy."""
        if self.by + self.more > 1:
            raise ValueError(f"{self.by:g} and {self.more:g} are more than all")
        draft = state.draft()
        with torch.no_grad():
            for weight in draft.parameters():
                weight.mul_(1 - self.by - self.more)
        for epoch in session.epochs(self.epochs, draft=draft):
            session.log({"by": self.by}, epoch)
        return replace(state, student=draft.eval())
