"""Students in MLflow's model registry: registered by a run, served, fetched as teachers; and what cannot be had."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from compress import Finetune, Prune
from recipes import measure, models
from recipes.recipe import Recipe, Workshop
from recipes.run import Result, run
from students import compact
from teachers.networks import DigitsCNN, Given
from teachers.tasks import Toy
from teachers.teacher import Checkpoint
from teachers.train import Train

TASK = Toy(samples=160, batch=32)
TEACHER = Checkpoint(
    name="toy", network=DigitsCNN(classes=3), task=TASK, train=Train(epochs=4, lr=0.05, warmup=1)
)


class Registered(NamedTuple):
    """A run whose student was registered, and the store it is in."""

    made: Result
    bench: Workshop
    uri: str


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "SECONDS", 0.01)
        bench = Workshop(runs=tmp_path_factory.mktemp("runs"), device="cpu", register="toy-student")
        page = Recipe(name="registered", task=TASK, teachers=(TEACHER,), stages=(Prune(macs=0.5),))
        made = run(page, bench)
        run(page, bench)  # done already: nothing is registered twice
        yield Registered(made, bench, f"sqlite:///{bench.runs.resolve()}/mlflow.db")


@pytest.fixture(scope="module")
def client(registered: Registered) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(registered.uri, registered.uri)


def test_where_it_comes_from(registered: Registered, client: Any) -> None:
    (version,) = client.search_model_versions("name = 'toy-student'")
    card = compact.card(registered.made.folder / "compact")
    assert version.version in (1, "1")
    assert version.tags["decoct.teachers"] == "toy"
    assert version.tags["decoct.teachers_sha256"] == card["teachers"][0]["sha256"]
    assert version.tags["decoct.hash"] == card["hash"]
    assert "a student of toy, by Prune" in version.description
    parent = client.get_run(version.run_id)
    assert parent.data.tags["decoct.recipe"] == "registered"
    teachers = [client.get_logged_model(one.model_id) for one in parent.inputs.model_inputs]
    assert [(one.name, one.model_type) for one in teachers] == [("registered-seed0-0-toy", "teacher")]
    made = client.get_logged_model(version.tags["decoct.model_id"])
    assert made.model_id in {one.model_id for one in parent.outputs.model_outputs}
    numbers = {metric.key: metric.value for metric in made.metrics}
    last = registered.made.records[-1]
    assert numbers["cost/macs"] == last.profile.macs
    assert last.test is not None
    assert numbers["score/accuracy_test"] == pytest.approx(last.test.value)
    told = parent.data.metrics
    onnx = card["onnx"]
    assert told["cost/onnx_latency_ms_p50_b1"] == pytest.approx(onnx["student"]["latency_ms_p50_b1"])
    history = client.get_metric_history(version.run_id, "cost/onnx_latency_ms_p50_b1")
    assert {point.step: point.value for point in history} == {
        0: pytest.approx(onnx["teacher"]["latency_ms_p50_b1"]),
        1: pytest.approx(onnx["student"]["latency_ms_p50_b1"]),
    }


def test_pyfunc_predicts(registered: Registered) -> None:
    """As mlflow loads it; the folder holds python code and tensors, and no pickle of ours or MLflow's."""
    import mlflow.pyfunc

    folder = models.local(_given("models:/toy-student/1"), registered.bench.runs, registered.uri, None)
    assert folder.weights is not None
    home = Path(folder.weights).parent.parent.parent
    names = {path.name for path in home.rglob("*") if path.is_file()}
    assert {"MLmodel", "decoct_student.py", "model.pt2", "weights.safetensors", "model.onnx"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pth", ".bin"))]
    served = mlflow.pyfunc.load_model(str(home))
    images = TASK.signature().example(3)[0]
    student = registered.made.state.student
    assert student is not None
    with torch.no_grad():
        wanted = student(images).numpy()
    np.testing.assert_allclose(served.predict(images.numpy()), wanted, atol=1e-5)
    assert served.metadata.get_input_schema().inputs[0].shape == (-1, 1, 8, 8)
    assert served.metadata.metadata["labels"] == list(TASK.signature().labels)
    assert served.metadata.flavors["decoct"] == {"form": "safetensors", "data": "data/compact"}
    assert served.metadata.load_input_example(str(home)).shape == (1, 1, 8, 8)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mlflow_serves_it(registered: Registered, tmp_path: Path) -> None:
    """The real server, on a free port, answers a request as the student does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/toy-student/1"]
    more = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": registered.uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with open(tmp_path / "said", "w") as said:
        server = subprocess.Popen([*command, *more], env=environment, cwd=tmp_path, stdout=said, stderr=said)
        try:
            end = time.monotonic() + 480
            while not _answers(f"http://127.0.0.1:{port}/ping"):
                assert server.poll() is None, (tmp_path / "said").read_text()
                assert time.monotonic() < end, (tmp_path / "said").read_text()
                time.sleep(0.5)
            images = TASK.signature().example(2)[0]
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations",
                data=json.dumps({"inputs": images.tolist()}).encode(),
                headers={"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)["predictions"]
        finally:
            server.terminate()
            server.wait(30)
    student = registered.made.state.student
    assert student is not None
    with torch.no_grad():
        np.testing.assert_allclose(np.array(answer), student(images).numpy(), atol=1e-4)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _given(weights: str) -> Checkpoint:
    return Checkpoint(name="again", network=Given(), task=TASK, weights=weights)


def test_a_registered_student_is_a_teacher(registered: Registered) -> None:
    """Fetched by its address, its network rebuilt from the folder; it may be pruned and tuned on."""
    stages = (Prune(macs=0.8), Finetune(epochs=1, lr=0.01))
    teachers = (_given("models:/toy-student/1"),)
    page = Recipe(name="again", task=TASK, teachers=teachers, stages=stages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "SECONDS", 0.01)
        patch.setattr(compact, "save", lambda *_, **__: None)
        bench = replace(registered.bench, register=None, tracking=registered.uri)
        made = run(page, bench)
        assert made.records[0].profile.macs == registered.made.records[-1].profile.macs
        assert made.records[-1].profile.macs < 0.8 * made.records[0].profile.macs
        # The same by the folder, without a store.
        path = str(registered.made.folder / "compact")
        again = run(replace(page, teachers=(_given(path),)), replace(bench, tracking="off"))
    assert again.records[-1].profile.macs == made.records[-1].profile.macs


def test_a_program_in_mlflow_teaches_and_is_not_pruned(
    registered: Registered, client: Any, tmp_path: Path
) -> None:
    from mlflow.entities import ViewType

    parent = client.search_runs(
        [client.get_experiment_by_name("decoct").experiment_id], "tags.decoct.recipe = 'registered'",
        run_view_type=ViewType.ALL,
    )[0].info.run_id  # fmt: skip
    client.log_artifact(parent, str(registered.made.folder / "compact" / "model.pt2"), "program")
    given = _given(f"runs:/{parent}/program")
    teacher = models.load(models.local(given, tmp_path, registered.uri, None), None)
    student = registered.made.state.student
    assert student is not None
    images = TASK.signature().example(3)[0]
    torch.testing.assert_close(teacher(images), student(images), rtol=0, atol=1e-5)
    page = Recipe(name="sealed", task=TASK, teachers=(given,), stages=(Finetune(epochs=1),))
    bench = Workshop(runs=tmp_path, device="cpu", tracking=registered.uri)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "SECONDS", 0.01)
        with pytest.raises(
            ValueError, match=r"'again' is a program of torch.export .* neither pruned nor trained"
        ):
            run(page, bench)


def test_what_cannot_be_had(registered: Registered, tmp_path: Path) -> None:
    def fetched(weights: str, tracking: str | None = registered.uri) -> Checkpoint:
        return models.local(_given(weights), tmp_path, tracking, None)

    with pytest.raises(
        ValueError, match=r"models:/toy-studnt/1 cannot be had .*; did you mean 'toy-student'\?"
    ):
        fetched("models:/toy-studnt/1")
    with pytest.raises(
        ValueError, match=r"models:/toy-student/7 cannot be had from the MLflow store at sqlite"
    ):
        fetched("models:/toy-student/7")
    with pytest.raises(ValueError, match="'Production' is no version: give models:/toy-student/1"):
        fetched("models:/toy-student/Production")
    with pytest.raises(ValueError, match=r"runs:/0123/model cannot be had from the MLflow store"):
        fetched("runs:/0123/model")
    with pytest.raises(ValueError, match=r"models:/toy-student/1 is in MLflow, but --tracking is off"):
        fetched("models:/toy-student/1", "off")
    assert not list(tmp_path.glob("teachers/*"))
    for name, said in (("model.pth", "is kept as a pickle"), ("a.txt", "holds no weights, .* it has a.txt")):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("")
        with pytest.raises(ValueError, match=said):
            fetched(str(folder))
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "w.safetensors").write_bytes(
        (registered.made.folder / "compact" / "weights.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match="holds weights and no network"):
        models.load(fetched(str(loose)), None)
    page = Recipe(name="r", task=TASK, teachers=(TEACHER,), stages=(Prune(macs=0.5),))
    with pytest.raises(ValueError, match=r"is to be registered as 'toy', but --tracking is off"):
        run(page, Workshop(runs=tmp_path, device="cpu", tracking="off", register="toy"))
