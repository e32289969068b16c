"""What a recipe would do, without training: what its stages touch and read, what comes out, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from compress.forecast import Feed, Forecast, Pass
from compress.session import Sees
from compress.stage import State
from recipes import folders, models
from recipes.foresee import Step, foresee
from recipes.gather import trained_folder
from recipes.measure import cost_of, device_of
from recipes.names import name_of
from recipes.page import digest
from recipes.planned import Plan, PlannedStage, PlannedTeacher
from recipes.probe import Bench, Estimate
from recipes.recipe import Recipe, Workshop
from recipes.seal import Seal
from recipes.verdict import outlook, summed
from recipes.writing import show
from reports.profile import Profile
from reports.verdict import Verdict
from teachers.task import Split, Splits, Task
from teachers.teacher import Checkpoint, Teacher


def plan(recipe: Recipe, workshop: Workshop | None = None, *, probe: bool = True) -> Plan:
    """The plan of a recipe.

    Every stage is asked what it would do (`Stage.forecast`) with the student that the one before it would leave, and a
    ValueError it raises becomes a line. Teachers that have yet to be trained are planned with as untrained networks
    of the same shape. With `probe` a step or two of every kind is timed, on the workshop's device.

    Raises ValueError where weights or data are missing, as a run would.
    """
    workshop = workshop if workshop is not None else Workshop()
    splits = recipe.task.open(workshop.data)
    feed = Feed(max(1, _steps(splits, Split.TRAIN)), _steps(splits, Split.VAL))
    teachers, sources, ready = gathered(recipe, workshop)
    steps = tuple(foresee(recipe, teachers, feed, trained=ready))
    seal = Seal.of(recipe, teachers, steps)
    done = _done(recipe, workshop, teachers) if ready else {}
    own = [cost_of(teacher.module, teacher.signature) for teacher in teachers]
    benches: list[tuple[Task, Bench]] = []
    device = device_of(workshop.device) if probe else None

    def bench(task: Task, opened: Callable[[], Splits]) -> Bench:
        for known, made in benches:
            if known == task:
                return made
        assert device is not None
        made = Bench.of(opened(), task.signature(), device, recipe.precision)
        benches.append((task, made))
        return made

    planned = []
    for checkpoint, teacher, source, cost in zip(recipe.teachers, teachers, sources, own, strict=True):
        made = None
        if device is not None and source.to_train:
            made = _training(checkpoint, teacher, workshop, bench)
        planned.append(_teacher(checkpoint.name, source.said, cost, made))
    stages = []
    for step in steps:
        timed = None
        if device is not None and step.forecast is not None and step.problem is None:
            timed = bench(recipe.task, lambda: splits).of_stage(step.forecast)
        stages.append(_stage(step, splits, timed, done.get(step.position)))
    return Plan(
        recipe.name, digest(recipe), recipe.seed, recipe.precision, seal.hash, tuple(planned), show(recipe.task),
        {split.value: splits.samples(split) for split in Split}, tuple(splits.notes), tuple(stages),
        _outlook(recipe, steps, own, splits.samples(Split.TEST)), str(device) if device is not None else None, seal,
    )  # fmt: skip


def ahead(recipe: Recipe, workshop: Workshop) -> tuple[Seal, Verdict | None]:
    """What a run checks before it begins: what it stands for, and what can be said of its budget. Reads no data."""
    teachers, _, ready = gathered(recipe, workshop)
    steps = tuple(foresee(recipe, teachers, Feed(), trained=ready))
    verdict = None
    if recipe.at_most is not None:
        own = [cost_of(teacher.module, teacher.signature) for teacher in teachers]
        verdict = _outlook(recipe, steps, own, None)
    return Seal.of(recipe, teachers, steps), verdict


def _steps(splits: Splits, split: Split) -> int:
    """Batches in a pass; a task that nobody has seen a sample of refuses to say."""
    return splits.steps(split) if splits.samples(split) else 0


# -- teachers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where a teacher comes from, in words, and whether it has yet to be trained."""

    said: str
    to_train: bool


def gathered(recipe: Recipe, workshop: Workshop) -> tuple[tuple[Teacher, ...], tuple[Source, ...], bool]:
    """The teachers as a plan takes them, where they come from, and whether all are what a run would use."""
    pairs = [_found(checkpoint, workshop) for checkpoint in recipe.teachers]
    ready = not any(source.to_train for _, source in pairs)
    return tuple(teacher for teacher, _ in pairs), tuple(source for _, source in pairs), ready


