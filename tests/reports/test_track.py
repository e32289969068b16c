"""Records round-trip; what was tracked is in the store once, whatever happened on the way."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reports.evaluate import TestScore, ValScore
from reports.profile import Profile
from reports.track import MLflow, Record, Silent, flatten, tracker

History = dict[str, list[tuple[int, float]]]


def record() -> Record:
    return Record(
        stage="gal", position=1, profile=Profile(100, 20, 80, 1.0, 2.0, 3.0, 4.0, 2, ("aten.cumsum",)),
        metric="accuracy", val=ValScore(0.875, 80), test=TestScore(0.75, 40), seconds=1.5, seed=3,
        commit="abc", read={"train": 640}, made={"torch": "2.8"}, notes=("layer1: locked",),
    )  # fmt: skip


def test_record_round_trip() -> None:
    assert Record.from_json(record().to_json()) == record()
    bare = Record("teacher", 0, Profile(1, 2), "accuracy", None, 0.0, 0, "")
    assert Record.from_json(bare.to_json()) == bare


def test_names_of_metrics() -> None:
    found = record().metrics()
    assert found["score/accuracy"] == 0.875
    assert found["score/accuracy_test"] == 0.75
    assert (found["cost/macs"], found["cost/flops"], found["cost/bytes"]) == (100, 200, 80)
    assert found["cost/latency_ms_p95_b32"] == 4.0
    assert found["data/train_samples"] == 640


def test_flatten() -> None:
    assert flatten({'"groups"': {'"a b"': 1, "é(c)": 2}}) == {"groups.a b": "1", "groups.c": "2"}
    assert flatten({"stages": [{"epochs": 3}, {"lr": 0.1}], "tags": [], "seed": None}) == {
        "stages.0.epochs": "3", "stages.1.lr": "0.1", "tags": "[]", "seed": "None",
    }  # fmt: skip


def test_off_is_silent(tmp_path: Path) -> None:
    silent = tracker("off", tmp_path, tmp_path)
    assert isinstance(silent, Silent)
    silent.metrics("run", {"a": 1.0})
    assert silent.close() == 0
    assert list(tmp_path.iterdir()) == []


def test_importing_does_not_load_mlflow() -> None:
    code = (
        "import reports, reports.track, sys; sys.exit('mlflow' in sys.modules or 'matplotlib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'nowhere' is no tracking address"):
        MLflow(tmp_path, "nowhere")
    tracking = MLflow(tmp_path, "http://127.0.0.1:1", every=1000)
    with pytest.raises(ValueError, match="'01-gal' was not begun"):
        tracking.metrics("01-gal", {"a": 1.0})


def history(client: Any, run: str) -> History:
    names = client.get_run(run).data.metrics
    return {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run, name))
        for name in names
    }


def ids(folder: Path, uri: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "tracking.json").read_text())["stores"][uri]
    return told


def test_a_run_in_sqlite(tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, runs, said = tmp_path / "runs" / "one", tmp_path / "runs", list[str]()
    uri = f"sqlite:///{runs.resolve()}/mlflow.db"
    page = tmp_path / "page.yaml"
    page.write_text("recipes.Recipe: {}")
    (tmp_path / "compact").mkdir()
    (tmp_path / "compact" / "card.json").write_text("{}")

    def story(tracking: Any, epochs: range) -> None:
        tracking.begin("run", name="digits", params={"stages.0.epochs": 3}, tags={"page/sha256": "f00"})
        tracking.artifact("run", page)
        tracking.begin("00-teacher", parent="run")
        tracking.model("run", "teacher.pt", "input", params={"depth": 20})
        tracking.begin("01-gal", name="GAL", parent="run")
        for epoch in epochs:
            tracking.metrics("01-gal", {"gal/alive": 1 - epoch / 10, "gal/gap": 0.5}, epoch)

    first = tracker(None, folder, runs, said.append)
    story(first, range(3))
    first.end("01-gal", "KILLED")
    assert first.close(120) == 0

    # A process died while it wrote the last line; the epoch it was in comes again.
    with open(folder / "tracking.jsonl", "a") as file:
        file.write('{"do": "metr')
    second = tracker(None, folder, runs, said.append)
    story(second, range(2, 5))
    second.model("01-gal", "student", "output", step=1, files=tmp_path / "compact")
    second.metrics("01-gal", record().metrics(), 1, model="student")
    second.end("01-gal")
    second.end("run", "FAILED")
    assert second.close(120) == 0
    assert said == []
    assert second.where == f"mlflow ui --backend-store-uri {uri}"

    from mlflow.tracking import MlflowClient

    client: Any = MlflowClient(tracking_uri=uri)
    told = ids(folder, uri)
    parent, child = client.get_run(told["runs"]["run"]), client.get_run(told["runs"]["01-gal"])
    assert set(told["runs"]) == {"run", "00-teacher", "01-gal"}
    assert len(client.search_runs([told["experiment"]])) == 3
    assert (parent.info.status, child.info.status) == ("FAILED", "FINISHED")
    assert parent.info.run_name == "digits"
    assert parent.data.params == {"stages.0.epochs": "3"}
    assert parent.data.tags["page/sha256"] == "f00"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["page.yaml"]
    found = history(client, child.info.run_id)
    assert found["gal/alive"] == [(epoch, 1 - epoch / 10) for epoch in range(5)]
    assert found["cost/macs"] == [(1, 100)]
    (teacher,) = parent.inputs.model_inputs
    (student,) = child.outputs.model_outputs
    assert client.get_logged_model(teacher.model_id).name == "teacher-pt"
    made = client.get_logged_model(student.model_id)
    assert {metric.key: metric.value for metric in made.metrics}["score/accuracy"] == 0.875
    assert [file.path for file in client.list_logged_model_artifacts(made.model_id)] == ["card.json"]
    kept = [".mlflow.db.lock", "mlflow-artifacts", "mlflow.db", "one"]
    assert sorted(path.name for path in runs.iterdir()) == kept
    assert not (tmp_path / "mlruns").exists()

    # Another store is told all of it from the beginning.
    other = f"sqlite:///{runs}/other.db"
    shutil.copy(empty, runs / "other.db")
    third = MLflow(folder, other, warn=said.append)
    assert third.close(120) == 0
    assert history(MlflowClient(tracking_uri=other), ids(folder, other)["runs"]["01-gal"]) == found

    # So is a store that has forgotten.
    shutil.copy(empty, runs / "other.db")
    fourth = MLflow(folder, other, warn=said.append)
    fourth.begin("run")
    assert fourth.close(120) == 0
    forgetful: Any = MlflowClient(tracking_uri=other)
    told = ids(folder, other)
    assert forgetful.get_run(told["runs"]["run"]).info.status == "RUNNING"
    assert history(forgetful, told["runs"]["01-gal"]) == found


def test_a_refusal_is_told_and_the_rest_arrives(tmp_path: Path, empty: Path) -> None:
    said: list[str] = []
    shutil.copy(empty, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracking = MLflow(tmp_path / "run", uri, warn=said.append, every=1000)
    tracking.begin("run")
    tracking.metrics("run", {"good": 1.0}, 0)
    tracking.metrics("run", {"bad?name!": 1.0}, 0)
    tracking.artifact("run", tmp_path / "gone")
    tracking.metrics("run", {"good": 2.0}, 1)
    tracking.end("run")
    assert tracking.close(120) == 0
    assert len(said) == 2
    assert "refused 'metrics'" in said[0]
    assert "gone" in said[1]
    from mlflow.tracking import MlflowClient

    client: Any = MlflowClient(tracking_uri=uri)
    assert history(client, ids(tmp_path / "run", uri)["runs"]["run"]) == {"good": [(0, 1.0), (1, 2.0)]}


@pytest.fixture
def server(tmp_path: Path, empty: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts the same server, on the same free port, as often as asked; ends what is left of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started: list[subprocess.Popen[bytes]] = []
    shutil.copy(empty, tmp_path / "server.db")

    def start() -> subprocess.Popen[bytes]:
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
                "--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db",
                "--artifacts-destination", str(tmp_path / "artifacts"),
            ],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, **quiet},
        )  # fmt: skip
        started.append(process)
        process.args = port  # type: ignore[assignment]
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return process
            time.sleep(0.1)
        raise TimeoutError("mlflow server did not start within two minutes")

    yield start
    for process in started:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers: they are a session of their own."""
    if process.poll() is None:
        os.killpg(process.pid, 9)
    process.wait()


