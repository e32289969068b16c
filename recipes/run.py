"""The runner: a recipe and a workshop in; a student, records and a report out."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.session import Limit, Sees, Session, stop_on_signals
from compress.stage import Stage, State
from recipes import curves, finish, folders, ledger, models
from recipes.books import Books
from recipes.check import check, fits_task, prints
from recipes.clock import Clock
from recipes.display import Display, Quiet
from recipes.gather import Limited, admit, gather, of_one_kind, seconds_of_training, trained_folder
from recipes.measure import Instruments, device_of
from recipes.plan import ahead
from recipes.recipe import Recipe, Workshop
from recipes.seal import Seal
from recipes.verdict import Infeasible
from reports.evaluate import ValScore
from reports.record import Record
from reports.units import count
from reports.verdict import Verdict
from students.files import write_json, write_text
from teachers.place import place
from teachers.task import Splits, Task
from teachers.teacher import Checkpoint, Teacher


@dataclass(frozen=True)
class Result:
    """What a run leaves: the last state, one record per teacher and per stage, and the folder with all of it.

    verdict on the recipe's budget, where it has one. A rehearsal's folder was a temporary one and is gone.
    """

    state: State
    records: tuple[Record, ...]
    folder: Path
    verdict: Verdict | None = None


def run(
    recipe: Recipe,
    workshop: Workshop | None = None,
    *,
    display: Display | None = None,
    rehearse: bool = False,
    plan: str | None = None,
) -> Result:
    """Turn teachers into a compact student, measured stage by stage.

    workshop  this machine; by default everything goes into ./runs
    display   whom to tell; by default nobody
    rehearse  two batches a pass and one epoch a loop, in a temporary folder, without gate, test and tracker
    plan      the hash of the plan that is to be carried out; None carries out whatever the recipe says

    Finished stages of an equal beginning are found and reused, an unfinished one goes on at its last finished
    epoch, and both end bit-equal to an unbroken run on a CPU.

    Raises ValueError for wrong input: a teacher near chance, a stage that changed nothing, a budget that cannot be
    met, a plan that no longer holds; of these `Infeasible`, before anything is trained, where the recipe's own budget
    lies below all that its stages could leave. ArithmeticError where a loss is no longer finite; KeyboardInterrupt
    when asked to stop. In every case what was finished is kept, and the tracker's runs end FAILED or KILLED.
    """
    workshop = workshop if workshop is not None else Workshop()
    display = display if display is not None else Quiet()
    with _terminable():
        if not rehearse:
            return Run(recipe, workshop, display, plan=plan).go()
        with tempfile.TemporaryDirectory(prefix="decoct-rehearsal-") as folder:
            bench = replace(workshop, runs=Path(folder), tracking="off", register=None)
            limit = Limit(batches=2, epochs=1)
            return Run(
                recipe, bench, display, limit, trained=workshop.runs, plan=plan, tracking=workshop.tracking
            ).go()


class _Bench(Session):
    """A Session whose savings are booked as the runner's time, not as the stage's."""

    def __init__(self, clock: Clock, **more: Any) -> None:
        super().__init__(**more)
        self._clock = clock

    def tell(self, report: Callable[[Mapping[str, float], int], None]) -> None:
        """Whom `log` tells; said afterwards, since who listens wants to know the session."""
        self._report = report

    def _save(self, *what: Any) -> None:
        with self._clock.on("saving"):
            super()._save(*what)


class Run:
    """One run: what its steps share."""

    def __init__(
        self,
        recipe: Recipe,
        workshop: Workshop,
        display: Display,
        limit: Limit | None = None,
        trained: Path | None = None,
        plan: str | None = None,
        tracking: str | None = None,
    ) -> None:
        self.plan = plan
        self.verdict: Verdict | None = None
        self.recipe, self.workshop, self.display, self.limit = recipe, workshop, display, limit
        self.ranks_only = all(stage.chooses for stage in recipe.stages)  # no student comes of it
        self.near_chance: dict[
            str, ValueError
        ] = {}  # teachers that the gate would not let in, and what it says
        self.device = device_of(workshop.device)
        self.clock = Clock()
        self.code = folders.this_code()
        self.books = Books(self.clock, recipe)
        self.records: list[Record] = []
        self.places: list[Path] = []  # the folder of each record
        self.trained: dict[str, Path] = {}  # where each teacher is kept, if it was trained here
        self.lessons: dict[str, dict[str, list[tuple[int, float]]]] = {}  # curves of teachers trained here
        self._trained = trained if trained is not None else workshop.runs
        # Where models in MLflow are fetched from: a rehearsal tells no tracker, but may ask one.
        self._tracking = tracking if limit is not None else workshop.tracking
        self._open: list[tuple[Task, Splits]] = []
        self.ledger = ledger.Ledger()
        self.instruments = Instruments(self.device, self.opened, timing=limit is None and not self.ranks_only)

    def opened(self, task: Task) -> Splits:
        """The task's data for the runner itself, who is counted as everybody is."""
        return self.ledger.hand(task, self.data(task))

    def data(self, task: Task) -> Splits:
        """The task's data, opened when it is first needed; whoever is handed it counts."""
        for known, splits in self._open:
            if known == task:
                return splits
        with self.clock.on("data"):
            splits = task.open(self.workshop.data)
        for note in splits.notes:
            self.display.note(note)
        splits = Limited(splits, self.limit) if self.limit is not None else splits
        self._open.append((task, splits))
        return splits

    def go(self) -> Result:
        if self.workshop.register is not None and self.workshop.tracking == "off":
            raise ValueError(
                f"the student is to be registered as {self.workshop.register!r}, but --tracking is off: name an MLflow "
                "store, or leave --register out"
            )
        self.seal = self._planned()
        self._gather()
        hashes = folders.stage_hashes(self.recipe, self.teachers, self.limit)
        self.folder = folders.run_folder(self.recipe, self.workshop.runs, hashes)
        with folders.alone(self.folder):
            if self.limit is None:
                self.seal.keep(self.folder)
            self.books.open(self.workshop, self.folder, self.code, self.display.note, self.seal.hash)
            try:
                for teacher, checkpoint in zip(self.teachers, self.recipe.teachers, strict=True):
                    self._row_zero(teacher, checkpoint.task)
                state = State(self.teachers)
                for position, (stage, hash) in enumerate(zip(self.recipe.stages, hashes, strict=True), 1):
                    name = folders.stage_name(position, stage, hash)
                    self._gate(stage, state)
                    self.display.stage(type(stage).__name__, position, len(hashes))
                    state = self._reuse(name) or self._work(name, position, stage, state)
                finish.finish(self, state)
            except BaseException as problem:
                self.books.close("KILLED" if isinstance(problem, KeyboardInterrupt) else "FAILED")
                raise
            self.books.close("FINISHED")
        return Result(state, tuple(self.records), self.folder, self.verdict)

    def _planned(self) -> Seal:
        """What this run stands for. Raises ValueError for another plan than asked, or a budget out of reach."""
        with self.clock.on("planning"):
            seal, verdict = ahead(
                self.recipe, replace(self.workshop, runs=self._trained, tracking=self._tracking)
            )
        if self.plan is not None:
            seal.must_be(self.plan)
        if verdict is not None and verdict.word == "INFEASIBLE":
            raise Infeasible(verdict)
        if verdict is not None and verdict.failed:
            for line in verdict.lines():
                self.display.note(line)
        return seal

    def prepare(self, folder: Path) -> tuple[Record, ...]:
        """The teachers alone: trained where they have to be, measured and let in as `go` would; a record each.

        folder  where these records are kept; the tracker is not told
        """
        self._gather()
        self.folder = folder
        for teacher, checkpoint in zip(self.teachers, self.recipe.teachers, strict=True):
            self._row_zero(teacher, checkpoint.task)
        return tuple(self.records)

    # -- what is told -------------------------------------------------------------------------------------

    def _note(self, folder: Path) -> Record:
        """Add the record that lies in a folder."""
        record = Record.from_json((folder / "record.json").read_text(encoding="utf-8"))
        self.records.append(record)
        self.places.append(folder)
        return record

    def _made(self) -> dict[str, str]:
        return {
            "code": str(self.code),
            "sources": self.code.sources[:12],
            "device": str(self.device),
            "torch": torch.__version__,
            "threads": str(torch.get_num_threads()),
        }

    def listen(self, session: Session, name: str, folder: Path, *, track: bool = True) -> Callable[..., None]:
        """What a session reports goes to the folder's curves, to the tracker, and to the display."""
        kind = name.split("-")[1] if track else name

        def report(values: Mapping[str, float], step: int) -> None:
            with self.clock.on("tracking"):
                curves.add(folder, values, step)
                if track:
                    self.books.tracker.metrics(
                        name, {f"{kind}/{key}": value for key, value in values.items()}, step
                    )
            total = max(session.total_epochs, 1)  # a stage without a loop speaks once
            self.display.epoch(min(session.finished_epochs + 1, total), total, values)

        return report

    # -- teachers -----------------------------------------------------------------------------------------

    def _gather(self) -> None:
        gathered = [self._teacher(checkpoint) for checkpoint in self.recipe.teachers]
        self.teachers = tuple(teacher for teacher, _ in gathered)
        self.sha256 = tuple(sha256 for _, sha256 in gathered)
        of_one_kind(self.recipe, self.teachers)

    def _teacher(self, checkpoint: Checkpoint) -> tuple[Teacher, str]:
        self.display.stage(f"teacher {checkpoint.name}", 0, len(self.recipe.stages))
        checkpoint = models.local(checkpoint, self._trained, self._tracking, self.workshop.data)
        folder = trained_folder(checkpoint, self._trained)
        if self.limit is not None and not (folder / "weights.safetensors").exists():
            folder = trained_folder(checkpoint, self.workshop.runs)  # rehearsed, and gone afterwards

        def session(**about: Any) -> Session:
            bench = _Bench(self.clock, limit=self.limit, **about)
            bench.tell(self.listen(bench, checkpoint.name, folder, track=False))
            return bench

        with self.clock.on("teachers"):
            found = gather(checkpoint, folder, self.workshop.data, self.device, self.data, session)
        self.trained[checkpoint.name] = folder
        if checkpoint.weights is None and (lessons := curves.read(folder)):
            self.lessons[f"teacher {checkpoint.name}"] = lessons
        return found

    def _row_zero(self, teacher: Teacher, task: Task) -> None:
        """Score and cost of a teacher, once; and the gate."""
        name = f"00-{teacher.name}"
        path = self.folder / name / "record.json"
        if path.exists():
            self._admit(teacher.name, task, self._note(path.parent).val)
            return
        with self.clock.on("measuring"), self.ledger.reading(f"scores {teacher.name}", path.parent):
            val = self.instruments.val(teacher.module, task)
            self._admit(teacher.name, task, val)
            cost = self.instruments.cost(teacher.module, teacher.signature)
            cost = self.instruments.timed({"teacher": (teacher.module, cost)}, teacher.signature)["teacher"]
            widths = self.instruments.widths(teacher.module, teacher.signature)
        record = Record(
            stage=teacher.name,
            position=0,
            profile=cost,
            metric=task.metric,
            val=val,
            seconds=seconds_of_training(self.trained[teacher.name]),
            seed=self.recipe.seed,
            commit=self.code.name,
            made=self._made(),
        )
        write_json(path.with_name("widths.json"), widths)
        write_text(path, record.to_json())
        self.books.enter(self._note(path.parent), path.parent)
        score = val or "not scored, for there is no data"
        self.display.note(f"teacher {teacher.name}: {score}, {count(cost.macs)} MACs")

    def _admit(self, name: str, task: Task, val: ValScore | None) -> None:
        """The gate for an only teacher; of several, it is noted who would not pass, for a stage may choose another."""
        if self.limit is not None or val is None:
            return
        try:
            admit(name, task, val)
        except ValueError as problem:
            if len(self.teachers) == 1:
                raise
            self.near_chance[name] = problem

    # -- stages -------------------------------------------------------------------------------------------

    def _gate(self, stage: Stage, state: State) -> None:
        """Raises ValueError where a stage would work with a teacher near chance; one that chooses may look at such."""
        target = (state.target,) if state.target is not None else ()
        for teacher in (*state.teachers, *target):
            if teacher.name in self.near_chance and not stage.chooses:
                raise self.near_chance[teacher.name]

    def _reuse(self, name: str) -> State | None:
        """The state a finished stage of that name left, here or in another run of the recipe, or None.

        What other code made or began is set aside, unless the workshop says to reuse it.
        """
        folder, reuse = self.folder / name, self.workshop.reuse
        if folder.exists() and not (reuse or folders.by(folder, self.code)):
            made = folders.maker(folder)
            aside = folders.set_aside(folder)
            self.display.note(
                f"{name} was made by other code ({made}) than this ({self.code}): it is done again, and what "
                f"was there is kept as {aside.name}; --reuse takes it as it is"
            )
        adopted = not folders.finished(folder) and folders.adopt(
            name, self.folder, None if reuse else self.code
        )
        if not folders.finished(folder):
            return None
        record = self._note(folder)
        state = folders.take_out(folder / "state", self.recipe, self.teachers)
        if adopted:
            self.books.enter(record, folder, self.recipe.stages[record.position - 1], self.teachers)
        self.display.note(f"{name}: reused, made by {folders.maker(folder)} in {record.seconds:.1f} s")
        return self._placed(state)

    def _work(self, name: str, position: int, stage: Stage, state: State) -> State:
        """Do a stage, prove it, keep it, measure it; the state handed on is the one read back from disk."""
        folder = self.folder / name
        folders.begin(folder, self.code)
        seed = folders.seed_of(self.recipe.seed, position)
        bench = _Bench(
            self.clock,
            splits=None if stage.sees is Sees.NOTHING else self.data(self.recipe.task),
            sees=stage.sees,
            device=self.device,
            precision=self.recipe.precision,
            seed=seed,
            folder=folder,
            limit=self.limit,
            name=f"{type(stage).__module__.split('.')[0]}.{type(stage).__name__}",
            signature=self.recipe.task.signature(),
        )
        bench.tell(self.listen(bench, name, folder))
        self.books.begin(name, stage, self._made())
        before = prints(state)
        started = self.clock.spent["stages"] - folders.spent(folder)
        torch.manual_seed(seed)
        try:
            with self.clock.on("stages"):
                made = stage(state, bench)
        finally:
            seconds = self.clock.spent["stages"] - started
            folders.spend(folder, seconds)
        check(stage, before, state, made)
        if made.student is not None and len(self.teachers) > 1:
            fits_task(stage, made, self.recipe.task.signature(), self.device)
        with self.clock.on("saving"):
            folders.put_away(made, folder / "state", self.recipe)
            after = self._placed(folders.take_out(folder / "state", self.recipe, self.teachers))
        who = f"{position} {type(stage).__name__}"
        ledger.keep(folder, ledger.of_stage(who, self.recipe.task, bench.handed()))
        with self.ledger.reading(f"scores {who}", folder):
            record, widths = self._measured(position, stage, after, seconds, seed, bench)
        with self.clock.on("saving"):
            write_json(folder / "widths.json", widths)
            write_json(folder / "pictures.json", bench.pictures)
            if stage.chooses and after.ranking is not None:
                finish.keep_ranking(after.ranking, folder)
            write_text(folder / "record.json", record.to_json())
            for loop in folder.glob("loop-*.safetensors"):
                loop.unlink()
        self.books.enter(self._note(folder), folder, stage, self.teachers)
        return after

    def _placed(self, state: State) -> State:
        if state.student is None:
            return state
        student = place(state.student, self.device)
        return replace(state, student=student)

    def _measured(
        self, position: int, stage: Stage, state: State, seconds: float, seed: int, bench: Session
    ) -> tuple[Record, list[dict[str, object]]]:
        """The record of a stage: of its student, or of the first teacher, on its own task, where it made none."""
        first = state.teachers[0]
        task = next(c.task for c in self.recipe.teachers if c.name == first.name)
        signature, module = first.signature, first.module
        if state.student is not None:
            task, signature, module = self.recipe.task, self.recipe.task.signature(), state.student
        with self.clock.on("measuring"):
            val = self.instruments.val(module, task)
            cost = self.instruments.cost(module, signature)
            pair: dict[str, tuple[nn.Module, Any]] = {"student": (module, cost)}
            if len(self.teachers) == 1:
                pair["teacher"] = (self.teachers[0].module, self.records[0].profile)
            timed = self.instruments.timed(pair, signature)
            widths = self.instruments.widths(module, signature)
        if "teacher" in timed and self.limit is None:
            # Taken in turns with the student, these times may be compared with its own.
            self.records[0] = replace(self.records[0], profile=timed["teacher"])
        record = Record(
            stage=type(stage).__name__,
            position=position,
            profile=timed["student"],
            metric=task.metric,
            val=val,
            seconds=seconds,
            seed=seed,
            commit=self.code.name,
            read=dict(bench.read),
            made=self._made(),
            notes=tuple(f"{type(stage).__name__}: {line}" for line in bench.notes),
            chose=stage.chooses,
        )
        return record, widths


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM stop a run as Ctrl-C does, unless somebody else handles it; afterwards all is as before."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    stop_on_signals()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
