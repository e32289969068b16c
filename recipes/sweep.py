"""A sweep: a page run again and again with other values in some of its fields, chosen by val, kept, and gone on with.

    runs/sweeps/<name>-<hash>/   study.db (Optuna's), sweep.json, sweep.csv, pareto.svg, best-1.yaml, ...
    runs/<name>/<hash>/          every trial's run, as `decoct run` would make it, but for test and the packed student

The loop asks for a batch of trials (`recipes.study`), has an engine do them (`recipes.engines`, `recipes.on_ray`),
and tells what they came to. No trial reads test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipes import folders, swept
from recipes.display import Display, Quiet
from recipes.engines import Engine, Here, Processes
from recipes.goals import Bound, Objective, mean
from recipes.page import digest, write
from recipes.recipe import Recipe, Workshop
from recipes.space import Space
from recipes.study import Study, Trial
from recipes.swept import Swept
from recipes.trial import Job, Outcome
from reports.plots import duration
from reports.track import MLflow, tracker
from students.files import write_json, write_text


@dataclass(frozen=True)
class Sweep:
    """What is swept: two equal ones are the same sweep, and the second goes on where the first stopped.

    recipe      the page; its seed is that of the proposals, too
    space       the fields that vary, and within what
    objectives  what is looked for, on val
    bounds      what a trial must keep, to be among the best
    seeds       runs of each trial, with seeds that follow the page's; facts are means over them
    """

    recipe: Recipe
    space: Space
    objectives: tuple[Objective, ...]
    bounds: tuple[Bound, ...] = ()
    seeds: int = 1

    def about(self) -> dict[str, Any]:
        """What makes it this sweep, as plain data."""
        return {
            "page": digest(self.recipe),
            "space": self.space.canonical(),
            "objectives": [str(each) for each in self.objectives],
            "bounds": [str(each) for each in self.bounds],
            "seeds": self.seeds,
        }

    @property
    def hash(self) -> str:
        """sha256 of that."""
        return hashlib.sha256(json.dumps(self.about(), sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The page's name and the hash's beginning: the folder's, and the study's in its storage."""
        return f"{self.recipe.name}-{self.hash[:8]}"


def sweep(
    asked: Sweep,
    workshop: Workshop | None = None,
    *,
    trials: int = 20,
    batch: int | None = None,
    engine: Engine | None = None,
    storage: str | None = None,
    test_best: bool = False,
    trust: tuple[str, ...] = (),
    display: Display | None = None,
) -> Swept:
    """Do trials until there are so many, those of an earlier call counted, and tell which are the best by val.

    batch      trials proposed at a time, none knowing what the others come to; by default one for each worker
    engine     who does them; by default this process
    storage    where Optuna keeps them; by default a sqlite file in the sweep's folder
    test_best  run the best to their end: test is read for them, once, after they were chosen, and their students are
               packed. It must not be chosen by: among many looked at, the best on test is partly lucky
    trust      packages, beside those of this house, that the page names

    The first trial is the page as it is, where its values lie in the space. A trial that fails is kept with its
    message, and the sweep goes on. A stopped sweep leaves trials unfinished; the same call takes them up, inside a
    stage at the last finished epoch. Proposals depend on the page's seed, the batch and what earlier batches came to:
    by facts that no clock gives, a sweep comes out the same in pieces and whole, and on every engine.

    Raises ValueError for wrong input: teachers that cannot be used, no objective that can be measured, another sweep's
    storage, a sweep of which every trial failed. KeyboardInterrupt where it is asked to stop.
    """
    workshop = workshop if workshop is not None else Workshop()
    display = display if display is not None else Quiet()
    engine = engine if engine is not None else Here(display)
    folder = workshop.runs / "sweeps" / asked.name
    try:
        with folders.alone(folder):
            work = _Sweeping(asked, workshop, folder, engine, trust, display)
            return work.go(trials, batch, storage, test_best)
    finally:
        engine.close()


def engine_for(
    kind: str,
    workers: int | None,
    *,
    threads: int | None = None,
    address: str | None = None,
    device: str = "auto",
    display: Display | None = None,
) -> Engine:
    """The engine of that name, "local" or "ray". Raises ValueError for what does not go together, or is not there."""
    if kind == "ray":
        from recipes.on_ray import Ray

        return Ray(workers or 2, threads, address, device)
    if address is not None:
        raise ValueError(f"--ray-address {address} is of use with --engine ray only")
    if workers is not None and workers > 1:
        return Processes(workers, threads)
    return Here(display if display is not None else Quiet(), threads)


