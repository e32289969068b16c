"""Accuracy against seconds while a stage works: for the curves of benchmarks, nothing is chosen by it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from compress.session import Session, Stateful


class Watching(Session):
    """A session that scores the student after every few epochs, and leaves the time that this takes out of account.

    judge   what scores it
    every   how many epochs lie between two looks; the last is always looked at
    curve   (CPU seconds, score) so far
    """

    def __init__(self, judge: Callable[[nn.Module], float], every: int = 1, **more: Any) -> None:
        super().__init__(**more)
        self.judge, self.every = judge, every
        self.curve: list[tuple[float, float]] = []
        self._aside, self._start = 0.0, time.process_time()

    @property
    def spent(self) -> float:
        """CPU seconds so far, all threads together, but for looking."""
        return time.process_time() - self._start - self._aside

    def epochs(self, total: float, **keep: Stateful) -> Iterator[int]:
        """As always, and a look at the student."""
        for epoch in super().epochs(total, **keep):
            yield epoch
            student = keep.get("student")
            if isinstance(student, nn.Module) and ((epoch + 1) % self.every == 0 or epoch + 1 >= total):
                at, before = self.spent, time.process_time()
                training = student.training
                self.curve.append((round(at, 1), self.judge(student)))
                student.train(training)
                self._aside += time.process_time() - before
