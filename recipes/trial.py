"""One trial of a sweep, wherever it is done: a job in, facts out, both plain data.

`python -m recipes.trial` does one job in a process of its own: the job is a line of JSON on standard input, the
outcome one on standard output, and whatever else is printed goes to standard error. It stops when its input closes,
so that no trial outlives the sweep.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recipes.display import Display
    from recipes.recipe import Recipe, Workshop

PATIENCE = 0.5
"""seconds between two looks whether another process has let go of a folder"""


@dataclass(frozen=True)
class Job:
    """What is to be done.

    key       the caller's own name for it
    page      the text of a page
    seeds     with which it is run, one run each
    folder    the sweep's: whoever does the job must see it
    stages    how many of its first stages are done, as what later trials share; None does all, as a trial
    above     the tracker's run that the runs lie under
    threads   for PyTorch; None leaves that to it
    """

    key: str
    page: str
    seeds: tuple[int, ...]
    trust: tuple[str, ...]
    folder: str
    workshop: dict[str, Any]
    stages: int | None = None
    above: str | None = None
    threads: int | None = None

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Read what `to_json` wrote."""
        data = json.loads(text)
        return cls(**{**data, "seeds": tuple(data["seeds"]), "trust": tuple(data["trust"])})


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `runs`, the facts of each seed and the folders they lie in; or a problem.

    problem  why it failed: a trial's values do not go together, say
    trace    where, for whoever looks into it
    ends     the whole sweep with it: a folder that is not there, a full disk
    """

    runs: tuple[dict[str, float], ...] = ()
    folders: tuple[str, ...] = ()
    problem: str | None = None
    trace: str | None = None
    ends: bool = False

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """Read what `to_json` wrote."""
        data = json.loads(text)
        return cls(**{**data, "runs": tuple(data["runs"]), "folders": tuple(data["folders"])})


def execute(job: Job, display: Display | None = None) -> Outcome:
    """Do a job; what goes wrong becomes part of the outcome, but for being asked to stop."""
    try:
        if not Path(job.folder).is_dir():
            raise FileNotFoundError(
                f"{job.folder} is not to be seen on {os.uname().nodename}: --runs has to be a folder that all machines "
                "share, under the same name"
            )
        return _execute(job, display)
    except OSError as problem:
        return Outcome(problem=_line(problem), trace=traceback.format_exc(), ends=True)
    except Exception as problem:  # it is told, kept with its trace, and counted; the other trials go on
        return Outcome(problem=_line(problem), trace=traceback.format_exc())


def _execute(job: Job, display: Display | None) -> Outcome:
    # PyTorch takes seconds to import, and who only hands out jobs needs none of it.
    from recipes.goals import facts
    from recipes.page import read
    from recipes.recipe import Workshop

    if job.threads is not None:
        import torch

        torch.set_num_threads(job.threads)
    recipe = read(job.page, job.trust)
    about = {**job.workshop, "runs": Path(job.workshop["runs"])}
    about["data"] = Path(about["data"]) if about["data"] is not None else None
    workshop = Workshop(**about, test=False, above=job.above)
    if job.stages is not None:
        return _prepare(job, recipe, workshop, display)
    made = [_when_free(replace(recipe, seed=seed), workshop, None) for seed in job.seeds]
    return Outcome(tuple(facts(one.records) for one in made), tuple(str(one.folder) for one in made))


def _prepare(job: Job, recipe: Recipe, workshop: Workshop, display: Display | None) -> Outcome:
    """Teachers, and the stages that all trials begin with, so that trials side by side find them done."""
    from recipes.display import Progress, Quiet
    from recipes.goals import facts
    from recipes.run import Run
    from teachers.task import Split

    room = Run(recipe, workshop, display if display is not None else Quiet())
    found = facts(room.prepare(Path(job.folder) / "teachers"))
    found["val_samples"] = float(room.opened(recipe.task).samples(Split.VAL))
    if job.stages:
        beginning = replace(recipe, stages=recipe.stages[: job.stages])
        for seed in job.seeds:
            bench = replace(workshop, tracking="off", above=None)
            _when_free(
                replace(beginning, seed=seed), bench, Progress(display) if display is not None else None
            )
    return Outcome((found,))


def _when_free(recipe: Recipe, workshop: Workshop, display: Display | None) -> Any:
    """Run it; where another process trains the same teacher, or does the very same, wait for that one."""
    from recipes.folders import Busy
    from recipes.run import run

    while True:
        try:
            return run(recipe, workshop, display=display)
        except Busy:
            time.sleep(PATIENCE)


def _line(problem: BaseException) -> str:
    """What went wrong, as one reads it: with its kind where it is not ours and says so little."""
    text = " ".join(str(problem).split())
    ours = isinstance(problem, ValueError | ArithmeticError | OSError) and text
    return text if ours else f"{type(problem).__name__}: {text}"


def main() -> int:
    """Do the job on standard input. 0 where there is an outcome, failed or not; 130 where it was asked to stop."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = Job.from_json(sys.stdin.readline())
    threading.Thread(target=_stop_when_closed, daemon=True).start()
    try:
        outcome = execute(job)
    except KeyboardInterrupt:
        return 130
    answer.write(outcome.to_json() + "\n")
    answer.close()
    return 0


def _stop_when_closed() -> None:
    while os.read(0, 1):  # not through sys.stdin, whose lock a thread must not hold when Python ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
