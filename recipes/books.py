"""What the tracker is told of a run: its page, every stage with its record, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.stage import Stage
from recipes import finish, telling
from recipes.clock import Clock
from recipes.folders import Code
from recipes.page import digest, write
from recipes.recipe import Recipe, Workshop
from reports import reads
from reports.record import Record
from reports.track import NOTE, MLflow, Role, Silent, Tracker, tracker
from students.files import write_json, write_text
from teachers.teacher import Teacher


class Books:
    """The books of one run; the tracker's runs are called "run" and as the stages' folders are.

    tracker  Silent until they are opened
    """

    def __init__(self, clock: Clock, recipe: Recipe) -> None:
        self.clock, self._recipe = clock, recipe
        self.tracker: Tracker = Silent()
        self._warn: Callable[[str], None] = lambda line: None
        self._running: str | None = None  # the stage that is at work, as the tracker knows it

    def open(
        self,
        workshop: Workshop,
        folder: Path,
        code: Code,
        warn: Callable[[str], None],
        plan: str,
    ) -> None:
        """Write down what is about to be done, and begin the tracker's run."""
        recipe = self._recipe
        write_text(folder / "page.yaml", write(recipe))
        write_json(
            folder / "workshop.json",
            {
                "runs": str(workshop.runs.resolve()),
                "data": str(workshop.data.resolve()) if workshop.data else None,
                "device": workshop.device,
                "tracking": workshop.tracking,
                "reuse": workshop.reuse,
                "register": workshop.register,
                "test": workshop.test,
            },
        )
        self._warn = warn
        with self.clock.on("tracking"):
            self.tracker = tracker(workshop.tracking, folder, workshop.runs, warn=warn)
            hash = digest(recipe)
            tags = {
                "decoct.hash": hash,
                "decoct.code": str(code),
                "decoct.recipe": recipe.name,
                "decoct.plan": plan,
                "decoct.kind": "recipe",
                "recipe": recipe.name,
                "seed": str(recipe.seed),
                "stages": telling.chain(recipe),
                "task": telling.described(recipe.task),
                "teacher": ", ".join(teacher.name for teacher in recipe.teachers),
                "mlflow.source.name": f"decoct run {recipe.name}",
                "mlflow.source.type": "LOCAL",
                NOTE: telling.about(recipe, hash),
            }
            self.tracker.begin(
                "run",
                name=telling.title(recipe),
                params=telling.params(recipe),
                tags=tags,
                above=workshop.above,
            )
            self.tracker.artifact("run", folder / "page.yaml")

    def close(self, status: Any) -> None:
        """End the run, and the stage that is at work."""
        with self.clock.on("tracking"):
            if self._running is not None:
                self.tracker.end(self._running, status)
            self.tracker.end("run", status)
            self.tracker.close()
        if isinstance(self.tracker, MLflow):
            for name, version in self.tracker.registered.items():
                self._warn(f"registered as models:/{name}/{version}")

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
                self._child(name, 0, record.stage, {}, dict(record.made))
            if record.chose:
                self._ranking(record, files, teachers)
            else:
                if stage is not None:
                    self._model(name, name, "output", record, files=files / "state")
                    if record.position == len(self._recipe.stages):
                        self._model("run", name, "output", record)
                else:
                    self._model(name, name, "input", record)
                    self._model("run", name, "input", record)
                self.tracker.metrics(name, record.metrics(), record.position, model=name)
                self.tracker.metrics("run", record.metrics(), record.position)
            self.tracker.artifact(name, files / "record.json")
            self.tracker.end(name)
        if self._running == name:
            self._running = None

    def finished(
        self, folder: Path, records: Sequence[Record], ledger: Mapping[str, Any], seconds: float
    ) -> None:
        """Tell what came of it all; the first record is the teacher's that the last one is compared with."""
        with self.clock.on("tracking"):
            for file in ("report.html", "result.json"):
                self.tracker.artifact("run", folder / file)
            told = {"time/total_seconds": seconds}
            # Against one of several teachers, which may have labels of its own, points would mean nothing.
            made = records[-1].position and not records[-1].chose and len(self._recipe.teachers) == 1
            self.tracker.metrics("run", told | (telling.changes(records[0], records[-1]) if made else {}))
            parts = (
                telling.headline(records[0], records[-1]) if made else "",
                telling.about(self._recipe, digest(self._recipe)),
                telling.outcome(records, ledger),
            )
            note = "\n\n".join(part for part in parts if part)
            self.tracker.tags("run", {NOTE: note, "data": reads.told(ledger)})
            for row in ledger["reads"]:
                context = (
                    f"{row['who']} {row['why']}: {row['split']}, {'with' if row['labels'] else 'no'} labels"
                )
                counts = {key: row[key] for key in ("split", "labels", "samples", "distinct", "of")}
                self.tracker.data("run", row["source"].rpartition(".")[2], context, counts)

    def _stage(self, name: str, stage: Stage, made: dict[str, str]) -> None:
        position = int(name.partition("-")[0])
        self._child(name, position, type(stage).__name__, telling.stage_params(stage), made)

    def _child(
        self, name: str, position: int, called: str, params: dict[str, str], made: dict[str, str]
    ) -> None:
        """The run of a stage, or of a teacher, below the recipe's."""
        recipe = self._recipe
        tags = {
            **made,
            "decoct.kind": "stage" if position else "teacher",
            "recipe": recipe.name,
            "seed": str(recipe.seed),
            NOTE: telling.about_stage(position, called, recipe),
        }
        shown = f"{position} {called}" if position else f"0 {called} (teacher)"
        self.tracker.begin(name, name=shown, parent="run", params=params, tags=tags)

    def _model(self, run: str, name: str, role: Role, record: Record, **more: Any) -> None:
        """A model, with what one wants to know of it without opening its run."""
        made, recipe = role == "output", self._recipe
        params = {
            "recipe": recipe.name,
            "seed": recipe.seed,
            "made by": f"{record.position} {record.stage}" if made else "given, or trained by the recipe",
            "teacher": ", ".join(teacher.name for teacher in recipe.teachers) if made else record.stage,
            "task": telling.described(recipe.task),
        }
        shown = f"{recipe.name}-seed{recipe.seed}-{record.position}-{record.stage}"
        note = telling.about_model(record, recipe)
        more = {"params": params, "title": shown, "note": note, "step": record.position, **more}
        self.tracker.model(run, name, role, **more)

    def _ranking(self, record: Record, files: Path, teachers: tuple[Teacher, ...]) -> None:
        for run in (files.name, "run"):
            for teacher in teachers:
                self.tracker.model(run, f"00-{teacher.name}", "input")
            self.tracker.metrics(run, finish.ranking_metrics(files), record.position)
            for file in ("ranking.json", "similarity.svg"):
                if (files / file).exists():
                    self.tracker.artifact(run, files / file)
