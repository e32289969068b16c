"""The protocol of a method: State in, State out, at a Session's bench, seeing no more than it says."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from compress.session import Sees, Session
from teachers.teacher import Teacher

__all__ = ["Ranking", "Sees", "Stage", "State"]


@dataclass(frozen=True)
class Ranking:
    """Whom to trust: the teachers' names, best first, each with its score."""

    names: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class State:
    """What stages hand on: who may be asked, what is being made, and whom to trust."""

    teachers: tuple[Teacher, ...]
    student: nn.Module | None = None
    ranking: Ranking | None = None
    generated: Tensor | None = None
    """(n, ...) inputs that a stage made without having seen any: `compress.Generate`, `compress.Sobol`"""

    def teacher(self) -> Teacher:
        """The only teacher. Raises ValueError where there are several, and says how to choose."""
        if len(self.teachers) != 1:
            names = ", ".join(teacher.name for teacher in self.teachers) or "none"
            raise ValueError(
                f"this stage asks one teacher, but {len(self.teachers)} are in the room ({names}): "
                "name one on the page, or put a stage before it that chooses"
            )
        return self.teachers[0]

    def draft(self) -> nn.Module:
        """A copy to work on, of the student so far or else of the only teacher, all of it trainable."""
        source = self.student if self.student is not None else self.teacher().module
        draft = copy.deepcopy(source)
        # A checkpoint frozen by its owner is pruned and trained all the same: the copy is ours.
        return draft.requires_grad_(True)


class Stage(ABC):
    """One step of a recipe: a spec (`teachers.spec`) of hyperparameters that maps State to State.

    A stage leaves what it is given untouched: it works on `state.draft()` or a fresh network and returns a
    new State (`dataclasses.replace`). It proves its work: a stage that would change nothing raises ValueError.
    """

    sees: ClassVar[Sees]

    @abstractmethod
    def __call__(self, state: State, session: Session) -> State:
        """Do the work."""
