"""Recalibration: batch-norm statistics measured anew, from unlabeled batches."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import islice
from typing import Annotated, ClassVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.forecast import Feed, Forecast
from compress.generated import UnlessGenerated, feed
from compress.moments import norms_of
from compress.session import Sees, Session
from compress.stage import Stage, State
from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.task import Batch


@spec
class Recalibrate(Stage):
    """Set every batch norm's running mean and variance to the plain average over a number of train batches.

    A cut changes what reaches a norm; its old statistics are then wrong, and putting them right costs only
    forward passes. No weight changes. Takes the student so far, leaves it with new statistics.
    """

    batches: Annotated[int, Field(ge=1)] = 50
    """how many batches to average over; passes over train as needed"""
    generated: bool = False
    """average over images that `Generate` made, and see nothing of the task"""

    sees: ClassVar[Sees] = UnlessGenerated()  # type: ignore[assignment]

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """The student as it came; the batches that go through it."""
        student = state.draft()
        norms = _norms(student)
        feed = feed.of(state, self.generated)
        return Forecast(
            replace(state, student=student),
            (f"measures {len(norms)} batch norms anew, on {self.batches} batches",),
            passes=(feed.through(student, self.batches),),
            batches=0 if self.generated else self.batches,
        )

    def __call__(self, state: State, session: Session) -> State:
        """Measure on a copy of the student. Raises ValueError where it has no batch norm with statistics."""
        feed(state, session, self.generated)
        student = session.place(state.draft())
        recalibrate(student, islice(endless(session), self.batches), session)
        return replace(state, student=student.eval())


@torch.no_grad()
def recalibrate(
    network: nn.Module, batches: Iterator[Batch], session: Session, but: Collection[str] = ()
) -> None:
    """Set the running statistics of `network` in place from `batches`; its other modules stay in eval mode.

    but  names of norms that stay as they are
    """
    norms = _norms(network, but)
    network.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative average
        norm.train()
    for batch in batches:
        with session.autocast():
            network(*batch.inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def endless(session: Session) -> Iterator[Batch]:
    """Passes over train, one after another."""
    while True:
        yield from session.batches()


def _norms(network: nn.Module, but: Collection[str] = ()) -> list[_BatchNorm]:
    """Those with running statistics. Raises ValueError where there is none."""
    norms = list(norms_of(network, but).values())
    if not norms:
        raise ValueError(
            f"{type(network).__name__} has no batch norm with running statistics: there is nothing to recalibrate"
        )
    return norms
