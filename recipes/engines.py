"""Where a sweep's jobs are done: in this process one after another, or in several processes of this machine.

On many machines: `recipes.on_ray`. All of them do the same work (`recipes.trial.execute`), so that what comes of a job
depends on its page and seeds, the number of threads and the hardware, and not on the engine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from typing import Protocol

from recipes.display import Display
from recipes.trial import Job, Outcome, execute

GRACE = 60.0
"""seconds that a process which was asked to stop has for keeping what it did"""


class Engine(Protocol):
    """Does jobs."""

    workers: int
    """how many at a time"""
    threads: int | None
    """for PyTorch in each; None leaves that to it"""

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Outcome], None, None]:
        """Do jobs, each given back as soon as it is done. Closed or interrupted, it stops those at work."""

    def close(self) -> None:
        """Let go of what it holds."""


class Here:
    """In this process, one after another; `display` is shown how teachers and the common beginning come along."""

    workers = 1

    def __init__(self, display: Display, threads: int | None = None) -> None:
        self.display, self.threads = display, threads

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Outcome], None, None]:
        """Do jobs in order."""
        for job in jobs:
            yield job, execute(job, self.display if job.stages is not None else None)

    def close(self) -> None:
        """Nothing is held."""


class Processes:
    """In `workers` processes of this machine, a fresh one for each job.

    A job that takes its process down (out of memory, a crash in a library) fails by itself, and the others go on.
    Starting one takes the seconds in which PyTorch is imported. threads: by default the cores, shared out.
    """

    def __init__(self, workers: int, threads: int | None = None) -> None:
        self.workers = workers
        self.threads: int | None = threads if threads is not None else max(1, _cores() // workers)
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Outcome], None, None]:
        """Do jobs side by side."""
        with ThreadPoolExecutor(self.workers) as pool:
            waiting = {pool.submit(self._one, job): job for job in jobs}
            try:
                for done in as_completed(waiting):
                    yield waiting[done], done.result()
            finally:
                for future in waiting:
                    future.cancel()
                self.close()
        self._stopped = False

    def close(self) -> None:
        """Stop what is at work, which keeps what it did as at Ctrl-C."""
        self._stopped = True
        running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()

    def _one(self, job: Job) -> Outcome:
        """A job in a process of its own."""
        if self._stopped:
            return Outcome(problem="the sweep was stopped")
        path = os.pathsep.join(place or os.getcwd() for place in sys.path)
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said,
            subprocess.Popen(
                [sys.executable, "-m", "recipes.trial"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
                env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
            ) as process,
        ):  # fmt: skip
            self._running.add(process)
            try:
                if self._stopped:
                    process.terminate()
                assert process.stdin is not None
                assert process.stdout is not None
                try:
                    process.stdin.write(job.to_json() + "\n")
                    process.stdin.flush()  # and left open: its end tells the job that nobody waits for it any more
                except BrokenPipeError:  # it has ended already, and its exit code says how
                    with suppress(BrokenPipeError):
                        process.stdin.close()
                answer = process.stdout.read()
                code = process.wait()
            finally:
                self._running.discard(process)
            if answer:
                return Outcome.from_json(answer)
            said.seek(0)
            lines = said.read().strip().splitlines()
            ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            return Outcome(
                problem=f"its process ended without an answer ({ended}){': ' + lines[-1] if lines else ''}",
                trace="\n".join(lines[-100:]),
            )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
