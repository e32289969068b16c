"""Graph recipes through the runner: several graphs with several labels, and clouds with graphs that networks build."""

import json
import sys
from pathlib import Path

import pytest

from compress import LSP
from recipes import measure
from recipes.recipe import Recipe, Workshop
from recipes.run import run
from students import compact
from teachers.networks import DGCNN, GAT, NodeMLP
from teachers.tasks import PPI, DigitsCloud
from teachers.teacher import Checkpoint
from teachers.train import Train

sys.path.insert(0, str(Path(__file__).parent.parent / "teachers"))
from test_graph_tasks import ppi


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.01)


def test_proteins_from_teacher_to_folder(tmp_path: Path) -> None:
    """Micro-F1 in the records, MACs and latency of a node, and a student that is used without a graph."""
    task = PPI()
    plain = {"input_dropout": 0.0, "dropout": 0.0, "attention_dropout": 0.0}
    network = GAT(inputs=50, classes=121, widths=(4,), heads=(2,), output_heads=2, **plain)  # type: ignore[arg-type]
    train = Train(epochs=3, lr=0.01, optimizer="adam", choose="best")
    teacher = Checkpoint(name="gat", network=network, task=task, train=train)
    student = NodeMLP(inputs=50, classes=121, widths=(8,))
    recipe = Recipe(
        name="proteins",
        task=task,
        teachers=(teacher,),
        stages=(LSP(student=student, epochs=3, embedding=10),),
    )
    workshop = Workshop(runs=tmp_path / "runs", data=ppi(tmp_path / "data"), device="cpu", tracking="off")
    made = run(recipe, workshop)
    first, last = made.records
    assert (first.metric, last.metric) == ("micro_f1", "micro_f1")
    assert last.val is not None
    assert last.test is not None
    assert 0 < last.test.value < 1
    assert last.profile.macs == 50 * 8 + 8 * 121
    assert last.profile.latency_ms_p50_node is not None
    assert last.profile.latency_ms_p50_b1 is None
    assert last.metrics()["cost/latency_ms_p50_node"] > 0
    assert compact.card(made.folder / "compact")["signature"]["inputs"] == [[50]]
    report = (made.folder / "report.html").read_text(encoding="utf-8")
    assert "µs/node" in report
    assert "who is near" in report
    assert json.loads((made.folder / "result.json").read_text())["records"][1]["read"]["train"] > 0


def test_clouds_from_teacher_to_folder(tmp_path: Path) -> None:
    """Both networks build their graphs; the student is kept as any network of samples that stand alone."""
    task = DigitsCloud(points=12, batch=64)
    big = DGCNN(classes=10, widths=(12, 12), embedding=24, head=(16,), k=5)
    small = DGCNN(classes=10, widths=(6, 6), embedding=12, head=(8,), k=3)
    teacher = Checkpoint(name="dgcnn", network=big, task=task, train=Train(epochs=3, lr=0.1))
    stage = LSP(student=small, epochs=2, features="after", labels=0.0)
    recipe = Recipe(name="clouds", task=task, teachers=(teacher,), stages=(stage,))
    made = run(recipe, Workshop(runs=tmp_path / "runs", device="cpu", tracking="off"))
    assert made.records[-1].profile.latency_ms_p50_b32 is not None
    assert (made.folder / "compact" / "model.pt2").exists()
    assert any("union" not in note and "local structure" in note for note in made.records[-1].notes)
