"""Fine-tuning: it learns, from what it says, and no more."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress import Finetune, State
from compress.session import Diverged, Limit, Sees, Session
from teachers.networks import DigitsCNN
from teachers.tasks import Toy
from teachers.teacher import Teacher

Score = Callable[[nn.Module], float]
Fingerprint = Callable[[nn.Module], dict[str, Any]]
KINDS = {
    "soft targets": Finetune(epochs=3, lr=0.02),
    "labels": Finetune(epochs=3, lr=0.05, soft_targets=0, labels=1),
    "both": Finetune(epochs=3, lr=0.02, soft_targets=0.5, labels=0.5, temperature=2),
    "averaged": Finetune(epochs=3, lr=0.02, swa=0.5),
}
each = pytest.mark.parametrize("stage", KINDS.values(), ids=list(KINDS))


def fresh(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return DigitsCNN(classes=3).build()


def tune(stage: Finetune, teacher: Teacher, task: Toy, student: nn.Module | None = None, **more: Any) -> Any:
    session = Session(splits=task.open(None), sees=stage.sees, **more)
    return stage(State((teacher,), student), session).student


@each
def test_it_learns(stage: Finetune, teacher: Teacher, task: Toy, accuracy: Score) -> None:
    student = fresh().eval()
    before = accuracy(student)
    after = tune(stage, teacher, task, student)
    assert accuracy(after) > max(before + 0.3, 0.9)
    assert not after.training
    assert all(p.requires_grad for p in after.parameters())


@each
def test_it_sees_what_it_says(stage: Finetune, teacher: Teacher, task: Toy) -> None:
    assert stage.sees is (Sees.LABELS if stage.labels else Sees.INPUTS)
    session = Session.bare(task, sees=stage.sees)
    stage(State((teacher,)), session)
    assert session.read == {"train": 3 * 160 + (50 * 16 if stage.swa else 0)}


@each
def test_what_is_given_stays_the_same_to_the_bit(
    stage: Finetune, teacher: Teacher, task: Toy, fingerprint: Fingerprint
) -> None:
    student = fresh().requires_grad_(False)
    before = [fingerprint(teacher.module), fingerprint(student)]
    made = tune(stage, teacher, task, student)
    assert [fingerprint(teacher.module), fingerprint(student)] == before
    assert made is not student
    frozen = zip(made.parameters(), student.parameters(), strict=True)
    assert not any(torch.equal(after, before) for after, before in frozen)  # a frozen student is trained, too


def test_labels_alone_ask_no_teacher(task: Toy, accuracy: Score) -> None:
    class Silent(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError("somebody asked")

    room = tuple(Teacher(name, Silent(), task.signature()) for name in ("ann", "bob"))
    made = KINDS["labels"](State(room, fresh()), Session.bare(task))
    assert accuracy(made.student) > 0.9  # type: ignore[arg-type]
    assert made.teachers == room
    with pytest.raises(ValueError, match=r"asks one teacher, but 2 are in the room \(ann, bob\)"):
        KINDS["both"](State(room, fresh()), Session.bare(task))


def test_soft_targets_do_not_depend_on_labels(teacher: Teacher, task: Toy) -> None:
    """Fed with wrong labels by a session that hands them out, the result is the same."""
    stage = KINDS["soft targets"]
    blind = stage(State((teacher,), fresh()), Session.bare(task, sees=Sees.INPUTS)).student
    seeing = stage(State((teacher,), fresh()), Session.bare(task, sees=Sees.LABELS)).student
    assert all(map(torch.equal, blind.state_dict().values(), seeing.state_dict().values()))  # type: ignore[union-attr]


def test_without_a_student_the_only_teacher_is_copied(teacher: Teacher, task: Toy, accuracy: Score) -> None:
    assert accuracy(tune(Finetune(epochs=1, lr=0.001), teacher, task)) > 0.95


def test_the_log(teacher: Teacher, task: Toy) -> None:
    told: list[tuple[int, dict[str, float]]] = []
    report = lambda values, step: told.append((step, dict(values)))  # noqa: E731
    tune(KINDS["soft targets"], teacher, task, fresh(), report=report)
    assert [step for step, _ in told] == [0, 1, 2]
    assert set(told[0][1]) == {"loss", "agreement"}
    assert told[-1][1]["loss"] < told[0][1]["loss"]
    assert told[-1][1]["agreement"] > 0.9
    tune(KINDS["labels"], teacher, task, fresh(), report=report)
    assert set(told[-1][1]) == {"loss", "train_accuracy"}
    assert told[-1][1]["train_accuracy"] > 0.9


def test_the_learning_rate_rises_and_falls(
    teacher: Teacher, task: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def watched(self: Any, *args: Any, **more: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **more)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    tune(Finetune(epochs=3, lr=0.02, warmup=1), teacher, task)
    assert len(rates) == 30
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == pytest.approx(0.02, rel=0.02)
    assert rates[-1] < 0.001


@pytest.mark.parametrize(("share", "last"), [(0.4, 8), (0.001, 1)])
def test_the_average_is_that_of_the_last_steps(
    share: float, last: int, teacher: Teacher, task: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[torch.Tensor]] = []
    rates: list[float] = []
    step = torch.optim.SGD.step

    def watched(self: Any, *args: Any, **more: Any) -> Any:
        done = step(self, *args, **more)
        rates.append(self.param_groups[0]["lr"])
        seen.append([p.detach().clone() for p in self.param_groups[0]["params"]])
        return done

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    made = tune(Finetune(epochs=2, lr=0.02, warmup=0.5, swa=share), teacher, task)
    assert len(seen) == 20
    assert rates[5:] == [0.02] * 15  # as high to the end as the warm-up took it
    for mine, steps in zip(made.parameters(), zip(*seen[-last:], strict=True), strict=True):
        torch.testing.assert_close(mine, torch.stack(steps).double().mean(0).float())
    (norm, *_) = [m for m in made.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norm.momentum == 0.1
    assert int(norm.num_batches_tracked) == 50  # type: ignore[arg-type]


def test_a_network_without_norms_is_averaged_too(task: Toy, accuracy: Score) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    stage = Finetune(epochs=3, lr=0.05, soft_targets=0, labels=1, swa=0.3)
    made = stage(
        State((Teacher("plain", copy.deepcopy(plain), task.signature()),), plain), Session.bare(task)
    ).student
    assert made is not None
    assert accuracy(made) > 0.9


def test_a_warm_up_longer_than_the_epochs_is_cut(teacher: Teacher, task: Toy) -> None:
    student = tune(Finetune(epochs=1, lr=0.02, warmup=50), teacher, task)
    assert all(torch.isfinite(tensor).all() for tensor in student.state_dict().values())


def test_the_same_seed_gives_the_same_student(teacher: Teacher, task: Toy) -> None:
    first, again, other = (
        tune(KINDS["both"], teacher, task, fresh(), seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["linear.weight"], other["linear.weight"])


class Cut(Exception):
    """Stops a run."""


@each
@pytest.mark.parametrize("after", [0, 1, 2])
def test_cut_and_resumed_equals_unbroken(
    stage: Finetune, after: int, teacher: Teacher, task: Toy, tmp_path: Path
) -> None:
    def report(values: Mapping[str, float], step: int) -> None:
        if step == after:
            raise Cut

    with pytest.raises(Cut):
        tune(stage, teacher, task, fresh(), folder=tmp_path, report=report)
    resumed = tune(stage, teacher, task, fresh(5 if after else 1), folder=tmp_path)
    whole = tune(stage, teacher, task, fresh())
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


@each
def test_a_loss_that_is_not_finite_stops_it(
    stage: Finetune, teacher: Teacher, task: Toy, tmp_path: Path
) -> None:
    spoilt = copy.deepcopy(fresh())
    with torch.no_grad():
        spoilt.linear.weight[0, 0] = float("nan")  # type: ignore[union-attr, index, operator]
    with pytest.raises(Diverged, match=r"compress.Finetune: loss is nan at epoch 1; .*smaller learning rate"):
        tune(stage, teacher, task, spoilt, name="compress.Finetune", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_learning_rate_out_of_proportion_is_told(teacher: Teacher, task: Toy) -> None:
    with pytest.raises(Diverged, match=r"at epoch [12]; nothing is kept"):
        tune(Finetune(epochs=2, lr=1e18), teacher, task)


def test_bf16_and_a_rehearsal_run(teacher: Teacher, task: Toy) -> None:
    made = tune(KINDS["both"], teacher, task, precision="bf16", limit=Limit(batches=2, epochs=1))
    assert all(p.dtype == torch.float32 for p in made.parameters())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "epochs"),
        ({"epochs": 0}, "greater than 0"),
        ({"epochs": float("inf")}, "finite number"),
        ({"epochs": 1, "lr": 0}, "greater than 0"),
        ({"epochs": 1, "lr": float("inf")}, "finite number"),
        ({"epochs": 1, "temperature": 0}, "greater than 0"),
        ({"epochs": 1, "momentum": 1}, "less than 1"),
        ({"epochs": 1, "swa": 1}, "less than 1"),
        ({"epochs": 1, "labels": -1}, "greater than or equal to 0"),
        (
            {"epochs": 1, "soft_targets": 0},
            "Finetune has nothing to learn from: set soft_targets or labels above 0",
        ),
        ({"epochs": 1, "label": 1}, "label"),
    ],
)
def test_fields_are_checked(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Finetune(**fields)
