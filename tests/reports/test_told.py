"""What the tracker shows of runs to somebody who never read a page: names, parameters, units, descriptions."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from browser import chromium
from test_track import server
from thirty import tell

from compress import GAL, Finetune
from recipes import telling
from recipes.recipe import Recipe
from teachers.networks import DigitsCNN
from teachers.tasks import Subset, Toy
from teachers.teacher import Checkpoint
from teachers.train import Train

__all__ = ["server"]


def test_parameters_have_names_that_fit_a_column() -> None:
    toy = Checkpoint(name="toy", network=DigitsCNN(classes=3), task=Toy(), train=Train(epochs=4, lr=0.05))
    task = Subset(of=Toy(), keep=("pattern 0", "pattern 1"))
    other = Checkpoint(name="other", network=DigitsCNN(classes=2), task=task, weights="other.safetensors")
    page = Recipe(
        name="mine", task=Toy(), teachers=(toy,), stages=(GAL(macs=0.5), Finetune(epochs=2, lr=0.01)), seed=3
    )
    found = telling.params(page)
    assert (found["recipes.Recipe.name"], found["recipes.Recipe.seed"]) == ("mine", "3")
    assert found["stages"] == "GAL > Finetune"
    assert found["task"] == "Toy"
    assert found["teacher"] == "toy"
    assert found["teacher.network"] == "DigitsCNN"
    assert found["teacher.network.widths"] == "32, 64, 64"
    assert found["teacher.train.lr"] == "0.05"
    assert found["1 GAL.macs"] == "0.5"
    assert found["1 GAL.structures"] == "channel"
    assert found["2 Finetune.lr"] == "0.01"
    assert not [name for name, value in found.items() if value in ("None", "[]") or len(name) > 60]
    assert all(re.fullmatch(r"[\w\-. :/]+", name, re.ASCII) for name in found)
    assert telling.title(page) == "mine, seed 3"
    two = telling.params(Recipe(name="two", task=Toy(), teachers=(toy, other), stages=(GAL(macs=0.5),)))
    assert two["teacher 1"] == "toy"
    assert two["teacher 2"] == "other"
    assert two["teacher 2.task"] == "Subset"
    assert two["teacher 2.task.of"] == "Toy"
    assert two["teacher 2.task.keep"] == "pattern 0, pattern 1"
    assert telling.stage_params(GAL(macs=0.5))["macs"] == "0.5"


def test_what_is_logged(tmp_path: Path, empty: Path) -> None:
    shutil.copy(empty, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tell(tmp_path / "runs", uri, count=1, epochs=3)
    from mlflow.tracking import MlflowClient

    client: Any = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("decoct")
    assert "score/accuracy" in experiment.tags["mlflow.note.content"]
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    found = client.search_runs([experiment.experiment_id])
    runs = {run.info.run_name: client.get_run(run.info.run_id) for run in found}
    assert set(runs) == {"gal, seed 0", "0 toy (teacher)", "1 GAL", "2 Finetune"}
    top = runs.pop("gal, seed 0")
    tags, metrics = top.data.tags, top.data.metrics
    assert (tags["recipe"], tags["seed"], tags["stages"], tags["task"]) == (
        "gal",
        "0",
        "GAL > Finetune",
        "Toy",
    )
    assert tags["teacher"] == "toy"
    assert tags["data"] == "train without labels"
    (learned, tested) = top.inputs.dataset_inputs
    assert (learned.dataset.name, learned.tags[0].value) == ("Toy", "1 GAL learns: train, no labels")
    assert (tested.dataset.name, tested.tags[0].value) == (
        "Toy",
        "runner tests teachers and student: test, with labels",
    )
    note = tags["mlflow.note.content"]
    assert re.match(
        r"\*\*42\.0 % of the teacher's MACs, [+-]\d+\.\d\d points of accuracy on test\*\*\n", note
    )
    assert "| stage | val | test | MACs |" in note
    assert "1. `GAL`: Play the student" in note
    assert note.index("decoct run page.yaml") < note.index("| toy |") < note.index("| Finetune |")
    assert metrics["left/macs_percent"] == pytest.approx(42, abs=0.1)
    last, first = metrics["score/accuracy_test"], 0.972
    assert metrics["change/accuracy_test_points"] == pytest.approx(100 * (last - first))
    unit = re.compile(r"(score|cost|left|change|time|data)/[a-z0-9_]+|(gal|finetune)/loss")
    for run in (top, *runs.values()):
        assert all(unit.fullmatch(name) for name in run.data.metrics), run.data.metrics
    for name, run in runs.items():
        assert run.data.tags["mlflow.parentRunId"] == top.info.run_id
        assert run.data.tags["recipe"] == "gal"
        assert run.data.tags["mlflow.note.content"].startswith("Stage" if name[0] != "0" else "Teacher")
    assert runs["1 GAL"].data.params["macs"] == "0.5"
    # The run took the teacher and made what its last stage made, which are models of their own.
    (taken,), (made,) = top.inputs.model_inputs, top.outputs.model_outputs
    assert [out.model_id for out in runs["2 Finetune"].outputs.model_outputs] == [made.model_id]
    assert client.get_logged_model(taken.model_id).name == "gal-seed0-0-toy"
    student = client.get_logged_model(made.model_id)
    assert (student.name, student.model_type) == ("gal-seed0-2-Finetune", "student")
    assert student.params["made by"] == "2 Finetune"
    assert student.tags["mlflow.note.content"].startswith("What stage 2 of `gal`, `Finetune`, left.")
    assert {"score/accuracy", "cost/macs"} <= {metric.key for metric in student.metrics}
    assert len(client.search_logged_models([experiment.experiment_id])) == 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_thirty_runs_in_a_browser(tmp_path: Path, empty: Path, server: Callable[[], Popen[bytes]]) -> None:
    """The real server's pages: names, columns and descriptions are there. Screenshots stay with the test's output."""
    process = server()
    uri = f"http://127.0.0.1:{process.args}"
    tell(tmp_path / "runs", uri)
    from mlflow.tracking import MlflowClient

    client: Any = MlflowClient(tracking_uri=uri)
    number = client.get_experiment_by_name("decoct").experiment_id
    tops = client.search_runs([number], "tags.`decoct.kind` = 'recipe'")
    assert len(tops) == 30
    top = next(run for run in tops if run.info.run_name == "gal, seed 3")
    model = top.outputs.model_outputs[0].model_id
    base = f"{uri}/#/experiments/{number}"
    looks = {
        "runs": (f"{base}/runs", ["kse, seed 9", "prune, seed 9"]),
        "charts": (f"{base}/runs?compareRunsMode=CHART", ["accuracy"]),
        "run": (f"{base}/runs/{top.info.run_id}", ["gal, seed 3", "GAL > Finetune", "Recipe gal"]),
        "models": (f"{base}/models", ["gal-seed9-2-Finetune", "gal-seed9-0-toy"]),
        "model": (f"{base}/models/{model}", ["gal-seed3-2-Finetune", "2 Finetune", "score/accuracy"]),
    }
    with chromium() as browser:
        for name, (url, words) in looks.items():
            page = browser.new_page(viewport={"width": 1600, "height": 1000})
            page.set_default_timeout(120_000)
            page.goto(url)
            for word in words:
                page.get_by_text(word).first.wait_for(state="attached")
            page.wait_for_timeout(
                3000
            )  # the pages ask the server again and again, so that they are never idle
            page.screenshot(path=str(tmp_path / f"mlflow-{name}.png"), full_page=True)
            page.close()
    print(f"screenshots: {tmp_path}")
