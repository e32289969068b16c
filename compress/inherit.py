"""Inherit: a shallower network of the same family begins with its teacher's blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import nn

from compress.forecast import Feed, Forecast, built, shapes
from compress.match import fits
from compress.session import Sees, Session
from compress.stage import Stage, State
from teachers.networks.network import Network
from teachers.signature import Signature
from teachers.spec import spec

Choice = Literal["spread", "first"]


@spec
class Inherit(Stage):
    """A fresh `student` takes over every weight for which it has a place: by name, block by block in rows.

    Where a row of modules (a stage of a ResNet) is longer in the teacher, S of its T blocks are taken: "spread" takes
    those at i (T - 1) / (S - 1), rounded, which keeps the first and the last; "first" the first S. Residual blocks
    change what passes through them by little, so that those which are left still work together; that they do so less
    well than before is what Recalibrate and training put right.

    Takes the only teacher (or the student so far), leaves the new student, not trained. Sees nothing.
    Source: Veit et al. 2016 (blocks of a residual network may go); Sanh et al. 2019 (a student begins with a part of
    its teacher's layers).
    """

    student: Network
    """the shallower network"""
    blocks: Choice = "spread"
    """which of a longer row are taken"""

    sees: ClassVar[Sees] = Sees.NOTHING

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """The shallower network."""
        made = built(state, self.student)
        assert made.student is not None
        fits(state.teacher(), made.student, state.teacher().signature)
        return Forecast(made, fresh=True, settled=shapes(made.student))

    def __call__(self, state: State, session: Session) -> State:
        """Build, take over. Raises ValueError where it has no place for anything, or other outputs."""
        source = state.draft()
        student = self.student.build()
        fits(state.teacher(), student, state.teacher().signature)
        inherit(student, source, session, self.blocks)
        return replace(state, student=session.place(student).eval())


def inherit(student: nn.Module, source: nn.Module, session: Session, blocks: Choice = "spread") -> None:
    """Take over, in place, what has the same name and shape. Raises ValueError where nothing has."""
    theirs, mine = source.state_dict(), student.state_dict()
    taken = {
        name: theirs[origin]
        for name, origin in origins(student, source, blocks).items()
        if origin in theirs and theirs[origin].shape == mine[name].shape
    }
    weights = sum(p.numel() for p in student.parameters())
    inherited = sum(p.numel() for name, p in student.named_parameters() if name in taken)
    if not inherited:
        raise ValueError(
            f"{type(student).__name__} has no layer of the same name and shape as one of {type(source).__name__}: "
            "take a network of the same family, no deeper, or train it from scratch"
        )
    with torch.no_grad():
        student.load_state_dict({**mine, **taken})
    session.note(f"{inherited:,} of {weights:,} weights were inherited ({inherited / weights:.0%})")


def origins(student: nn.Module, teacher: nn.Module, blocks: Choice) -> dict[str, str]:
    """For every entry of the student's state_dict the name of the teacher's that belongs in its place."""
    moved: dict[str, str] = {}  # a block of the student -> that of the teacher
    rows = dict(teacher.named_modules())
    for name, row in student.named_modules():
        its = rows.get(name)
        if not isinstance(row, nn.Sequential | nn.ModuleList) or its is None:
            continue
        few, many = len(row), len(list(its.children()))
        if not 0 < few < many:
            continue
        prefix = f"{name}." if name else ""
        for place in range(few):
            far = blocks == "spread" and few > 1
            from_ = round(place * (many - 1) / (few - 1)) if far else place
            moved[f"{prefix}{place}"] = f"{prefix}{from_}"

    def origin(entry: str) -> str:
        # The longest row that it lies in: rows may lie within rows.
        steps = entry.split(".")
        for end in range(len(steps), 0, -1):
            head = ".".join(steps[:end])
            if head in moved:
                return ".".join([moved[head], *steps[end:]])
        return entry

    return {entry: origin(entry) for entry in student.state_dict()}
