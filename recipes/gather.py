"""Who is in the room: checkpoints loaded, or trained once and kept; and the gate they pass."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from compress.session import Limit, Session
from recipes import ledger, models
from recipes.folders import alone, digest, this_code
from recipes.recipe import Recipe
from reports.evaluate import ValScore
from students.files import write, write_json
from teachers.calling import by_position
from teachers.counted import Counted
from teachers.task import Batch, HandedOn, Split, Splits, Task
from teachers.teacher import Checkpoint, Teacher
from teachers.weights import digest as sha256
from teachers.weights import existing


class Limited(HandedOn):
    """A rehearsal's data: the first few batches of every split, which still tells how many samples it really holds."""

    def __init__(self, splits: Splits, limit: Limit) -> None:
        super().__init__(splits)
        self._limit = limit

    def steps(self, split: Split) -> int:
        """How many batches a rehearsal takes of it."""
        return min(self._limit.batches, super().steps(split))

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """The first batches of one pass."""
        for count, batch in enumerate(super().batches(split, device, generator)):
            if count >= self._limit.batches:
                return
            yield batch


def trained_folder(checkpoint: Checkpoint, runs: Path) -> Path:
    """Where a checkpoint that has to be trained is kept: one folder per network, task and training."""
    parts = (checkpoint.network, checkpoint.task, checkpoint.train)
    return runs / "teachers" / f"{checkpoint.name}-{digest(*parts)[:8]}"


def gather(
    checkpoint: Checkpoint,
    folder: Path,
    data: Path | None,
    device: torch.device,
    opened: Callable[[Task], Splits],
    session: Callable[..., Session],
) -> tuple[Teacher, str]:
    """The checkpoint at work on `device`, and its file's sha256: loaded, or trained by its `train` and kept.

    folder   where a trained one is kept
    data     where weights are looked up, beside the place the page says
    opened   opens a task's data, for training
    session  makes the bench for training, from the keywords of `Session`

    A training that was stopped resumes at its last finished epoch.
    """
    weights = folder / "weights.safetensors"
    if checkpoint.weights is None:
        if not weights.exists():
            with alone(folder):
                _train(checkpoint, folder, opened(checkpoint.task), device, session)
        checkpoint = replace(checkpoint, weights=str(weights.resolve()))
    teacher = models.load(checkpoint, data)
    path = Path(checkpoint.weights or weights)
    return teacher.to(device), sha256(existing(path, *([data / path] if data is not None else [])))


def _train(
    checkpoint: Checkpoint,
    folder: Path,
    splits: Splits,
    device: torch.device,
    session: Callable[..., Session],
) -> None:
    train = checkpoint.train
    assert train is not None  # a checkpoint without weights has one
    counted, name = Counted(splits), f"teacher {checkpoint.name}"
    bench = session(device=device, seed=train.seed, folder=folder, name=name, splits=counted)
    torch.manual_seed(train.seed)
    began = time.perf_counter()
    module = train(
        bench.place(by_position(checkpoint.network.build(), checkpoint.task.signature().names)),
        counted,
        device=device,
        autocast=bench.autocast,
        epochs=bench.epochs,
        log=bench.log,
        kind=checkpoint.task.signature().kind,
    )
    tensors = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()
    }
    note = {"network": repr(checkpoint.network), "task": repr(checkpoint.task), "train": repr(train)}
    seconds = time.perf_counter() - began
    write_json(
        folder / "made.json",
        {**note, "code": str(this_code()), "torch": torch.__version__, "seconds": seconds},
    )
    ledger.keep(folder, ledger.of_stage(name, checkpoint.task, counted.handed()))
    write(folder / "weights.safetensors", lambda half: save_file(tensors, half))
    for loop in folder.glob("loop-*.safetensors"):
        loop.unlink()


def seconds_of_training(folder: Path) -> float:
    """How long the teacher kept in a folder was trained, since it was last resumed; 0 for one given."""
    note = folder / "made.json"
    return float(json.loads(note.read_text(encoding="utf-8"))["seconds"]) if note.exists() else 0.0


def admit(name: str, task: Task, score: ValScore) -> None:
    """The gate: raises ValueError for a teacher whose score on val is near chance.

    It must beat chance beyond the doubt of so many samples, and by a fifth of the way from chance to perfect.
    """
    needed = task.chance + 0.2 * (1 - task.chance)
    if score.interval[0] > task.chance and score.value >= needed:
        return
    raise ValueError(
        f"teacher {name!r} scores {score} {task.metric} on val; chance is {100 * task.chance:.2f} %, "
        f"and at least {100 * needed:.2f} % is needed before a run is spent on it. Usual causes: images "
        "normalised otherwise than in its training, weights loaded by half or into another network, "
        "labels in another order, or a training too short"
    )


def of_one_kind(recipe: Recipe, teachers: tuple[Teacher, ...]) -> None:
    """Raises ValueError where a recipe with one teacher asks it about a task of another shape."""
    for teacher in teachers if len(teachers) == 1 else ():
        if other := teacher.signature.unlike(recipe.task.signature()):
            raise ValueError(
                f"teacher {teacher.name!r} {other}: name the task it was trained on, or another teacher"
            )
