"""Thirty runs in a store, told as the runner tells them, from made-up records: what a team's store looks like."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from examples import RECIPES

from compress.stage import Stage
from recipes import ledger
from recipes.books import Books
from recipes.clock import Clock
from recipes.folders import Code
from recipes.recipe import Recipe, Workshop
from reports import page
from reports.evaluate import TestScore, ValScore
from reports.profile import Profile
from reports.record import Record
from reports.track import MLflow
from teachers.counted import Handed

NAMES = ("gal", "prune", "kse")
SHARES = {
    "GAL": (0.42, 0.45),
    "Prune": (0.5, 0.52),
    "KSE": (0.8, 0.3),
    "Finetune": (1, 1),
    "Recalibrate": (1, 1),
}
LOST = {"GAL": 0.03, "Prune": 0.4, "KSE": 0.05, "Finetune": -0.025, "Recalibrate": -0.3}
CODE = Code("0123456789ab", "f" * 64)


def tell(runs: Path, uri: str, count: int = 30, epochs: int = 8) -> list[Path]:
    """Log `count` runs of three recipes, seed by seed, into the store; their folders."""
    folders = []
    for n in range(count):
        recipe = replace(RECIPES[NAMES[n % 3]], seed=n // 3)
        folders.append(one(recipe, runs / f"run-{n:02d}", Workshop(runs=runs, tracking=uri), epochs))
    return folders


def one(recipe: Recipe, folder: Path, workshop: Workshop, epochs: int) -> Path:
    """One run: its teacher, its stages with curves, and its end."""
    chance, books = random.Random(f"{recipe.name} {recipe.seed}"), Books(Clock(), recipe)
    books.open(workshop, folder, CODE, print, "0" * 64)
    records = [teacher(recipe, chance)]
    enter(books, folder / f"00-{records[0].stage}", records[0])
    for position, stage in enumerate(recipe.stages, start=1):
        name = type(stage).__name__
        place = folder / f"{position:02d}-{name.lower()}-{recipe.seed:08x}"
        books.begin(place.name, stage, {"device": "cpu", "torch": "2.8"})
        for epoch in range(epochs):
            values = {f"{name.lower()}/loss": 2.0 / (epoch + 1) + chance.gauss(0, 0.05)}
            books.tracker.metrics(place.name, values, epoch)
        last = position == len(recipe.stages)
        records.append(after(records[-1], position, name, last, chance))
        enter(books, place, records[-1], stage, recipe)
    ledger.keep(folder, read(recipe))
    told = ledger.whole(recipe.stages, [folder])
    page.write(folder, title=recipe.name, records=[r.to_dict() for r in records], ledger=told)
    (folder / "result.json").write_text(json.dumps({"recipe": recipe.name, "ledger": told}))
    books.finished(folder, records, told, sum(r.seconds for r in records))
    if isinstance(books.tracker, MLflow):
        assert books.tracker.reconcile(300) == 0, "a busy machine may take longer than a run waits at its end"
    books.close("FINISHED")
    return folder


def enter(books: Books, place: Path, record: Record, stage: Stage | None = None, recipe: Any = None) -> None:
    """Keep a record as the runner does, and tell of it."""
    (place / "state").mkdir(parents=True)
    (place / "state" / "structure.json").write_text("{}")
    (place / "record.json").write_text(record.to_json())
    books.enter(record, place, stage)


def read(recipe: Recipe) -> list[dict[str, Any]]:
    """What was handed to whom."""
    rows = [("runner", "tests teachers and student", Handed("test", True, 720, 360, 360))]
    if recipe.name != "prune":
        rows.insert(
            0, (f"1 {type(recipe.stages[0]).__name__}", "learns", Handed("train", False, 12_800, 144, 144))
        )
    return [ledger.row(who, why, recipe.task, handed) for who, why, handed in rows]


def teacher(recipe: Recipe, chance: random.Random) -> Record:
    """What there was to begin with."""
    cost = Profile(1_790_000, 56_600, 229_000, 0.16, 0.2, 1.35, 1.5, 1)
    return Record(
        recipe.teachers[0].name, 0, cost, "accuracy", ValScore(0.98, 144), 6.0, recipe.seed, CODE.name,
        TestScore(0.972, 360), made={"device": "cpu"},
    )  # fmt: skip


def after(before: Record, position: int, stage: str, last: bool, chance: random.Random) -> Record:
    """A record after one more stage."""
    (macs, size), cost = SHARES[stage], before.profile
    times = {
        name: value * (0.5 + 0.5 * macs) * chance.uniform(0.95, 1.05)
        for name, value in vars(cost).items()
        if name.startswith("latency") and value
    }
    new = {"macs": cost.macs * macs, "params": cost.params * size, "bytes": (cost.bytes or 0) * size}
    cost = replace(cost, **{name: round(value) for name, value in new.items()}, **times)
    assert before.val is not None
    score = min(1.0, max(0.0, before.val.value - LOST[stage] + chance.gauss(0, 0.006)))
    return Record(
        stage, position, cost, "accuracy", ValScore(score, 144), chance.uniform(4, 9), before.seed, CODE.name,
        TestScore(max(0.0, score - 0.01), 360) if last else None, read={"train": 12_800}, made={"device": "cpu"},
    )  # fmt: skip


if __name__ == "__main__":
    import time

    began = time.perf_counter()
    where = Path(sys.argv[1]).resolve()
    tell(where, f"sqlite:///{where}/mlflow.db", int(sys.argv[2]))
    print(f"{time.perf_counter() - began:.1f} s")
