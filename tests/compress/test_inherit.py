"""Inherit: which blocks are taken, that they are the teacher's, and what is refused."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from compress import Inherit, Sees, Session, State
from compress.inherit import origins
from teachers.networks import DigitsCNN, ResNet
from teachers.networks.network import Network
from teachers.signature import Signature
from teachers.teacher import Teacher

SIGNATURE = Signature(((3, 32, 32),), tuple("0123456789"), (0.5,) * 3, (0.25,) * 3)


def resnet(depth: Any) -> Teacher:
    torch.manual_seed(0)
    network = ResNet(depth=depth).build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
    return Teacher("resnet", network, SIGNATURE)


def inherit(teacher: Teacher, student: Network, **fields: Any) -> tuple[nn.Module, list[str]]:
    session = Session(sees=Sees.NOTHING)
    made = Inherit(student=student, **fields)(State((teacher,)), session).student
    assert made is not None
    return made, session.notes


@pytest.mark.parametrize(("blocks", "taken"), [("spread", (0, 4, 8)), ("first", (0, 1, 2))])
def test_blocks_come_from_the_teacher(blocks: Any, taken: tuple[int, ...]) -> None:
    teacher = resnet(56)
    before = copy.deepcopy(teacher.module.state_dict())
    student, notes = inherit(teacher, ResNet(depth=20), blocks=blocks)
    theirs = teacher.module.state_dict()
    for name, tensor in student.state_dict().items():
        steps = name.split(".")
        if steps[0].startswith("layer"):
            steps[1] = str(taken[int(steps[1])])
        assert torch.equal(tensor, theirs[".".join(steps)]), name
    assert notes == ["269,722 of 269,722 weights were inherited (100%)"]
    assert all(torch.equal(before[name], tensor) for name, tensor in theirs.items())
    assert all(p.requires_grad for p in student.parameters())
    assert not student.training


def test_a_residual_teacher_is_still_heard_in_its_student() -> None:
    """With residual branches that do little, leaving some out changes little: the student answers nearly the same."""
    teacher = resnet(56)
    for name, module in teacher.module.named_modules():
        if name.endswith("bn2"):
            nn.init.constant_(module.weight, 0.02)  # type: ignore[arg-type]
            nn.init.zeros_(module.running_mean)  # type: ignore[arg-type]
    images = torch.randn(16, 3, 32, 32)
    student, _ = inherit(teacher, ResNet(depth=20))
    with torch.no_grad():
        heard = torch.corrcoef(torch.stack([student(images).flatten(), teacher(images).flatten()]))[0, 1]
        fresh = ResNet(depth=20).build().eval()
        strange = torch.corrcoef(torch.stack([fresh(images).flatten(), teacher(images).flatten()]))[0, 1]
    assert heard > 0.9 > strange


def test_what_has_no_place_stays_fresh() -> None:
    wide = Teacher(
        "wide",
        DigitsCNN(classes=10, widths=(8, 16, 16)).build(),
        Signature(((1, 8, 8),), tuple("0123456789")),
    )
    student, notes = inherit(wide, DigitsCNN(widths=(8, 16, 12)))
    theirs = wide.module.state_dict()
    same = {name for name, tensor in student.state_dict().items() if tensor.shape == theirs[name].shape}
    assert {name for name in same if torch.equal(student.state_dict()[name], theirs[name])} == same
    assert "conv2.weight" in same
    assert "conv3.weight" not in same
    assert "were inherited" in notes[0]


def test_rows_within_rows_and_students_that_are_longer() -> None:
    def row(*lengths: int) -> nn.Sequential:
        return nn.Sequential(
            *(nn.Sequential(*(nn.Linear(2, 2) for _ in range(length))) for length in lengths)
        )

    found = origins(row(1, 2), row(3, 2, 2), "spread")
    assert found["1.0.weight"] == "2.0.weight"
    assert origins(row(3), row(1), "spread")["0.2.weight"] == "0.2.weight"


def test_nothing_to_inherit_is_said() -> None:
    teacher = Teacher(
        "cnn", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), Signature(((1, 8, 8),), tuple("0123456789"))
    )
    with pytest.raises(
        ValueError, match="DigitsNetwork has no layer of the same name and shape as one of Sequential"
    ):
        inherit(teacher, DigitsCNN())
    with pytest.raises(ValueError, match="different outputs"):
        inherit(resnet(20), ResNet(depth=20, classes=7))
