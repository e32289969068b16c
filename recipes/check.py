"""A stage proves its work: what it was given is as it was, and what it left is not."""

from __future__ import annotations

from collections.abc import Mapping

from compress.stage import Stage, State
from recipes.folders import fingerprint


def prints(state: State) -> dict[str, str]:
    """Fingerprints of everyone in a state: `teacher <name>` each, and `student`."""
    target = (state.target,) if state.target is not None else ()
    found = {f"teacher {teacher.name}": fingerprint(teacher.module) for teacher in (*state.teachers, *target)}
    return found | ({"student": fingerprint(state.student)} if state.student is not None else {})


def check(stage: Stage, before: Mapping[str, str], state: State, made: State) -> None:
    """Raises ValueError where a stage changed what it was given, or changed nothing at all.

    before  the fingerprints of `state` when the stage began
    """
    name = f"{type(stage).__module__.split('.')[0]}.{type(stage).__name__}"
    touched = [who for who, print in prints(state).items() if print != before[who]]
    if touched:
        raise ValueError(
            f"{name} changed the {touched[0]} it was given, in place: a stage works on state.draft() or on a "
            "fresh network, since teachers may be asked again"
        )
    if made.student is None:
        same_student = state.student is None
    else:
        known = [before["student"]] if state.student is not None else list(before.values())
        same_student = fingerprint(made.student) in known
    room = [[teacher.name for teacher in which.teachers] for which in (state, made)]
    if (
        same_student
        and room[0] == room[1]
        and made.ranking == state.ranking
        and made.freeze == state.freeze
        and made.generated is state.generated
    ):
        equal = (
            "the student equals what went in, to the bit"
            if made.student is not None
            else "there is no student"
        )
        raise ValueError(
            f"{name} changed nothing: {equal}, and teachers, ranking and generated inputs are as they were. Usual "
            "causes: a layer pattern that matches nothing, a budget that was met already, a learning rate too small to "
            "move a weight"
        )
