"""Pruning in one go, by torch-pruning's importances: the baselines that GAL is compared with."""

import time
import warnings
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import nn

from compress.cutting import cutting
from compress.forecast import Feed, Follows, Forecast
from compress.session import Sees, Session
from compress.stage import Stage, State
from reports.units import count
from students import passing
from students.budget import choose, floor, uniform
from students.kernels import SharedConvolution, densified
from students.surgery import Anatomy, Values
from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.train import supervised

Importance = Literal["l1", "l2", "bn_scale", "taylor", "random"]


@spec
class Prune(Stage):
    """Rank channels by an importance, cut the lowest until the MACs fit, in one go.

    l1, l2      sum of |w|^p over everything that makes and reads a channel
    bn_scale    |gamma| of its batch norm (Liu et al. 2017)
    taylor      |w * dL/dw|, L the cross-entropy on a few labeled batches (Molchanov et al. 2019)
    random      chance, for comparison

    All are torch-pruning's group importances; for networks over graphs, which it cannot follow, the same sums. Takes
    the student so far (or a copy of the only teacher), leaves it cut and not trained: Recalibrate or Finetune come
    next. Sees nothing, but for taylor.
    """

    macs: Annotated[float, Field(gt=0, lt=1)]
    """the budget: at most this share of the MACs of the network that comes in"""
    importance: Importance = "l2"
    """how channels are ranked"""
    scope: Literal["layer", "network"] = "layer"
    """"layer" takes the same share from every layer; "network" ranks all channels in one row, each layer's
    importances divided by their mean"""
    round_to: Annotated[int, Field(ge=1)] = 8
    """widths are multiples of this, or left alone: odd widths cost accuracy and buy no time"""
    units: Literal["channels", "heads"] = "channels"
    """of graph attention: the channels that every head has, or whole heads"""
    spare: tuple[str, ...] = ()
    """layers to leave as they are, by patterns of their names: layer1.*"""
    batches: Annotated[int, Field(ge=1)] = 10
    """how many batches taylor looks at"""

    @property
    def sees(self) -> Sees:  # type: ignore[override]
        """Only taylor looks at data."""
        return Sees.LABELS if self.importance == "taylor" else Sees.NOTHING

    def plan(self, state: State, signature: Signature) -> list[str]:
        """What would be touched, what is locked and why, and whether the budget can be met."""
        return describe(
            Anatomy(state.draft(), signature.example(2), spare=self.spare, heads=self.units == "heads"),
            self.macs,
            self._round(),
        )

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """What would be left: exact where every layer gives the same share, whatever the weights, else about."""
        began = time.perf_counter()
        draft = state.draft()
        inputs = state.teachers[0].signature.example(2)
        anatomy = Anatomy(draft, inputs, spare=self.spare, heads=self.units == "heads")
        guessed = self.importance in ("taylor", "random")
        blind = self.scope == "layer" or guessed
        scores = np.ones(anatomy.size) if blind else _scores(draft, inputs, anatomy, self.importance)
        priority = uniform(anatomy, scores) if blind else scores
        follows: Follows = "settings" if self.scope == "layer" else "training" if guessed else "weights"
        made = cutting(state, draft, anatomy, priority, self.macs, self._round(), follows)
        looks = self.importance == "taylor"
        return replace(
            made,
            lines=tuple(describe(anatomy, self.macs, self._round())),
            passes=(feed.through(draft, self.batches, "weights"),) if looks else (),
            batches=self.batches if looks else 0,
            seconds=time.perf_counter() - began,
        )

    def _round(self) -> int:
        # Of eight heads a multiple of eight would be all.
        return 1 if self.units == "heads" else self.round_to

    def __call__(self, state: State, session: Session) -> State:
        """Cut a copy. Raises ValueError where the budget cannot be met, or nothing can be cut."""
        draft = session.place(state.draft())
        inputs = tuple(x.to(session.device) for x in state.teachers[0].signature.example(2))
        anatomy = Anatomy(draft, inputs, spare=self.spare, heads=self.units == "heads")
        for lock in anatomy.locked:
            session.note(f"locked {lock}")
        if self.importance == "taylor":
            self._gather(draft, session, session.signature or state.teachers[0].signature)
        scores = _scores(draft, inputs, anatomy, self.importance)
        draft.zero_grad(set_to_none=True)
        priority = uniform(anatomy, scores) if self.scope == "layer" else scores
        alive = choose(anatomy, priority, int(self.macs * anatomy.macs), self._round())
        session.log({"macs": anatomy.cost(alive), "channels": float(alive.sum())}, 0)
        return replace(state, student=anatomy.cut(draft, alive).eval())

    def _gather(self, draft: nn.Module, session: Session, known: Signature) -> None:
        """Gradients of the cross-entropy, summed over a few batches, in eval mode."""
        draft.eval()
        for batch in islice(session.batches(), self.batches):
            with session.autocast():
                outputs = draft(*batch.inputs)
            assert batch.target is not None, "taylor sees labels"
            supervised(outputs, batch.target, known.kind).backward()


