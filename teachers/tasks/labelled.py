"""What all tasks share that give every sample one label: how an answer is read, and judged."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from teachers.task import Task


class Labelled(Task):
    """One label a sample, judged by the share of right answers."""

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """The names of the classes in the order of the network's outputs."""

    def predict(self, outputs: Tensor) -> Tensor:
        """The label with the largest output: (n, classes) -> (n,)."""
        return outputs.argmax(dim=1)

    def score(self, predictions: Tensor, targets: Tensor) -> float:
        """Accuracy."""
        return float((predictions == targets).double().mean())

    @property
    def chance(self) -> float:
        """One out of the number of classes."""
        return 1 / self.signature().classes
