"""The end of a run: test read once, the compact student, the result, the report, the table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compress.stage import Ranking, State
from recipes import curves, masters
from recipes.clock import OWN, WORK
from recipes.folders import fingerprint
from recipes.page import digest, write
from reports import mastery, page, plots
from reports import ranking as places
from reports.record import Record
from reports.track import MLflow
from students import compact
from students.files import write_json, write_text
from teachers.task import Split

if TYPE_CHECKING:
    from recipes.run import Run


def finish(run: Run, state: State) -> None:
    """Read test, write `report.html`, `compact/` and `result.json`, and show the table.

    What an earlier run of the same folder finished is not done again: test is read once. Where the workshop leaves
    test alone, it is not read, and nothing is packed that would be given away without its score.
    """
    test = run.limit is None and run.workshop.test
    if test and not run.ranks_only:
        _test(run, state)
    found = masters.measure(run, state) if test else None
    with run.clock.on("report"):
        _report(run, state, found)
    if state.student is not None and run.workshop.test:
        _pack(run, state)
    result = {
        "hash": digest(run.recipe),
        "recipe": run.recipe.name,
        "code": str(run.code),
        "records": [record.to_dict() for record in run.records],
        "ranking": state.ranking.to_dict() if state.ranking else None,
        "amalgamation": found,
        "seconds": run.clock.seconds(),
        "shares": {"work": round(run.clock.share(*WORK), 4), "own": round(run.clock.share(*OWN), 4)},
    }
    write_json(run.folder / "result.json", result)
    with run.clock.on("tracking"):
        run.books.tracker.artifact("run", run.folder / "report.html")
        run.books.tracker.artifact("run", run.folder / "result.json")
        run.books.tracker.metrics("run", {"time/total_seconds": sum(run.clock.seconds().values())})
        if found is not None:
            run.books.tracker.metrics("run", mastery.metrics(found))
            run.books.tracker.artifact("run", run.folder / "amalgamation.json")
    _show(run, state)
    for line in mastery.lines(found) if found is not None else ():
        run.display.note(line)


def keep_ranking(ranking: Ranking, folder: Path) -> None:
    """Write `ranking.json`, and who is like whom as `similarity.svg`, for whoever has no report at hand."""
    write_json(folder / "ranking.json", ranking.to_dict())
    if ranking.models:
        drawn = places.heat_map(ranking.models, ranking.similarity, ranking.target, ranking.by)
        write_text(folder / "similarity.svg", places.alone(drawn))


def ranking_metrics(folder: Path) -> dict[str, float]:
    """The numbers of a kept ranking under the tracker's names: `ranking/<teacher>/score`, `ranking/<teacher>/V`, ..."""
    kept = Ranking.from_dict(json.loads((folder / "ranking.json").read_text(encoding="utf-8")))
    found = {} if kept.stability is None else {"ranking/stability": kept.stability}
    for name, values in {"score": kept.scores, **kept.parts, "low": kept.low, "high": kept.high}.items():
        found |= {
            f"ranking/{teacher}/{name}": value for teacher, value in zip(kept.names, values, strict=False)
        }
    return found


def _ordered(run: Run, state: State) -> tuple[list[Record], list[Path]]:
    """Records and their folders, that of the teacher in the room before those of the others."""
    pairs = list(zip(run.records, run.places, strict=True))
    first = state.teachers[0].name
    pairs.sort(key=lambda pair: (pair[0].position, pair[0].position == 0 and pair[0].stage != first))
    return [record for record, _ in pairs], [place for _, place in pairs]


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
            run.books.tracker.metrics(folder.name, values, record.position, model=folder.name)
            run.books.tracker.artifact(folder.name, folder / "record.json")
            if last:
                run.books.tracker.metrics("run", values, record.position)


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
        "amalgamation": state.amalgamation.to_dict() if state.amalgamation else None,
    }
    only = recipe.teachers[0].network if len(recipe.teachers) == 1 else None
    splits = run.opened(recipe.task)
    val = splits.batches(Split.VAL, torch.device("cpu")) if splits.samples(Split.VAL) else None
    with run.clock.on("packing"):
        compact.save(state.student, folder, recipe.task.signature(), card=card, val=val, factory=only)


def _report(run: Run, state: State, found: dict[str, Any] | None) -> None:
    """Write report.html from what lies in the folders."""
    records, _ = _ordered(run, state)
    stages = [place for place, record in zip(run.places, run.records, strict=True) if record.position]
    drawn = {place.name.rsplit("-", 1)[0]: curves.read(place) for place in stages}
    seconds = run.clock.seconds()
    page.write(
        run.folder,
        title=run.recipe.name,
        records=[record.to_dict() for record in records],
        ranking=state.ranking.to_dict() if state.ranking is not None else None,
        curves={**run.lessons, **drawn},
        widths=_widths(_ordered(run, state)[1]) if state.student is not None else None,
        pictures={**(mastery.sections(found) if found is not None else {}), **_pictures(run.places)},
        notes=[note for record in run.records for note in record.notes],
        environment={
            **run.records[-1].made,
            "seed": run.recipe.seed,
            "hash": digest(run.recipe)[:12],
            "seconds": ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items()),
        },
        page=write(run.recipe),
        first=mastery.all_together(found, [r.to_dict() for r in run.records]) if found is not None else None,
        verdict=mastery.verdict(found) if found is not None else None,
    )


def _pictures(folders: list[Path]) -> dict[str, str]:
    """What the stages drew, by title."""
    files = [place / "pictures.json" for place in folders]
    return {
        f"{file.parent.name.split('-')[0]} {title}": svg
        for file in files
        if file.exists()
        for title, svg in json.loads(file.read_text(encoding="utf-8")).items()
    }


def _widths(folders: list[Path]) -> dict[str, tuple[int, int]]:
    """Channels out of every layer, in the first teacher and after the last stage; 0 where it is gone."""

    def outputs(place: Path) -> dict[str, int]:
        layers = json.loads((place / "widths.json").read_text(encoding="utf-8"))
        return {layer["name"]: layer["outputs"] for layer in layers}

    before, after = outputs(folders[0]), outputs(folders[-1])
    if not before.keys() & after.keys():
        return {}  # a student of another architecture
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


def _show(run: Run, state: State) -> None:
    """The tables, and where everything lies."""
    if state.ranking is not None:
        _show_ranking(run, state.ranking)
    if not run.ranks_only:
        records, _ = _ordered(run, state)
        run.display.table(run.recipe.name, _COLUMNS, [_row(record, records[0]) for record in records])
    if run.limit is not None:
        run.display.note("rehearsed: every stage ran, and its student was saved; nothing of it was kept")
        return
    if not run.ranks_only and run.records[-1].val is None and run.records[-1].test is None:
        run.display.note("UNVERIFIED: there was no sample of the task to score teacher and student on")
    run.display.note(f"report   {run.folder / 'report.html'}")
    if (run.folder / "compact").exists():
        run.display.note(f"student  {run.folder / 'compact'}")
    if isinstance(run.books.tracker, MLflow):
        run.display.note(f"MLflow   {run.books.tracker.where}")


def _show_ranking(run: Run, ranking: Ranking) -> None:
    """The ranking as a table, and what to know of it."""
    plain = ranking.to_dict()
    by_name = {record.stage: record.to_dict() for record in run.records if not record.position}
    run.display.table(f"{run.recipe.name}: teachers", places.columns(plain), places.rows(plain, by_name))
    run.display.note(places.told(plain))
    for name, problem in run.near_chance.items():
        run.display.note(
            f"beware: {problem}" if name in ranking.names[:1] else f"{name} is near chance on its own task"
        )
