"""The end of a run: test read once, the compact student, the result, the report, the table."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from compress.stage import Ranking, State
from recipes import curves, decisions, ledger, masters, measure, registering, sensitivity
from recipes.clock import OWN, WORK
from recipes.folders import fingerprint
from recipes.page import digest, write
from recipes.verdict import Drop, dropped, judge, summed
from reports import mastery, page, plots
from reports import ranking as places
from reports.record import Record
from reports.track import MLflow
from reports.verdict import Verdict
from students import compact, onnx_form
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
        with run.ledger.reading("tests teachers and student", run.folder):
            _test(run, state)
    with run.ledger.reading("compares the student with every teacher", run.folder):
        found = masters.measure(run, state) if test else None
    run.verdict = _judged(run, state, found) if test else None
    onnx: dict[str, Any] | None = None
    try:
        if state.student is not None and run.workshop.test:
            onnx = _pack(run, state)
    finally:  # a student that cannot be packed has a report all the same
        with run.clock.on("report"):
            _report(run, state, found, onnx)
    read = _ledger(run)
    if (run.folder / "compact").exists():
        compact.amend(run.folder / "compact", ledger=read)
    result = {
        "hash": digest(run.recipe),
        "recipe": run.recipe.name,
        "code": str(run.code),
        "records": [record.to_dict() for record in run.records],
        "ranking": state.ranking.to_dict() if state.ranking else None,
        "amalgamation": found,
        "plan": run.seal.hash,
        "verdict": run.verdict.to_dict() if run.verdict is not None else None,
        "onnx": onnx,
        "ledger": read,
        "seconds": run.clock.seconds(),
        "shares": {"work": round(run.clock.share(*WORK), 4), "own": round(run.clock.share(*OWN), 4)},
    }
    write_json(run.folder / "result.json", result)
    run.books.finished(run.folder, _ordered(run, state)[0], read, sum(run.clock.seconds().values()))
    with run.clock.on("tracking"):
        if run.verdict is not None:
            run.books.tracker.tags("run", {"decoct.verdict": run.verdict.word})
            run.books.tracker.metrics("run", run.verdict.metrics())
        if found is not None:
            run.books.tracker.metrics("run", mastery.metrics(found))
            run.books.tracker.artifact("run", run.folder / "amalgamation.json")
        if onnx is not None:
            run.books.tracker.metrics("run", onnx_form.metrics(onnx, "teacher"), 0)
            run.books.tracker.metrics("run", onnx_form.metrics(onnx), run.records[-1].position)
        if run.workshop.register is not None and state.student is not None:
            registering.register(run, run.workshop.register)
    _show(run, state)
    if onnx is not None:
        run.display.note(onnx_form.line(onnx))
    for line in mastery.lines(found) if found is not None else ():
        run.display.note(line)
    for line in run.verdict.lines() if run.verdict is not None else ():
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
        folder = run.places[place]
        with run.clock.on("measuring"):
            test = run.instruments.test(module, task, decisions.keep(folder))
        if test is None:
            continue
        run.records[place] = replace(record, test=test)
        write_text(folder / "record.json", run.records[place].to_json())
        with run.clock.on("tracking"):
            values = {f"score/{record.metric}_test": test.value}
            run.books.tracker.metrics(folder.name, values, record.position, model=folder.name)
            run.books.tracker.artifact(folder.name, folder / "record.json")
            if last:
                run.books.tracker.metrics("run", values, record.position)
    _decisions(run, state)


def _decisions(run: Run, state: State) -> None:
    """Set what the student answered to test beside the teacher's answers, for comparisons and the report."""
    if state.student is None:
        return
    labels = run.recipe.task.signature().labels
    pairs = zip(run.records, run.places, strict=True)
    taught = [place for record, place in pairs if record.position == 0]
    teachers = [
        (place, teacher.signature.labels == labels)
        for place, teacher in zip(taught, run.teachers, strict=True)
    ]
    written = decisions.join(run.places[-1], teachers, run.folder, digest(run.recipe))
    if written is not None:
        with run.clock.on("tracking"):
            run.books.tracker.artifact("run", written)