def test_a_server_that_goes_away(tmp_path: Path, server: Callable[[], subprocess.Popen[bytes]]) -> None:
    process, said = server(), list[str]()
    uri = f"http://127.0.0.1:{process.args}"
    tracking = MLflow(tmp_path / "run", uri, warn=said.append, every=0.2, timeout=5)
    tracking.begin("run", params={"seed": 0})
    tracking.begin("01-gal", parent="run")
    tracking.model("01-gal", "student", "output", step=1)
    tracking.metrics("01-gal", {"gal/alive": 0.9}, 0, model="student")
    assert tracking.reconcile(120) == 0
    assert said == []

    stop(process)
    start = time.monotonic()
    for epoch in range(1, 50):
        tracking.metrics("01-gal", {"gal/alive": 0.9 - epoch / 100}, epoch)
    tracking.text("run", "recipes.Recipe: {}", "page.yaml")
    assert time.monotonic() - start < 1
    assert tracking.reconcile(120) == 50
    tracking.metrics("01-gal", {"gal/alive": 0.1}, 50)
    tracking.reconcile(120)
    assert len(said) == 1
    assert "the run goes on" in said[0]

    server()
    tracking.end("01-gal")
    tracking.end("run")
    assert tracking.reconcile(120) == 0
    assert tracking.close(120) == 0
    assert len(said) == 2
    assert "answers again" in said[1]

    from mlflow.tracking import MlflowClient

    client: Any = MlflowClient(tracking_uri=uri)
    told = ids(tmp_path / "run", uri)
    assert len(client.search_runs([told["experiment"]])) == 2
    expected = [(0, 0.9), *((epoch, 0.9 - epoch / 100) for epoch in range(1, 50)), (50, 0.1)]
    assert history(client, told["runs"]["01-gal"]) == {"gal/alive": expected}
    assert client.get_run(told["runs"]["run"]).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(told["runs"]["run"])] == ["page.yaml"]

    # The answer to the last words was lost: they are said again, and stand there once all the same.
    kept = json.loads((tmp_path / "run" / "tracking.json").read_text())
    kept["stores"][uri] |= {"events": 0, "runs": {}, "models": {}}
    (tmp_path / "run" / "tracking.json").write_text(json.dumps(kept))
    again = MLflow(tmp_path / "run", uri, warn=said.append, timeout=5)
    assert again.reconcile(120) == 0
    assert len(client.search_logged_models([told["experiment"]])) == 1
    assert len(client.get_run(told["runs"]["01-gal"]).outputs.model_outputs) == 1
    assert len(client.search_runs([told["experiment"]])) == 2
    assert history(client, told["runs"]["01-gal"]) == {"gal/alive": expected}
    assert again.close(120) == 0
