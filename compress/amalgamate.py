"""Amalgamate: several trained teachers, one student of the size of one that answers for all of them."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, ClassVar

from compress.amalgamation import Amalgamation
from compress.branching import Branching
from compress.calibration import FITTED, Calibration, Evidence
from compress.course import Course, Loaded, Taught
from compress.forecast import Feed, Forecast, built, parts, shapes
from compress.losses import Imitation
from compress.merging import Merge
from compress.method import MergedTargets, Method, Work, answering, asking, calibrated, merged
from compress.panel import Panel
from compress.session import Sees, Session
from compress.stage import State
from teachers.networks.network import Network
from teachers.signature import Signature
from teachers.spec import Field, spec


@spec
class Amalgamate(Taught):
    """Teach one student what several teachers know, from images without labels.

    Each teacher is asked as it is (`panel.Panel`): its own network, size, channels and scale. Logits of teachers that
    were trained apart do not compare, since a softmax leaves a constant open and every recipe its own scale; so their
    answers are measured once over the images (`calibration`), merged into one (`merging`), and the student learns the
    merged answer, besides what `method` adds. The student's labels are those of the recipe's task, which may be fewer
    than the teachers have.

    Takes the teachers, leaves the student, and how the answers were put together. Sees inputs.
    Source: Vongkulbhisal et al. 2019 (soft targets); Shen et al. 2019 (layer-wise); Luo et al. 2019 (common features);
    Ye et al. 2019 (branching). What the public code does otherwise and we do not: features of whatever scale, dead
    kernels, one normalisation for all teachers, hooks that stay.
    """

    student: Network | None = None
    """a fresh network; None goes on with the student so far, or leaves it to the method"""
    method: Method = MergedTargets()
    """what is matched besides the answers: MergedTargets, LayerWise, CommonFeature, Branching"""
    merge: Merge = "auto"
    """how the teachers' answers become one, see `merging.Merger`"""
    calibrate: Evidence = "class"
    """by which evidence teachers are compared, see `calibration.Calibration`; "raw" takes their logits as they are"""
    kappa: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    """how much evidence counts, in nats a unit"""
    prior: dict[str, float] | None = None
    """by teacher, the share of the images that are its own, where that is known; a wrong one costs more than none"""
    samples: Annotated[int, Field(ge=2)] = 5000
    """images that are asked about to compare the teachers"""
    loss: Imitation = "kl"
    """between the student's answer and the merged one"""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """of both"""
    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    """teacher -> {its label: the name it is to have}"""
    taxonomy: dict[str, str] = field(default_factory=dict)
    """label -> the label that contains it: such labels of two teachers are refused"""
    strict: bool = False
    """refuse teachers that disagree on a label that they share, in place of telling"""

    sees: ClassVar[Sees] = Sees.INPUTS

    def plan(self, state: State, signature: Signature) -> list[str]:
        """Who owns which label, and what the method touches."""
        panel = Panel(state.teachers, signature, aliases=self.aliases, taxonomy=self.taxonomy)
        how = merged(panel, self.merge, Calibration(self.calibrate, self.kappa, (), (), (), (), 0))
        said = f"merge: {how.how}, {self.calibrate} evidence"
        return [*panel.plan(), said, *self.method.plan(panel)]

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """The student as it is named or came; where branches may leave a trunk, about the trunk."""
        panel = Panel(state.teachers, signature, aliases=self.aliases, taxonomy=self.taxonomy)
        lines = tuple(self.plan(state, signature))
        named = self.student is not None
        made = built(state, self.student) if self.student is not None else state
        if made.student is None:
            return Forecast(state, lines, follows="training")
        answering(made.student, panel, Session())
        branches = isinstance(self.method, Branching) and self.method.leave == "least"
        looks = asking(panel, feed, parts(self.samples, feed.batch or 128))
        return Forecast(
            made, lines, follows="training" if branches else "settings", fresh=named,
            passes=(*self.method.passes(panel, made.student, feed, self.epochs), *looks),
            batches=feed.total(self.epochs), settled=shapes(made.student) if named else (),
        )  # fmt: skip

    def __call__(self, state: State, session: Session) -> State:
        """Measure, merge, teach. Raises ValueError as `Panel`, `Merger` and the method do."""
        panel = Panel(
            state.teachers,
            session.signature,
            aliases=self.aliases,
            taxonomy=self.taxonomy,
            device=session.device,
        )
        for line in panel.notes:
            session.note(line)
        student = self.student.build() if self.student is not None else None
        if student is None and state.student is not None:
            student = state.draft()
        if student is not None:
            student = session.place(student)
            answering(student, panel, session)
        source = Loaded(session)
        calibration = calibrated(
            panel, source, session, self.calibrate, self.kappa, self.prior, self.samples, strict=self.strict
        )
        merger = merged(panel, self.merge, calibration)
        if (
            not (merger.joint and self.calibrate in FITTED)
            and len(merger.parts) > 1
            and calibration is not None
        ):
            session.note(
                "which part an image belongs to is not identified: this student may be trusted among the labels of one "
                "teacher, not among all of them"
            )
        work = Work(
            session, panel, merger, calibration, Course(self, session, source), self.loss, self.temperature,
            self.samples,
        )  # fmt: skip
        student = self.method(work, student, self.epochs)
        made = Amalgamation(
            panel.names, tuple(space.names for space in panel.spaces), merger.how, calibration, work.branches
        )
        return replace(state, student=student.requires_grad_(True).eval(), amalgamation=made)
