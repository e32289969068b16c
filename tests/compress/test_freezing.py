"""What lies below a layer, on networks with branches; and that Finetune keeps it still, to the bit."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress import Finetune, Session, State
from compress.freezing import below, freeze
from teachers.networks import DigitsCNN, ResNet
from teachers.tasks import Toy
from teachers.teacher import Teacher

TASK = Toy(samples=90, batch=16)


class Branches(nn.Module):
    """Two branches that meet; `late` is called before `left` and does not lie below it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4, affine=False), nn.ReLU(inplace=True)
        )
        self.late, self.left = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.act, self.linear = nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) * self.scale
        late = self.late(x)
        return self.linear((self.act(self.left(x)) + late).mean((2, 3)))


def frozen(network: nn.Module, layer: str, shape: Any = (1, 8, 8)) -> set[str]:
    return set(below(network, layer, (torch.randn(2, *shape),)))


def test_a_branch_beside_is_not_below() -> None:
    assert frozen(Branches(), "left") == {"stem.0", "stem.1", "stem.2", "left", "scale"}


def test_work_in_place_behind_a_layer_is_not_below() -> None:
    assert "act" not in frozen(Branches(), "left")
    assert "act" in frozen(Branches(), "linear")


@pytest.mark.parametrize(
    ("layer", "first"), [("layer1.1", "layer1.2"), ("layer2.0", "layer2.1"), ("layer3", "linear")]
)
def test_of_a_residual_network(layer: str, first: str) -> None:
    """Everything called before the first block above, and nothing after."""
    network = ResNet(depth=20).build()
    still = frozen(network, layer, (3, 16, 16))
    order = [name for name, part in network.named_modules() if list(part.parameters(recurse=False))]
    start = next(place for place, name in enumerate(order) if name.startswith(first))
    assert {name for name in still if "shortcut" not in name} == set(order[:start])


def test_what_cannot_be_frozen() -> None:
    with pytest.raises(ValueError, match="Branches has no layer 'lefty'; did you mean 'left'"):
        frozen(Branches(), "lefty")
    with pytest.raises(
        ValueError, match="all weights of Branches are to stay as they are: nothing is left to learn"
    ):
        freeze(Branches(), [*frozen(Branches(), "linear")])
    with pytest.raises(
        ValueError, match="1 of the 2 parts to be left as they are, 'leftt' say, are not in the student"
    ):
        freeze(Branches(), ["left", "leftt"])
    asleep = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    asleep[1].unused = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"layer '1\.unused' of Sequential is not called"):
        frozen(asleep, "1.unused")


@pytest.mark.parametrize("swa", [0.0, 0.5])
def test_finetune_keeps_what_is_below_to_the_bit(swa: float) -> None:
    torch.manual_seed(0)
    network = DigitsCNN(classes=3, widths=(4, 4, 4)).build()
    teacher = Teacher("toy", network, TASK.signature())
    still = below(copy.deepcopy(network).requires_grad_(True), "bn2", TASK.signature().example(2))
    state = State((teacher,), freeze=still)
    stage = Finetune(epochs=2, lr=0.05, soft_targets=0, labels=1, swa=swa)
    student = stage(state, Session.bare(TASK)).student
    assert student is not None
    before, after = teacher.module.state_dict(), student.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith(("conv1", "bn1", "conv2", "bn2"))}
    assert all(parameter.requires_grad for parameter in student.parameters())
    whole = Finetune(epochs=1, lr=0.05, soft_targets=0, labels=1, frozen=False)(
        state, Session.bare(TASK)
    ).student
    assert whole is not None
    assert not torch.equal(before["conv1.weight"], whole.state_dict()["conv1.weight"])
    assert not torch.equal(before["bn1.running_mean"], whole.state_dict()["bn1.running_mean"])


def test_a_teacher_of_another_question_is_not_asked() -> None:
    teacher = Teacher("other", DigitsCNN(classes=5).build(), Toy(classes=5).signature())
    with pytest.raises(
        ValueError, match=r"'other' .* answers with 5 classes, the task has .* and 3: its answers teach"
    ):
        Finetune(epochs=1)(State((teacher,)), Session.bare(TASK))
