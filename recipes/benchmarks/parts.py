"""What the benchmarks of amalgamation share: teachers of parts, students of them, and a row of what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.amalgamation import Amalgamation
from compress.session import Precision, Session
from compress.stage import Stage, State
from recipes.benchmarks.rows import Row, Rows, of_scores, spread
from recipes.benchmarks.taught import Opened, taught
from recipes.masters import compared
from reports.evaluate import TestScore, evaluate
from teachers.networks.network import Network
from teachers.task import Split, Task
from teachers.tasks import Subset
from teachers.teacher import Checkpoint, Teacher
from teachers.train import Train

CPU = torch.device("cpu")


def part(
    name: str, network: Network, whole: Task, keep: Sequence[str], train: Train, seed: int
) -> Checkpoint:
    """A teacher of some labels of a task, to be trained with this seed."""
    task = Subset(of=whole, keep=tuple(keep))
    return Checkpoint(name=f"{name}-seed{seed}", network=network, task=task, train=replace(train, seed=seed))


def teachers_of(
    checkpoints: Sequence[Checkpoint], work: Path, opened: Opened, precision: Precision = "fp32"
) -> tuple[Teacher, ...]:
    """Those teachers, trained on the first call and kept."""
    return tuple(
        taught(one, work / f"{one.name}.safetensors", opened(one.task), precision) for one in checkpoints
    )


def amalgamated(
    stages: Sequence[Stage],
    teachers: Sequence[Teacher],
    checkpoints: Sequence[Checkpoint],
    task: Task,
    opened: Opened,
    seed: int,
    precision: Precision = "fp32",
) -> dict[str, Any]:
    """One student: what it scores against each teacher and all together, after every stage that leaves one."""
    torch.manual_seed(seed)
    state, row = State(tuple(teachers)), dict[str, Any]()
    notes: list[str] = []
    began = time.process_time()
    spent = 0.0
    for place, stage in enumerate(stages):
        session = Session(
            splits=opened(task), sees=stage.sees, seed=seed, precision=precision, signature=task.signature(),
            name=type(stage).__name__,
        )  # fmt: skip
        made = stage(state, session)
        state = replace(made, amalgamation=made.amalgamation or state.amalgamation)
        spent += time.process_time() - began
        notes += session.notes
        assert state.student is not None
        assert state.amalgamation is not None
        row["after" if place else "result"] = result(
            state.student, teachers, checkpoints, task, state.amalgamation, opened
        )
        began = time.process_time()
    return {**row, "cpu_seconds": round(spent, 1), "notes": notes}


def result(
    student: nn.Module,
    teachers: Sequence[Teacher],
    checkpoints: Sequence[Checkpoint],
    task: Task,
    made: Amalgamation,
    opened: Opened,
) -> dict[str, Any]:
    """As the report has it, without what does not change."""
    tasks = {one.name: one.task for one in checkpoints}
    found = compared(student, teachers, tasks, task, made, opened, CPU)
    return {name: found[name] for name in ("teachers", "joint", "groups", "cost")}


def supervised(network: Network, train: Train, task: Task, opened: Opened, seed: int) -> dict[str, Any]:
    """The same network taught by the labels of everything, which no student saw."""
    torch.manual_seed(seed)
    splits, session = opened(task), Session(splits=opened(task))
    began = time.process_time()
    module = replace(train, seed=seed)(
        network.build(), splits, device=CPU, autocast=session.autocast, epochs=session.epochs, log=session.log,
        kind=task.signature().kind,
    )  # fmt: skip
    spent = time.process_time() - began
    batches = splits.batches(Split.TEST, CPU)
    score = evaluate(module, batches, task.predict, task.score, kind=TestScore).value
    return {
        "result": {"teachers": [], "joint": {"student": score, "other": None}},
        "cpu_seconds": round(spent, 1),
    }


def table(
    rows: Rows, keys: Sequence[str], metric: str = "Accuracy", least: Callable[[Row], bool] | None = None
) -> str:
    """Seeds together: every teacher on its own labels and the student there, all together, and the ensemble."""
    found = [row for row in rows.all() if least is None or least(row)]
    body = []
    for key in dict.fromkeys(tuple(row[k] for k in keys) for row in found):
        of = [row for row in found if tuple(row[k] for k in keys) == key]
        for name in ("result", "after"):
            these = [row[name] for row in of if name in row]
            if not these:
                continue
            apart = " / ".join(
                f"{_mean(r['teachers'][m]['student'] for r in these)} "
                f"({_mean(r['teachers'][m]['other'] for r in these)})"
                for m in range(len(these[0]["teachers"]))
            )
            masters = sum(all(t["master"] for t in r["teachers"]) for r in these if r["teachers"])
            joint = [r["joint"] for r in these if r["joint"]]
            ensemble = [j["other"] for j in joint if j["other"] is not None]
            minutes = sum(row["cpu_seconds"] for row in of) / len(of) / 60
            won = f"{masters} of {len(these)}" if apart else "–"
            anew = "yes" if name == "after" else ""
            scores = (spread(j["student"] for j in joint), spread(ensemble))
            body.append((*key, anew, apart or "–", won, *scores, f"{minutes:.1f}"))
    head = (*keys, "norms measured anew", "student (teacher), own labels", "master", "student, all labels",
            "ensemble, all labels", "CPU min")  # fmt: skip
    return of_scores(head, body, metric)


def _mean(values: Any) -> str:
    numbers = list(values)
    return f"{100 * sum(numbers) / len(numbers):.2f}"