class _Sweeping:
    """One sweep at work: what its steps share."""

    def __init__(
        self,
        asked: Sweep,
        workshop: Workshop,
        folder: Path,
        engine: Engine,
        trust: tuple[str, ...],
        display: Display,
    ) -> None:
        self.asked, self.workshop, self.folder = asked, workshop, folder
        self.engine, self.trust, self.display = engine, trust, display
        self.known: dict[str, Outcome] = {}  # what pages came to, by their hash
        self.patience = 30.0
        self.at_work: dict[str, None] = {}  # trials that the tracker knows as running, in order

    def go(self, trials: int, batch: int | None, storage: str | None, test_best: bool) -> Swept:
        asked = self.asked
        self.study = Study(
            storage or f"sqlite:///{(self.folder / 'study.db').resolve()}",
            asked.name, asked.hash, asked.space, asked.objectives, asked.bounds,
            seed=asked.recipe.seed, first=asked.space.of_page(asked.recipe),
        )  # fmt: skip
        size = self.study.batch(batch, self.engine.workers)
        write_text(self.folder / "swept.yaml", write(asked.recipe))
        self.tracker = tracker(
            self.workshop.tracking, self.folder, self.workshop.runs, warn=self.display.note
        )
        self._begin()
        try:
            self.teacher = self._prepare()
            self._recall(trials)
            while todo := self.study.next(trials, size):
                self._do(todo, trials)
            made = self._end(test_best)
        except BaseException as problem:
            self._close("KILLED" if isinstance(problem, KeyboardInterrupt) else "FAILED")
            raise
        self._close("FINISHED")
        return made

    # -- trials -------------------------------------------------------------------------------------------

    def _prepare(self) -> dict[str, float]:
        """Teachers and the stages that no trial changes, done once; the facts of the teacher.

        Raises ValueError for what would make every trial fail.
        """
        asked, shared = self.asked, self.asked.space.shared(self.asked.recipe)
        job = replace(self._job("beginning", asked.recipe), stages=shared)
        ((_, outcome),) = self.engine.run([job])
        if outcome.problem is not None:
            kind = OSError if outcome.ends else ValueError
            raise kind(f"no trial of {asked.name} can begin: {outcome.problem}")
        facts = outcome.runs[0]
        scored = [each for each in asked.objectives if each.name == "score"]
        if not facts["val_samples"] and scored:
            left = [each.name for each in asked.objectives if each not in scored]
            raise ValueError(
                f"the task of {asked.recipe.name} has no val sample, so nothing can be chosen by its score: "
                + (
                    f"leave out --maximize score, and {', '.join(left)} is left"
                    if left
                    else "no objective is left"
                )
            )
        return facts

    def _recall(self, total: int) -> None:
        """Take up what earlier calls did."""
        done = [trial for trial in self.study.trials() if trial.state != "running"]
        for trial in done:
            try:
                page = digest(self.asked.space.recipe(self.asked.recipe, trial.drawn))
            except ValueError:
                continue  # values that make no page: they failed before anything ran
            runs = (dict(trial.facts),) if trial.facts else ()
            self.known[page] = Outcome(runs, trial.folders, trial.problem)
        if done:
            self.display.note(
                f"{self.asked.name} goes on: {len(done)} trials are done, {total} are asked for"
            )

    def _do(self, todo: Sequence[Trial], total: int) -> None:
        """Have trials done, and tell the study of each as it ends; equal pages are done once."""
        waiting: dict[str, list[Trial]] = {}
        jobs = []
        for trial in todo:
            self.tracker.begin(
                _key(trial), name=f"trial {trial.number}", parent="run",
                params=dict(trial.drawn), tags={"decoct.kind": "trial", "decoct.trial": str(trial.number)},
            )  # fmt: skip
            self.at_work[_key(trial)] = None
            try:
                recipe = self.asked.space.recipe(self.asked.recipe, trial.drawn)
            except ValueError as problem:
                self._tell(trial, Outcome(problem=str(problem)), total)
                continue
            page = digest(recipe)
            if page in self.known:
                self._tell(trial, self.known[page], total)
            elif page in waiting:
                waiting[page].append(trial)
            else:
                waiting[page] = [trial]
                jobs.append(replace(self._job(page, recipe), above=self.tracker.key(_key(trial))))
        if isinstance(self.tracker, MLflow) and jobs:
            # The runs above come first; a store that did not answer is not waited for again.
            self.patience = 30.0 if not self.tracker.reconcile(self.patience) else 1.0
        with closing(self.engine.run(jobs)) as ended:
            for job, outcome in ended:
                if outcome.ends:
                    raise OSError(outcome.problem)
                self.known[job.key] = outcome
                for trial in waiting[job.key]:
                    self._tell(trial, outcome, total)

    def _job(self, key: str, recipe: Recipe) -> Job:
        workshop = self.workshop
        return Job(
            key=key,
            page=write(recipe),
            seeds=tuple(range(recipe.seed, recipe.seed + self.asked.seeds)),
            trust=self.trust,
            folder=str(self.folder.resolve()),
            workshop={
                "runs": str(workshop.runs.resolve()),
                "data": str(workshop.data.resolve()) if workshop.data is not None else None,
                "device": workshop.device,
                "tracking": workshop.tracking,
                "reuse": workshop.reuse,
            },
            threads=self.engine.threads,
        )

    def _tell(self, trial: Trial, outcome: Outcome, total: int) -> None:
        """A trial has ended: the study, the tracker and the display are told."""
        key = _key(trial)
        facts = mean(outcome.runs) if outcome.runs else {}
        self.study.tell(trial.number, facts, outcome.folders, outcome.problem)
        trial = next(each for each in self.study.trials() if each.number == trial.number)
        head = f"trial {trial.number} (of {total})"
        said = ", ".join(f"{path} {swept.short(drawn)}" for path, drawn in trial.drawn.items())
        if trial.problem is not None:
            note = self.folder / f"{key}.txt"
            write_text(note, f"{trial.problem}\n\n{said}\n\n{outcome.trace or ''}")
            self.tracker.artifact(key, note)
            self.display.note(f"{head} failed: {said}: {trial.problem}")
        else:
            numbers = swept.metrics(trial, self.asked.recipe.task.metric)
            self.tracker.metrics(key, numbers)
            self.tracker.metrics("run", numbers, trial.number)
            over = "" if trial.keeps_bounds else "; above " + " and ".join(
                words for words, excess in trial.excess.items() if excess > 0
            )  # fmt: skip
            self.display.note(
                f"{head}: {said}: {swept.told(trial)}, {duration(trial.facts['seconds'])}{over}"
            )
        self.tracker.end(key, "FINISHED" if trial.problem is None else "FAILED")
        self.at_work.pop(key)

    # -- books --------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        asked, about = self.asked, self.asked.about()
        write_json(self.folder / "sweep.json", {"about": about, "name": asked.name})
        self.tracker.begin(
            "run",
            name=f"sweep of {asked.recipe.name}",
            params={
                **{f"over.{each.path}": str(each) for each in asked.space},
                "objectives": ", ".join(about["objectives"]),
                "bounds": ", ".join(about["bounds"]) or "none",
                "seeds": asked.seeds,
            },
            tags={
                "decoct.kind": "sweep",
                "decoct.sweep": asked.hash,
                "decoct.page": about["page"],
                "decoct.recipe": asked.recipe.name,
            },
        )
        self.tracker.artifact("run", self.folder / "swept.yaml")

    def _close(self, status: Any) -> None:
        for key in (*self.at_work, "run"):
            self.tracker.end(key, status)
        self.tracker.close()

    def _catch_up(self) -> None:
        """Send what the runs of trials told a store that was slow or away, now that it answers."""
        if not isinstance(self.tracker, MLflow) or self.tracker.reconcile(self.patience):
            return
        for folder in {folder for trial in self.study.trials() for folder in trial.folders}:
            if Path(folder).is_dir():
                late = tracker(
                    self.workshop.tracking, Path(folder), self.workshop.runs, warn=self.display.note
                )
                late.close()

    def _end(self, test_best: bool) -> Swept:
        """What came of it, written down and shown."""
        asked, trials = self.asked, self.study.trials()
        failed = [trial for trial in trials if trial.state == "failed"]
        if len(failed) == len(trials):
            raise ValueError(
                f"all {len(trials)} trials of {asked.name} failed, the last with: {failed[-1].problem}; "
                f"each has its page and trace in {self.folder}"
            )
        tested = self._tested(self.study.front()) if test_best else {}
        found = Swept(
            self.folder, asked.name, asked.recipe.task.metric, asked.objectives, asked.bounds,
            tuple(trials), tuple(self.study.front()), self.teacher, tested,
        )  # fmt: skip
        pages = {trial.number: asked.space.recipe(asked.recipe, trial.drawn) for trial in found.front}
        swept.keep(found, asked.about(), pages)
        for file in ("sweep.csv", "sweep.json", "pareto.svg", *swept.best_names(found)):
            if (self.folder / file).exists():
                self.tracker.artifact("run", self.folder / file)
        self.tracker.metrics(
            "run",
            {"sweep/trials": len(trials), "sweep/failed": len(failed), "sweep/best": len(found.front)},
        )
        self._catch_up()
        swept.show(found, self.display, asked.space)
        return found

    def _tested(self, front: Sequence[Trial]) -> dict[int, float]:
        """Run the best to their end; the mean of their scores on test, by trial."""
        from recipes.run import run

        found = {}
        for trial in front:
            recipe = self.asked.space.recipe(self.asked.recipe, trial.drawn)
            bench = replace(self.workshop, test=True, above=self.tracker.key(_key(trial)))
            scores = []
            for seed in range(recipe.seed, recipe.seed + self.asked.seeds):
                made = run(replace(recipe, seed=seed), bench)
                scores += [record.test.value for record in made.records[-1:] if record.test is not None]
            if scores:
                found[trial.number] = sum(scores) / len(scores)
        return found


def _key(trial: Trial) -> str:
    return f"trial-{trial.number:03d}"
