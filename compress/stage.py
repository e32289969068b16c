"""The protocol of a method: State in, State out, at a Session's bench, seeing no more than it says."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from compress.amalgamation import Amalgamation
from compress.forecast import Feed, Forecast
from compress.session import Sees, Session
from teachers.sealed import refuse_sealed
from teachers.signature import Signature
from teachers.teacher import Teacher

__all__ = ["Ranking", "Sees", "Stage", "State"]


@dataclass(frozen=True)
class Ranking:
    """Whom to trust: the teachers' names, best first, each with its score.

    by         what the score is, in words
    target     the network that they were compared with, if any
    parts      what the score is made of, by name: V and E for DEPARA
    low, high  ends of each score's 95 % interval under resampling of the probe; empty where none was made
    first      in which share of the resamples each came out first
    stability  how well two halves of the probe agree on the order: Spearman, a mean over resamples
    models, similarity   all networks that were compared, the target among them, and the score of every two
    """

    names: tuple[str, ...]
    scores: tuple[float, ...]
    by: str = "score"
    target: str | None = None
    parts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    first: tuple[float, ...] = ()
    stability: float | None = None
    models: tuple[str, ...] = ()
    similarity: tuple[tuple[float, ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back equal."""
        return {**vars(self), "parts": dict(self.parts)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, and JSON made lists of."""
        made: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        parts = {name: tuple(values) for name, values in data["parts"].items()}
        made["similarity"] = tuple(tuple(row) for row in data["similarity"])
        return cls(**{**made, "parts": parts})


@dataclass(frozen=True)
class State:
    """What stages hand on: who may be asked, what is being made, and whom to trust."""

    teachers: tuple[Teacher, ...]
    student: nn.Module | None = None
    ranking: Ranking | None = None
    generated: Tensor | None = None
    """(n, ...) inputs that a stage made without having seen any: `compress.Generate`, `compress.Sobol`"""
    target: Teacher | None = None
    """a network for the task at hand that others were compared with: `compress.DEPARA`"""
    freeze: tuple[str, ...] = ()
    """layers and weights of the student that are not to be learned anew: `compress.SelectLayer`"""
    amalgamation: Amalgamation | None = None
    """how the answers of several teachers were put together: `compress.Amalgamate`"""

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
        """A copy to work on, of the student so far or else of the only teacher, all of it trainable.

        Raises ValueError where that is a program of torch.export, in which nothing can be changed.
        """
        source = self.student if self.student is not None else self.teacher().module
        refuse_sealed(source, self.teachers[0].name if self.teachers else "the student")
        draft = copy.deepcopy(source)
        # A checkpoint frozen by its owner is pruned and trained all the same: the copy is ours.
        return draft.requires_grad_(True)


class Stage(ABC):
    """One step of a recipe: a spec (`teachers.spec`) of hyperparameters that maps State to State.

    A stage leaves what it is given untouched: it works on `state.draft()` or a fresh network and returns a
    new State (`dataclasses.replace`). It proves its work: a stage that would change nothing raises ValueError.
    """

    sees: ClassVar[Sees]
    chooses: ClassVar[bool] = False
    """whether it leaves a ranking and fewer teachers, and no student"""

    @abstractmethod
    def __call__(self, state: State, session: Session) -> State:
        """Do the work."""

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """What it would do with such a state, for a task of that signature, without doing it.

        Raises ValueError where it could not. A stage that does not say so itself is told of by what its `plan`
        says, if it has one, and is taken to leave a network as large as came in.
        """
        say = getattr(self, "plan", None)
        lines = tuple(map(str, say(state, signature))) if say is not None else ()
        alone = len(state.teachers) == 1
        kept = replace(state, student=state.draft()) if state.student is not None or alone else state
        return Forecast(kept, lines, follows="training")
