"""GAL: structured pruning by label-free adversarial output matching, soft masks solved with FISTA."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from compress.adversaries import Discriminator
from compress.cutting import cutting
from compress.forecast import Feed, Forecast, Pass
from compress.generated import UnlessGenerated
from compress.generated import feed as fed
from compress.losses import Reduction, discriminator_loss, generator_loss, output_matching
from compress.optim import FISTA, Variant
from compress.prune import describe
from compress.session import Sees, Session, Stateful
from compress.stage import Stage, State
from students.budget import choose, floor, uniform
from students.surgery import Alive, Anatomy, Kind, SoftMasks
from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.task import Batch
from teachers.teacher import Teacher
from teachers.train import constant, cosine

_PROBES = 8  # batches that the curvature of the masks is measured on
_DRAWS = 8  # of random signs for each: with one, half of the support was chosen by their noise
_REACH = 30.0  # how far a ramp may raise the penalty, as a factor


@spec
class GAL(Stage):
    """Play the student, a masked copy of the teacher, against a discriminator; cut what the masks switch off.

        min over weights, m >= 0   max over D:
            L_adv + data_weight * L_data + weight_decay * |W|^2 + l1 * sum_i c_i m_i

    L_adv is the game on logits (`losses.discriminator_loss`, `losses.generator_loss`), L_data the distance of the
    logits (`losses.output_matching`), c_i what unit i costs, mean 1. D and the weights take SGD steps every batch,
    the masks a FISTA step every `mask_interval` batches, on the gradient gathered in between.

    With `macs` the penalty is ramped until the counted MACs are `decide` of the way to the budget; the support that
    meets it is then frozen, in widths that are multiples of `round_to`, and the remaining steps finish with it.
    Without, `l1` is the penalty throughout.

    Takes the only teacher (or the student so far, which the teacher then judges), leaves the cut student: no mask,
    hook or wrapper stays in it. Sees inputs, no labels.

    Source: Lin et al., CVPR 2019, arXiv 1903.09291. Where the released code differs from the paper or from its own
    intention, this follows the intention: a discriminator that is not an affine map, the sigmoid once, the teacher
    in eval mode, the penalty once (in the proximal map), the gradient where the network runs, restarts that fire,
    masks that start at 1, a gradient from every batch, costs in the penalty, one forward each and one merged
    backward. `variant="official"` brings back the released solver and discriminator, to compare with.
    """

    macs: Annotated[float, Field(gt=0, lt=1)] | None = None
    """the budget: at most this share of the MACs of the network that comes in"""
    l1: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    """weight of the penalty, where there is no budget that sets it"""
    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2
    """passes over train, the last of which may be a part of one"""
    structures: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("channel",)
    """what may be cut: channel groups, residual blocks, inception branches, or several of them jointly: of channels and
    blocks, a block also goes when the last channels inside it are worth least (`students.hollow`)"""
    round_to: Annotated[int, Field(ge=1)] = 8
    """widths are multiples of this, or left alone: odd widths cost accuracy and buy no time"""
    spare: tuple[str, ...] = ()
    """layers to leave as they are, by patterns of their names: layer1.*"""
    ramp: Annotated[float, Field(gt=0, le=1)] = 0.8
    """the share of the steps by which the budget is met; the rest finishes with the support frozen"""
    decide: Annotated[float, Field(gt=0, le=1)] = 0.15
    """the share of the way to the budget that the masks go by themselves; the support is then chosen by what each
    mask is worth, its value squared times its curvature over its cost. 1 lets the masks decide alone: measured, that is
    worse, for masks that reach 0 together in a few steps take each other's measure no more"""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    """of the weights, after a short warm-up"""
    anneal: bool = True
    """lower it along a cosine, which leaves the best network; False keeps it, for a Finetune that follows"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """of the weights' and the discriminator's SGD"""
    weight_decay: Annotated[float, Field(ge=0)] = 2e-4
    """of weights and discriminator, not of masks"""
    clip: Annotated[float, Field(gt=0)] = 5.0
    """largest norm of the weights' gradient"""
    data_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """mu, of the data term"""
    reduction: Reduction = "paper"
    """of the data term: half the sum over logits, or the mean over them"""
    regularisation: Annotated[float, Field(ge=0)] = 1.0
    """a, of the discriminator's adversarial regularisation; 0 is the plain game"""
    discriminator_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    """of the discriminator"""
    mask_interval: Annotated[int, Field(ge=1)] = 2
    """batches between two mask steps"""
    mask_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """FISTA's step size; None measures the curvature of every mask and takes the longest safe step"""
    cost_aware: bool = True
    """penalise a unit by the MACs that leave with it"""
    statistics: Literal["batch", "frozen"] = "batch"
    """what the student's batch norms use while it is searched"""
    variant: Variant = "textbook"
    """"official" is the released solver (gradient at m, penalty counted twice) and the affine discriminator"""

    generated: bool = False
    """play on images that `Generate` made, and see nothing of the task"""

    sees: ClassVar[Sees] = UnlessGenerated()  # type: ignore[assignment]

    def plan(self, state: State, signature: Signature) -> list[str]:
        """What would be touched, what is locked and why, and whether the budget can be met."""
        return describe(
            Anatomy(state.draft(), signature.example(2), self.structures, self.spare),
            self.macs,
            self.round_to,
        )

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """About what would be left of every layer, were all to give the same share; which do is what the game finds."""
        began = time.perf_counter()
        draft = state.draft()
        anatomy = Anatomy(draft, state.teachers[0].signature.example(2), self.structures, self.spare)
        priority = uniform(anatomy, np.ones(anatomy.size))
        made = cutting(state, draft, anatomy, priority, self.macs, self.round_to, "training")
        seconds = time.perf_counter() - began
        teacher, feed = state.teacher(), feed.of(state, self.generated)
        steps, masks = feed.total(self.epochs), SoftMasks(anatomy, draft)
        judge = Discriminator(teacher.signature.classes, official=self.variant == "official")
        logits = Signature(inputs=((teacher.signature.classes,),), labels=())
        probing = (_PROBES * _DRAWS + 10) if self.mask_lr is None else 0
        passes = (
            feed.through(teacher.module, steps),
            feed.through(masks, steps + probing, "weights"),
            # Twice for its own step, with a gradient of a gradient on top, and once for the student's.
            Pass(judge, 4 * steps, "weights", feed.batch, logits),
        )
        lines = tuple(describe(anatomy, self.macs, self.round_to))
        batches = 0 if self.generated else steps + _PROBES
        return replace(made, lines=lines, passes=passes, batches=batches, seconds=seconds)

    def __call__(self, state: State, session: Session) -> State:
        """Search, freeze, cut.

        Raises ValueError where nothing can be cut, the budget cannot be met, or the penalty switched nothing off;
        Diverged where a loss is no longer finite.
        """
        fed(state, session, self.generated)
        teacher = state.teacher().to(session.device)
        student = session.place(state.draft())
        inputs = tuple(x.to(session.device) for x in teacher.signature.example(2))
        with torch.no_grad():
            answers = teacher(*inputs)
        if answers.dim() != 2:
            raise ValueError(
                f"GAL's game is on one row of logits a sample, and {teacher.name!r} gives {tuple(answers.shape)} for 2"
                ": where every pixel has a class, cut by Prune and tune by Finetune"
            )
        anatomy = Anatomy(student, inputs, self.structures, self.spare)
        for lock in anatomy.locked:
            session.note(f"locked {lock}")
        search = Search(self, anatomy, student, session.total_steps(self.epochs))
        if self.macs is not None and floor(anatomy, self.round_to) > search.budget:
            choose(anatomy, np.zeros(anatomy.size), search.budget, self.round_to)  # says what holds it up
        discriminator = Discriminator(teacher.signature.classes, official=self.variant == "official").to(
            session.device
        )
        tell = torch.optim.SGD(
            discriminator.parameters(), self.discriminator_lr, self.momentum, weight_decay=self.weight_decay
        )
        learn = torch.optim.SGD(
            student.parameters(), self.lr, self.momentum,
            weight_decay=self.weight_decay, nesterov=self.momentum > 0,
        )  # fmt: skip
        schedule = (cosine if self.anneal else constant)(learn, search.steps, search.steps // 20)
        keep: dict[str, Stateful] = {"student": student, "masks": search, "discriminator": discriminator,
                "learn": learn, "tell": tell, "schedule": schedule}  # fmt: skip

        for epoch in session.epochs(self.epochs, **keep):
            sums = {"data": 0.0, "adversarial": 0.0, "discriminator": 0.0}
            if not search.ready:
                search.measure(teacher, discriminator, session)
            student.train(self.statistics == "batch")
            for batch in session.batches():
                with session.autocast():
                    with torch.no_grad():
                        wanted = teacher(*batch.inputs)
                    given = search.masks(*batch.inputs)
                wanted, given = wanted.float(), given.float()

                game = discriminator_loss(
                    discriminator(wanted), discriminator(given.detach()), self.regularisation
                )
                tell.zero_grad()
                game.backward()
                tell.step()

                data = output_matching(given, wanted, self.reduction)
                fool = generator_loss(discriminator(given))
                learn.zero_grad()
                search.masks.values.grad = None
                (fool + self.data_weight * data).backward()
                torch.nn.utils.clip_grad_norm_(student.parameters(), self.clip)
                learn.step()
                schedule.step()
                search.step()
                for name, value in (("data", data), ("adversarial", fool), ("discriminator", game)):
                    sums[name] += value.item() / session.steps()
            session.log({**sums, **search.report()}, epoch)

        return replace(state, student=search.finish().eval())


class Search:
    """The masks of one search: gathering gradients, stepping, ramping the penalty, freezing the support."""

    def __init__(self, settings: GAL, anatomy: Anatomy, student: nn.Module, steps: int) -> None:
        self.settings, self.anatomy, self.student, self.steps = settings, anatomy, student, steps
        self.masks = SoftMasks(anatomy, student)
        prices = torch.from_numpy(anatomy.prices()).to(self.masks.values)
        movable = torch.from_numpy(anatomy.movable()).to(self.masks.values)
        # One penalty per kind: a block's price is a sum over many channels, and must not drown theirs.
        costs = torch.ones_like(prices)
        if settings.cost_aware:
            for part in (slice(0, anatomy.first_whole), slice(anatomy.first_whole, anatomy.size)):
                if prices[part].numel():
                    costs[part] = prices[part] / prices[part].mean()
        self.costs = costs * movable
        self.budget = int((settings.macs or 0.0) * anatomy.macs)
        self.solver = FISTA(self.masks.values, settings.mask_lr or 1.0, variant=settings.variant)
        self.curvature = torch.ones_like(prices)
        self.gathered = torch.zeros_like(prices)
        self.count = 0
        self.l1 = settings.l1
        self.ready = False
        self.support: Tensor | None = None
        self.mask_steps = max(1, int(steps * settings.ramp) // settings.mask_interval)
        self.growth = _REACH ** (1 / self.mask_steps)

    # -- before the first step ----------------------------------------------------------------------------

    def measure(self, teacher: Teacher, discriminator: Discriminator, session: Session) -> None:
        """Take the teacher's spread for the discriminator, and every mask's curvature for the solver."""
        batches = list(islice(session.batches(), _PROBES))
        with torch.no_grad(), session.autocast():
            discriminator.calibrate(teacher(*batches[0].inputs))
        self.ready = True
        if self.settings.mask_lr is not None:
            return
        was = {k: v.clone() for k, v in self.student.state_dict().items()}
        self.student.train(self.settings.statistics == "batch")
        self.curvature = self._curvature(batches, session)
        together = self._together(batches[0])
        self.student.load_state_dict(was)
        self.solver.lr = 1.0 / (together * self.curvature)
        if self.settings.macs is not None:
            # Where a mask's own curvature is all that holds it, the penalty that kills it is curvature / cost.
            lasts = (self.curvature / self.costs.clamp_min(1e-9))[self.costs > 0]
            self.l1 = 0.1 * lasts.median().item()

    def _curvature(self, batches: list[Batch], session: Session) -> Tensor:
        """The diagonal of the data term's Gauss-Newton matrix, E[sum_k (d logit_k / d m_i)^2]: (units,), > 0.

        By random signs v: the gradient of (1/n) sum v . logits has the second moment diag / n (Hutchinson). Each draw
        gives the diagonal with a relative error of sqrt(2), so that 64 of them leave 18 %.
        """
        generator = torch.Generator().manual_seed(0)
        diagonal = torch.zeros_like(self.curvature)
        for batch in batches:
            with session.autocast():
                logits = self.masks(*batch.inputs)
            for draw in range(_DRAWS):
                signs = (torch.randint(0, 2, logits.shape, generator=generator) * 2.0 - 1.0).to(logits.device)
                (gradient,) = torch.autograd.grad(
                    (logits.float() * signs).sum(), self.masks.values, retain_graph=draw < _DRAWS - 1
                )
                diagonal += gradient.square() / len(batch) / len(batches) / _DRAWS
        scale = 1.0 if self.settings.reduction == "paper" else 2.0 / logits.shape[1]
        diagonal *= scale * self.settings.data_weight
        # A mask that hardly matters must not take an endless step: a floor of 2 % of the mean.
        return diagonal + max(0.02 * diagonal[self.costs > 0].mean().item(), 1e-12)

    def _together(self, batch: Batch) -> float:
        """The largest curvature once every mask is measured in units of its own, by power iteration."""
        unit = self.curvature.rsqrt()
        ones = torch.ones_like(unit)
        with torch.no_grad():
            anchor = self.masks(*batch.inputs).float()

        def slope(at: Tensor) -> Tensor:
            with torch.no_grad():
                self.masks.values.copy_(at)
            loss = output_matching(self.masks(*batch.inputs), anchor, self.settings.reduction)
            return torch.autograd.grad(self.settings.data_weight * loss, self.masks.values)[0]

        base = slope(ones)
        direction = torch.ones_like(unit) / math.sqrt(len(unit))
        largest = 1.0
        for _ in range(8):
            reach = 0.1 / (unit * direction).abs().max().item()
            bent = unit * (slope(ones + reach * unit * direction) - base) / reach
            largest = max(bent.norm().item(), 1e-12)
            direction = bent / largest
        with torch.no_grad():
            self.masks.values.fill_(1.0)
        return max(largest, 1.0)

    # -- while it runs ------------------------------------------------------------------------------------

    def step(self) -> None:
        """Gather this batch's gradient; every `mask_interval` batches, move the masks."""
        if self.support is not None:
            return
        gradient = self.masks.values.grad
        assert gradient is not None
        official = self.settings.variant == "official"
        self.gathered = gradient.clone() if official else self.gathered + gradient
        self.count += 1
        if self.count % self.settings.mask_interval:
            return
        mean = self.gathered / (1 if official else self.settings.mask_interval)
        penalty = self.l1 * self.costs
        self.solver.step(mean + penalty if official else mean, penalty)
        self.gathered.zero_()
        if self.settings.macs is None:
            return
        taken = self.count // self.settings.mask_interval
        due = self.anatomy.macs - (self.anatomy.macs - self.budget) * min(1.0, taken / self.mask_steps)
        cost = self.anatomy.cost(self.alive())
        enough = self.anatomy.macs - self.settings.decide * (self.anatomy.macs - self.budget)
        if cost <= enough or taken >= self.mask_steps:
            self._freeze()
        else:
            self.l1 *= self.growth**1.5 if cost > due else self.growth**-0.5

    def solution(self) -> Tensor:
        """The masks m >= 0 themselves, without extrapolation."""
        return self.solver.solution if self.settings.variant == "textbook" else self.masks.values.detach()

    def alive(self) -> Alive:
        """The units whose mask is above 0, with the best kept where a layer would be left with none."""
        values = self.solution().cpu().double().numpy()
        kept = self.anatomy.hollowed(values > 0)
        return self.anatomy.hollowed(self.anatomy.rescue(kept, values))

    def _freeze(self) -> None:
        """Choose the support that meets the budget in round widths; its masks stay, all others are 0 for good."""
        value = self.solution().cpu().double().numpy()
        # What the outputs would lose without the unit, to second order, for what it costs.
        # Costs are relative to their kind; a block and a channel compare by what they really cost.
        price = self.anatomy.prices() if self.settings.cost_aware else 1.0
        worth = value**2 * self.curvature.cpu().double().numpy() / price
        # Among the dead, those that came nearest to living are the first to be taken back.
        near = (self.masks.values.detach() - self.solution()).cpu().double().numpy()
        priority = np.where(value > 0, worth, 1e-9 * np.tanh(near))
        alive = choose(self.anatomy, priority, self.budget, self.settings.round_to)
        self._fix(alive)

    @torch.no_grad()
    def _fix(self, alive: Alive) -> None:
        support = torch.from_numpy(alive).to(self.masks.values.device)
        values = self.solution()
        least = values[values > 0].mean() * 0.3 if bool((values > 0).any()) else values.new_ones(())
        values = torch.where(support, torch.where(values > 0, values, least), torch.zeros_like(values))
        # From here on the student is trained as it will be cut: what lives has mask 1, its value in the weights.
        self.masks.values.copy_(torch.where(support, values, torch.ones_like(values)))
        self.masks.fold()
        self.masks.values.copy_(support.to(values))
        self.solver.solution = self.masks.values.detach().clone()
        self.support = support

    def report(self) -> dict[str, float]:
        """The numbers that matter."""
        alive = self.alive() if self.support is None else self.support.cpu().numpy()
        return {
            "alive": float(alive.mean()), "macs": self.anatomy.cost(alive) / self.anatomy.macs,
            "l1": self.l1, "restarts": float(self.solver.restarts), "frozen": float(self.support is not None),
        }  # fmt: skip

    def finish(self) -> nn.Module:
        """Fold the masks in and cut. Raises ValueError where nothing was switched off."""
        if self.support is None and self.settings.macs is not None:
            self._freeze()
        alive = self.alive() if self.support is None else self.support.cpu().numpy()
        if alive.all():
            raise ValueError(
                f"GAL switched nothing off: a penalty of l1={self.settings.l1:g} is too weak for "
                f"{self.steps} steps (smallest mask {self.solution().min().item():.3f}); raise it, or set macs"
            )
        if self.support is None:
            self._fix(alive)
        self.masks.fold()
        return self.anatomy.cut(self.student, alive)

    # -- being put away -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed search needs to go on identically."""
        return {
            "solver": self.solver.state_dict(), "curvature": self.curvature, "gathered": self.gathered,
            "count": self.count, "l1": self.l1, "ready": self.ready, "support": self.support,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        device = self.masks.values.device
        self.solver.load_state_dict(state["solver"])
        self.curvature = state["curvature"].to(device)
        self.gathered = state["gathered"].to(device)
        self.count, self.l1, self.ready = int(state["count"]), float(state["l1"]), bool(state["ready"])
        self.support = state["support"].to(device) if state["support"] is not None else None