def _found(checkpoint: Checkpoint, workshop: Workshop) -> tuple[Teacher, Source]:
    if checkpoint.weights is not None:
        found = models.local(checkpoint, workshop.runs, workshop.tracking, workshop.data)
        said = f"{show(checkpoint.network)} from {checkpoint.weights}"
        return models.load(found, workshop.data), Source(said, to_train=False)
    folder = trained_folder(checkpoint, workshop.runs)
    if not (folder / "weights.safetensors").exists():
        with torch.random.fork_rng(devices=[]):
            teacher = checkpoint.teacher(checkpoint.network.build())
        said = f"{show(checkpoint.network)}, to be trained first: {checkpoint.train}"
        return teacher, Source(said, to_train=True)
    made = Checkpoint(
        name=checkpoint.name,
        network=checkpoint.network,
        task=checkpoint.task,
        weights=str((folder / "weights.safetensors").resolve()),
    )
    return made.load(), Source(f"{show(checkpoint.network)}, trained before, in {folder}", to_train=False)


def _training(
    checkpoint: Checkpoint, teacher: Teacher, workshop: Workshop, bench: Callable[..., Bench]
) -> tuple[float, int]:
    """About how long the training of a teacher takes, and its memory."""
    assert checkpoint.train is not None
    splits = checkpoint.task.open(workshop.data)
    steps = checkpoint.train.epochs * max(1, _steps(splits, Split.TRAIN))
    with torch.random.fork_rng(devices=[]):
        module = checkpoint.network.build()
    forecast = Forecast(
        State((teacher,)), passes=(Pass(module.requires_grad_(True), steps, "weights"),), batches=steps
    )
    made = bench(checkpoint.task, lambda: splits).of_stage(forecast)
    return made.seconds, made.memory


def _teacher(name: str, source: str, cost: Profile, made: tuple[float, int] | None) -> PlannedTeacher:
    assert cost.bytes is not None
    seconds, memory = made if made is not None else (None, None)
    return PlannedTeacher(name, source, cost.macs, cost.params, cost.bytes, seconds, memory)


# -- stages -----------------------------------------------------------------------------------------------


def _stage(step: Step, splits: Splits, timed: Estimate | None, done: str | None) -> PlannedStage:
    stage, forecast, cost = step.stage, step.forecast, step.cost
    lines = forecast.lines if forecast is not None else ()
    if step.chosen is not None:
        lines = (f"what it touches depends on whom {step.chosen} chooses",)
    return PlannedStage(
        position=step.position,
        name=type(stage).__name__,
        settings=str(stage),
        reads={Sees.NOTHING: "nothing", Sees.INPUTS: "inputs", Sees.LABELS: "labels"}[stage.sees],
        labels=stage.sees is Sees.LABELS,
        samples=None if stage.sees is Sees.NOTHING else splits.samples(Split.TRAIN),
        touched=step.touched,
        skipped=forecast.skipped if forecast is not None else {},
        lines=lines,
        macs=cost.macs if cost else None,
        params=cost.params if cost else None,
        bytes=cost.bytes if cost else None,
        sure=step.sure,
        seconds=timed.seconds if timed else None,
        memory=timed.memory if timed else None,
        problem=f"{name_of(type(stage))} cannot do this: {step.problem}" if step.problem else None,
        done=done,
    )


def _done(recipe: Recipe, workshop: Workshop, teachers: tuple[Teacher, ...]) -> dict[int, str]:
    """Finished stages that a run would find, by position."""
    placed = tuple(teacher.to("cpu") for teacher in teachers)
    hashes = folders.stage_hashes(recipe, placed, None)
    found = {}
    for position, (stage, hash) in enumerate(zip(recipe.stages, hashes, strict=True), 1):
        name = folders.stage_name(position, stage, hash)
        for folder in sorted((workshop.runs / recipe.name).glob(f"*/{name}")):
            if folders.finished(folder):
                found[position] = f"{folder}, by {folders.maker(folder)}"
    return found


def _outlook(
    recipe: Recipe, steps: Sequence[Step], own: Sequence[Profile], tests: int | None
) -> Verdict | None:
    """What can be said of the budget; shares are of the teacher in the room at the end, or of all of them together."""
    if recipe.at_most is None:
        return None
    costs = [step.cost for step in steps if step.cost is not None]
    last, known = steps[-1], all(step.forecast is not None for step in steps)
    reference: dict[str, float | None] = {}
    if known and last.forecast is not None:
        there = {teacher.name for teacher in last.forecast.state.teachers}
        names = [checkpoint.name for checkpoint in recipe.teachers]
        reference = summed([cost for name, cost in zip(names, own, strict=True) if name in there])
    least = next((step.least for step in reversed(steps) if step.least is not None), None)
    return outlook(
        recipe.at_most, costs[-1] if costs and known else None, least if known else None, reference, tests,
        sure=last.sure,
    )  # fmt: skip
