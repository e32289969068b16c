"""The end of a run: test read once, the compact student, the result, the report, the table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compress.stage import State
from recipes import curves
from recipes.clock import OWN, WORK
from recipes.folders import fingerprint
from recipes.page import digest, write
from reports import page, plots
from reports.record import Record
from reports.track import MLflow
from students import compact
from students.files import write_json, write_text
from teachers.task import Split

if TYPE_CHECKING:
    from recipes.run import Run


def finish(run: Run, state: State) -> None:
    """Read test, write `report.html`, `compact/` and `result.json`, and show the table.

    What an earlier run of the same folder finished is not done again: test is read once.
    """
    if run.limit is None:
        _test(run, state)
    with run.clock.on("report"):
        _report(run)
    if state.student is not None:
        _pack(run, state)
    result = {
        "hash": digest(run.recipe),
        "recipe": run.recipe.name,
        "code": str(run.code),
        "records": [record.to_dict() for record in run.records],
        "seconds": run.clock.seconds(),
        "shares": {"work": round(run.clock.share(*WORK), 4), "own": round(run.clock.share(*OWN), 4)},
    }
    write_json(run.folder / "result.json", result)
    with run.clock.on("tracking"):
        run.tracker.artifact("run", run.folder / "report.html")
        run.tracker.artifact("run", run.folder / "result.json")
        run.tracker.metrics("run", {"time/total_seconds": sum(run.clock.seconds().values())})
    _show(run)


def _test(run: Run, state: State) -> None:
    """Add the test score to the last record, and to those of the teachers it is compared with."""
    for place, record in enumerate(run.records):
        last = place == len(run.records) - 1
        if record.test is not None or (record.position and not last):
            continue
        if record.position == 0:
            checkpoint = run.recipe.teachers[place]
            module, task = run.teachers[place].module, checkpoint.task
        else:
            if state.student is None:
                continue
            module, task = state.student, run.recipe.task
        with run.clock.on("measuring"):
            test = run.instruments.test(module, task)
        if test is None:
            continue
        run.records[place] = replace(record, test=test)
        folder = run.places[place]
        write_text(folder / "record.json", run.records[place].to_json())
        with run.clock.on("tracking"):
            values = {f"score/{record.metric}_test": test.value}
            run.tracker.metrics(folder.name, values, record.position, model=folder.name)
            run.tracker.artifact(folder.name, folder / "record.json")
            if last:
                run.tracker.metrics("run", values, record.position)


def _pack(run: Run, state: State) -> None:
    """Write the compact folder, unless this student lies there already."""
    assert state.student is not None
    folder = run.folder / "compact"
    last, print = run.records[-1], fingerprint(state.student)
    if folder.exists() and compact.card(folder).get("fingerprint") == print:
        return
    recipe = run.recipe
    card = {
        "recipe": write(recipe),
        "hash": digest(recipe),
        "fingerprint": print,
        "teachers": [
            {"name": c.name, "weights": c.weights, "sha256": run.sha256[place]}
            for place, c in enumerate(recipe.teachers)
        ],
        "seed": recipe.seed,
        "code": str(run.code),
        "profile": last.profile.to_dict(),
        "val": last.val and last.val.to_dict(),
        "test": last.test and last.test.to_dict(),
    }
    only = recipe.teachers[0].network if len(recipe.teachers) == 1 else None
    splits = run.opened(recipe.task)
    val = splits.batches(Split.VAL, torch.device("cpu")) if splits.samples(Split.VAL) else None
    with run.clock.on("packing"):
        compact.save(state.student, folder, recipe.task.signature(), card=card, val=val, factory=only)


def _report(run: Run) -> None:
    """Write report.html from what lies in the folders."""
    stages = [place for place, record in zip(run.places, run.records, strict=True) if record.position]
    drawn = {place.name.rsplit("-", 1)[0]: curves.read(place) for place in stages}
    seconds = run.clock.seconds()
    page.write(
        run.folder,
        title=run.recipe.name,
        records=[record.to_dict() for record in run.records],
        curves={**run.lessons, **drawn},
        widths=_widths(run.places),
        pictures=_pictures(run.places),
        notes=[note for record in run.records for note in record.notes],
        environment={
            **run.records[-1].made,
            "seed": run.recipe.seed,
            "hash": digest(run.recipe)[:12],
            "seconds": ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items()),
        },
        page=write(run.recipe),
    )


def _pictures(places: list[Path]) -> dict[str, str]:
    """What the stages drew, by title."""
    files = [place / "pictures.json" for place in places]
    return {
        f"{file.parent.name.split('-')[0]} {title}": svg
        for file in files
        if file.exists()
        for title, svg in json.loads(file.read_text(encoding="utf-8")).items()
    }


def _widths(places: list[Path]) -> dict[str, tuple[int, int]]:
    """Channels out of every layer, in the first teacher and after the last stage; 0 where it is gone."""

    def outputs(place: Path) -> dict[str, int]:
        layers = json.loads((place / "widths.json").read_text(encoding="utf-8"))
        return {layer["name"]: layer["outputs"] for layer in layers}

    before, after = outputs(places[0]), outputs(places[-1])
    return {name: (width, after.get(name, 0)) for name, width in before.items()}


_COLUMNS = ("stage", "val", "test", "MACs", "left", "params", "file", "ms b1", "ms b32", "time")


def _row(record: Record, first: Record) -> tuple[str, ...]:
    """A record's cells, in the order of the columns."""
    cost = record.profile
    return (
        record.stage,
        plots.percent(record.val.to_dict() if record.val else None),
        plots.percent(record.test.to_dict() if record.test else None),
        plots.short(cost.macs),
        f"{100 * cost.macs / first.profile.macs:.1f} %" if first.profile.macs else "–",
        plots.short(cost.params),
        plots.size(cost.bytes),
        plots.latency(cost.to_dict()),
        plots.milliseconds(cost.latency_ms_p50_b32),
        plots.duration(record.seconds),
    )


def _show(run: Run) -> None:
    """The table, and where everything lies."""
    rows = [_row(record, run.records[0]) for record in run.records]
    run.display.table(run.recipe.name, _COLUMNS, rows)
    if run.limit is not None:
        run.display.note("rehearsed: every stage ran, and its student was saved; nothing of it was kept")
        return
    if run.records[-1].val is None and run.records[-1].test is None:
        run.display.note("UNVERIFIED: there was no sample of the task to score teacher and student on")
    run.display.note(f"report   {run.folder / 'report.html'}")
    if (run.folder / "compact").exists():
        run.display.note(f"student  {run.folder / 'compact'}")
    if isinstance(run.tracker, MLflow):
        run.display.note(f"MLflow   {run.tracker.where}")
