"""Fine-tuning: the student learns on, from labels, from the teacher's soft targets, or from both."""

from dataclasses import replace
from itertools import islice
from typing import Annotated

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from compress.forecast import Feed, Forecast
from compress.freezing import freeze
from compress.generated import feed
from compress.losses import soft_answers
from compress.match import answers_for
from compress.moments import norms_of
from compress.recalibrate import endless, recalibrate
from compress.session import Sees, Session, Stateful
from compress.stage import Stage, State
from teachers.signature import Kind, Signature
from teachers.spec import Field, spec
from teachers.train import agreeing, constant, cosine, supervised

_BATCHES = 50  # that the batch norms of an average are measured on


@spec
class Finetune(Stage):
    """Train the student, SGD with momentum, linear warm-up and cosine, and keep the last epoch, or an average.

    loss = soft_targets * T^2 KL(teacher || student at temperature T) + labels * cross-entropy

    Without labels (the default) it sees inputs only, and one teacher is asked; with labels alone no teacher
    is. Takes the student so far (or a copy of the only teacher), leaves it trained; what lies below `State.freeze`
    stays as it is.
    Source of the soft targets: Hinton et al. 2015; of `swa`, stochastic weight averaging: Izmailov et al. 2018.
    """

    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """passes over train, the last of which may be a part of one"""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    """the highest learning rate, after the warm-up"""
    soft_targets: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """weight of the teacher's soft targets; 0 asks no teacher"""
    labels: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """weight of cross-entropy with the labels; 0 sees none"""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    """of the soft targets"""
    warmup: Annotated[float, Field(ge=0)] = 0.3
    """epochs over which the learning rate rises; at most half of `epochs` is used"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """of SGD, Nesterov's where it is above 0"""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """L2, on all parameters"""
    swa: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """the last share of the steps whose weights are averaged, batch norms measured anew, the rate as high to the end as
    the warm-up took it; 0 takes the last weights, at the end of the cosine"""
    generated: bool = False
    """learn from images that `Generate` made, and see nothing of the task"""
    frozen: bool = True
    """leave what lies below the layer that `SelectLayer` chose as it is, batch norms too; False trains all of it"""

    def __post_init__(self) -> None:
        if self.generated and self.labels:
            raise ValueError(
                "Finetune has no labels for generated images: set labels to 0, or generated to false"
            )
        if not self.soft_targets and not self.labels:
            raise ValueError("Finetune has nothing to learn from: set soft_targets or labels above 0")

    @property
    def sees(self) -> Sees:  # type: ignore[override]
        """Labels only where they are asked for, nothing where the images are generated."""
        if self.generated:
            return Sees.NOTHING
        return Sees.LABELS if self.labels else Sees.INPUTS

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """The student as it came; the steps it would take, and the teacher's beside."""
        feed = feed.of(state, self.generated)
        student = state.draft()
        freeze(student, state.freeze if self.frozen else ())
        weights = list(student.parameters())
        learns = sum(weight.numel() for weight in weights if weight.requires_grad)
        steps = feed.total(self.epochs)
        passes = [feed.through(student, steps, "weights")]
        if self.soft_targets:
            answers_for(state.teacher(), signature)
            passes.append(feed.through(state.teacher().module, steps))
        if self.swa and norms_of(student):
            passes.append(feed.through(student, _BATCHES))
        line = f"trains {learns:,} of {sum(w.numel() for w in weights):,} parameters for {steps:,} steps"
        batches = 0 if self.generated else steps
        return Forecast(replace(state, student=student), (line,), passes=tuple(passes), batches=batches)

    def __call__(self, state: State, session: Session) -> State:
        """Train a copy of the student. Raises Diverged where the loss is no longer finite."""
        feed(state, session, self.generated)
        student = session.place(state.draft())
        teacher = state.teacher().to(session.device) if self.soft_targets else None
        if teacher is not None:
            answers_for(teacher, session.signature or teacher.signature)
        still = freeze(student, state.freeze if self.frozen else ())
        learn = torch.optim.SGD(
            [weight for weight in student.parameters() if weight.requires_grad], self.lr, self.momentum,
            weight_decay=self.weight_decay, nesterov=self.momentum > 0,
        )  # fmt: skip
        known = session.signature or (state.teachers[0].signature if state.teachers else None)
        kind: Kind = known.kind if known is not None else "softmax"
        total = session.total_steps(self.epochs)
        warmup = min(round(self.warmup * session.steps()), total // 2)
        schedule = (constant if self.swa else cosine)(learn, total, warmup)
        keep: dict[str, Stateful] = {"student": student, "learn": learn, "schedule": schedule}
        if self.swa:
            keep["mean"] = mean = AveragedModel(student)
            first = min(round((1 - self.swa) * total), total - 1)  # the last step counts in any case
        for epoch in session.epochs(self.epochs, **keep):
            student.train()
            still.hold()
            summed = torch.zeros((), device=session.device)
            agreed = torch.zeros((), device=session.device)
            seen = 0
            for batch in session.batches():
                with session.autocast():
                    outputs = student(*batch.inputs)
                    with torch.no_grad():
                        wanted = teacher(*batch.inputs) if teacher is not None else None
                loss = self._loss(outputs, wanted, batch.target, kind)
                learn.zero_grad()
                loss.backward()
                learn.step()
                schedule.step()
                if self.swa and schedule.last_epoch > first:
                    mean.update_parameters(student)
                with torch.no_grad():
                    summed += loss * len(batch)
                    agreed += _agreement(outputs, wanted, batch.target, kind) * len(batch)
                    seen += len(batch)
            told = "agreement" if teacher is not None else "train_accuracy"
            session.log({"loss": (summed / seen).item(), told: (agreed / seen).item()}, epoch)
        if self.swa:
            student = mean.module
            if norms_of(student, still.names):
                recalibrate(student, islice(endless(session), _BATCHES), session, still.names)
        return replace(state, student=student.requires_grad_(True).eval())

    def _loss(self, outputs: Tensor, wanted: Tensor | None, truth: Tensor | None, kind: Kind) -> Tensor:
        loss = outputs.new_zeros((), dtype=torch.float32)
        if wanted is not None:
            loss = loss + self.soft_targets * soft_answers(outputs, wanted, kind, self.temperature)
        if self.labels:
            assert truth is not None, "a session that shows labels hands them out"
            loss = loss + self.labels * supervised(outputs, truth, kind)
        return loss


def _agreement(outputs: Tensor, wanted: Tensor | None, truth: Tensor | None, kind: Kind) -> Tensor:
    """The share of decisions that are the teacher's, or the truth's; of those that can be judged."""
    if wanted is not None:
        decided = {"softmax": lambda: wanted.argmax(1), "sigmoid": lambda: (wanted > 0).float()}
        truth = decided.get(kind, lambda: wanted)()
    assert truth is not None, "there is a teacher, or there are labels"
    right, judged = agreeing(outputs, truth, kind)
    return right / judged.clamp_min(1)