def describe(anatomy: Anatomy, macs: float | None, round_to: int) -> list[str]:
    """The plan of a pruning stage, in lines: what may go, what is locked, where the floor lies."""
    least = floor(anatomy, round_to)
    lines = []
    if anatomy.channels:
        channels = sum(group.width for group in anatomy.groups)
        lines.append(f"may cut {channels} channels in {len(anatomy.groups)} groups")
    for kind in ("block", "branch"):
        if names := [whole.name for whole in anatomy.wholes if whole.kind == kind]:
            plural = "branches" if kind == "branch" else "blocks"
            lines.append(f"may take out {len(names)} {plural}: {', '.join(names)}")
    lines += [f"locked: {lock}" for lock in anatomy.locked]
    lines.append(f"smallest reachable: {count(least)} MACs, {least / anatomy.macs:.1%} of what comes in")
    if macs is not None:
        verdict = "can be met" if macs * anatomy.macs >= least else "CANNOT be met"
        lines.append(f"budget: {macs:.1%}, {count(macs * anatomy.macs)} MACs: {verdict}")
    return lines


def _scores(
    network: nn.Module, inputs: tuple[torch.Tensor, ...], anatomy: Anatomy, importance: Importance
) -> Values:
    """torch-pruning's importance of every unit, each group's divided by its mean: (units,)."""
    if passing.passes(network):
        return _passing_scores(network, anatomy, importance)
    import torch_pruning as tp

    rank: Any = {
        "l1": lambda: tp.importance.MagnitudeImportance(p=1),
        "l2": lambda: tp.importance.MagnitudeImportance(p=2),
        "bn_scale": tp.importance.BNScaleImportance,
        "taylor": tp.importance.TaylorImportance,
        "random": tp.importance.RandomImportance,
    }[importance]()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    if any(isinstance(module, SharedConvolution) for module in network.modules()):
        network = densified(
            network
        )  # torch-pruning cannot follow the packing; those layers are locked anyway
    names = {module: name for name, module in network.named_modules()}
    numbers = {group.name: number for number, group in enumerate(anatomy.groups)}
    scores = np.zeros(anatomy.size)
    training = {module: module.training for module in network.modules()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(network, inputs, verbose=False)
        for proposal in graph.get_all_groups(root_module_types=[nn.modules.conv._ConvNd, nn.Linear]):
            number = numbers.get(names[proposal[0].dep.target.module])
            if number is None:
                continue  # locked
            for name, parameter in network.named_parameters():
                parameter.grad = gradients.get(name)
            value = rank(proposal)
            if value is None:
                raise ValueError(
                    f"'{anatomy.groups[number].name}' has no {importance} importance (no batch norm, or no gradient): "
                    "choose l1 or l2"
                )
            width = anatomy.groups[number].width
            unit = np.arange(len(value)) % width
            np.add.at(scores, anatomy.span(number).start + unit, value.detach().cpu().double().numpy())
    for module, mode in training.items():
        module.training = mode
    return scores


def _passing_scores(network: nn.Module, anatomy: Anatomy, importance: Importance) -> Values:
    """The importances of a network over graphs: the same sums, over what `students.passing` knows of it."""
    powers: dict[Importance, float | None] = {"l1": 1.0, "l2": 2.0, "taylor": None}
    scores = np.zeros(anatomy.size)
    for number, group in enumerate(anatomy.groups):
        if importance == "random":
            value = torch.rand(group.width).double()
        elif importance in powers:
            value = passing.importance(network, group, powers[importance])
        else:
            raise ValueError(f"'{group.name}' has no {importance} importance: choose l1 or l2")
        scores[anatomy.span(number)] = (value / value.mean().clamp_min(1e-12)).numpy()
    return scores