def _judged(run: Run, state: State, found: dict[str, Any] | None) -> Verdict | None:
    """The verdict on the budget: against the teacher in the room, or all teachers that were amalgamated."""
    budget = run.recipe.at_most
    if budget is None or run.limit is not None or state.student is None:
        return None
    records, _ = _ordered(run, state)
    own = [record for record in records if not record.position]
    first, last = own[0], records[-1]
    drop, why = None, "there is no test sample of the task to score both on"
    if state.amalgamation is not None:
        own = [record for record in own if record.stage in state.amalgamation.teachers]
        if joint := (found or {}).get("joint"):
            points = 100 * (joint["other"] - joint["student"])
            drop = Drop(points, -100 * joint["high"], -100 * joint["low"], joint["samples"], "paired")
        elif found is not None:
            why = "these teachers give no joint answer to set it against"
    elif first.test is not None and last.test is not None:
        task = next(c.task for c in run.recipe.teachers if c.name == first.stage)
        if task == run.recipe.task:
            drop = dropped(last.test, first.test, run.folder / "decisions.safetensors")
        else:
            why = f"{first.stage!r} was scored on a task of its own"
    profiles = [record.profile for record in own] if state.amalgamation is not None else [first.profile]
    return judge(budget, last.profile, summed(profiles), drop, why)


def _pack(run: Run, state: State) -> dict[str, Any] | None:
    """Write the compact folder, unless this student lies there already; what its card says of the ONNX form."""
    assert state.student is not None
    folder = run.folder / "compact"
    last, print = run.records[-1], fingerprint(state.student)
    recipe = run.recipe
    if folder.exists() and (old := compact.card(folder)).get("fingerprint") == print:
        now = {"plan": run.seal.hash, "verdict": run.verdict.to_dict() if run.verdict is not None else None}
        if any(old.get(name) != value for name, value in now.items()):
            # The same student under another budget: what it was proven to be stays.
            write_json(folder / "card.json", {**old, "recipe": write(recipe), "hash": digest(recipe), **now})
        return old.get("onnx")
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
        "plan": run.seal.hash,
        "verdict": run.verdict.to_dict() if run.verdict is not None else None,
    }
    only = recipe.teachers[0].network if len(recipe.teachers) == 1 else None
    alone = run.teachers[0] if len(run.teachers) == 1 else None
    with run.clock.on("packing"), run.ledger.reading("proves the compact student", run.folder):
        splits = run.ledger.hand(recipe.task, run.data(recipe.task), labels=False)
        val = splits.batches(Split.VAL, torch.device("cpu")) if splits.samples(Split.VAL) else None
        compact.save(
            state.student,
            folder,
            recipe.task.signature(),
            card=card,
            val=val,
            factory=only,
            teacher=(alone.module, alone.signature) if alone is not None else None,
            seconds=measure.SECONDS if run.limit is None else 0.0,
        )
    return compact.card(folder).get("onnx") if (folder / "card.json").exists() else None


def _ledger(run: Run) -> dict[str, Any]:
    """Who read what, of all that is in this run."""
    run.ledger.settle(run.folder)
    return ledger.whole(run.recipe.stages, [*run.trained.values(), *run.places, run.folder])


def _report(run: Run, state: State, found: dict[str, Any] | None, onnx: dict[str, Any] | None) -> None:
    """Write report.html from what lies in the folders."""
    records, _ = _ordered(run, state)
    stages = [place for place, record in zip(run.places, run.records, strict=True) if record.position]
    drawn = {place.name.rsplit("-", 1)[0]: curves.read(place) for place in stages}
    widths = _widths(_ordered(run, state)[1]) if state.student is not None else {}
    cut = any(after < before for before, after in widths.values())
    leans, seconds = sensitivity.measure(run, state, cut), run.clock.seconds()
    decided = run.folder / "decisions.safetensors"
    page.write(
        run.folder,
        title=run.recipe.name,
        records=[record.to_dict() for record in records],
        ranking=state.ranking.to_dict() if state.ranking is not None else None,
        curves={**run.lessons, **drawn},
        widths=widths,
        pictures={**(mastery.sections(found) if found is not None else {}), **_pictures(run.places)},
        notes=[
            *(note for record in run.records for note in record.notes),
            *([onnx_form.line(onnx)] if onnx is not None else []),
        ],
        environment={
            **run.records[-1].made,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "seed": run.recipe.seed,
            "hash": digest(run.recipe)[:12],
            "seconds": ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items()),
        },
        page=write(run.recipe),
        first=mastery.all_together(found, [r.to_dict() for r in run.records]) if found is not None else None,
        verdict=mastery.verdict(found) if found is not None else None,
        budget=run.verdict.to_dict() if run.verdict is not None else None,
        ledger=_ledger(run),
        sensitivity=leans,
        decisions=load_file(decided) if decided.exists() else None,
        labels=run.recipe.task.signature().labels,
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
