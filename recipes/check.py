"""A stage proves its work: what it was given is as it was, and what it left is not."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from compress.stage import Stage, State
from recipes.folders import fingerprint
from reports.profile import observed
from teachers.signature import Signature


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


def fits_task(stage: Stage, made: State, wanted: Signature, device: torch.device) -> None:
    """Raises ValueError where the student does not answer the recipe's task: its teacher was taught another one."""
    assert made.student is not None
    name = type(stage).__name__
    try:
        with observed(made.student), torch.no_grad():
            outputs = made.student(*(x.to(device) for x in wanted.example(2)))
        answers = tuple(outputs.shape)
    except RuntimeError as problem:
        answers, line = (), f"does not take its inputs ({str(problem).splitlines()[0]})"
    else:
        line = f"gives {answers[1:]} for each"
    if len(answers) < 2 or answers[1] != wanted.classes:
        raise ValueError(
            f"the student that {name} left is for another task: the recipe's has inputs of {wanted.inputs} and "
            f"{wanted.classes} classes, and the student {line}. Put compress.SelectLayer between the choice of a "
            f"teacher and {name}: it begins a student for the recipe's task"
        )
