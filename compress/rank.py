"""Rank: which of several trained networks to start from, by any of the scores in `transfer_scores`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from compress import attribution
from compress import transfer_scores as scores
from compress.choosing import candidates, in_order, layers_of, narrowed, with_halves
from compress.forecast import Feed, Forecast, Pass, parts
from compress.probe import Preprocess, Probe, drawn
from compress.session import Sees, Session
from compress.stage import Ranking, Stage, State
from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.task import Split
from teachers.teacher import Teacher

OfAnswers = Literal["nce", "leep"]
OfFeatures = Literal["n_leep", "log_me", "h_score", "trans_rate", "parc", "knn_accuracy", "logistic_accuracy"]
OfTwo = Literal["rsa", "dds", "cka", "standardised_cka"]
OfTarget = Literal["predictability"]
_ANSWERS, _TWO = get_args(OfAnswers), get_args(OfTwo)
_FREE = (*_TWO, *get_args(OfTarget))


class LabelsIfNeeded:
    """What the stage sees: on the class, and on one whose score needs the task's labels, labels; else inputs."""

    def __get__(self, stage: Any, owner: type | None = None) -> Sees:
        free = stage is not None and (stage.by in _FREE or stage.labels == "target")
        return Sees.INPUTS if free else Sees.LABELS


