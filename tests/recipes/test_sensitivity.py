"""The look at which layers the score hangs on: against a real cut, in time, and only where a stage pruned."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress import Finetune, Prune
from recipes import sensitivity
from recipes.recipe import Recipe, Workshop
from recipes.run import run
from reports.evaluate import ValScore, evaluate
from students.groups import propose_groups
from students.knife import cut
from teachers.networks import DigitsCNN
from teachers.task import Split
from teachers.tasks import Toy
from teachers.teacher import Checkpoint
from teachers.train import Train

pytestmark = pytest.mark.usefixtures("unpacked")

TASK = Toy(samples=160, batch=32)
TEACHER = Checkpoint(
    name="toy", network=DigitsCNN(classes=3), task=TASK, train=Train(epochs=4, lr=0.05, warmup=1)
)
CPU = torch.device("cpu")


def trained() -> nn.Module:
    """Random weights, with batch norms that have seen something."""
    torch.manual_seed(0)
    network = DigitsCNN(classes=3).build().train()
    for _ in range(4):
        network(torch.randn(32, 1, 8, 8))
    return network.eval()


def test_a_silenced_layer_is_a_cut_layer() -> None:
    network, signature, splits = trained(), TASK.signature(), TASK.open(None)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = sensitivity.probe(network, signature, TASK, splits, CPU, 60.0)
    assert found is not None
    assert found["samples"] == splits.samples(Split.VAL)
    assert found["left"] == 0
    groups = propose_groups(network, signature.example(2))
    assert list(found["layers"]) == sorted(group.name for group in groups) == ["conv1", "conv2", "conv3"]
    val = list(splits.batches(Split.VAL, CPU))
    assert found["score"] == evaluate(network, val, TASK.predict, TASK.score, kind=ValScore).value
    modules = dict(network.named_modules())
    for group in groups:
        weight: Any = modules[group.name].weight
        order = weight.detach().abs().flatten(1).sum(1).argsort()
        dead = torch.zeros(group.width, dtype=torch.bool)
        dead[order[: group.width // 2]] = True
        twin = copy.deepcopy(network)
        cut(twin, {group.name: dead}, [group])
        assert (
            evaluate(twin, val, TASK.predict, TASK.score, kind=ValScore).value == found["layers"][group.name]
        )
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_time_is_kept() -> None:
    found = sensitivity.probe(trained(), TASK.signature(), TASK, TASK.open(None), CPU, 0.0)
    assert found is not None
    assert len(found["layers"]) == 1
    assert found["left"] > 0


def test_val_is_taken_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "SAMPLES", 6)
    splits = TASK.open(None)
    (batch,) = sensitivity._part(splits, CPU)
    (whole,) = splits.batches(Split.VAL, CPU)
    assert whole.target is not None
    assert batch.target is not None
    assert 5 <= len(batch) <= 7
    assert torch.equal(batch.inputs[0][0], whole.inputs[0][0])
    assert torch.equal(batch.inputs[0][-1], whole.inputs[0][-1])


def test_only_where_a_stage_pruned(bench: Workshop) -> None:
    def made(name: str, *stages: Any) -> Path:
        return run(Recipe(name=name, task=TASK, teachers=(TEACHER,), stages=stages), bench).folder

    tuned = made("tuned", Finetune(epochs=1, lr=0.01))
    assert not (tuned / "sensitivity.json").exists()
    assert "Which layers the score hangs on" not in (tuned / "report.html").read_text()
    pruned = made("pruned", Prune(macs=0.5))
    kept = json.loads((pruned / "sensitivity.json").read_text())
    assert kept["teacher"] == "toy"
    assert kept["layers"]
    report = (pruned / "report.html").read_text()
    assert "Which layers the score hangs on" in report
    ledger = json.loads((pruned / "result.json").read_text())["ledger"]
    looks = [row for row in ledger["reads"] if row["why"] == "looks which layers the score hangs on"]
    assert [row["split"] for row in looks] == ["val"]
    written = (pruned / "sensitivity.json").stat().st_mtime_ns
    made("pruned", Prune(macs=0.5))
    assert (pruned / "sensitivity.json").stat().st_mtime_ns == written, "it is taken once"
