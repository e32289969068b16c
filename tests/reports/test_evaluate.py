"""Scores: right, with an interval, orderable only where choosing is allowed, and without side effects."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from reports.evaluate import Score, TestScore, ValScore, evaluate, wilson


@dataclass(frozen=True)
class Batch:
    inputs: tuple[Tensor, ...]
    target: Tensor | None


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    return float((predictions == targets).float().mean())


def argmax(outputs: Tensor) -> Tensor:
    return outputs.argmax(1)


class Echo(nn.Module):
    """Answers with its input, noisily while training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.9)

    def forward(self, features: Tensor) -> Tensor:
        torch.rand(1)
        return self.drop(features)


def batches() -> list[Batch]:
    eye = torch.eye(3)
    return [Batch((eye,), torch.tensor([0, 1, 0])), Batch((eye[:1],), torch.tensor([0]))]


def test_all_samples_count_alike() -> None:
    module = Echo().train()
    state = torch.get_rng_state()
    found = evaluate(module, batches(), argmax, accuracy, kind=ValScore)
    assert found == ValScore(0.75, 4)
    assert module.training
    assert module.drop.training
    assert torch.equal(state, torch.get_rng_state())


def test_wilson_against_a_worked_value() -> None:
    low, high = wilson(0.5, 100)
    assert low == pytest.approx(0.4038, abs=1e-4)
    assert high == pytest.approx(0.5962, abs=1e-4)
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)
    assert wilson(0.0, 10)[0] == pytest.approx(0.0)


def test_val_has_an_order() -> None:
    assert ValScore(0.5, 100) < ValScore(0.6, 10)
    assert max(ValScore(0.5, 10), ValScore(0.7, 10)).value == 0.7


@pytest.mark.parametrize("other", [TestScore(0.6, 10), ValScore(0.6, 10), 0.6])
def test_test_has_none(other: object) -> None:
    score = TestScore(0.5, 10)
    for compare in ("<", "<=", ">", ">="):
        with pytest.raises(TypeError, match=r"have no order.*[Cc]hoos"):
            eval(f"a {compare} b", {"a": score, "b": other})  # noqa: S307 - one of four operators
        with pytest.raises(TypeError, match="have no order"):
            eval(f"b {compare} a", {"a": score, "b": other})  # noqa: S307
    with pytest.raises(TypeError, match="have no order"):
        max([score, TestScore(0.7, 10)])
    with pytest.raises(TypeError):
        float(score)  # type: ignore[arg-type]
    assert score != ValScore(0.5, 10)


@pytest.mark.parametrize("score", [ValScore(0.25, 8), TestScore(0.25, 8)])
def test_round_trip(score: Score) -> None:
    assert type(score).from_dict(score.to_dict()) == score
    assert "25.00 %" in str(score)
    assert "8 samples" in str(score)


def test_what_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="empty"):
        evaluate(Echo(), [], argmax, accuracy, kind=ValScore)
    with pytest.raises(ValueError, match="without target"):
        evaluate(Echo(), [Batch((torch.eye(3),), None)], argmax, accuracy, kind=ValScore)
    nan = torch.eye(3)
    nan[0] = torch.nan
    with pytest.raises(ArithmeticError, match="3 of 9 outputs of Echo are not finite"):
        evaluate(Echo(), [Batch((nan,), torch.zeros(3))], argmax, accuracy, kind=ValScore)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        ValScore(1.5, 3)
