"""Rows of numbers made from a schema alone: bounds, whole numbers, categories, and the stages that use them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress import DFAD, Category, Finetune, Generate, Number, Prune, Recalibrate, Session, Sobol, State
from compress.adversaries import Generator, Rows, drawer
from compress.columns import evenly, fit, inputs_of
from compress.session import Sees
from teachers.networks import MLP
from teachers.signature import Signature
from teachers.teacher import Teacher

COLUMNS = (Number(-1, 3, mean=1, std=2), Category(3), Number(0, 5, whole=True), Category(2))
SIGNATURE = Signature(((7,),), ("a", "b", "c"))
FEW: dict[str, Any] = {"epochs": 4, "rounds": 4, "batch": 16, "latent": 8}


def bench(**more: Any) -> Session:
    torch.manual_seed(0)
    return Session(sees=Sees.NOTHING, **more)


@pytest.fixture
def teacher() -> Teacher:
    """With weights that nobody taught, but opinions: all three answers come up."""
    torch.manual_seed(3)
    network = MLP(inputs=7, classes=3, widths=(16, 16)).build().eval()
    rows = evenly(COLUMNS, torch.rand(512, 4))
    with torch.no_grad():
        for name, layer in network.named_modules():
            if isinstance(layer, nn.BatchNorm1d):  # what it will see from here on
                seen = network[: list(dict(network.named_children())).index(name)](rows)  # type: ignore[index]
                layer.running_mean, layer.running_var = seen.mean(0), seen.var(0)
        last: nn.Linear = network.classifier  # type: ignore[assignment]
        last.weight.mul_(5)
        last.bias.sub_(network(rows).mean(0))
    return Teacher("mlp", network, SIGNATURE)


def is_allowed(rows: Tensor) -> None:
    """Every column as COLUMNS say, in the network's own units."""
    first, kinds, whole, two = rows.split((1, 3, 1, 2), 1)
    assert first.min() >= (-1 - 1) / 2
    assert first.max() <= (3 - 1) / 2
    for one in (kinds, two):
        torch.testing.assert_close(one.sort(1).values[:, -1], torch.ones(len(rows)))
        torch.testing.assert_close(one.sum(1), torch.ones(len(rows)))
    torch.testing.assert_close(whole, whole.round())
    assert set(whole.flatten().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}


def test_points_of_the_cube_become_rows() -> None:
    assert inputs_of(COLUMNS) == 7
    places = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.999, 0.999, 0.999, 0.999], [0.5, 0.5, 0.49, 0.5]])
    rows = evenly(COLUMNS, places)
    is_allowed(rows)
    torch.testing.assert_close(rows[0], torch.tensor([-1.0, 1, 0, 0, 0, 1, 0]))
    torch.testing.assert_close(rows[1], torch.tensor([0.998, 0, 0, 1, 5, 0, 1]))
    torch.testing.assert_close(rows[2], torch.tensor([0.0, 0, 1, 0, 2, 0, 1]))


def test_whole_numbers_pass_the_slope_of_what_was_not_rounded() -> None:
    share = torch.tensor([[0.1], [0.6]], requires_grad=True)
    Number(0, 5, std=2, whole=True).of(share).sum().backward()
    torch.testing.assert_close(share.grad, torch.full((2, 1), 2.5))


def test_the_generator_stays_within_its_columns_and_can_be_taught() -> None:
    torch.manual_seed(0)
    rows = Rows(SIGNATURE, 8, COLUMNS)
    drawn = rows(torch.randn(64, 8))
    is_allowed(drawn.detach())
    (drawn * torch.randn(7)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in rows.lift.parameters())
    plain = Rows(SIGNATURE, 8)(torch.randn(512, 8))
    torch.testing.assert_close(plain.mean(0), torch.zeros(7), atol=1e-4, rtol=0)
    torch.testing.assert_close(plain.var(0, correction=0), torch.ones(7), atol=1e-2, rtol=0)


