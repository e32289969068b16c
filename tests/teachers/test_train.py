"""Training: the schedule's curve, learning, resuming to the bit, and a loss that turns NaN."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from teachers.networks import DigitsCNN
from teachers.task import Split, Splits
from teachers.tasks import Digits, Toy
from teachers.train import Train, accuracy, constant, cosine, supervised

CPU = torch.device("cpu")


def count(total: int, **keep: Any) -> Iterator[int]:
    return iter(range(total))


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
        nn.Flatten(), nn.Dropout(0.1), nn.Linear(128, 3),
    )  # fmt: skip


def teach(
    train: Train, module: nn.Module, splits: Splits, **more: Any
) -> tuple[nn.Module, list[Mapping[str, float]]]:
    told: list[Mapping[str, float]] = []
    given: dict[str, Any] = {"device": CPU, "autocast": contextlib.nullcontext, "epochs": count, **more}
    return train(
        module, splits, log=lambda values, epoch: told.append({**values, "epoch": epoch}), **given
    ), told


# -- the schedule ----------------------------------------


def rates(total: int, warmup: int, kind: Any = cosine, lr: float = 0.4) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = kind(optimizer, total, warmup)
    seen = []
    for _ in range(total + 2):
        seen.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return seen


def test_the_schedule_rises_in_a_line_and_falls_along_a_cosine() -> None:
    seen = rates(total=12, warmup=4)
    assert seen[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert seen[4:12] == pytest.approx([0.2 * (1 + math.cos(math.pi * t / 8)) for t in range(8)])
    assert seen[8] == pytest.approx(0.2)
    assert seen[12:] == pytest.approx([0.0, 0.0], abs=1e-12)  # and stays there
    assert rates(total=3, warmup=0)[0] == 0.4


def test_the_schedule_rises_in_a_line_and_stays() -> None:
    assert rates(total=12, warmup=4, kind=constant) == pytest.approx([0.1, 0.2, 0.3, *[0.4] * 11])
    assert rates(total=3, warmup=0, kind=constant) == [0.4] * 5


@pytest.mark.parametrize("kind", [cosine, constant])
@pytest.mark.parametrize(("total", "warmup"), [(4, 4), (4, 9), (0, 0), (4, -1)])
def test_a_warm_up_that_leaves_no_step_is_refused(total: int, warmup: int, kind: Any) -> None:
    with pytest.raises(ValueError, match=f"a warm-up of {warmup} steps does not fit into {total} steps"):
        rates(total, warmup, kind)


# -- training ----------------------------------------


def test_digits_are_learned_in_seconds() -> None:
    torch.manual_seed(0)
    splits = Digits().open(None)
    module, told = teach(Train(epochs=6, lr=0.1, warmup=1), DigitsCNN().build(), splits)
    assert not module.training
    assert [values["epoch"] for values in told] == list(range(6))
    assert told[-1]["accuracy"] >= 0.98
    assert told[-1]["accuracy"] == accuracy(module, splits, Split.VAL, CPU, contextlib.nullcontext)
    assert told[-1]["loss"] < told[0]["loss"] / 5
    assert told[0]["lr"] == pytest.approx(0.01)  # the first of 10 steps of warm-up


def test_bf16_learns_too() -> None:
    def bf16() -> Any:
        return torch.autocast("cpu", torch.bfloat16)

    splits = Toy(batch=32).open(None)
    module, told = teach(Train(epochs=4), small(), splits, autocast=bf16)
    assert told[-1]["accuracy"] > 0.9
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


def test_the_same_seed_trains_the_same_network_and_another_does_not() -> None:
    splits = Toy(samples=60, batch=16, crop=1).open(None)
    runs = [teach(Train(epochs=2, seed=seed), small(), splits)[0].state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
    assert not torch.equal(runs[0]["0.weight"], runs[2]["0.weight"])


def test_the_loss_is_smoothed_cross_entropy() -> None:
    outputs, target = torch.randn(5, 4, dtype=torch.float32), torch.tensor([0, 1, 2, 3, 0])
    logs = outputs.log_softmax(dim=1)
    truth = 0.8 * nn.functional.one_hot(target, 4) + 0.2 / 4
    assert_close(supervised(outputs, target, smoothing=0.2), -(truth * logs).sum(dim=1).mean())


def test_a_killed_training_resumes_to_the_bit(tmp_path: Path) -> None:
    session = pytest.importorskip("compress.session")
    splits = Toy(samples=90, batch=16, crop=1, flip=True).open(None)
    train = Train(epochs=4, warmup=1.5)

    def run(folder: Path, stop: int | None) -> nn.Module:
        bench = session.Session(folder=folder)

        def epochs(total: int, **keep: Any) -> Iterator[int]:
            for epoch in bench.epochs(total, **keep):
                if epoch == stop:
                    raise KeyboardInterrupt
                yield epoch

        return teach(train, small(), splits, epochs=epochs)[0]

    unbroken = run(tmp_path / "whole", None).state_dict()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", 2)
    torch.rand(7)  # a new process would find another random state
    resumed = run(tmp_path / "broken", None).state_dict()
    assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)


def test_a_loss_that_is_not_finite_stops_before_the_epoch_is_kept() -> None:
    finished: list[int] = []

    def epochs(total: int, **keep: Any) -> Iterator[int]:
        for epoch in range(total):
            if epoch == 1:
                with torch.no_grad():
                    next(keep["student"].parameters()).fill_(math.nan)
            yield epoch
            finished.append(epoch)

    with pytest.raises(ArithmeticError, match=r"the training loss is nan in epoch 2, .* lower lr"):
        teach(Train(epochs=3), small(), Toy(samples=60, batch=16).open(None), epochs=epochs)
    assert finished == [0]


def test_evaluation_touches_no_random_state() -> None:
    splits, module = Toy(samples=60).open(None), small()
    before = torch.get_rng_state()
    first = accuracy(module, splits, Split.TEST, CPU, contextlib.nullcontext)
    assert accuracy(module, splits, Split.TEST, CPU, contextlib.nullcontext) == first
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"epochs": 2, "lr": -0.1}, "greater than 0"),
        ({"epochs": 2, "warmup": 2}, "warms up for 2 epochs of 2"),
        ({"epochs": 2, "momentum": 0}, "set nesterov to false"),
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Train(**fields)