@spec
class Rank(Stage):
    """Keep the teachers that score highest by one of the functions of `compress.transfer_scores`.

    Three kinds: "nce" and "leep" take a classifier's answers and labels; "n_leep", "log_me", "h_score", "trans_rate",
    "parc", "knn_accuracy" and "logistic_accuracy" take embeddings and labels; "rsa", "dds", "cka" and
    "standardised_cka" take embeddings and those of a network for the task at hand (`target`), "predictability"
    embeddings and that network's answers. Where no label is needed the stage sees inputs only.

    Takes several teachers, leaves a ranking and the best `keep`. Makes no student. Sources: at each function.
    """

    by: OfAnswers | OfFeatures | OfTwo | OfTarget
    """the score"""
    target: str | None = None
    """the teacher for the task at hand, if there is one: scores without labels compare with it; never a candidate"""
    labels: Literal["task", "target"] = "task"
    """whose labels a score that takes some is given: the task's, or what the target answers, and no label is seen"""
    keep: Annotated[int, Field(ge=1)] = 1
    """how many stay in the room, best first"""
    probe: Annotated[int, Field(ge=3)] = 500
    """samples that are asked about, at most"""
    per_class: Annotated[int, Field(ge=2)] | None = None
    """samples of every class, at most"""
    split: Literal["train", "val"] = "val"
    """where samples are drawn from; those of train come augmented"""
    embeddings: dict[str, str] = field(default_factory=dict)
    """by teacher, the module whose output is its embedding, where that is not `layer`"""
    layer: str = attribution.EMBEDDING
    """the module whose output is everyone's embedding; none is what the last layer takes in"""
    pool: Annotated[int, Field(ge=1)] | None = None
    """features that have pixels are averaged to so many a side; None leaves them as they are"""
    resamples: Annotated[int, Field(ge=0)] = 20
    """how often the samples are halved, to see how the scores spread; 0 gives no intervals"""

    sees = LabelsIfNeeded()  # type: ignore[assignment]
    chooses: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.target is None and (self.by in _FREE or self.labels == "target"):
            raise ValueError(
                f"Rank by {self.by} compares with a network for the task at hand: name it as target"
            )
        if self.by in _FREE and self.labels == "target":
            raise ValueError(
                f"Rank by {self.by} takes no labels, not those of the target either: leave labels out"
            )
        if self.sees is Sees.INPUTS and self.per_class is not None:
            raise ValueError(
                f"Rank by {self.by} sees no labels, and cannot draw so many per class: leave per_class out"
            )

    def plan(self, state: State, signature: Signature) -> list[str]:
        """Who is scored."""
        others, _ = candidates(state, self.target, self.keep, "Rank")
        layers_of(state.teachers, self.embeddings, "Rank", self.layer)
        return [
            f"scores {len(others)} networks by {self.by}, keeps {self.keep}: "
            + ", ".join(o.name for o in others)
        ]

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """Nobody is chosen; every network sees the probe once."""
        passes = tuple(
            Pass(t.module, parts(self.probe, 64), "nothing", 64, t.signature) for t in state.teachers
        )
        return Forecast(state, tuple(self.plan(state, signature)), passes=passes, batches=1)

    def __call__(self, state: State, session: Session) -> State:
        """Score. Raises ValueError where a score cannot be had: no labels, one label, a network without classes."""
        others, target = candidates(state, self.target, self.keep, "Rank")
        everyone = (*others, *([target] if target is not None else []))
        layers = layers_of(everyone, self.embeddings, "Rank", self.layer)
        probe, labels = drawn(session, self.probe, Split(self.split), self.per_class)
        if labels is None and self.sees is Sees.LABELS:
            raise ValueError(
                f"Rank by {self.by} needs labels, and its session shows none: {', '.join(_FREE)} and compress.DEPARA "
                "do without, and so does any score with the labels of a target"
            )
        given = [self._given(teacher, probe, layers[teacher.name], teacher is target) for teacher in everyone]
        if self.labels == "target":
            assert target is not None
            y = self._answers(target, probe, layers[target.name]).argmax(1)
        else:
            y = labels.numpy() if labels is not None and self.by not in _FREE else None
        rows = np.arange(len(probe))
        found = self._scores(
            given, y, rows, len(others), session.name, [teacher.name for teacher in everyone]
        )
        order = in_order(found)
        ranking = Ranking(
            tuple(others[place].name for place in order), tuple(found[place] for place in order), by=self.by,
            target=target.name if target is not None else None, **self._matrix(given, everyone),
        )  # fmt: skip
        if self.resamples:
            again = []
            generator = np.random.default_rng(session.generator.initial_seed())
            for _ in range(self.resamples):
                for half in halved(len(rows), y, generator):
                    part = self._scores(given, y, half, len(others), session.name, [t.name for t in everyone])
                    again.append([part[place] for place in order])
            ranking = with_halves(ranking, torch.tensor(again, dtype=torch.float64))
        session.note(f"{len(probe)} samples of {self.split} (sha256 {probe.hash[:8]}), by {self.by}")
        return narrowed(state, ranking, self.keep, target)

    def _given(self, teacher: Teacher, probe: Probe, layer: str, asked: bool) -> NDArray[Any]:
        """What the score takes of a network, the target if `asked`: its embeddings, or the probabilities it gives."""
        if self.by in _ANSWERS or (asked and self.by in get_args(OfTarget)):
            return self._answers(teacher, probe, layer)
        return self._seen(teacher, probe, layer)[0].numpy()

    def _seen(self, teacher: Teacher, probe: Probe, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        return attribution.embeddings(
            teacher.module, probe.images, layer, name=teacher.name, preprocess=Preprocess.of(teacher.signature),
            pool=self.pool,
        )  # fmt: skip

    def _answers(self, teacher: Teacher, probe: Probe, layer: str) -> NDArray[Any]:
        answers = self._seen(teacher, probe, layer)[1]
        if answers.dim() != 2 or answers.shape[1] < 2:
            raise ValueError(
                f"{teacher.name!r} gives {tuple(answers.shape[1:])} numbers a sample and no classes, which {self.by} "
                "needs: n_leep makes do with its embedding"
            )
        return answers.double().softmax(1).numpy()

    def _scores(
        self, given: Sequence[NDArray[Any]], y: NDArray[Any] | None, rows: NDArray[Any], count: int, stage: str,
        names: Sequence[str],
    ) -> list[float]:  # fmt: skip
        """The score of each candidate, the first `count`, on these rows."""
        score = getattr(scores, self.by)
        found = []
        for place in range(count):
            mine = given[place][rows]
            other = given[-1][rows] if self.by in _FREE else y[rows] if y is not None else None
            try:
                found.append(float(score(mine, other)))
            except ValueError as problem:
                half = (
                    " (on a half of the samples: resamples: 0 asks for none)"
                    if len(rows) < len(given[0])
                    else ""
                )
                raise ValueError(
                    f"{stage} cannot score {names[place]!r} by {self.by}: {problem}{half}"
                ) from problem
        return found

    def _matrix(self, given: Sequence[NDArray[Any]], everyone: Sequence[Teacher]) -> dict[str, Any]:
        """All networks with each other, target first, where the score is of two."""
        if self.by not in _TWO:
            return {}
        score = getattr(scores, self.by)
        places = [len(everyone) - 1, *range(len(everyone) - 1)]
        made = np.ones((len(places), len(places)))
        for row, column in itertools.combinations(range(len(places)), 2):
            made[row, column] = made[column, row] = score(given[places[row]], given[places[column]])
        return {
            "models": tuple(everyone[place].name for place in places),
            "similarity": tuple(map(tuple, made.tolist())),
        }


def halved(n: int, labels: NDArray[Any] | None, generator: np.random.Generator) -> list[NDArray[Any]]:
    """Rows of both halves of n samples, drawn at random, every label's own samples halved."""
    groups = (
        [np.arange(n)] if labels is None else [np.flatnonzero(labels == label) for label in np.unique(labels)]
    )
    halves: tuple[list[Any], list[Any]] = ([], [])
    for group in groups:
        mixed = generator.permutation(group)
        # The odd one of a group goes to the half that has fewer so far.
        first, second = sorted(halves, key=lambda half: sum(map(len, half)))
        first.append(mixed[: -(-len(mixed) // 2)])
        second.append(mixed[-(-len(mixed) // 2) :])
    return [np.sort(np.concatenate(half)) for half in halves]