def test_what_a_teacher_takes_decides_what_is_drawn() -> None:
    assert isinstance(drawer(SIGNATURE, 8, 4, None, COLUMNS), Rows)
    images = Signature(((1, 8, 8),), ("a", "b"))
    assert isinstance(drawer(images, 8, 4, None, ()), Generator)
    with pytest.raises(
        ValueError, match=r"4 columns are 7 numbers to a network, but the teacher takes \(1, 8, 8\)"
    ):
        drawer(images, 8, 4, None, COLUMNS)
    with pytest.raises(
        ValueError, match=r"1 columns are 2 numbers to a network, but the teacher takes \(7,\)"
    ):
        drawer(SIGNATURE, 8, 4, None, (Category(2),))


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (Number, {"low": 1, "high": 1}, "from 1 to 1 has no room: low must be below high"),
        (Number, {"low": 0, "high": float("inf")}, "finite"),
        (Number, {"low": 0, "high": 1, "std": 0}, "greater than 0"),
        (Category, {"size": 1}, "greater than or equal to 2"),
        (Sobol, {"columns": ()}, "at least 1"),
    ],
)
def test_columns_are_checked(kind: Any, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind(**fields)


def test_sobol_rows_are_even_and_the_same_for_a_seed(teacher: Teacher) -> None:
    stage = Sobol(columns=COLUMNS, rows=1024)
    made, again, other = (stage(State((teacher,)), bench(seed=seed)).generated for seed in (0, 0, 1))
    assert made is not None
    assert again is not None
    assert other is not None
    is_allowed(made)
    assert torch.equal(made, again)
    assert not torch.equal(made, other)
    # Evenly, unlike random numbers: every sixteenth of the first column holds a sixteenth of the rows.
    counts = torch.histc(made[:, 0], 16, -1, 1)
    assert counts.min() >= 63
    assert counts.max() <= 65
    torch.testing.assert_close(made[:, 1:4].mean(0), torch.full((3,), 1 / 3), atol=5e-3, rtol=0)
    with pytest.raises(ValueError, match="1 columns are 2 numbers"):
        replace(stage, columns=(Category(2),))(State((teacher,)), bench())
    fit(COLUMNS, SIGNATURE.inputs)


def test_a_pruned_network_learns_from_sobol_rows(teacher: Teacher) -> None:
    state = Sobol(columns=COLUMNS, rows=2048)(State((teacher,)), bench())
    state = Prune(macs=0.4, round_to=1)(state, bench())
    assert state.student is not None
    fresh = Sobol(columns=COLUMNS, rows=512)(State((teacher,)), bench(seed=9)).generated
    assert fresh is not None

    def agreement(student: nn.Module | None) -> float:
        assert student is not None
        with torch.no_grad():
            return (student(fresh).argmax(1) == teacher(fresh).argmax(1)).double().mean().item()

    cut = agreement(state.student)
    state = Recalibrate(batches=10, generated=True)(state, bench())
    state = Finetune(epochs=30, lr=0.05, generated=True)(state, bench())
    assert agreement(state.student) > 0.8 > cut + 0.2


def test_dfad_teaches_rows_and_draws_no_pictures(teacher: Teacher) -> None:
    told: list[dict[str, float]] = []
    session = bench(report=lambda values, _: told.append(dict(values)))
    stage = DFAD(
        student=MLP(inputs=7, classes=3, widths=(8,)),
        columns=COLUMNS,
        lr=0.02,
        **{**FEW, "epochs": 12, "rounds": 10},
    )
    made = stage(State((teacher,)), session).student
    assert made is not None
    assert told[-1]["held_ratio"] < 0.7 * told[0]["held_ratio"]
    assert session.pictures == {}
    assert not session.read


def test_generate_leaves_rows_within_their_columns(teacher: Teacher) -> None:
    made = Generate(columns=COLUMNS, images=40, **FEW)(State((teacher,)), bench()).generated
    assert made is not None
    assert made.shape == (40, 7)
    is_allowed(made.float())
