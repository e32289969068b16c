"""Estimates of time and memory: what steps hold, and how near they come to real stages."""

import time

import pytest
import torch
from torch import nn

from compress import Finetune
from compress.forecast import Feed, Pass
from compress.session import Session
from compress.stage import State
from recipes.probe import Bench, Estimate, _extended, _peak
from teachers.networks import DigitsCNN
from teachers.task import Split
from teachers.tasks import Toy
from teachers.teacher import Teacher

CPU = torch.device("cpu")


def test_peak_is_what_lives_at_once() -> None:
    def one_after_another() -> None:
        for _ in range(4):
            torch.zeros(1000) + 1.0

    def together() -> list[torch.Tensor]:
        return [torch.zeros(1000) for _ in range(4)]

    assert _peak(one_after_another, CPU) <= 3 * 4000
    assert _peak(together, CPU) == 4 * 4000


def test_a_step_back_keeps_what_a_step_forward_lets_go() -> None:
    network = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(64, 64), nn.ReLU())])
    bench = Bench(CPU, "fp32", (torch.randn(256, 64),), 0.0)
    forward = bench.step(Pass(network, 1))
    back = bench.step(Pass(network, 1, "weights"))
    kept = 6 * 256 * 64 * 4
    assert forward.memory < 0.7 * kept
    assert back.memory > kept
    assert back.seconds > 0


def test_large_batches_are_told_from_smaller_ones() -> None:
    found = [(4, Estimate(1.0, 100)), (16, Estimate(2.5, 340))]
    assert _extended(found, 16) == found[-1][1]
    assert _extended(found, 64) == Estimate(pytest.approx(8.5), 1300)
    assert _extended(found[:1], 64) == Estimate(16.0, 1600)


def test_weights_stay_as_they_are() -> None:
    network = DigitsCNN(classes=3).build()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    Bench(CPU, "fp32", (torch.randn(8, 1, 8, 8),), 0.0).step(Pass(network, 1, "weights"))
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_estimate_comes_near_a_real_stage() -> None:
    """Loosely, for machines are busy: within a factor of four here, of two on a quiet one."""
    task = Toy(samples=2000, batch=64)
    torch.manual_seed(0)
    teacher = Teacher("toy", DigitsCNN(classes=3).build(), task.signature())
    stage, splits = Finetune(epochs=2), task.open(None)
    feed = Feed(splits.steps(Split.TRAIN), splits.steps(Split.VAL))
    ratios = []
    for _ in range(3):
        bench = Bench.of(splits, task.signature(), CPU, "fp32")
        said = bench.of_stage(stage.forecast(State((teacher,)), task.signature(), feed)).seconds
        began = time.perf_counter()
        stage(State((teacher,)), Session.bare(task, sees=stage.sees))
        ratios.append(said / (time.perf_counter() - began))
        if 0.5 < ratios[-1] < 2:
            break
    assert any(0.25 < ratio < 4 for ratio in ratios), ratios
