"""Made-up finished runs, in folders and in an MLflow store: to compare many without training any."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from compress import GAL, Finetune
from recipes import decisions
from recipes.decisions import Answers
from recipes.outcome import fields_of
from recipes.page import digest, write
from recipes.recipe import Recipe
from reports.evaluate import TestScore, ValScore
from reports.profile import Profile
from reports.record import Record
from reports.track import MLflow
from students.files import write_json, write_text
from teachers.networks import DigitsCNN
from teachers.tasks import Toy
from teachers.teacher import Checkpoint
from teachers.train import Train

TASK = Toy(samples=120, batch=32)
TEACHER = Checkpoint(name="toy", network=DigitsCNN(classes=3), task=TASK, train=Train(epochs=4))


@dataclass(frozen=True)
class Made:
    """A made-up run: its recipe (with the seed), and what its student answers to test.

    right   (samples,) of bool; None where the run keeps no decisions
    score   on test; by default the share of `right`
    inputs  stands for the hash of the test inputs
    """

    recipe: Recipe
    right: torch.Tensor | None
    score: float | None = None
    macs: int = 500_000
    inputs: str = "inputs"

    @property
    def test(self) -> float | None:
        """The score on test."""
        return (
            self.score if self.right is None or self.score is not None else float(self.right.double().mean())
        )


def recipe(name: str, seed: int = 0, macs: float = 0.5) -> Recipe:
    """A recipe of that name."""
    stages = (GAL(macs=macs, epochs=2), Finetune(epochs=1))
    return Recipe(name=name, task=TASK, teachers=(TEACHER,), stages=stages, seed=seed)


def grid(recipes: int, seeds: int, samples: int) -> list[Made]:
    """Runs of so many recipes, each a little worse than the one before, right on much the same samples."""
    generator = torch.Generator().manual_seed(0)
    hard = torch.rand(samples, generator=generator)
    return [
        Made(
            recipe(f"recipe-{place:02d}", seed, macs=0.2 + 0.6 * place / recipes),
            hard + 0.1 * torch.rand(samples, generator=generator) < 0.95 - 0.002 * place,
            macs=1_000_000 - 10_000 * place,
        )
        for place in range(recipes)
        for seed in range(seeds)
    ]


def put(made: Made, folder: Path) -> Path:
    """Write what a run's folder holds for a comparison: page, result, decisions."""
    write_text(folder / "page.yaml", write(made.recipe))
    write_json(
        folder / "result.json",
        {"hash": digest(made.recipe), "records": [r.to_dict() for r in _records(made)]},
    )
    if made.right is not None:
        task, targets = decisions.task_digest(made.recipe.task), torch.arange(len(made.right)) % 3
        said = torch.where(made.right, targets, (targets + 1) % 3)
        student = folder / "01-gal"
        decisions.keep(student)(Answers(said, targets, task, made.inputs))
        decisions.join(student, [], folder, digest(made.recipe))
    return folder


def _records(made: Made) -> tuple[Record, Record]:
    many = len(made.right) if made.right is not None else 120
    val = ValScore(0.9, 100)
    profile = Profile(1_000_000, 50_000, 200_000, 1.0, 1.2, 9.0, 9.5, 1)
    teacher = Record("toy", 0, profile, "accuracy", val, 30.0, 0, "abc", TestScore(0.97, many))
    cut = replace(
        profile, macs=made.macs, params=made.macs // 20, bytes=made.macs // 5, latency_ms_p50_b1=0.8
    )
    test = TestScore(made.test, many) if made.test is not None else None
    return teacher, replace(teacher, stage="GAL", position=1, profile=cut, seconds=90.0, test=test)


def store(runs: Sequence[Made], home: Path) -> str:
    """An MLflow store with these runs in the experiment `decoct`; its address.

    The first is told by our own tracker. The others are rows like its rows, written to the database: telling takes half
    a second a run.
    """
    first, *others = runs
    folder, uri = home / "first", f"sqlite:///{home.resolve()}/mlflow.db"
    put(first, folder)
    track = MLflow(folder, uri)
    tags = {"decoct.hash": digest(first.recipe), "decoct.recipe": first.recipe.name}
    track.begin("run", name=first.recipe.name, params=fields_of(first.recipe), tags=tags)
    for record in _records(first):
        track.metrics("run", record.metrics(), record.position)
    for name in ("page.yaml", "result.json", decisions.FILE):
        if (folder / name).exists():
            track.artifact("run", folder / name)
    track.end("run")
    if track.close(patience=300):
        raise RuntimeError(f"{uri} did not take the first run")
    told = json.loads((folder / "tracking.json").read_text(encoding="utf-8"))["stores"][uri]
    with sqlite3.connect(home / "mlflow.db") as database:
        for place, made in enumerate(others):
            _copy(database, told["runs"]["run"], made, place, home)
    return uri


def _copy(database: sqlite3.Connection, source: str, made: Made, place: int, home: Path) -> None:
    run = uuid.uuid4().hex
    folder = put(made, home / "artifacts" / run)
    fields, last = fields_of(made.recipe), _records(made)[-1].metrics()
    for table in ("runs", "params", "tags", "metrics", "latest_metrics"):
        cursor = database.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (source,))
        columns = [column[0] for column in cursor.description]
        for row in cursor.fetchall():
            values = {**dict(zip(columns, row, strict=True)), "run_uuid": run}
            if table == "runs":
                values |= {"name": made.recipe.name, "artifact_uri": folder.as_uri()}
                values |= {"start_time": values["start_time"] + place, "end_time": values["end_time"] + place}
            elif table == "params":
                values["value"] = fields.get(values["key"], values["value"])
            elif table == "latest_metrics":
                values["value"] = last.get(values["key"], values["value"])
            marks = ", ".join("?" * len(columns))
            database.execute(f"INSERT INTO {table} VALUES ({marks})", [values[name] for name in columns])
