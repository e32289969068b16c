"""The data ledger of a run: who was handed which samples, kept beside what they were read for.

    {"reads": [{"who": "1 GAL", "why": "learns", "source": "teachers.tasks.Digits", "split": "train", "labels": false,
                "samples": 12850, "distinct": 1285, "of": 1285}, ...],
     "feeds": [{"who": "1 GAL", "sees": "inputs", "open": true}, ...],
     "closed": false, "proof": null}

Nobody reports his own reading. All data that a run opens goes out through `teachers.counted.Counted`, whose counts
these are; a stage that sees nothing works at a session that was made without any data. Stages that were taken up from
earlier work bring the ledger that was kept with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compress.session import Sees
from compress.stage import Stage
from recipes.names import name_of
from students.files import write_json
from teachers.counted import Counted, Handed
from teachers.task import Splits, Task

FILE = "ledger.json"
_PROOF = (
    "No stage was handed a sample of the task. Every stage says that it sees nothing, and was therefore run "
    "at a session without data: its feed is closed, and asking it for a batch ends the run. All that the run itself "
    "opened went out through counters, and these are all their rows: they belong to the runner, which measures and "
    "hands nothing on, and to the training of teachers that came without weights. What this does not cover is code of "
    "a stage that would open files by itself."
)


class Ledger:
    """What the runner reads is booked under `who` and `why` of the moment; what stages read, when they are done."""

    def __init__(self) -> None:
        self._now: tuple[str, str] = ("runner", "looks")
        self._open: list[tuple[str, str, Task, Counted]] = []

    def hand(self, task: Task, splits: Splits, labels: bool = True) -> Counted:
        """The task's data for whoever reads at the moment."""
        for who, why, known, counted in self._open:
            if (who, why) == self._now and known == task and counted.labels == labels:
                return counted
        made = Counted(splits, labels)
        self._open.append((*self._now, task, made))
        return made

    @contextmanager
    def reading(self, why: str, folder: Path) -> Iterator[None]:
        """What is read in this block is read by the runner for that reason; kept in the folder, however it ends."""
        before, self._now = self._now, ("runner", why)
        try:
            yield
        finally:
            mine = [each for each in self._open if each[:2] == self._now]
            self._open = [each for each in self._open if each[:2] != self._now]
            keep(folder, [row("runner", why, task, each) for *_, task, n in mine for each in n.handed()])
            self._now = before

    def settle(self, folder: Path) -> None:
        """Keep what was read for no reason that anybody named: it is a row all the same."""
        keep(folder, [row(who, why, task, each) for who, why, task, n in self._open for each in n.handed()])


def row(who: str, why: str, task: Task, handed: Handed) -> dict[str, Any]:
    """A row of the ledger."""
    source = "generated" if handed.split == "generated" else name_of(type(task))
    return {"who": who, "why": why, "source": source, **asdict(handed)}


def of_stage(who: str, task: Task, handed: Sequence[Handed]) -> list[dict[str, Any]]:
    """The rows of a stage, or of a teacher's training."""
    return [row(who, "chooses" if each.split == "val" else "learns", task, each) for each in handed]


def keep(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows down beside those that are there; one about the same replaces what was there."""
    if rows:
        told = {_about(each): each for each in (*kept(folder), *rows)}
        write_json(folder / FILE, list(told.values()))


def kept(folder: Path) -> list[dict[str, Any]]:
    """The rows that lie in a folder."""
    path = folder / FILE
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def _about(row: dict[str, Any]) -> tuple[object, ...]:
    return tuple(row[name] for name in ("who", "why", "source", "split", "labels"))


def whole(stages: Sequence[Stage], folders: Sequence[Path]) -> dict[str, Any]:
    """The ledger of a run with these stages: what lies in its folders, in order, and what it proves."""
    feeds = [
        {
            "who": f"{place} {type(stage).__name__}",
            "sees": stage.sees.value,
            "open": stage.sees is not Sees.NOTHING,
        }
        for place, stage in enumerate(stages, start=1)
    ]
    reads = [each for folder in folders for each in kept(folder)]
    names = {feed["who"] for feed in feeds}
    touched = any(each["who"] in names and each["split"] != "generated" for each in reads)
    closed = not touched and not any(feed["open"] for feed in feeds)
    return {"reads": reads, "feeds": feeds, "closed": closed, "proof": _PROOF if closed else None}
