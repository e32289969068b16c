"""A sweep's jobs on the machines of a Ray cluster. Ray is imported only where this engine is asked for.

The driver asks for trials and is told of them, alone; Ray hands out the jobs. All machines must have decoct installed,
and must see the runs' folder (and the data) under the same path.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
from typing import Any

from recipes.trial import Job, Outcome, execute


class Ray:
    """On a Ray cluster: the one this process is connected to, the one at `address`, or one started on this machine.

    workers  how many jobs at a time: what a cluster started here is made for; of another its CPUs (its GPUs, where
             jobs take one) are the limit as well
    threads  for PyTorch in each job, which takes so many of the cluster's CPUs
    device   jobs take a GPU each where it names CUDA, or is "auto" and the cluster has some

    A job whose machine is lost is done again on another, and takes up what was kept. Raises ValueError where Ray is not
    installed, no cluster answers at the address, or a job would never fit it.
    """

    def __init__(
        self, workers: int, threads: int | None = None, address: str | None = None, device: str = "auto"
    ) -> None:
        try:
            import ray
        except ImportError as problem:
            raise ValueError(
                f"--engine ray needs Ray, which cannot be imported here ({problem}): pip install 'decoct[ray]', or "
                "leave --engine out and use --workers"
            ) from problem
        self._ray: Any = ray
        self.workers, each = workers, threads if threads is not None else 1
        self.threads: int | None = each
        self._ours = not ray.is_initialized()
        if self._ours:
            self._start(address, workers * each)
        has = ray.cluster_resources()
        gpus = 1 if device.startswith("cuda") or (device == "auto" and has.get("GPU")) else 0
        if (
            has.get("CPU", 0) < each or has.get("GPU", 0) < gpus
        ):  # Ray would wait for such a machine without an end
            self.close()
            raise ValueError(
                f"no job fits the Ray cluster: each takes {each} CPUs (--threads) and {gpus} GPUs (--device), and "
                f"all of it has {has.get('CPU', 0):g} and {has.get('GPU', 0):g}"
            )
        # A cluster on this machine finds our modules where this process does; others have decoct installed.
        path = os.pathsep.join(place or os.getcwd() for place in sys.path)
        here = {"runtime_env": {"env_vars": {"PYTHONPATH": path}}} if address is None else {}
        self._task: Any = ray.remote(execute_text).options(num_cpus=each, num_gpus=gpus, **here)

    def _start(self, address: str | None, cores: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        where: dict[str, Any] = {"address": address}
        if address is None:
            where = {"num_cpus": cores, "include_dashboard": False}
        try:
            self._ray.init(**where, **quiet)
        except (
            Exception
        ) as problem:  # Ray raises plain ones, too, as where its own processes are slow to begin
            self._ray.shutdown()
            first = next(iter(str(problem).strip().splitlines()), "")
            said = f"({type(problem).__name__}: {first})"
            raise ValueError(
                f"Ray could not be started on this machine {said}: try again, or leave --engine out and use --workers"
                if address is None
                else f"no Ray cluster answers at {address!r} {said}: start one with `ray start --head`, or leave "
                "--ray-address out"
            ) from problem

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Outcome], None, None]:
        """Do jobs side by side, at most `workers` at a time."""
        left, at_work = list(reversed(jobs)), dict[Any, Job]()
        try:
            while left or at_work:
                while left and len(at_work) < self.workers:
                    job = left.pop()
                    at_work[self._task.remote(job.to_json())] = job
                (done, *_), _ = self._ray.wait(list(at_work), num_returns=1)
                yield at_work.pop(done), self._outcome(done)
        finally:
            for task in at_work:
                self._ray.cancel(task)  # as Ctrl-C would; what was done is kept

    def _outcome(self, task: Any) -> Outcome:
        try:
            return Outcome.from_json(self._ray.get(task))
        except self._ray.exceptions.RayError as problem:
            lines = str(problem).strip().splitlines() or [""]
            return Outcome(
                problem=f"{type(problem).__name__}: {lines[-1].strip()}", trace="\n".join(lines[-100:])
            )

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._ours:
            self._ray.shutdown()


def execute_text(text: str) -> str:
    """`recipes.trial.execute`, JSON in and JSON out, so that machines exchange text alone."""
    return execute(Job.from_json(text)).to_json()
