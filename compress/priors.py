"""What a teacher's own weights say about its inputs: losses that draw a generator to where it knows its way around."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from compress.hooks import Point, hooked
from compress.losses import imbalance, one_hot, statistics_gap
from compress.moments import norms_of
from teachers.teacher import Teacher


class Priors:
    """A weighted sum over a batch of images, by the teacher's answers and by what reaches its batch norms.

        batch_norm * statistics_gap + one_hot * one_hot + balance * imbalance          (`losses`)

    Raises ValueError where batch_norm has a weight and the teacher has no norm with running statistics.
    """

    def __init__(self, teacher: Teacher, batch_norm: float, one_hot: float, balance: float) -> None:
        self.batch_norm, self.one_hot, self.balance = batch_norm, one_hot, balance
        norms = norms_of(teacher.module)
        if batch_norm and not norms:
            raise ValueError(
                f"teacher {teacher.name!r} has no batch norm with running statistics: there is nothing that "
                "batch_norm could hold the images to. Leave it out, or give one_hot and balance a weight"
            )
        self.norms = list(norms.values()) if batch_norm else []
        self.network = teacher.module
        self.inputs = {name: Point(name, before=True) for name in norms if batch_norm}

    def __bool__(self) -> bool:
        return bool(self.batch_norm or self.one_hot or self.balance)

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """What goes into the teacher's batch norms meanwhile, where somebody wants to know."""
        seen: list[Tensor] = []
        with hooked(self.network, self.inputs, lambda _, value: seen.append(value)):
            yield seen

    def __call__(self, answers: Tensor, seen: list[Tensor]) -> Tensor:
        """The loss of images that got these answers, (n, K, ...) logits, and gave the norms what was `seen`."""
        total = answers.new_zeros(())
        if self.batch_norm:
            means: list[Any] = [norm.running_mean for norm in self.norms]
            variances: list[Any] = [norm.running_var for norm in self.norms]
            total = total + self.batch_norm * statistics_gap(seen, means, variances)
        if self.one_hot:
            total = total + self.one_hot * one_hot(answers)
        if self.balance:
            total = total + self.balance * imbalance(answers)
        return total
