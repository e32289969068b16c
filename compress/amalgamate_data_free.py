"""AmalgamateDataFree: one student of several teachers, from nothing but their weights."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from compress.album import Album
from compress.amalgamation import Amalgamation
from compress.bank import Bank
from compress.branching import begun, grafting, regrouped
from compress.calibration import Calibration, Evidence
from compress.course import Course, Taught
from compress.dual import Drawn, Game, Weights
from compress.forecast import Feed, Follows, Forecast, Pass, built, latents, parts, shapes
from compress.graft import Grafts
from compress.guard import Guard
from compress.losses import Imitation
from compress.match import passing
from compress.merging import Merge
from compress.method import Work, answering, asking, calibrated, merged
from compress.panel import Panel
from compress.session import Sees, Session, Stateful
from compress.stack import GroupStack
from compress.stage import State
from compress.watch import variety
from teachers.networks.network import Network
from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.train import cosine

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_RAMP = (
    0.5  # of the epochs together, before the student's mistakes are worth their whole weight to the generator
)


@spec
class AmalgamateDataFree(Taught):
    """Teach one student what several teachers know, without an image: they are drawn from the teachers' own weights.

    1  A stack of groups that mirror the teachers' blocks draws features, and images from them; the teachers' frozen
       tails judge each (`dual.Game`). Labels may exclude each other (softmax) or not (sigmoid).
    2  The student, the dual generator, is taught block by block through the teachers' tails (`graft.Grafts`), each
       on two streams: its own path from the image, and the stack's feature that has the same shape.
    3  Branches leave the trunk where they are best, or all at its end, and everything is tuned together on generated
       images, towards the merged answer (`merging`), the teachers made comparable on generated images, too.

    Takes the teachers, leaves the student. Sees nothing. Its batch norms know generated images only: Recalibrate puts
    that right where any image without a label may be used.
    Source: Ye et al., CVPR 2020, arXiv 2003.09088. No code was published, and the text leaves open the generator's
    networks, the gate's form, all weights and the rule of branching: these are ours. Options that are not in the paper,
    0 or off by default: batch_norm (Yin et al. 2020), owned, alternate and disagreement (Fang et al. 2019).
    """

    student: Network
    """a fresh network, of the teachers' family: features of the same shapes at the cuts"""
    cuts: Annotated[tuple[str, ...], Field(min_length=1)]
    """modules behind which student and teachers are cut into blocks"""
    teacher_cuts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """by teacher, other names for these places"""
    generator_epochs: Annotated[int, Field(ge=1)] = 30
    """of the stack"""
    block_epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5
    """for each block of the student"""
    rounds: Annotated[int, Field(ge=1)] = 100
    """steps an epoch"""
    batch: Annotated[int, Field(ge=2)] = 128
    """images a step"""
    latent: Annotated[int, Field(ge=1)] = 100
    """numbers that an image is drawn from"""
    width: Annotated[int, Field(ge=1)] = 32
    """channels inside the stack's groups"""
    generator_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    """of Adam with betas 0.5 and 0.999"""
    one_hot: Weight = 1.0
    """weight of the loss that every teacher is sure"""
    activation: Weight = 0.1
    """weight of the loss that their last features are large"""
    entropy: Weight = 5.0
    """weight of the loss that all labels come up"""
    sparsity: Weight = 0.1
    """of labels that do not exclude each other: the loss that few are true begins at this share of the entropy loss"""
    consistency: Weight = 1.0
    """weight of the loss that features are answered as the image is"""
    batch_norm: Weight = 0.0
    """weight of the prior that the teachers' batch norms see what they remember"""
    owned: bool = False
    """each teacher is to be sure of its own part of a batch alone, and to doubt the others'"""
    foreign: Weight = 0.3
    """weight of that doubt"""
    streams: Literal[1, 2] = 2
    """the student's own path alone, or the stack's features, too"""
    alternate: bool = False
    """the stack goes on learning while everything is tuned together"""
    disagreement: Weight = 0.0
    """then, the weight of the reward for images on which the student is wrong, reached half-way"""
    bank: Annotated[int, Field(ge=0)] = 8192
    """images of the second half of the stack's life that are kept, for every other step; 0 keeps none"""
    leave: Literal["last", "least"] = "last"
    """where branches leave: at the end of one trunk, or where the loss on generated images is least, which misranks"""
    start: str | None = None
    """the teacher whose blocks the student begins with"""
    merge: Merge = "auto"
    """how the teachers' answers become one"""
    calibrate: Evidence = "class"
    """by which evidence they are compared, on generated images"""
    kappa: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    """how much evidence counts, in nats a unit"""
    samples: Annotated[int, Field(ge=2)] = 4096
    """images that are asked about to compare the teachers"""
    loss: Imitation = "kl"
    """between the student's answer and the merged one"""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """of both"""
    clip: Annotated[float, Field(gt=0)] | None = 5.0
    """largest norm of the stack's gradient"""
    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    """teacher -> {its label: the name it is to have}"""

    sees: ClassVar[Sees] = Sees.NOTHING

    def __post_init__(self) -> None:
        if not (self.one_hot or self.entropy or self.batch_norm):
            raise ValueError(
                "AmalgamateDataFree has nothing to draw images by: set one_hot, entropy or batch_norm above 0"
            )
        if self.disagreement and not self.alternate:
            raise ValueError(
                f"disagreement {self.disagreement:g} rewards a stack that goes on learning beside the student: set "
                "alternate to true, or disagreement to 0"
            )

    def plan(self, state: State, signature: Signature) -> list[str]:
        """Who owns which label, and the blocks."""
        panel = Panel(state.teachers, signature, aliases=self.aliases)
        how = merged(panel, self.merge, Calibration(self.calibrate, self.kappa, (), (), (), (), 0))
        grafts = Grafts(panel, self.student.build(), self.cuts, self.teacher_cuts)
        shapes = " | ".join("x".join(map(str, shape)) for shape in grafts.trunk.shapes[:-1])
        return [
            *panel.plan(), f"merge: {how.how}, {self.calibrate} evidence on generated images",
            f"{len(grafts)} blocks, features between them: {shapes}",
        ]  # fmt: skip

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """The student as it is named; where branches may leave a trunk, about the trunk."""
        panel = Panel(state.teachers, signature, aliases=self.aliases)
        lines, made = tuple(self.plan(state, signature)), built(state, self.student)
        student = made.student
        assert student is not None
        with torch.random.fork_rng(devices=[]):
            stack = self._game(panel, student, Session()).stack
        rounds, blocks = self.generator_epochs * self.rounds, len(self.cuts) + 1
        own = Feed(self.rounds, 0, self.batch, signature)
        drawing = blocks * own.total(self.block_epochs) + own.total(self.epochs)
        steps = rounds + (own.total(self.epochs) if self.alternate else 0)
        takes = latents(self.latent)
        passes = (
            Pass(stack, steps, "weights", self.batch, takes),
            # The image, and half of a tail for the feature of every block.
            *asking(panel, own, steps * (1 + (blocks - 1) / 2), "inputs"),
            Pass(stack, drawing / (2 if self.bank else 1), "nothing", self.batch, takes),
            *grafting(panel, student, own, blocks, self.streams * self.block_epochs, self.epochs),
            *asking(panel, own, parts(self.samples, self.batch)),
        )
        follows: Follows = "settings" if self.leave == "last" else "training"
        return Forecast(made, lines, follows=follows, fresh=True, passes=passes, settled=shapes(student))

    def __call__(self, state: State, session: Session) -> State:
        """Draw, teach, regroup. Raises ValueError where blocks do not match, or the stack draws one image only."""
        panel = Panel(state.teachers, session.signature, aliases=self.aliases, device=session.device)
        for line in panel.notes:
            session.note(line)
        for member in panel.members:
            passing(member.teacher, (member.fronted(panel.given.example(2)[0].to(session.device)),))
        student = session.place(self.student.build())
        answering(student, panel, session)
        grafts = Grafts(panel, student, self.cuts, self.teacher_cuts)
        game = self._game(panel, student, session)
        past = self._draw(game, session)
        source = Drawn(game, self.rounds, past if self.bank else None, streams=self.streams == 2)
        calibration = calibrated(
            panel, source, session, self.calibrate, self.kappa, None, self.samples, strict=False
        )
        merger = merged(panel, self.merge, calibration)
        work = Work(
            session, panel, merger, calibration, Course(self, session, source), self.loss, self.temperature,
            self.samples,
        )  # fmt: skip
        if self.start is not None:
            student = begun(work, student, self.start)
            grafts = Grafts(panel, student, self.cuts, self.teacher_cuts)
        for block in range(1, len(grafts) + 1):
            grafts.learn(work, block, self.block_epochs)
        student = regrouped(work, grafts, self.leave, self.epochs, self._rival(game, session))
        made = Amalgamation(
            panel.names, tuple(space.names for space in panel.spaces), merger.how, calibration, work.branches
        )
        return replace(state, student=student.requires_grad_(True).eval(), amalgamation=made)

    def _game(self, panel: Panel, student: nn.Module, session: Session) -> Game:
        grafts = Grafts(panel, student, self.cuts, self.teacher_cuts)
        shapes = grafts.trunk.shapes[:-1]
        stack = session.place(
            GroupStack(panel.given, shapes, self._floors(grafts, session), self.latent, self.width)
        )
        weights = Weights(
            self.one_hot, self.activation, self.entropy, self.sparsity, self.consistency, self.batch_norm, self.foreign,
            self.disagreement,
        )  # fmt: skip
        return Game(panel, grafts, stack, weights, session, self.owned, self.batch)

    @torch.no_grad()
    def _floors(self, grafts: Grafts, session: Session) -> list[bool]:
        """Whether features are never negative, block by block: all teachers end them in a ReLU."""
        floors = [True] * (len(grafts) - 1)
        images = grafts.panel.given.example(4)[0].to(session.device)
        for member in grafts.panel.members:
            feature = shown = member.fronted(images)
            for place, part in enumerate(grafts.tails[member.name].parts[:-1]):
                feature = part(feature, shown)
                floors[place] = floors[place] and bool(feature.min() >= 0)
        return floors

    def _draw(self, game: Game, session: Session) -> Bank:
        """Stage 1: teach the stack; images of its later half, and pictures."""
        stack, filters = game.stack, game.grafts.filters
        learn = torch.optim.Adam(
            [*stack.parameters(), *filters.parameters()], self.generator_lr, (0.5, 0.999)
        )
        epochs = session.epochs_of(self.generator_epochs)
        schedule = cosine(learn, epochs * self.rounds)
        past, album = Bank(max(self.bank, self.batch + 1), session.device), Album()
        guard = Guard({"stack": stack, "filters": filters, "learn": learn}, schedule, self.clip, session)
        keep: dict[str, Stateful] = {
            "stack": stack, "filters": filters, "learn": learn, "schedule": schedule, "past": past, "album": album,
            "guard": guard, "game": game,
        }  # fmt: skip
        late = epochs - epochs // 2
        for epoch in session.epochs(self.generator_epochs, **keep):
            guard.remember()
            sums: dict[str, float] = {}
            for _ in range(self.rounds):
                stack.train()
                filters.train()
                with session.autocast():
                    loss, told = game.loss(game.latents())
                learn.zero_grad()
                loss.backward()
                if guard.sound(loss, stack):
                    learn.step()
                schedule.step()
                for name, term in told.items():
                    sums[name] = sums.get(name, 0.0) + term.item()
            stack.eval()
            images, _ = game.drawn(max(10 * len(game.panel.asked), 64))
            told_ = {f"stack/{name}": value / self.rounds for name, value in sums.items()}
            told_ |= {"stack/variety": variety(images)}
            told_ |= {f"stack/{name}": value for name, value in game.watched(images).items()}
            session.log(told_, epoch)
            if epoch >= epochs - late:
                for _ in range(-(-self.bank // late // self.batch)):
                    kept, _ = game.drawn()
                    past.add(kept, kept.flatten(1)[:, :1], session.generator)
            if epoch in Album.moments(epochs):
                album.put(epoch, stack.pixels(images), self._labelled(game.panel, images))
        stack.eval()
        images, _ = game.drawn(64)
        if variety(images) < 1e-2:
            raise ValueError(
                f"the stack draws much the same image all the time (variety {variety(images):.4f}): give entropy a "
                "larger weight, or generator_lr a smaller value"
            )
        if (share := game.watched(images).get("dark", 0.0)) == 1.0:
            raise ValueError(
                f"{100 * share:.0f} % of the generated images have no label at all, which no loss but entropy "
                "opposes: give entropy a larger weight, or sparsity a smaller one"
            )
        labels = replace(game.panel.given, labels=game.panel.asked.names)
        for title, svg in album.pictures("AmalgamateDataFree", labels).items():
            session.picture(title, svg)
        return past

    @staticmethod
    def _labelled(panel: Panel, images: Tensor) -> Tensor:
        """Every teacher's answers side by side, by the labels asked for: log-probabilities."""
        pieces = panel.pieces(panel.ask(images))
        table = images.new_full((len(images), len(panel.asked)), -20.0)
        for member, piece in zip(panel.members, pieces, strict=True):
            index = list(member.index)
            table[:, index] = torch.maximum(table[:, index], piece.float().log_softmax(1))
        return table

    def _rival(self, game: Game, session: Session) -> Rival | None:
        """The stack that goes on learning beside the student, where that is asked for."""
        if not self.alternate:
            return None
        total = max(1, round(session.epochs_of(self.epochs) * self.rounds * _RAMP))
        return Rival(game, self.generator_lr, total, self.clip)


class Rival:
    """A step of the stack before every step of the student, for the same losses and the student's mistakes."""

    def __init__(self, game: Game, lr: float, ramp: int, clip: float | None) -> None:
        self.game, self.ramp, self.done = game, ramp, 0
        self.parameters = [*game.stack.parameters(), *game.grafts.filters.parameters()]
        self.learn = torch.optim.Adam(self.parameters, lr, (0.5, 0.999))
        self.clip = clip

    def __call__(self, student: nn.Module) -> None:
        """Take it; the student's weights and statistics stay as they are."""
        self.done += 1
        self.game.stack.train()
        student.eval()
        with self.game.session.autocast():
            loss, _ = self.game.loss(self.game.latents(), student, min(1.0, self.done / self.ramp))
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if bool(loss.isfinite()):
            self.learn.step()
        self.game.stack.eval()
        student.train()

    def keep(self) -> dict[str, object]:
        """What a resumed phase needs."""
        return {
            "stack": self.game.stack,
            "filters": self.game.grafts.filters,
            "tease": self.learn,
            "rival": self,
        }

    def state_dict(self) -> dict[str, int]:
        """How far the ramp has come."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self.done = int(state["done"])
