"""The ONNX form: free sizes, parity on all of val, times beside the teacher, and operators that have no name there."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from students import compact, onnx_form
from students.compact import card, save
from students.exported import exported
from students.proof import Agreement, Proof
from teachers.networks import GAT, DigitsCNN, NodeMLP
from teachers.signature import Signature
from teachers.task import Batch

SIGNATURE = Signature(((1, 8, 8),), ("a", "b", "c"))
GRAPH = Signature(((6,), (2,)), ("a", "b"), nodes=50, edges=200)


def network() -> nn.Module:
    torch.manual_seed(0)
    return DigitsCNN(classes=3, widths=(8, 8, 8)).build().eval()


class Digamma(nn.Module):
    """ONNX has no digamma function."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.digamma(x.flatten(1).abs() + 1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    folder = tmp_path_factory.mktemp("run") / "compact"
    student = network()
    val = [Batch((torch.randn(300, 1, 8, 8),)), Batch((torch.randn(7, 1, 8, 8),))]
    # The teacher has no ONNX form; that is no fault of the student's.
    save(student, folder, SIGNATURE, val=val, teacher=(Digamma().eval(), SIGNATURE), seconds=0.01)
    return folder, student


def test_the_card_tells_of_it(saved: tuple[Path, nn.Module]) -> None:
    folder, _ = saved
    page = card(folder)
    told = page["onnx"]
    assert (told["inputs"], told["samples"], told["changed_decisions"]) == ("val", 307, 0)
    assert told["largest_difference"] == page["proof"]["forms"]["model.onnx"]["largest_difference"] < 1e-5
    assert (told["opset"], told["bytes"]) == (18, (folder / "model.onnx").stat().st_size)
    assert (told["onnxruntime"], told["threads"]) == (onnxruntime.__version__, torch.get_num_threads())
    assert told["student"].keys() == {f"latency_ms_p{p}_b{b}" for p in (50, 95) for b in (1, 32)}
    assert "digamma cannot be exported to ONNX (opset 18)" in told["teacher"]["refused"]
    metrics = onnx_form.metrics(told)
    assert metrics["cost/onnx_latency_ms_p50_b1"] == told["student"]["latency_ms_p50_b1"] > 0
    assert metrics["onnx/changed_decisions"] == 0
    assert onnx_form.metrics(told, "teacher") == {}
    line = onnx_form.line(told)
    assert "on 307 val samples" in line
    assert "the teacher has no ONNX form: the operator" in line


def test_it_answers_for_any_number_of_images(saved: tuple[Path, nn.Module]) -> None:
    folder, student = saved
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("x", ["batch", 1, 8, 8])
    assert (made.name, made.shape) == ("outputs", ["batch", 3])
    for batch in (1, 2, 33):
        images = torch.randn(batch, 1, 8, 8)
        with torch.no_grad():
            (answer,) = session.run(None, {"x": images.numpy()})
            torch.testing.assert_close(torch.from_numpy(answer), student(images), rtol=0, atol=1e-5)


def test_the_file_is_whole_and_names_no_place(saved: tuple[Path, nn.Module]) -> None:
    path = saved[0] / "model.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]
    assert not path.with_name("model.onnx.data").exists()
    assert str(Path(__file__).parent.parent.parent).encode() not in path.read_bytes()


def test_an_operator_without_a_name_there(tmp_path: Path) -> None:
    """The rest of the folder is good, and the card says which operator it was."""
    torch.manual_seed(0)
    student = Digamma().eval()
    proof = save(student, tmp_path / "compact", SIGNATURE)
    told = card(tmp_path / "compact")["onnx"]
    assert told.keys() == {"refused"}
    assert "the operator prims.digamma cannot be exported to ONNX (opset 18)" in told["refused"]
    assert proof.forms.keys() == {"model.pt2", "load.py"}
    assert not (tmp_path / "compact" / "model.onnx").exists()
    assert onnx_form.line(told).startswith("no ONNX form: the operator prims.digamma")
    assert onnx_form.metrics(told) == {}


def test_a_form_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter that computes something else: the form is left out, with the numbers."""
    torch.manual_seed(1)
    other = exported(DigitsCNN(classes=3, widths=(8, 8, 8)).build().eval(), SIGNATURE)
    plain = onnx_form.write
    monkeypatch.setattr(onnx_form, "write", lambda program, path, signature: plain(other, path, signature))
    save(network(), tmp_path / "compact", SIGNATURE)
    told = card(tmp_path / "compact")["onnx"]
    assert told["refused"].startswith("model.onnx differs from the student by up to")
    assert not (tmp_path / "compact" / "model.onnx").exists()


def test_a_graph_network_for_any_number_of_nodes_and_edges(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = GAT(inputs=6, classes=2, widths=(4,), heads=(2,)).build().eval()
    path = tmp_path / "model.onnx"
    onnx_form.write(exported(onnx_form.plain(student), GRAPH), path, GRAPH)
    session = onnxruntime.InferenceSession(path)
    assert [given.name for given in session.get_inputs()] == ["features", "edges"]
    for batch in (1, 3):
        features, edges = GRAPH.example(batch, seed=batch)
        with torch.no_grad():
            (answer,) = session.run(None, {"features": features.numpy(), "edges": edges.numpy()})
            torch.testing.assert_close(torch.from_numpy(answer), student(features, edges), rtol=0, atol=1e-5)
    blind = NodeMLP(inputs=6, classes=2, widths=(4,)).build().eval()
    times = onnx_form.timed(
        path, GRAPH, (blind, GRAPH), seconds=0.01
    )  # one looks at edges, the other does not
    assert (
        times["student"].keys() == times["teacher"].keys() == {"latency_ms_p50_node", "latency_ms_p95_node"}
    )


def test_random_inputs_are_said_to_be_random() -> None:
    fine = Agreement(1e-7, 1e-6, 0, 0.1)
    told = {
        "opset": 18,
        "samples": 64,
        "inputs": "random",
        "largest_difference": 1e-7,
        "changed_decisions": 0,
    }
    line = onnx_form.line({**told, "student": {"latency_ms_p50_b1": 0.5}})
    assert "on 64 random inputs, for there is no val set" in line
    proof = Proof("random", 64, 1.0, (1,), {"model.onnx": fine}, (), 0.1, {"model.onnx": "it fell"})
    assert onnx_form.told(Path("nowhere"), SIGNATURE, proof, None, None, 0.1) == {"refused": "it fell"}
    assert compact.LIMIT == 1e-4
