"""Eight runs at once on one sqlite store: nothing is lost, nothing is there twice, nobody is warned."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_track import history, ids

from reports.deliver import Courier
from reports.mirror import Mirror
from reports.track import MLflow

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def work(folder: Path, uri: str, name: str, said: list[str], start: threading.Barrier) -> None:
    """What a run of two stages tells, in small portions."""
    start.wait()
    tracking = MLflow(folder, uri, every=0.05, warn=said.append)
    tracking.begin("run", name=name, params={"seed": 0}, tags={"who": name})
    for stage in range(2):
        child = f"{stage}-stage"
        tracking.begin(child, name=child, parent="run")
        for epoch in range(6):
            tracking.metrics(child, {"loss": epoch / 8}, epoch)
            tracking.reconcile(0.01)
        tracking.model(child, child, "output", step=stage)
        tracking.metrics("run", {"cost/macs": 100.0 / (stage + 1)}, stage)
        tracking.end(child)
    tracking.tags("run", {"data": "none"})
    tracking.end("run")
    if left := tracking.close(200):
        said.append(f"{left} events of {name} are left")


def check(uri: str, folders: list[Path], epochs: int) -> None:
    """Everything that everybody told is there, once."""
    from mlflow.tracking import MlflowClient

    client: Any = MlflowClient(tracking_uri=uri)
    told = [ids(folder, uri) for folder in folders]
    (experiment,) = {each["experiment"] for each in told}
    assert len(client.search_runs([experiment], max_results=1000)) == 3 * len(folders)
    assert len(client.search_logged_models([experiment], max_results=1000)) == 2 * len(folders)
    for folder, each in zip(folders, told, strict=True):
        run = client.get_run(each["runs"]["run"])
        assert run.info.run_name == run.data.tags["who"] == folder.name
        assert run.data.tags["data"] == "none"
        assert run.info.status == "FINISHED"
        assert history(client, run.info.run_id) == {"cost/macs": [(0, 100.0), (1, 50.0)]}
        for stage in range(2):
            child = client.get_run(each["runs"][f"{stage}-stage"])
            assert child.data.tags["mlflow.parentRunId"] == run.info.run_id
            assert history(client, child.info.run_id)["loss"] == [(n, n / 8) for n in range(epochs)]
            assert len(child.outputs.model_outputs) == 1


def test_eight_at_once_in_one_process(tmp_path: Path, empty: Path) -> None:
    shutil.copy(empty, tmp_path / "mlflow.db")
    uri, said, start = f"sqlite:///{tmp_path}/mlflow.db", list[str](), threading.Barrier(8)
    folders = [tmp_path / f"run {n}" for n in range(8)]
    workers = [
        threading.Thread(target=work, args=(folder, uri, folder.name, said, start)) for folder in folders
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert said == []
    check(uri, folders, 6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_processes_at_once_on_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    uri, folders = f"sqlite:///{tmp_path}/mlflow.db", [tmp_path / f"run {n}" for n in range(8)]
    jobs = [
        subprocess.Popen(
            [sys.executable, str(HERE / "writer.py"), str(folder), uri, folder.name, "600"],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
        )
        for folder in folders
    ]  # fmt: skip
    for job in jobs:
        _, said = job.communicate(timeout=850)
        assert (job.returncode, said) == (0, "")
    check(uri, folders, 25)


class Locked:
    """A store whose file others have locked for a while."""

    uri, doubt = "sqlite:///somewhere", 0

    def __init__(self, mirror: Mirror, times: int, message: str = "database is locked") -> None:
        self.told, self.times, self.message = mirror.told(self.uri), times, message
        self.taken: list[Any] = []

    def calls(self) -> Any:
        import contextlib

        return contextlib.nullcontext()

    def carry_out(self, events: list[Any]) -> None:
        self.times -= 1
        if self.times >= 0:
            raise RuntimeError(f"(sqlite3.OperationalError) {self.message}")
        self.taken += events

    def refused(self, problem: Exception) -> bool:
        return False

    def busy(self, problem: Exception) -> bool:
        return "locked" in str(problem)

    def save(self) -> None:
        pass


def test_a_locked_file_is_waited_for_and_an_away_one_is_told(tmp_path: Path) -> None:
    for message, warned in (("database is locked", 0), ("disk I/O error", 1)):
        mirror, said = Mirror(tmp_path / message), list[str]()
        store = Locked(mirror, 3, message)
        mirror.append({"do": "text", "run": "run"})
        courier = Courier(mirror, store, said.append, 1000.0)
        left = courier.deliver(60)
        assert (left, len(said)) == (warned, warned)
        assert len(store.taken) == 1 - warned
        store.times = 0
        assert courier.close(60) == 0
