"""DFAD: distillation without data, against a generator that looks for where student and teacher differ."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.adversaries import Rows
from compress.album import Album
from compress.average import Average
from compress.bank import Bank
from compress.choice import Choice
from compress.drawing import Drawing
from compress.forecast import Feed, Forecast, Pass, built, latents, parts, shapes
from compress.generated import made
from compress.guard import Guard
from compress.hooks import outputs_of
from compress.losses import (
    Ascent,
    Distance,
    ascent,
    discrepancy,
    features_gap,
    fine,
    relative_gap,
)
from compress.match import fits, shared_blocks
from compress.moments import norms_of
from compress.priors import Priors
from compress.session import Sees, Session, Stateful
from compress.stage import State
from compress.watch import class_entropy, collapsed, largest_share, variety
from teachers.networks.network import Network
from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.teacher import Teacher
from teachers.train import constant, cosine

Preset = Literal["default", "official", "zskt"]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
_HELD = 2048  # samples that are held out, to choose by
_MEMORY = 2**30  # bytes that a bank of images and answers may take
_A_TIME = 32  # of them from the generator of one epoch
_RUNS_IN = 100  # student steps after which its batch norms may be trusted while the generator learns


@dataclass(frozen=True)
class Options:
    """What the presets differ in; the fields of DFAD say what each means."""

    distance: Distance
    batches: Literal["fresh", "shared"]
    student_steps: int
    student_mode: Literal["train", "frozen", "eval"]
    schedule: Literal["constant", "cosine"]
    clip: float | None
    center: bool = False
    batch_norm: float = 0.0
    one_hot: float = 0.0
    balance: float = 0.0
    replay: float = 0.0
    average: float = 0.0
    generator_average: float = 0.0
    features: float = 0.0
    enough: float | None = None


PRESETS: Mapping[Preset, Options] = {
    "official": Options("l1", "fresh", 5, "train", "constant", None),
    "zskt": Options("kl", "shared", 10, "train", "cosine", 5.0),
    "default": Options("l1", "shared", 5, "eval", "cosine", 5.0, replay=0.5, batch_norm=1.0, balance=1.0),
}


@spec
class DFAD(Drawing):
    """Let a student learn from images that a generator draws where it is furthest from the teacher.

        min over student  max over generator   E_z  distance( S(G(z)), T(G(z)) )

    Each round the student takes `student_steps` steps towards the teacher (SGD), the generator one step away (Adam,
    through teacher and student both; priors of the teacher's own may be added to its loss). Nothing ties the
    generator to the task's inputs: that the student is right on those is a hope, to be measured where it can be.

    The student that is returned was chosen without labels: the one nearest to the teacher, by `losses.relative_gap`
    smoothed, on held-out images of all generators so far. Collapse of the generator is watched for (`watch`) and
    answered by drawing its first layer anew; losses that are not finite are skipped, then the last good state
    comes back with half the generator's rate.

    Takes the only teacher; the student is a fresh network (`student`), or the one so far, a pruned one say. Sees
    nothing.
    Source: Fang et al. 2019, arXiv 1912.11006; Micaelli and Storkey 2019, arXiv 1905.09768 (`zskt`). In the released
    code gradients pile up in the teacher, testing moves the random stream, and the best epoch is picked on test; the
    arithmetic of a step is that of `preset="official"`.
    """

    student: Network | None = None
    """a fresh network; None goes on with the student so far"""
    preset: Preset = "default"
    """what the fields below are where they are None: "official" is the published loop without options, "zskt" the
    same game with KL, "default" what measured best"""
    epochs: Annotated[int, Field(ge=1)] = 40
    """looks at the held-out images; a run resumes at the last"""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    """of the student; from scratch, that is: one with inherited weights wants a tenth or less"""
    generator_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    """of the generator"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """of the student's SGD"""
    weight_decay: Weight = 5e-4
    """of the student"""
    warmup: Annotated[int, Field(ge=0)] = 0
    """epochs in which the generator learns from its priors alone, before the student is touched"""
    ascent: Ascent | None = None
    """of the generator's loss; None: log for dense outputs, plain for classes"""
    distance: Distance | None = None
    """between the outputs: l1 of the logits, or the KL divergence"""
    batches: Literal["fresh", "shared"] | None = None
    """fresh images for every student step, or those of the generator's step for all of a round"""
    student_steps: Annotated[int, Field(ge=1)] | None = None
    """student steps a round"""
    student_mode: Literal["train", "frozen", "eval"] | None = None
    """of the student's norms while the generator learns: train, with batch statistics that are not remembered
    (frozen), or eval once the student has taken 100 steps"""
    schedule: Literal["constant", "cosine"] | None = None
    """of both learning rates"""
    clip: Annotated[float, Field(gt=0)] | None = None
    """largest norm of either gradient"""
    center: bool | None = None
    """take each sample's mean over the classes off both outputs first"""
    batch_norm: Weight | None = None
    """weight of the prior that the teacher's batch norms see what they remember; a preset's holds where it has some"""
    one_hot: Weight | None = None
    """weight of the prior that the teacher is sure"""
    balance: Weight | None = None
    """weight of the prior that all classes come up alike"""
    replay: Share | None = None
    """the share of the student's steps that go over images of earlier rounds"""
    bank: Annotated[int, Field(ge=1)] = 8192
    """how many images are kept for that, at most: as many as take 1 GiB with their answers"""
    average: Share | None = None
    """decay of the student's running average, which then is what is measured and returned; 0 takes none"""
    generated: bool = False
    """begin that bank with the images of a stage before this one (`Generate`): a student with inherited weights then
    has something to hold on to while the new generator learns to draw"""
    generator_average: Share | None = None
    """decay of a running average of the generator, which draws the images of every other student step: what has been
    looked at is not forgotten at once; 0 takes none"""
    features: Weight | None = None
    """weight of matching the outputs of blocks whose shape is the same in student and teacher"""
    enough: Annotated[float, Field(gt=0)] | None = None
    """where the relative gap is above this the generator waits for the student"""
    patience: Annotated[int, Field(ge=1)] | None = None
    """stop in the second half where the smoothed gap has not fallen by 1 % for so many epochs; None goes to the end"""

    sees: ClassVar[Sees] = Sees.NOTHING

    def options(self) -> Options:
        """The preset, with the fields that were set in its place."""
        preset = PRESETS[self.preset]
        own = {name: getattr(self, name) for name in vars(preset)}
        return replace(preset, **{name: value for name, value in own.items() if value is not None})

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """The student as it is named or came; the rounds of the game."""
        teacher, options = state.teacher(), self.options()
        made = replace(state, student=state.draft()) if self.student is None else built(state, self.student)
        student = made.student
        assert student is not None
        takes, gives = latents(self.latent), self.drawn(teacher.signature)
        fits(teacher, student, gives)
        with torch.random.fork_rng(devices=[]):
            generator = self.generator(teacher.signature)
        rounds, warming = self.epochs * self.rounds, self.warmup * self.rounds
        steps = rounds * options.student_steps
        new = steps * (1 - options.replay) if options.batches == "fresh" else 0.0
        new += steps / 2 if options.generator_average else 0.0
        looks = self.epochs * parts(max(_A_TIME, 10 * teacher.signature.classes), self.batch)
        held = self.epochs * min(_A_TIME * self.epochs / 2, _HELD) / self.batch
        passes = (
            Pass(generator, rounds + warming, "weights", self.batch, takes),
            Pass(teacher.module, rounds + warming, "inputs", self.batch, gives),
            Pass(student, rounds, "inputs", self.batch, gives),
            Pass(student, steps, "weights", self.batch, gives),
            Pass(generator, new + looks, "nothing", self.batch, takes),
            Pass(teacher.module, new + looks, "nothing", self.batch, gives),
            Pass(student, held, "nothing", self.batch, gives),
        )
        line = f"{rounds:,} rounds of {options.student_steps} student steps, {self.batch} images each"
        fresh = self.student is not None
        return Forecast(made, (line,), fresh=fresh, passes=passes, settled=shapes(student) if fresh else ())

    def __call__(self, state: State, session: Session) -> State:
        """Play. Raises ValueError where the two networks or the generator do not fit, Diverged where nothing helps."""
        teacher = state.teacher().to(session.device)
        draft = state.draft() if self.student is None else self.student.build()
        game = Game(self, teacher, session.place(draft), session)
        if self.generated:
            game.recall(made(state, session))
        for epoch in session.epochs(self.warmup, generator=game.generator, tease=game.tease):
            told = [game.draw_towards_priors() for _ in range(self.rounds)]
            session.log({"prior": sum(told) / len(told)}, epoch)

        for epoch in session.epochs(self.epochs, **game.keep()):
            game.begin()
            for _ in range(self.rounds):
                if game.options.batches == "fresh":
                    game.teach()
                    game.seek()
                else:
                    game.seek()
                    game.teach()
            session.log(game.look(epoch), epoch)
            if self.patience is not None and game.choice.stale >= self.patience:
                session.note(f"stopped after epoch {epoch + 1}: no gain in the last {game.choice.stale}")
                break

        for title, svg in game.pictures().items():
            session.picture(title, svg)
        return replace(state, student=game.chosen().eval())


class Game:
    """Teacher, student and generator, and the moves of both players."""

    def __init__(self, settings: DFAD, teacher: Teacher, student: nn.Module, session: Session) -> None:
        self.settings, self.options, self.session = settings, settings.options(), session
        self.teacher, self.student = teacher, student
        drawn = settings.drawn(teacher.signature)
        answers = fits(teacher, student, drawn)[1:]
        self.generator = session.place(settings.generator(teacher.signature))
        if settings.batch_norm is None and not norms_of(teacher.module):
            self.options = replace(self.options, batch_norm=0.0)
        options = self.options
        self.priors = Priors(teacher, options.batch_norm, options.one_hot, options.balance)
        if settings.warmup and not self.priors:
            raise ValueError(
                "a warm-up teaches the generator the priors, and none has a weight: set batch_norm, one_hot or balance"
            )
        self.blocks = shared_blocks(teacher, student, drawn) if self.options.features else ()
        self.learn = torch.optim.SGD(
            student.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay
        )
        self.tease = torch.optim.Adam(self.generator.parameters(), settings.generator_lr)
        rounds = session.epochs_of(settings.epochs) * settings.rounds
        schedule = cosine if self.options.schedule == "cosine" else constant
        self.schedules = [
            schedule(self.learn, rounds * self.options.student_steps),
            schedule(self.tease, rounds),
        ]
        self.ascent: Ascent = settings.ascent or ("log" if len(answers) > 1 else "plain")
        most = _MEMORY // (2 * sum(map(math.prod, drawn.inputs)) + 4 * math.prod(answers))
        self.past = Bank(min(settings.bank, max(most, settings.batch + 1)), session.device)
        self.held = Bank(min(_HELD, max(most, 1)), session.device)
        self.choice = Choice(student, self.options.average)
        slow = self.options.generator_average
        self.slow = Average(self.generator, slow) if slow else None
        self.album = Album()
        self.lesson: tuple[Tensor, Tensor] | None = None
        self.felt: dict[str, Tensor] = {}  # what the teacher's blocks gave for the lesson
        self.sums: dict[str, list[float]] = {}
        players: dict[str, Stateful] = {
            "student": student,
            "generator": self.generator,
            "learn": self.learn,
            "tease": self.tease,
        }
        self.guard = Guard(players, self.schedules[1], self.options.clip, session)

    def keep(self) -> dict[str, Stateful]:
        """All that a resumed game needs."""
        slow = {"slow": self.slow} if self.slow is not None else {}
        return slow | {
            "student": self.student, "generator": self.generator, "learn": self.learn, "tease": self.tease,
            "schedule": self.schedules[0], "pace": self.schedules[1], "past": self.past, "held": self.held,
            "choice": self.choice, "album": self.album, "guard": self.guard,
        }  # fmt: skip

    def begin(self) -> None:
        """Begin an epoch: from a state that is good, with no numbers yet."""
        self.guard.remember()
        self.sums = {}

    @torch.no_grad()
    def recall(self, images: Tensor) -> None:
        """Take images that were generated before into the bank. Raises ValueError where no step looks back at it."""
        if not self.options.replay:
            raise ValueError("generated images go to the bank that replay looks back at, and replay is 0")
        for part in images.split(256):
            self.session.read["generated"] += len(part)
            fed = part.to(self.session.device).float()
            with self.session.autocast():
                answers = fine(self.teacher(fed))
            self.past.add(fed, answers, self.session.generator)

    # -- the moves ----------------------------------------------------------------------------------------

    def teach(self) -> None:
        """The student's steps of a round: towards the teacher, on images that do not move."""
        self.student.train()
        for step in range(self.options.student_steps):
            images, wanted = self._images(step)
            with self._matched(images) as pairs, self.session.autocast():
                given = self.student(images)
            loss = gap = discrepancy(given, wanted, self.options.distance, center=self.options.center)
            if pairs:
                loss = loss + self.options.features * features_gap(*zip(*pairs, strict=True))
            self.learn.zero_grad()
            loss.backward()
            if self.guard.sound(loss, self.student):
                self.learn.step()
                self.choice.follow(self.student)
                self._tell(gap=gap.item())
            self.schedules[0].step()

    def seek(self) -> None:
        """The generator's step: away from the student, no parameter of student or teacher has a part in it."""
        waits = self.options.enough is not None and self._ratio() > self.options.enough
        with torch.set_grad_enabled(not waits):
            latents = self._latents()
            with self.priors.watched() as seen, self._student_mode(), self.session.autocast():
                images = self.generator(latents)
                with outputs_of(self.teacher.module, self.blocks, self.felt):
                    wanted = self.teacher(images)
                given = self.student(images)
            wanted, given = fine(wanted), fine(given)
            gap = discrepancy(given, wanted, self.options.distance, center=self.options.center)
            loss = ascent(gap, self.ascent) + self.priors(wanted, seen)
        if not waits:
            self._step_generator(loss)
        self._tell(distance=gap.item(), ratio=relative_gap(given.detach(), wanted.detach()).item())
        self.lesson = (images.detach(), wanted.detach())
        self.felt = {name: feature.detach() for name, feature in self.felt.items()}
        if self.options.replay:
            self.past.add(*self.lesson, self.session.generator)
        self.schedules[1].step()

    def draw_towards_priors(self) -> float:
        """A step of the generator with the teacher alone; what its priors lack."""
        latents = self._latents()
        with self.priors.watched() as seen, self.session.autocast():
            wanted = self.teacher(self.generator(latents))
        loss = self.priors(fine(wanted), seen)
        self._step_generator(loss)
        return loss.item()

    def _step_generator(self, loss: Tensor) -> None:
        # Gradients of the generator alone: those of student and teacher are neither computed nor kept.
        parameters = list(self.generator.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        if self.guard.sound(loss, self.generator):
            self.tease.step()
            if self.slow is not None:
                self.slow.follow(self.generator)

    # -- what they play with ------------------------------------------------------------------------------

    def _latents(self, count: int | None = None) -> Tensor:
        return self.settings.latents(self.session, count)

    @torch.no_grad()
    def _draw(self, count: int | None = None, slow: bool = False) -> tuple[Tensor, Tensor]:
        """New images of the generator, or of its average, and the teacher's answers."""
        latents = self._latents(count)
        generator = self.slow.network if slow and self.slow is not None else self.generator
        with self.session.autocast():
            images = generator(latents)
            return images, fine(self.teacher(images))

    def _images(self, step: int) -> tuple[Tensor, Tensor]:
        """What student step number `step` of a round learns from."""
        # Steps of a round that look back, as evenly spread as their share allows; never the first.
        back = math.floor((step + 1) * self.options.replay) > math.floor(step * self.options.replay)
        if back and len(self.past) > self.settings.batch:
            return self.past.draw(self.settings.batch, self.session.generator)
        if self.slow is not None and step % 2:
            return self._draw(slow=True)
        if self.options.batches == "shared":
            assert self.lesson is not None
            return self.lesson
        return self._draw()

    @contextmanager
    def _matched(self, images: Tensor) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Pairs (student's, teacher's) of what blocks give for `images`, filled while the student runs."""
        pairs: list[tuple[Tensor, Tensor]] = []
        if not self.blocks:
            yield pairs
            return
        wanted = self.felt
        if self.lesson is None or images is not self.lesson[0]:
            wanted = {}
            with (
                outputs_of(self.teacher.module, self.blocks, wanted),
                torch.no_grad(),
                self.session.autocast(),
            ):
                self.teacher(images)
        given: dict[str, Tensor] = {}
        with outputs_of(self.student, self.blocks, given):
            yield pairs
        pairs += [(given[name], wanted[name]) for name in self.blocks]

    @contextmanager
    def _student_mode(self) -> Iterator[None]:
        """The student as it is while the generator learns: its weights want no gradient, its norms as asked."""
        mode = self.options.student_mode
        if mode == "eval" and self.choice.steps < _RUNS_IN:
            mode = "frozen"
        self.student.train(mode != "eval")
        norms = [m for m in self.student.modules() if isinstance(m, _BatchNorm)] if mode == "frozen" else []
        before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        self.student.requires_grad_(False)
        try:
            yield
        finally:
            self.student.requires_grad_(True)
            for norm, momentum, tracked in before:
                norm.momentum, norm.num_batches_tracked = momentum, tracked

    # -- looking ------------------------------------------------------------------------------------------

    def _tell(self, **values: float) -> None:
        for name, value in values.items():
            self.sums.setdefault(name, []).append(value)

    def _ratio(self) -> float:
        recent = self.sums.get("ratio", [])[-5:]
        return sum(recent) / len(recent) if recent else 0.0

    def look(self, epoch: int) -> dict[str, float]:
        """Measure without labels, judge the student, answer a collapse; the numbers that matter."""
        images, answers = self._draw(max(_A_TIME, 10 * self.teacher.signature.classes))
        told = {name: sum(values) / len(values) for name, values in self.sums.items() if values}
        told |= {
            "class_entropy": class_entropy(answers), "largest_share": largest_share(answers),
            "variety": variety(images),
        }  # fmt: skip
        self.held.add(images[:_A_TIME], answers[:_A_TIME], self.session.generator)
        told |= self.choice.judge(self.student, self.held, self.session, epoch, self.settings.epochs)
        if not isinstance(self.generator, Rows) and epoch in Album.moments(
            self.session.epochs_of(self.settings.epochs)
        ):
            self.album.put(epoch, self.generator.pixels(images), answers)
        if collapsed(images, answers):
            self.generator.revive()
            self.tease.state.clear()
            self.session.note(
                f"epoch {epoch + 1}: the generator collapsed (class entropy {told['class_entropy']:.2f} of 1, variety "
                f"{told['variety']:.3f}, largest share {told['largest_share']:.0%}): its first layer was drawn anew"
            )
        return told

    def pictures(self) -> dict[str, str]:
        """What the generator drew, by the class that the teacher sees in it."""
        return self.album.pictures("DFAD", self.teacher.signature)

    def chosen(self) -> nn.Module:
        """The student of the epoch that was judged best."""
        best = copy.deepcopy(self.student)
        best.load_state_dict(self.choice.best)
        self.session.note(
            f"chosen without labels: epoch {self.choice.epoch + 1}, relative gap {self.choice.ratio:.3f}, "
            f"agreement {100 * self.choice.agreement:.1f} % on {len(self.held)} held-out generated images"
        )
        return best
