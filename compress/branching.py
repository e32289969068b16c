"""Task branching: a trunk is taught block by block through the teachers' tails, then each task leaves it somewhere."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, Protocol

from torch import Tensor, nn

from compress.course import Streams, Terms
from compress.forecast import Feed, Pass
from compress.graft import Grafts, weighed
from compress.inherit import inherit
from compress.method import Method, Work, answering, asking
from compress.panel import Panel
from students.branches import Branched
from teachers.spec import Field, spec


@spec
class Branching(Method):
    """Teach the student block by block through the teachers' remaining blocks, then let each task leave the trunk.

        for b = 1 ... B:  sum_m l_m( z_m^b(x), z_m(x) )  teaches block b and its channel coding, blocks before it fixed
        b_m* = the b with the least l_m on held images
        student: the trunk up to the last b_m*, and per task the coding and a copy of teacher m's blocks behind b_m*

    and all of it is tuned together. For segmentation, depth and classes alike; teachers and student are networks of one
    family, with features of the same shapes at the cuts.
    Source: Ye et al., CVPR 2019 (dense prediction) and IJCAI 2019 (classes). In the public example each loss sees one
    sample of a batch, and tasks of one name overwrite each other.
    """

    cuts: Annotated[tuple[str, ...], Field(min_length=1)]
    """the student's modules behind which it is cut; activations and pooling that follow belong to the block"""
    teacher_cuts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """by teacher, the same; without, modules of the same names"""
    block_epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    """passes for each block"""
    leave: Literal["least", "last"] = "least"
    """where branches leave: behind the block with the least loss on held images, or behind the last: one trunk"""
    start: str | None = None
    """the teacher whose blocks the trunk begins with; None begins with the student as it is"""

    def plan(self, panel: Panel) -> list[str]:
        """Where networks are cut."""
        return [f"{len(self.cuts) + 1} blocks, cut behind {', '.join(self.cuts)}; {self.leave}"]

    def passes(self, panel: Panel, student: nn.Module, feed: Feed, epochs: float) -> tuple[Pass, ...]:
        """For every block half of the student and half of each teacher's tail, on the mean; then all of it together."""
        return grafting(panel, student, feed, len(self.cuts) + 1, self.block_epochs, epochs)

    def __call__(self, work: Work, student: nn.Module | None, epochs: float) -> nn.Module:
        """Teach. Raises ValueError where blocks do not match, or nobody is there to begin with."""
        student = begun(work, student, self.start)
        grafts = Grafts(work.panel, student, self.cuts, self.teacher_cuts)
        for block in range(1, len(grafts) + 1):
            grafts.learn(work, block, self.block_epochs)
        return regrouped(work, grafts, self.leave, epochs)


def grafting(
    panel: Panel, student: nn.Module, feed: Feed, blocks: int, block_epochs: float, epochs: float
) -> tuple[Pass, ...]:
    """The networks that run while blocks are taught one by one through the teachers' tails, and then together."""
    apart, joint = blocks * feed.total(block_epochs), feed.total(epochs)
    return (
        feed.through(student, apart / 2 + joint, "weights"),
        *asking(panel, feed, apart + joint + feed.val_steps),
        *asking(panel, feed, apart / 2 + blocks * feed.val_steps / 2, "inputs"),
    )


def begun(work: Work, student: nn.Module | None, start: str | None) -> nn.Module:
    """The student with the weights of a teacher, as far as they have the same names and shapes."""
    if start is None:
        if student is None:
            raise ValueError(
                "there is no student: name a network as student, to begin as it is or with a teacher's blocks"
            )
        return student
    teacher = next((m for m in work.panel.members if m.name == start), None)
    if teacher is None:
        raise ValueError(f"start names {start!r}, who is not asked: there are {', '.join(work.panel.names)}")
    if student is None:
        raise ValueError(
            f"a student that starts with the blocks of {start!r} needs a network: name it as student"
        )
    student = copy.deepcopy(student)
    inherit(student, teacher.teacher.module, work.session)
    return student


class Opponent(Protocol):
    """Who takes a step before every step of the student."""

    def __call__(self, student: nn.Module) -> None: ...

    def keep(self) -> Mapping[str, Any]: ...


def regrouped(
    work: Work, grafts: Grafts, leave: str, epochs: float, opponent: Opponent | None = None
) -> nn.Module:
    """The student of the branches that were chosen, tuned as a whole."""
    leaves = grafts.leaves(work, leave, work.course.source)
    made = grafts.branched(work, leaves)
    answering(made, work.panel, work.session)
    work.branches.update(leaves)
    own = sum(p.numel() for p in made.parameters())
    each = {m.name: sum(p.numel() for p in m.teacher.module.parameters()) for m in work.panel.members}
    said = ", ".join(f"{name} behind block {block}" for name, block in leaves.items())
    work.session.note(
        f"branches: {said}; {own:,} parameters, {own / sum(each.values()):.0%} of the teachers' together"
    )

    def terms(images: Tensor, _: Streams) -> Terms:
        answers = work.panel.ask(images)
        if isinstance(made, Branched):
            return grafts.to_each(work, made, images, answers)
        return work.imitated(made(images), answers)

    work.course.phase(
        terms, epochs, [made], name="together", each=None if opponent is None else lambda: opponent(made),
        more=opponent.keep() if opponent is not None else {},
    )  # fmt: skip
    if isinstance(made, Branched):
        weighed(work, grafts, made, leaves, work.samples)
    return made
