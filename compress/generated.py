"""Generated inputs as what a stage learns from, in place of the task's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from compress.session import Sees, Session
from compress.stage import State
from teachers.task import Batch, Split, Splits


class Generated(Splits):
    """Inputs that a stage made, as a train split: `batch` of them at a time, shuffled, never altered."""

    def __init__(self, inputs: Tensor, batch: int = 128) -> None:
        self.inputs, self.batch = inputs, min(batch, len(inputs))

    def samples(self, split: Split) -> int:
        """All of them are train."""
        return len(self.inputs) if split is Split.TRAIN else 0

    def steps(self, split: Split) -> int:
        """Whole batches only, where there is one."""
        return self.samples(split) // self.batch

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """One pass, shuffled where a generator is given."""
        order = torch.arange(len(self.inputs))
        if generator is not None:
            order = torch.randperm(len(self.inputs), generator=generator)
        for step in range(self.steps(split)):
            rows = order[step * self.batch : (step + 1) * self.batch]
            yield Batch((self.inputs[rows.to(self.inputs.device)].float().to(device),), rows=rows)


class UnlessGenerated:
    """What a stage sees: on the class, and on a stage that is not `generated`, inputs; on one that is, nothing."""

    def __get__(self, stage: Any, owner: type | None = None) -> Sees:
        return Sees.NOTHING if stage is not None and stage.generated else Sees.INPUTS


def feed(state: State, session: Session, generated: bool) -> None:
    """Let a stage learn from the inputs in `state`, where it is `generated`, in place of the task's.

    Raises ValueError where there are none.
    """
    if generated:
        session.feed(Generated(made(state, session)))


def made(state: State, session: Session) -> Tensor:
    """The generated inputs in `state`. Raises ValueError where there are none."""
    if state.generated is None:
        raise ValueError(
            f"{session.name} is to learn from generated inputs, and no stage before it made any: put compress.Generate "
            "in front, or set generated to false"
        )
    return state.generated
