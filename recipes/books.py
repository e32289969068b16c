"""What the tracker is told of a run: its page, every stage with its record, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from compress.stage import Stage
from recipes import finish
from recipes.clock import Clock
from recipes.folders import Code
from recipes.page import digest, write
from recipes.recipe import Recipe, Workshop
from recipes.writing import canonical
from reports.record import Record
from reports.track import Silent, Tracker, flatten, tracker
from students.files import write_json, write_text
from teachers.teacher import Teacher


class Books:
    """The books of one run; the tracker's runs are called "run" and as the stages' folders are.

    tracker  Silent until they are opened
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.tracker: Tracker = Silent()
        self._running: str | None = None  # the stage that is at work, as the tracker knows it

    def open(
        self, recipe: Recipe, workshop: Workshop, folder: Path, code: Code, warn: Callable[[str], None]
    ) -> None:
        """Write down what is about to be done, and begin the tracker's run."""
        write_text(folder / "page.yaml", write(recipe))
        write_json(
            folder / "workshop.json",
            {
                "runs": str(workshop.runs.resolve()),
                "data": str(workshop.data.resolve()) if workshop.data else None,
                "device": workshop.device,
                "tracking": workshop.tracking,
                "reuse": workshop.reuse,
                "test": workshop.test,
            },
        )
        with self.clock.on("tracking"):
            self.tracker = tracker(workshop.tracking, folder, workshop.runs, warn=warn)
            tags = {
                "decoct.hash": digest(recipe),
                "decoct.code": str(code),
                "decoct.recipe": recipe.name,
            }
            params, above = flatten(canonical(recipe)), workshop.above
            self.tracker.begin("run", name=recipe.name, params=params, tags=tags, above=above)
            self.tracker.artifact("run", folder / "page.yaml")

    def close(self, status: Any) -> None:
        """End the run, and the stage that is at work."""
        with self.clock.on("tracking"):
            if self._running is not None:
                self.tracker.end(self._running, status)
            self.tracker.end("run", status)
            self.tracker.close()

    def begin(self, name: str, stage: Stage, made: dict[str, str]) -> None:
        """A stage goes to work."""
        with self.clock.on("tracking"):
            self._stage(name, stage, made)
        self._running = name

    def enter(
        self, record: Record, files: Path, stage: Stage | None = None, teachers: tuple[Teacher, ...] = ()
    ) -> None:
        """Tell of a record, a teacher's or that of a stage which is done; a model's numbers are tied to it.

        Of a stage that chose among `teachers` all of them are inputs, and nothing was made.
        """
        name = files.name
        with self.clock.on("tracking"):
            if stage is not None:
                self._stage(name, stage, dict(record.made))
            else:
                self.tracker.begin(name, name=name, parent="run", tags=dict(record.made))
            if record.chose:
                self._ranking(record, files, teachers)
            else:
                if stage is not None:
                    self.tracker.model(name, name, "output", step=record.position, files=files / "state")
                else:
                    self.tracker.model(name, name, "input")
                self.tracker.metrics(name, record.metrics(), record.position, model=name)
                self.tracker.metrics("run", record.metrics(), record.position)
            self.tracker.artifact(name, files / "record.json")
            self.tracker.end(name)
        if self._running == name:
            self._running = None

    def _stage(self, name: str, stage: Stage, made: dict[str, str]) -> None:
        self.tracker.begin(name, name=name, parent="run", params=flatten(canonical(stage)), tags=made)

    def _ranking(self, record: Record, files: Path, teachers: tuple[Teacher, ...]) -> None:
        for run in (files.name, "run"):
            for teacher in teachers:
                self.tracker.model(run, f"00-{teacher.name}", "input")
            self.tracker.metrics(run, finish.ranking_metrics(files), record.position)
            for file in ("ranking.json", "similarity.svg"):
                if (files / file).exists():
                    self.tracker.artifact(run, files / file)
