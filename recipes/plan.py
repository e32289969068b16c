"""What a recipe would do, without training: what its stages touch and read, and what is done already."""

from __future__ import annotations

import torch

from compress.session import Sees
from compress.stage import Stage, State
from recipes import folders, models
from recipes.gather import trained_folder
from recipes.names import name_of
from recipes.page import digest
from recipes.recipe import Recipe, Workshop
from recipes.writing import show
from reports.plots import short
from reports.profile import profile
from teachers.task import Split
from teachers.teacher import Checkpoint, Teacher


def plan(recipe: Recipe, workshop: Workshop | None = None) -> str:
    """The plan of a recipe as lines of text.

    A stage that has a method `plan(state, signature)` says for itself what it would touch, which groups are
    locked and why, and whether its budget can be met; a ValueError it raises becomes a line. Teachers that
    have yet to be trained are planned with as untrained networks of the same shape.

    Raises ValueError where weights or data are missing, as a run would.
    """
    workshop = workshop if workshop is not None else Workshop()
    lines = [f"{recipe.name}: seed {recipe.seed}, {recipe.precision}, hash {digest(recipe)[:8]}", ""]
    teachers, ready = [], True
    for checkpoint in recipe.teachers:
        teacher, line, trained = _teacher(checkpoint, workshop)
        teachers.append(teacher)
        ready = ready and trained
        cost = profile(teacher.module, teacher.signature.usual(2))
        lines.append(f"teacher {checkpoint.name}: {line}")
        lines.append(f"  {short(cost.macs)} MACs, {short(cost.params)} parameters")
    splits = recipe.task.open(workshop.data)
    counts = ", ".join(f"{splits.samples(split)} {split.value}" for split in Split)
    lines += [f"task {show(recipe.task)}: {counts} samples", *(f"  {note}" for note in splits.notes), ""]
    done = _done(recipe, workshop, tuple(teachers)) if ready else {}
    state = State(tuple(teachers))
    chosen: str | None = None  # the stage that chooses: who is left then, a plan cannot know
    for position, stage in enumerate(recipe.stages, 1):
        lines.append(f"{position}. {stage}")
        lines.append(f"  reads {_reads(stage, splits.samples(Split.TRAIN))}")
        if chosen is None:
            lines += [f"  {line}" for line in _own(stage, state, recipe)]
        elif getattr(stage, "plan", None) is not None:
            lines.append(f"  what it touches depends on whom {chosen} chooses")
        if stage.chooses and len(teachers) > 1:
            chosen = type(stage).__name__
        if position in done:
            lines.append(f"  done already: {done[position]}")
    lines += ["", "test is read once, at the end, by the runner"]
    return "\n".join(lines)


def _teacher(checkpoint: Checkpoint, workshop: Workshop) -> tuple[Teacher, str, bool]:
    """The teacher, where it comes from, and whether it is what a run would use."""
    if checkpoint.weights is not None:
        found = models.local(checkpoint, workshop.runs, workshop.tracking, workshop.data)
        return (
            models.load(found, workshop.data),
            f"{show(checkpoint.network)} from {checkpoint.weights}",
            True,
        )
    folder = trained_folder(checkpoint, workshop.runs)
    with torch.random.fork_rng(devices=[]):
        teacher = checkpoint.teacher(checkpoint.network.build())
    if not (folder / "weights.safetensors").exists():
        line = f"{show(checkpoint.network)}, to be trained first: {checkpoint.train}"
        return teacher, line, False
    made = Checkpoint(
        name=checkpoint.name,
        network=checkpoint.network,
        task=checkpoint.task,
        weights=str((folder / "weights.safetensors").resolve()),
    )
    return made.load(), f"{show(checkpoint.network)}, trained before, in {folder}", True


def _reads(stage: Stage, samples: int) -> str:
    return {
        Sees.NOTHING: "no data",
        Sees.INPUTS: f"train without labels ({samples} samples), and val without labels",
        Sees.LABELS: f"train with labels ({samples} samples), and val with labels",
    }[stage.sees]


def _own(stage: Stage, state: State, recipe: Recipe) -> list[str]:
    """What the stage says of itself."""
    say = getattr(stage, "plan", None)
    if say is None:
        return []
    try:
        return [str(line) for line in say(state, recipe.task.signature())]
    except ValueError as problem:
        return [f"{name_of(type(stage))} cannot do this: {problem}"]


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
