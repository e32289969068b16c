"""What all ways of amalgamation share: who is asked, how answers are merged, and how far a student is from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compress.agreement import disagreements, together
from compress.calibration import Calibration, Evidence, fit
from compress.course import Course, Source, Terms
from compress.forecast import Back, Feed, Pass
from compress.losses import Imitation, imitation, soft_answers
from compress.merging import Merge, Merger
from compress.panel import Panel
from compress.session import Session
from teachers.labels import components
from teachers.spec import spec

_ROWS = 200_000  # answers that are kept to calibrate on, at most: of dense ones a few pixels an image


@dataclass
class Work:
    """One amalgamation at work.

    loss, temperature  of the joint answer, as `losses.imitation` takes them
    samples            images that are asked about to make answers comparable
    branches           teacher -> block, where a method lets branches leave
    """

    session: Session
    panel: Panel
    merger: Merger
    calibration: Calibration | None
    course: Course
    loss: Imitation = "kl"
    temperature: float = 1.0
    samples: int = 5000
    branches: dict[str, int] = field(default_factory=dict)

    def imitated(self, outputs: Tensor, answers: Sequence[Tensor]) -> Terms:
        """The distance to the joint answer and (only told) to each teacher; where there is none, to each teacher."""
        apart = self.to_each(outputs if not self.merger.joint else outputs.detach(), answers)
        if not self.merger.joint:
            return apart
        joint = imitation(outputs, self.merger(answers), self.loss, self.temperature)
        return {"imitation": joint, **{f"~{name}": term for name, term in apart.items()}}

    def to_each(self, outputs: Tensor, answers: Sequence[Tensor]) -> dict[str, Tensor]:
        """The distance of the student's outputs (n, |asked|, ...) to each teacher, over the labels it has."""
        panel = self.panel
        return {
            member.name: soft_answers(outputs[:, list(member.index)], piece, member.kind, self.temperature)
            for member, piece in zip(panel.members, panel.pieces(answers), strict=True)
        }


@spec
class Method(ABC):
    """A way to teach: what is matched besides the answers, and in which order parts learn."""

    @abstractmethod
    def __call__(self, work: Work, student: nn.Module | None, epochs: float) -> nn.Module:
        """Teach, for `epochs` with everything together at the end; the student that came of it."""

    def plan(self, panel: Panel) -> list[str]:
        """What it will touch."""
        return []

    def passes(self, panel: Panel, student: nn.Module, feed: Feed, epochs: float) -> tuple[Pass, ...]:
        """The networks that it runs."""
        steps = feed.total(epochs)
        return (feed.through(student, steps, "weights"), *asking(panel, feed, steps))


@spec
class MergedTargets(Method):
    """The merged answers alone: unifying heterogeneous classifiers, or distillation from a row of teachers.

    Source: Vongkulbhisal et al., CVPR 2019; Hinton et al. 2015.
    """

    def __call__(self, work: Work, student: nn.Module | None, epochs: float) -> nn.Module:
        """Teach."""
        student = needed(student, "MergedTargets")
        work.course.phase(
            lambda images, _: work.imitated(student(images), work.panel.ask(images)), epochs, [student]
        )
        return student


def asking(panel: Panel, feed: Feed, times: float, back: Back = "nothing") -> tuple[Pass, ...]:
    """So many batches through every teacher, each brought to what it takes."""
    return tuple(
        Pass(member.swift, times, back, feed.batch, member.teacher.signature) for member in panel.members
    )


def needed(student: nn.Module | None, who: str) -> nn.Module:
    """Raises ValueError where there is none."""
    if student is None:
        raise ValueError(
            f"{who} teaches a student, and there is none: name a network as student, or put a stage before that "
            "makes one"
        )
    return student


def answering(student: nn.Module, panel: Panel, session: Session) -> None:
    """Raises ValueError where the student does not take the task's images, or has not one output a label."""
    images = panel.given.example(2)[0].to(session.device)
    training = student.training
    try:
        with torch.no_grad():
            outputs = student.eval()(images)
    except RuntimeError as problem:
        raise ValueError(
            f"the student does not take the task's images, {panel.given.inputs[0]}: {problem}"
        ) from problem
    finally:
        student.train(training)
    labels, grid = len(panel.asked), tuple(panel.shapes[0][2:])
    if outputs.shape[1] != labels:
        raise ValueError(
            f"the student has {outputs.shape[1]} outputs, and {labels} labels are asked for "
            f"({', '.join(panel.asked)}): give it classes={labels}"
        )
    if tuple(outputs.shape[2:]) != grid:
        raise ValueError(
            f"the student answers on a grid of {tuple(outputs.shape[2:])}, the teachers on {grid}: their answers are "
            "compared place by place"
        )


@torch.no_grad()
def calibrated(
    panel: Panel,
    source: Source,
    session: Session,
    how: Evidence,
    kappa: float,
    prior: Mapping[str, float] | None,
    samples: int,
    *,
    strict: bool,
) -> Calibration | None:
    """Ask the teachers about `samples` images once, and measure their answers; what is strange goes into the notes.

    None where labels do not exclude each other: then nothing is weighed. Raises ValueError for fewer than two batches,
    for what `calibration.fit` refuses, and under `strict` where teachers disagree on a label that they share.
    """
    if prior is not None and len(components(panel.spaces)) != len(panel.members):
        raise ValueError(
            "a prior says which teacher an image belongs to, and some share labels: leave it out, shared labels "
            "weigh the teachers against each other"
        )
    rows: list[list[Tensor]] = [[] for _ in panel.members]
    seen = batches = 0
    for images, _ in source.batches():
        if not batches:
            panel.look(images)
        with session.autocast():
            answers = panel.ask(images)
        for kept, answer in zip(rows, answers, strict=True):
            kept.append(few(answer, samples).cpu())
        seen, batches = seen + len(images), batches + 1
        if seen >= samples and batches >= 2:
            break
    if batches < 2:
        raise ValueError(
            f"the teachers are made comparable by what they say of at least 2 batches, and train has {batches} (of "
            f"{seen} images): take smaller batches, or more images"
        )
    logits = [torch.cat(kept).double() for kept in rows]
    made, lines = fit(logits, panel.names, [space.names for space in panel.spaces], how, kappa, prior)
    if not all(kind == "softmax" for kind in panel.kinds):
        return None
    for line in lines:
        session.note(line)
    for label, one, other, rate in disagreements(logits, panel.spaces, made):
        said = (
            f"{one} and {other} agree on {label!r} in {100 * rate:.0f} % of the images of which they are sure: if they "
            f"mean different things by it, alias it apart: aliases={{{other!r}: {{{label!r}: '...'}}}}"
        )
        if strict:
            raise ValueError(said)
        session.note(said)
    for a, one, b, other, share in together(logits, panel.spaces, made):
        session.note(
            f"{a!r} of {one} and {b!r} of {other} come together in {100 * share:.0f} % of the images of which they are "
            "sure: if the one contains the other they are not two labels, but one image"
        )
    return made


def few(answer: Tensor, samples: int) -> Tensor:
    """Answers (n, K, ...) as rows (N, K): of dense ones pixels in even steps, so that not too many are kept."""
    rows = answer.movedim(1, -1).flatten(0, -2)
    places = len(rows) // len(answer)
    step = max(1, places * samples // _ROWS)
    return rows[::step]


def merged(panel: Panel, merge: Merge, calibration: Calibration | None) -> Merger:
    """The merger of a panel."""
    return Merger(panel.spaces, panel.asked, merge, calibration, panel.kinds)
