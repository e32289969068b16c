"""A row of stages, foreseen: every stage is planned on the student that the one before it would leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from compress.forecast import Feed, Forecast
from compress.stage import Stage, State
from recipes.measure import cost_of
from recipes.recipe import Recipe
from reports.profile import Profile
from students.kernels import SharedConvolution
from teachers.signature import Signature
from teachers.teacher import Teacher

_MISFIT = (ValueError, RuntimeError)
"""what a network says that does not take what it is given; a plan tells of it, and goes on"""


@dataclass(frozen=True)
class Least:
    """The smallest that stages up to here could leave, each cost by itself, and what keeps it from being smaller.

    stage  whose smallest it is
    """

    macs: int
    params: int
    bytes: int
    stage: str
    blocks: str


@dataclass(frozen=True)
class Step:
    """What one stage would do.

    cost      of its student; None where there is none, or nobody can know
    sure      whether that cost will be met to the last parameter; else it is "about"
    touched   layer -> how it would change
    problem   why the stage cannot do its work, or would refuse it
    chosen    the stage before it that chooses among teachers: who is left then, a plan cannot know
    settled   what of this does not depend on weights
    """

    stage: Stage
    position: int
    forecast: Forecast | None
    cost: Profile | None
    sure: bool
    touched: dict[str, str]
    least: Least | None
    problem: str | None
    chosen: str | None
    settled: tuple[str, ...]


def foresee(recipe: Recipe, teachers: Sequence[Teacher], feed: Feed, *, trained: bool) -> Iterator[Step]:
    """The steps of a recipe, on teachers that may have yet to be trained (then not `trained`).

    No random number is drawn from the global generators, and no teacher is changed.
    """
    state, signature = State(tuple(teachers)), recipe.task.signature()
    sure, settled, own_weights, chosen = True, True, trained, None
    least: Least | None = None
    small: nn.Module | None = None  # the smallest network so far, for stages after it to make smaller still
    for position, stage in enumerate(recipe.stages, 1):
        if chosen is not None:
            yield Step(stage, position, None, None, False, {}, None, None, chosen, ())
            continue
        before = state.student if state.student is not None else _only(state)
        forecast, problem = _forecast(stage, state, signature, feed)
        if forecast is None:
            sure = settled = own_weights = False
            yield Step(stage, position, None, None, False, {}, None, problem, None, ())
            continue
        after = forecast.state.student
        follows, known = forecast.follows, settled or forecast.fresh
        if after is not None:
            fine = follows == "settings" or (follows == "weights" and own_weights)
            sure = fine and (sure or forecast.fresh)
            settled = follows == "settings" and known
            own_weights = False
        cost, misfit = _cost(after, signature)
        if forecast.fresh:
            least = small = None
        before_small, small = small, forecast.least if forecast.least is not None else small
        least = _smaller(least, stage, forecast.blocks, cost, _cost(forecast.least, signature)[0])
        if recipe.at_most is not None and before_small is not None and forecast.least is not None:
            again, _ = _forecast(stage, replace(state, student=before_small), signature, feed)
            if again is not None and again.least is not None:
                small = again.least
                least = _smaller(least, stage, again.blocks, None, _cost(small, signature)[0])
        touched = changed(before, after) if before is not None and after is not None else {}
        yield Step(
            stage, position, forecast, cost, sure, touched, least, problem or misfit, None,
            forecast.settled if known else (),
        )  # fmt: skip
        if stage.chooses and len(state.teachers) > 1:
            chosen = type(stage).__name__
        state = forecast.state


def _only(state: State) -> nn.Module | None:
    return state.teachers[0].module if len(state.teachers) == 1 else None


def _forecast(
    stage: Stage, state: State, signature: Signature, feed: Feed
) -> tuple[Forecast | None, str | None]:
    """The forecast, or why there is none."""
    try:
        with torch.random.fork_rng(devices=[]):
            made = stage.forecast(state, signature, feed)
    except _MISFIT as problem:
        return None, str(problem)
    return made, made.refused


def _cost(student: nn.Module | None, signature: Signature) -> tuple[Profile | None, str | None]:
    if student is None:
        return None, None
    try:
        return cost_of(student, signature), None
    except _MISFIT as problem:
        return None, f"the student does not take the task's inputs: {str(problem).splitlines()[0]}"


def _smaller(least: Least | None, stage: Stage, blocks: str, *costs: Profile | None) -> Least | None:
    """The smallest so far, after a stage that can leave networks of these costs."""
    name = type(stage).__name__
    options = [least] if least is not None else []
    options += [
        _least(cost, name, blocks or "no stage cuts the student further")
        for cost in costs
        if cost is not None
    ]
    if not options:
        return None
    best = min(options, key=lambda one: (one.macs, one.bytes))
    return Least(
        best.macs,
        min(one.params for one in options),
        min(one.bytes for one in options),
        best.stage,
        best.blocks,
    )


def _least(cost: Profile, stage: str, blocks: str) -> Least:
    assert cost.bytes is not None
    return Least(cost.macs, cost.params, cost.bytes, stage, blocks)


def changed(before: nn.Module, after: nn.Module) -> dict[str, str]:
    """Layers whose weights have another shape, are gone, new, or share kernels: by name, in words."""
    was, now = _layers(before), _layers(after)
    told: dict[str, str] = {}
    for name, (kind, outs, ins) in was.items():
        if name not in now:
            told[name] = "gone"
            continue
        other, outs_now, ins_now = now[name]
        said = []
        if outs != outs_now:
            said.append(f"{outs} → {outs_now} out")
        if ins != ins_now:
            said.append(f"{ins} → {ins_now} in")
        if kind != other and other is SharedConvolution:
            said.append("shares kernels")
        if said:
            told[name] = ", ".join(said)
    return told | {name: "new" for name in now if name not in was}


def _layers(network: nn.Module) -> dict[str, tuple[type, int, int]]:
    """Layers with weights of two or more dimensions: type, outputs and inputs."""
    found: dict[str, tuple[type, int, int]] = {}
    for name, part in network.named_modules():
        if isinstance(part, SharedConvolution):
            found[name] = (SharedConvolution, part.out_channels, part.in_channels)
            continue
        weight = getattr(part, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.dim() >= 2:
            outs = getattr(part, "out_channels", getattr(part, "out_features", weight.shape[0]))
            ins = getattr(part, "in_channels", getattr(part, "in_features", weight.shape[1]))
            found[name] = (type(part), int(outs), int(ins))
    return found
