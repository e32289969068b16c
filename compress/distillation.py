"""Distillation over the nodes of a graph: labels, the teacher's soft targets, and a hint from hidden layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from compress.answers import Answers, Seen
from compress.balance import Balance
from compress.forecast import Feed, Forecast, built, shapes
from compress.losses import soft_answers
from compress.noted import Noted, check_pairs, default_pairs
from compress.session import Sees, Session, Stateful
from compress.stage import Stage, State
from teachers.networks.network import Network
from teachers.signature import Kind, Signature
from teachers.spec import Field, spec
from teachers.task import Batch, Split
from teachers.teacher import Teacher
from teachers.thinning import Thinning
from teachers.train import Best, supervised

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Hint(nn.Module):
    """What a student is told beside the outputs, from the features of paired layers; may have parameters of its own."""

    @abstractmethod
    def forward(self, mine: Seen, theirs: Seen, batch: Batch) -> Tensor:
        """The loss, of one pair of layers."""

    def remember(self, theirs: Seen, batch: Batch) -> Seen:
        """What of the teacher's features has to be kept for the next time the same batch comes."""
        return theirs


class Still:
    """A network without its dropout, for a while.

    moves  whether it has any
    """

    def __init__(self, network: nn.Module) -> None:
        self.modules = [m for m in network.modules() if isinstance(m, _DropoutNd)]
        self.moves = any(m.p > 0 for m in self.modules)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Switch dropout off, and back to what it was."""
        modes = [m.training for m in self.modules]
        for m in self.modules:
            m.training = False
        try:
            yield
        finally:
            for m, mode in zip(self.modules, modes, strict=True):
                m.training = mode


@spec
class Distillation(Stage):
    """Teach a student the nodes of a graph, by Adam; the epoch that is best on val is handed on (`choose`).

        labels * cross-entropy  +  soft_targets * T^2 KL(teacher || student at T)  +  weight * hint

    Labels count for the nodes of train, soft targets for all nodes that are seen. The hint comes from pairs of hidden
    layers; each subclass says which (`hint`). Its weight is fixed, or, at every step, such that its gradient is
    `balance` times as long as that of the rest.

    Takes the only teacher; the student is a fresh network (`student`), or the one so far, a pruned one say. Without
    labels it sees inputs only, and the epoch nearest to the teacher's outputs is handed on.
    """

    student: Network | None = None
    """a fresh network; None goes on with the student so far"""
    epochs: Annotated[int, Field(ge=1)] = 300
    """passes over train"""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    """of Adam"""
    weight_decay: Weight = 5e-4
    """L2, on all parameters of the student"""
    labels: Weight = 1.0
    """weight of cross-entropy with the labels; 0 sees none"""
    soft_targets: Weight = 1.0
    """weight of the teacher's soft targets"""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """of the soft targets"""
    pairs: dict[str, str] = field(default_factory=dict)
    """layers whose features are compared, the student's name first: {activations.0: activations.1}; none takes the last
    hidden layers (of networks that build their own graphs: all layers but the first, where there are as many)"""
    features: Literal["before", "after"] = "before"
    """what goes into the named modules, activations as a rule, or what comes out"""
    weight: Weight | None = None
    """of the hint; None balances it"""
    balance: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    """how long the hint's gradient is, balanced, relative to that of labels and soft targets"""
    dropout: bool = False
    """take the student's features as its dropout leaves them, too; else they come from a pass without"""
    hint_epochs: Annotated[int, Field(ge=1)] | None = None
    """how many of the first epochs have the hint; None gives it in all"""
    teacher_sees: Literal["part", "whole"] = "part"
    """where batches are parts of a graph: the same part as the student, or all of it, once"""
    patience: Annotated[int, Field(ge=1)] | None = 100
    """stop after so many epochs that were no better on val; None goes to the end"""
    choose: Literal["score", "loss"] = "score"
    """what val is judged by: accuracy (or micro-F1), the loss of the labels telling equals apart, or that loss alone"""

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not self.labels and not self.soft_targets:
            raise ValueError(
                f"{name} has nothing to learn from but a hint: set labels or soft_targets above 0"
            )
        if self.weight == 0 and not self.soft_targets:
            raise ValueError(f"{name} has labels alone with weight 0: that is no distillation")

    @property
    def sees(self) -> Sees:  # type: ignore[override]
        """Labels only where they count."""
        return Sees.LABELS if self.labels else Sees.INPUTS

    @abstractmethod
    def hint(self, mine: int, theirs: int) -> Hint | None:
        """The hint for a pair of layers so wide (the student's, the teacher's); None gives none."""

    def plan(self, state: State, signature: Signature) -> list[str]:
        """Which layers would be compared. Raises ValueError where that cannot be."""
        teacher = state.teacher()
        pairs, widths, _ = self._paired(self._fresh(state), teacher)
        return [
            f"compares {mine} ({wide}) with the teacher's {its} ({its_width})"
            for (mine, its), (wide, its_width) in zip(pairs.items(), widths, strict=True)
        ]

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """The student as it is named or came; every epoch of it, though patience may end it earlier."""
        lines = tuple(self.plan(state, signature))
        made = replace(state, student=state.draft()) if self.student is None else built(state, self.student)
        student, teacher = made.student, state.teacher()
        assert student is not None
        steps = self.epochs * feed.steps
        told = min(steps, (self.hint_epochs or self.epochs) * feed.steps) if lines else 0
        # A balanced hint goes back by itself, and one without dropout has a pass of its own.
        more = told * ((self.weight is None) + (Still(student).moves and not self.dropout)) / 2
        passes = (
            feed.through(student, steps + more, "weights"),
            feed.through(student, self.epochs * feed.val_steps),
            feed.through(teacher.module, feed.steps if signature.is_graph else steps),
        )
        said = f"{steps:,} steps" + (
            f", fewer if {self.patience} epochs are no better" if self.patience else ""
        )
        fresh = self.student is not None
        return Forecast(
            made, (*lines, said), fresh=fresh, passes=passes, batches=steps,
            settled=shapes(student) if fresh else (),
        )  # fmt: skip

    def __call__(self, state: State, session: Session) -> State:
        """Teach. Raises ValueError where the networks do not fit, Diverged where the loss is no longer finite."""
        teacher = state.teacher().to(session.device)
        student = session.place(self._fresh(state))
        pairs, _, hints = self._paired(student, teacher)
        for hint in hints.values():
            hint.to(session.device)
        answers = Answers(teacher, pairs, self.features, hints, session, self.teacher_sees)
        noted = Noted(student, list(pairs), self.features)
        thinning, still = Thinning(student), Still(student)
        groups: list[dict[str, Any]] = [
            {"params": list(student.parameters()), "weight_decay": self.weight_decay},
            {"params": [p for hint in hints.values() for p in hint.parameters()]},
        ]
        learn = torch.optim.Adam([group for group in groups if group["params"]], self.lr)
        balance, best = Balance(self.balance, self.weight), Best()
        keep: dict[str, Stateful] = {"student": student, "learn": learn, "balance": balance, "best": best}
        keep |= {f"hint{place}": hint for place, hint in enumerate(hints.values())}
        for epoch in session.epochs(self.epochs, **keep):
            student.train()
            sums: dict[str, Tensor] = {}
            for batch in session.batches():
                wanted, theirs = answers.of(batch)
                told = bool(hints) and (self.hint_epochs is None or epoch < self.hint_epochs)
                apart = told and still.moves and not self.dropout
                with session.autocast(), noted.watching(told and not apart) as mine:
                    given = student(*thinning.inputs(batch))
                loss = self._loss(given, wanted, batch, teacher.signature.kind)
                if apart:
                    with session.autocast(), still(), noted.watching() as mine:
                        student(*batch.inputs)
                said = [hints[name](mine[name], theirs[pairs[name]], batch) for name in hints] if told else []
                extra = torch.stack(said).mean() if said else None
                weight = balance.backward(loss, extra, learn)
                learn.step()
                more = {"hint": extra, "weight": weight} if extra is not None else {}
                for name, value in {"loss": loss, **more}.items():
                    sums[name] = sums.get(name, 0) + torch.as_tensor(value).detach()
            steps = max(session.steps(), 1)
            score, tie = self._judge(student, answers, session)
            best.see(score, student, tie)
            told_values = {name: float(value) / steps for name, value in sums.items()}
            accuracy, nearness = (score, tie) if self.choose == "score" else (tie, score)
            told_values |= {"val": accuracy, "val_loss": -nearness} if self.labels else {"nearness": score}
            session.log(told_values, epoch)
            if self.patience is not None and best.epochs - best.epoch > self.patience:
                session.note(f"stopped after epoch {epoch + 1}: no better on val for {self.patience} epochs")
                break
        student.load_state_dict(best.state)
        session.note(
            f"chosen on val: epoch {best.epoch + 1} of {best.epochs}"
            + (
                f", {self.choose} {abs(best.score):.4f}"
                if self.labels
                else f", soft targets at {-best.score:.4g}"
            )
        )
        student.eval()
        self.draw(student, answers, noted, pairs, session)
        return replace(state, student=student)

    def draw(
        self, student: nn.Module, answers: Answers, noted: Noted, pairs: Mapping[str, str], session: Session
    ) -> None:
        """Leave pictures for the report."""

    # -- what they are ------------------------------------------------------------------------------------

    def _fresh(self, state: State) -> nn.Module:
        return state.draft() if self.student is None else self.student.build()

    def _paired(
        self, student: nn.Module, teacher: Teacher
    ) -> tuple[dict[str, str], list[tuple[int, int]], dict[str, Hint]]:
        """The pairs of layers, how wide they are, and a hint for each; the networks are tried on a small example."""
        wants = self.weight != 0 and self.hint(1, 1) is not None
        pairs = (dict(self.pairs) or default_pairs(student, teacher.module)) if wants else {}
        widths = check_pairs(student, teacher, pairs, self.features, type(self).__name__)
        hints: dict[str, Hint] = {}
        for name, pair in zip(pairs, widths, strict=True):
            hint = self.hint(*pair)
            assert hint is not None
            hints[name] = hint
        return pairs, widths, hints

    # -- what they learn from -----------------------------------------------------------------------------

    def _loss(self, given: Tensor, wanted: Tensor, batch: Batch, kind: Kind) -> Tensor:
        loss = given.new_zeros((), dtype=torch.float32)
        if self.soft_targets:
            seeds = slice(None) if batch.part is None else slice(batch.part.seeds)
            soft = soft_answers(given[seeds], wanted[seeds], kind, self.temperature)
            loss = loss + self.soft_targets * soft
        if self.labels:
            assert batch.target is not None, "a session that shows labels hands them out"
            loss = loss + self.labels * supervised(given, batch.target, kind)
        return loss

    @torch.no_grad()
    def _judge(self, student: nn.Module, answers: Answers, session: Session) -> tuple[float, float]:
        """How good the student is on val, and what tells equals apart: by labels, or by how near the teacher is.

        By the loss: how good is minus that, and the score tells equals apart.
        """
        student.eval()
        kind = answers.teacher.signature.kind
        right, judged, loss, count = 0.0, 0.0, 0.0, 0
        truths: list[tuple[Tensor, Tensor]] = []
        for batch in session.batches(Split.VAL):
            with session.autocast():
                given = student(*batch.inputs)
            count += 1
            if batch.target is None:
                wanted, _ = answers.of(batch)
                seeds = slice(None) if batch.part is None else slice(batch.part.seeds)
                loss += float(soft_answers(given[seeds], wanted[seeds], kind, self.temperature))
                continue
            loss += float(supervised(given, batch.target, kind))
            truths.append((given, batch.target))
        if not truths:
            return -loss / max(count, 1), 0.0
        for given, target in truths:
            if kind == "sigmoid":  # micro-F1: 2 TP over what was said and what is true
                said, true = (given > 0) & ~target.isnan(), target > 0.5
                right += 2 * float((said & true).sum())
                judged += float(said.sum() + true.sum())
            else:
                right += float((given.argmax(1) == target).sum())
                judged += float((target >= 0).sum())
        score, nearness = right / max(judged, 1.0), -loss / count
        return (score, nearness) if self.choose == "score" else (nearness, score)
