"""What stages that choose among teachers share: who is compared with whom, and what they leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from compress.attribution import EMBEDDING
from compress.resampling import first_share, interval, split_half
from compress.stage import Ranking, State
from teachers.nearest import did_you_mean
from teachers.teacher import Teacher


def candidates(
    state: State, target: str | None, keep: int, stage: str
) -> tuple[tuple[Teacher, ...], Teacher | None]:
    """The teachers to choose among, and the one for the task at hand, which is not one of them.

    Raises ValueError where the target is not in the room, or where there is nothing to choose.
    """
    names = [teacher.name for teacher in state.teachers]
    away = state.target is None or state.target.name != target
    if target is not None and target not in names and away:
        raise ValueError(
            f"{stage} is to compare with {target!r}, and there is no such teacher{did_you_mean(target, names)}; "
            f"there are {', '.join(names)}"
        )
    others = tuple(teacher for teacher in state.teachers if teacher.name != target)
    if len(others) < 2 or keep > len(others):
        raise ValueError(
            f"{stage} is to keep the best {keep} of {len(others)} teachers "
            f"({', '.join(teacher.name for teacher in others) or 'none'}{', the target aside' if target else ''}): it "
            "chooses among two at least, and keeps no more than there are"
        )
    known = (*state.teachers, *([state.target] if state.target is not None else []))
    return others, next((teacher for teacher in known if teacher.name == target), None)


def layers_of(
    teachers: Sequence[Teacher], embeddings: Mapping[str, str], stage: str, layer: str = EMBEDDING
) -> dict[str, str]:
    """The layer of each teacher that gives its embedding, `layer` where none is named for it.

    Raises ValueError for a name that no teacher has.
    """
    names = [teacher.name for teacher in teachers]
    for name in embeddings:
        if name not in names:
            raise ValueError(
                f"{stage}'s embeddings name the teacher {name!r}, who is not there{did_you_mean(name, names)}"
            )
    return {name: embeddings.get(name, layer) for name in names}


def narrowed(state: State, ranking: Ranking, keep: int, target: Teacher | None) -> State:
    """The same state with the best teachers of a ranking, best first, in place of all."""
    by_name = {teacher.name: teacher for teacher in state.teachers}
    return replace(
        state, teachers=tuple(by_name[name] for name in ranking.names[:keep]), ranking=ranking,
        target=target if target is not None else state.target,
    )  # fmt: skip


def in_order(scores: Sequence[float]) -> list[int]:
    """Places from the best score to the worst; of equal ones the first first."""
    return sorted(range(len(scores)), key=lambda place: -scores[place])


def with_halves(ranking: Ranking, scores: Tensor) -> Ranking:
    """A ranking with what halves of the probe say of it: scores (2B, M), networks in the ranking's order."""
    low, high = interval(scores, scores.new_tensor(ranking.scores))
    return replace(ranking, low=low, high=high, first=first_share(scores), stability=split_half(scores))
