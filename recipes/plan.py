"""What a recipe would do, without training: what its stages touch and read, what comes out, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from compress.forecast import Feed, Forecast, Pass
from compress.session import Sees
from recipes import folders, models
from recipes.foresee import Step, foresee
from recipes.gather import trained_folder
from recipes.measure import cost_of, device_of
from recipes.names import name_of
from recipes.page import digest
from recipes.probe import Bench
from recipes.recipe import Recipe, Workshop
from recipes.seal import Seal
from recipes.verdict import outlook, summed
from recipes.writing import show
from reports.plots import duration, short, size
from reports.profile import Profile
from reports.verdict import Verdict
from teachers.task import Split, Splits, Task
from teachers.teacher import Checkpoint, Teacher

_SHOWN = 12
"""layers that a line names before it only counts them"""


@dataclass(frozen=True)
class PlannedTeacher:
    """A teacher: where it comes from, what it costs, and how long its training would take."""

    name: str
    source: str
    macs: int
    params: int
    bytes: int
    seconds: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class PlannedStage:
    """One stage.

    reads      none, inputs or labels, of how many train samples
    touched    layer -> how it would change
    skipped    reason -> layers, groups and blocks that stay as they are
    macs, params, bytes   of the student afterwards; None where there is none, or nobody can know
    sure       whether these are exact, else about
    seconds, memory       about; None where no step was timed
    problem    why it would fail or refuse its work
    done       the folder in which a run would find it finished
    """

    position: int
    name: str
    settings: str
    reads: str
    labels: bool
    samples: int | None
    touched: Mapping[str, str]
    skipped: Mapping[str, tuple[str, ...]]
    lines: tuple[str, ...]
    macs: int | None
    params: int | None
    bytes: int | None
    sure: bool
    seconds: float | None
    memory: int | None
    problem: str | None
    done: str | None


@dataclass(frozen=True)
class Plan:
    """What a recipe would do; `str` of it is for people, `to_dict` for machines.

    hash      of the page, the teachers' structures and what stages would touch, whatever the weights are
    verdict   what can be said of the recipe's budget, if it has one
    """

    recipe: str
    page: str
    seed: int
    precision: str
    hash: str
    teachers: tuple[PlannedTeacher, ...]
    task: str
    samples: Mapping[str, int]
    notes: tuple[str, ...]
    stages: tuple[PlannedStage, ...]
    verdict: Verdict | None
    device: str | None
    seal: Seal = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = asdict(self)
        plain.pop("seal")
        return {**plain, "verdict": self.verdict.to_dict() if self.verdict else None}

    @property
    def seconds(self) -> float | None:
        """About how long all of it takes that is not done yet; None where no step was timed."""
        parts = [teacher.seconds or 0.0 for teacher in self.teachers]
        parts += [stage.seconds or 0.0 for stage in self.stages if stage.done is None]
        return sum(parts) if self.device is not None else None

    def __str__(self) -> str:
        return "\n".join(_text(self))


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
        if device is not None and step.forecast is not None:
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
    from compress.stage import State

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


def _stage(step: Step, splits: Splits, timed: Any, done: str | None) -> PlannedStage:
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


# -- for people -------------------------------------------------------------------------------------------


def _text(made: Plan) -> list[str]:
    lines = [
        f"{made.recipe}: seed {made.seed}, {made.precision}, hash {made.page[:8]}, plan {made.hash[:12]}",
        "",
    ]
    for teacher in made.teachers:
        lines.append(f"teacher {teacher.name}: {teacher.source}")
        lines.append(
            f"  {short(teacher.macs)} MACs, {short(teacher.params)} parameters, {size(teacher.bytes)}"
        )
        lines += _about(teacher.seconds, teacher.memory)
    counts = ", ".join(f"{count} {split}" for split, count in made.samples.items())
    lines += [f"task {made.task}: {counts} samples", *(f"  {note}" for note in made.notes), ""]
    first = made.teachers[0].macs if len(made.teachers) == 1 else None
    for stage in made.stages:
        lines.append(f"{stage.position}. {stage.settings}")
        lines.append(f"  reads {_reads(stage)}")
        lines += [f"  {line}" for line in stage.lines]
        if stage.touched:
            lines.append(f"  touches {_named(stage.touched)}")
        if stage.macs is not None:
            lines.append(f"  leaves {_cost(stage, first)}")
        lines += _about(stage.seconds, stage.memory)
        if stage.problem is not None:
            lines.append(f"  {stage.problem}")
        if stage.done is not None:
            lines.append(f"  done already: {stage.done}")
    lines += ["", "test is read once, at the end, by the runner"]
    if made.seconds is not None:
        lines.append(f"about {duration(made.seconds)} of work on {made.device}, measuring not counted")
    if made.verdict is not None:
        lines += ["", *made.verdict.lines()]
    return lines


def _reads(stage: PlannedStage) -> str:
    if stage.samples is None:
        return "no data"
    labels = "with" if stage.labels else "without"
    return f"train {labels} labels ({stage.samples} samples), and val {labels} labels"


def _named(touched: Mapping[str, str]) -> str:
    some = [f"{name} ({what})" for name, what in list(touched.items())[:_SHOWN]]
    more = len(touched) - len(some)
    return f"{len(touched)} layers: {', '.join(some)}" + (f", and {more} more" if more else "")


def _cost(stage: PlannedStage, first: int | None) -> str:
    assert stage.macs is not None
    about = "" if stage.sure else "about "
    share = f" ({stage.macs / first:.1%})" if first else ""
    return f"{about}{short(stage.macs)} MACs{share}, {short(stage.params)} parameters, {size(stage.bytes)}"


def _about(seconds: float | None, memory: int | None) -> list[str]:
    if seconds is None:
        return []
    return [f"  takes about {duration(max(seconds, 0.1))}, {size(memory)} of tensors at the peak"]
