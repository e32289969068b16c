"""How a student of several teachers is taught: one loop for every method and every source of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY
from typing import Annotated, Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from compress.session import Session, Stateful
from compress.stage import Stage
from teachers.spec import Field, spec
from teachers.task import Split
from teachers.train import cosine

Terms = Mapping[str, Tensor]
"""losses by name; those whose name begins with "~" are only told, and have no weight"""
Streams = Mapping[int, Tensor]
"""block -> a feature of the shape that this block gives, from elsewhere than the student"""


@spec
class Taught(Stage):
    """A stage that teaches a student by SGD with momentum, linear warm-up and cosine."""

    _: KW_ONLY
    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10
    """passes over train in which the whole student learns, the last of which may be a part of one"""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    """the highest learning rate, after the warm-up"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """of SGD, Nesterov's where it is above 0"""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """L2, on all parameters of the student"""
    warmup: Annotated[float, Field(ge=0)] = 0.3
    """epochs over which the learning rate rises; at most half of them are used"""
    adapter_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    """of Adam, for what only helps to learn: adapters, codes, filters"""


class Source(Protocol):
    """Where images come from."""

    def batches(self) -> Iterator[tuple[Tensor, Streams]]:
        """One epoch."""

    def held(self) -> Iterator[tuple[Tensor, Streams]]:
        """Images to choose by, that nothing is learned from."""

    def total_steps(self, epochs: float) -> int:
        """Batches in so many epochs."""

    def steps(self) -> int:
        """Batches in one."""


class Loaded:
    """The task's own images, without labels."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def batches(self) -> Iterator[tuple[Tensor, Streams]]:
        """A pass over train."""
        for batch in self.session.batches():
            yield batch.inputs[0], {}

    def held(self) -> Iterator[tuple[Tensor, Streams]]:
        """A pass over val."""
        for batch in self.session.batches(Split.VAL):
            yield batch.inputs[0], {}

    def total_steps(self, epochs: float) -> int:
        """As the session says."""
        return self.session.total_steps(epochs)

    def steps(self) -> int:
        """As the session says."""
        return self.session.steps()


class Course:
    """Phases of teaching, one after another; each is kept and resumed by itself."""

    def __init__(self, settings: Taught, session: Session, source: Source) -> None:
        self.settings, self.session, self.source = settings, session, source

    def phase(
        self,
        terms: Callable[[Tensor, Streams], Terms],
        epochs: float,
        learners: Sequence[nn.Module],
        helpers: Sequence[nn.Module] = (),
        *,
        name: str = "",
        lr: float | None = None,
        each: Callable[[], None] | None = None,
        more: Mapping[str, Stateful] | None = None,
    ) -> None:
        """Let `learners` (SGD) and `helpers` (Adam) take steps down the sum of `terms`, for so many epochs.

        Only these are in train mode and change. name  is put before what is told; each  is called before every step;
        more  is kept with them. Raises Diverged where a term is no longer finite.
        """
        if not epochs:
            return
        settings = self.settings
        total = self.source.total_steps(epochs)
        warmup = min(round(settings.warmup * self.source.steps()), total // 2)
        optimizers: list[torch.optim.Optimizer] = []
        if weights := [p for part in learners for p in part.parameters()]:
            optimizers.append(
                torch.optim.SGD(
                    weights, lr or settings.lr, settings.momentum, weight_decay=settings.weight_decay,
                    nesterov=settings.momentum > 0,
                )
            )  # fmt: skip
        if weights := [p for part in helpers for p in part.parameters()]:
            optimizers.append(torch.optim.Adam(weights, settings.adapter_lr))
        schedules: list[LRScheduler] = [cosine(optimizer, total, warmup) for optimizer in optimizers]
        parts = [*learners, *helpers]
        keep: dict[str, Stateful] = dict(more or {})
        for kind, things in (("part", parts), ("learn", optimizers), ("schedule", schedules)):
            keep |= {f"{kind}{number}": thing for number, thing in enumerate(things)}  # type: ignore[misc]
        for epoch in self.session.epochs(epochs, **keep):
            sums: dict[str, Tensor] = {}
            for part in parts:
                part.train()
            taken = 0
            for images, streams in self.source.batches():
                if each is not None:
                    each()
                with self.session.autocast():
                    found = terms(images, streams)
                loss = torch.stack([term for key, term in found.items() if not key.startswith("~")]).sum()
                for optimizer in optimizers:
                    optimizer.zero_grad()
                loss.backward()
                for optimizer in optimizers:
                    optimizer.step()
                for schedule in schedules:
                    schedule.step()
                taken += 1
                for key, term in found.items():
                    sums[key] = sums.get(key, torch.zeros_like(term)) + term.detach()
            told = {key.removeprefix("~"): value.item() / taken for key, value in sums.items()}
            self.session.log({f"{name}/{key}" if name else key: value for key, value in told.items()}, epoch)
        for part in parts:
            part.eval()
