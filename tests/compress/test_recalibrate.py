"""Recalibration: the exact average of batch statistics, and nothing else."""

import copy
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress import Recalibrate, State
from compress.session import Limit, Sees, Session
from teachers.networks import LeNet5
from teachers.signature import Signature
from teachers.tasks import Toy
from teachers.teacher import Teacher

Fingerprint = Callable[[nn.Module], dict[str, Any]]


def spoilt(teacher: Teacher) -> Any:
    """A copy with statistics that fit nothing."""
    student = copy.deepcopy(teacher.module)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(3.0)  # type: ignore[union-attr]
            module.running_var.fill_(9.0)  # type: ignore[union-attr]
    return student


def test_the_statistics_are_the_average_over_batches(teacher: Teacher, task: Toy) -> None:
    """Of every norm's input: mean over batches of the batch means, and of the unbiased batch variances."""
    student = spoilt(teacher)
    made = Recalibrate(batches=4)(
        State((teacher,), student), Session.bare(task, sees=Sees.INPUTS, seed=3)
    ).student
    twin = copy.deepcopy(student).eval()
    seen: dict[str, list[Tensor]] = {}
    norms = {name: m for name, m in twin.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, norm in norms.items():
        norm.train()
        norm.register_forward_pre_hook(lambda _, args, name=name: seen.setdefault(name, []).append(args[0]))
    with torch.no_grad():
        for batch in islice(Session.bare(task, seed=3).batches(), 4):
            twin(*batch.inputs)
    after = dict(made.named_modules())  # type: ignore[union-attr]
    for name, inputs in seen.items():
        rows = [x.double().transpose(0, 1).flatten(1) for x in inputs]
        mean = sum(r.mean(1) for r in rows) / 4
        var = sum(r.var(1, unbiased=True) for r in rows) / 4
        torch.testing.assert_close(after[name].running_mean.double(), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after[name].running_var.double(), var, rtol=1e-4, atol=1e-5)
        assert after[name].num_batches_tracked == 4
        assert after[name].momentum == 0.1


def test_nothing_but_statistics_changes(teacher: Teacher, task: Toy, fingerprint: Fingerprint) -> None:
    student = spoilt(teacher)
    before = [fingerprint(teacher.module), fingerprint(student)]
    made = Recalibrate(batches=2)(State((teacher,), student), Session.bare(task, sees=Sees.INPUTS)).student
    assert [fingerprint(teacher.module), fingerprint(student)] == before
    assert made is not None
    assert not made.training
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, student.state_dict()[name]) == (
            "running" not in name and "num_batches" not in name
        )


def test_it_puts_right_what_was_spoilt(
    teacher: Teacher, task: Toy, accuracy: Callable[[nn.Module], float]
) -> None:
    student = spoilt(teacher)
    before = accuracy(student)
    made = Recalibrate(batches=10)(State((teacher,), student), Session.bare(task, sees=Sees.INPUTS)).student
    assert accuracy(made) > before + 0.3  # type: ignore[arg-type]
    assert accuracy(made) > 0.95  # type: ignore[arg-type]


def test_passes_are_made_as_needed_and_labels_never_seen(teacher: Teacher, task: Toy) -> None:
    assert Recalibrate.sees is Sees.INPUTS
    session = Session.bare(task, sees=Sees.INPUTS)
    Recalibrate(batches=25)(State((teacher,)), session)
    assert session.read == {"train": 25 * 16}
    rehearsal = Session.bare(task, sees=Sees.INPUTS, limit=Limit(batches=2, epochs=1))
    Recalibrate(batches=3)(State((teacher,)), rehearsal)
    assert rehearsal.read == {"train": 48}


def test_dropout_stays_off_while_it_measures(task: Toy) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Dropout(0.9), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)
    )
    noisy = Teacher("noisy", network, task.signature())
    made = [
        Recalibrate(batches=2)(State((noisy,)), Session.bare(task, sees=Sees.INPUTS)).student
        for _ in range(2)
    ]
    assert torch.equal(made[0][2].running_mean, made[1][2].running_mean)  # type: ignore[index]


def test_a_network_without_batch_norms() -> None:
    bare = Teacher("lenet", LeNet5().build(), Signature(((1, 28, 28),), tuple("0123456789")))
    with pytest.raises(
        ValueError, match="LeNet5Network has no batch norm with running statistics: there is nothing"
    ):
        Recalibrate()(State((bare,)), Session.bare(Toy(size=28), sees=Sees.INPUTS))


def test_fields_are_checked() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Recalibrate(batches=0)
