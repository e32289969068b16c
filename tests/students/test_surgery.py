"""A network that is cut answers like one that is masked, costs what was foretold, and is an ordinary network."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, fx, nn

from reports.profile import macs
from students.compact import put_away, take_out
from students.structure import clean, describe, rebuild
from students.surgery import Anatomy, SoftMasks
from teachers.networks import VGG, DeepLab, DenseNet, DigitsCNN, GoogLeNet, LeNet, ResNet
from teachers.networks.googlenet import Inception
from teachers.signature import Signature

Stir = Callable[..., nn.Module]
Compare = Callable[..., nn.Module]

SMALL = (3, 16, 16)


class Inceptions(nn.Module):
    """GoogLeNet in small: a stem, two modules, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.one, self.two = Inception(8, 4, 3, 6, 3, 5, 4), Inception(19, 4, 3, 6, 3, 5, 4)
        self.linear = nn.Linear(19, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.two(self.one(F.relu(self.stem(x)))).mean((2, 3)))
        return logits


BOTTLENECKS = partial(tv.ResNet, tv.resnet.Bottleneck, [1, 1, 1, 1], num_classes=5)
FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "lenet": (LeNet().build, (1, 28, 28), ("channel",)),
    "digits": (DigitsCNN().build, (1, 8, 8), ("channel",)),
    "vgg": (VGG().build, SMALL, ("channel",)),
    "resnet-A": (ResNet(depth=20).build, SMALL, ("channel", "block")),
    "resnet-A-blocks": (ResNet(depth=20).build, SMALL, ("block",)),
    "resnet-B": (ResNet(depth=20, shortcut="B").build, SMALL, ("channel",)),
    "resnet-B-joint": (ResNet(depth=20, shortcut="B").build, SMALL, ("channel", "block")),
    "deeplab": (
        DeepLab(widths=(4, 6, 8, 8), blocks=2, head=6, rates=(1, 2)).build,
        (3, 32, 32),
        ("channel", "block"),
    ),
    "densenet": (DenseNet(depth=13).build, SMALL, ("channel",)),
    "inception": (lambda: Inceptions(), SMALL, ("channel", "branch")),
    "googlenet-branches": (GoogLeNet().build, SMALL, ("branch",)),
    "googlenet-joint": (GoogLeNet().build, SMALL, ("channel", "branch")),
    "mobilenet": (
        partial(tv.mobilenet_v2, num_classes=5, width_mult=0.35),
        (3, 32, 32),
        ("channel", "block"),
    ),
    "resnet18": (partial(tv.resnet18, num_classes=5), (3, 32, 32), ("channel", "block")),
    "resnet50": (BOTTLENECKS, (3, 32, 32), ("channel", "block")),
    "resnext": (partial(BOTTLENECKS, groups=4, width_per_group=4), (3, 32, 32), ("channel", "block")),
    "densenet-torchvision": (
        partial(
            tv.DenseNet, growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=5, drop_rate=0.2
        ),
        (3, 32, 32),
        ("channel",),
    ),
}
UNITS = {"vgg": 4736, "resnet-A-blocks": 9, "googlenet-branches": 36, "densenet": 24 + 9 * 12 + 60 + 96}


@pytest.mark.parametrize("family", FAMILIES)
def test_cut_equals_masked_and_costs_what_was_foretold(
    family: str, stirred: Stir, same_when_cut: Compare
) -> None:
    torch.manual_seed(0)
    build, shape, kinds = FAMILIES[family]
    network = stirred(build())
    inputs = (torch.randn(2, *shape),)
    anatomy = Anatomy(network, inputs, kinds)  # type: ignore[arg-type]
    assert int(anatomy.movable().sum()) == UNITS.get(family, int(anatomy.movable().sum()))
    assert len(anatomy.names()) == len(set(anatomy.names())) == anatomy.size
    assert anatomy.cost(anatomy.full()) == anatomy.macs == macs(network, inputs)
    small = same_when_cut(network, inputs, anatomy)
    clean(small)  # no hook, mask or wrapper
    types = {type(module) for module in small.modules()}
    graphs = {fx.GraphModule, nn.Module} if "channel" not in kinds or len(kinds) > 1 else set()
    assert {kind for kind in types if not issubclass(kind, fx.GraphModule)} <= {
        type(module) for module in network.modules()
    } | graphs
    if isinstance(small, fx.GraphModule):
        assert small(inputs[0]).shape == network(inputs[0]).shape


@pytest.mark.parametrize("family", ["resnet-B-joint", "resnext", "inception", "densenet-torchvision"])
def test_the_price_of_a_unit_is_what_leaves_with_it(family: str) -> None:
    build, shape, kinds = FAMILIES[family]
    anatomy = Anatomy(build(), (torch.randn(2, *shape),), kinds)  # type: ignore[arg-type]
    prices = anatomy.prices()
    assert prices.shape == (anatomy.size,)
    assert (prices >= 1).all()
    for unit in np.random.default_rng(0).choice(anatomy.size, 40, replace=False):
        alone = anatomy.full()
        alone[unit] = False
        assert prices[unit] == pytest.approx(max(anatomy.macs - anatomy.cost(alone), 1), rel=1e-4)


# -- what a student is ---------------------------------------------------------------------------------------


def cut_once(
    network: nn.Module, inputs: tuple[Tensor, ...], kinds: tuple[str, ...], seed: int = 0
) -> nn.Module:
    anatomy = Anatomy(network, inputs, kinds)  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    alive = anatomy.rescue((rng.random(anatomy.size) < 0.6) | ~anatomy.movable(), rng.random(anatomy.size))
    return anatomy.cut(copy.deepcopy(network), alive)


@pytest.mark.parametrize(
    ("family", "kinds"),
    [("resnet-A", ("block",)), ("resnet-B-joint", ("channel", "block")), ("inception", ("branch",)),
     ("digits", ("channel",))],
)  # fmt: skip
def test_a_student_trains_is_copied_described_and_put_away(
    family: str, kinds: tuple[str, ...], stirred: Stir, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    build, shape, _ = FAMILIES[family]
    inputs = (torch.randn(2, *shape),)
    student = cut_once(stirred(build()), inputs, kinds)
    twin = copy.deepcopy(student)
    assert torch.equal(twin(*inputs), student(*inputs))
    structure = describe(student, inputs)
    rebuilt = rebuild(structure)
    rebuilt.load_state_dict(student.state_dict())
    assert torch.equal(rebuilt.eval()(*inputs), student(*inputs))
    put_away(student, tmp_path, signature=Signature((shape,), tuple("abcdefghij")))
    again = take_out(tmp_path)
    assert torch.equal(again.eval()(*inputs), student(*inputs))
    before = [parameter.detach().clone() for parameter in student.parameters()]
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    F.cross_entropy(student.train()(*inputs), torch.tensor([0, 1])).backward()
    optimizer.step()
    assert all(p.grad is not None for p in student.parameters())
    moved = [not torch.equal(old, new) for old, new in zip(before, student.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_a_reloaded_student_is_cut_again(
    shortcut: Any, stirred: Stir, same_when_cut: Compare, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(2, *SMALL),)
    student = cut_once(stirred(ResNet(depth=20, shortcut=shortcut).build()), inputs, ("channel", "block"))
    put_away(student, tmp_path, signature=Signature((SMALL,), tuple("abcdefghij")))
    reloaded = take_out(tmp_path).eval()
    first = Anatomy(student, inputs, ("channel", "block"))
    second = Anatomy(reloaded, inputs, ("channel", "block"))
    assert [(g.name, g.width) for g in first.groups] == [(g.name, g.width) for g in second.groups]
    assert len(first.wholes) == len(second.wholes) > 0
    small = same_when_cut(reloaded, inputs, second)
    same_when_cut(small, inputs, Anatomy(small, inputs, ("channel",)))


def snapshot(network: nn.Module) -> list[Any]:
    return [
        {
            name: (tensor.clone(), tensor.stride())
            for name, tensor in network.state_dict(keep_vars=False).items()
        },
        [(name, p.requires_grad, p.grad, id(p)) for name, p in network.named_parameters()],
        [(id(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()],
    ]


@pytest.mark.parametrize("family", ["resnet-A", "inception"])
def test_looking_at_a_network_leaves_it_alone(family: str, stirred: Stir) -> None:
    build, shape, kinds = FAMILIES[family]
    network = stirred(build()).requires_grad_(False).to(memory_format=torch.channels_last).train()
    for module in network.modules():  # frozen norms beside layers in training
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    before, seed = snapshot(network), torch.random.get_rng_state()
    anatomy = Anatomy(network, (torch.zeros(1, *shape),), kinds)  # type: ignore[arg-type]
    after = snapshot(network)
    assert before[1:] == after[1:]
    for name, (tensor, stride) in before[0].items():
        assert torch.equal(tensor, after[0][name][0])
        assert stride == after[0][name][1]
    assert torch.equal(seed, torch.random.get_rng_state())
    alive = anatomy.full()
    alive[-1] = False
    small = anatomy.cut(network, alive)
    assert not any(parameter.requires_grad for parameter in small.parameters())
    assert {type(m): m.training for m in small.modules() if isinstance(m, nn.BatchNorm2d | nn.Conv2d)} == {
        nn.BatchNorm2d: False, nn.Conv2d: True,
    }  # fmt: skip
    assert small.training


def test_channels_last_and_gradients_asked_for_survive(stirred: Stir) -> None:
    network = stirred(ResNet(depth=20, shortcut="B").build()).to(memory_format=torch.channels_last)
    network.layer1[0].conv1.weight.requires_grad_(False)
    inputs = (torch.randn(2, *SMALL),)
    anatomy = Anatomy(network, inputs)
    alive = anatomy.full()
    for number in range(len(anatomy.groups)):
        alive[anatomy.span(number).start] = False
    small = anatomy.cut(network, alive)
    weights = {n: p for n, p in small.named_parameters() if p.dim() == 4}
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights.values())
    assert [n for n, p in small.named_parameters() if not p.requires_grad] == ["layer1.0.conv1.weight"]


# -- masks ---------------------------------------------------------------------------------------------------


def test_masks_of_one_are_the_network_and_blocks_alone_leave_channels_be(stirred: Stir) -> None:
    network = stirred(Inceptions())
    inputs = (torch.randn(2, *SMALL),)
    anatomy = Anatomy(network, inputs, ("branch",))
    masks = SoftMasks(anatomy, network)
    torch.testing.assert_close(masks(*inputs), network(*inputs), rtol=0, atol=0)
    masks(*inputs).sum().backward()
    gradient = masks.values.grad
    assert gradient is not None
    assert not gradient[: anatomy.first_whole].any()  # the groups are there for the cost alone
    assert gradient[anatomy.first_whole :].all()
    assert not anatomy.movable()[: anatomy.first_whole].any()


def test_rescue_keeps_the_best_and_touches_nothing_else(stirred: Stir) -> None:
    anatomy = Anatomy(Inceptions(), (torch.randn(2, *SMALL),), ("channel", "branch"))
    scores = np.random.default_rng(0).random(anatomy.size)
    none = np.zeros(anatomy.size, dtype=bool)
    saved = anatomy.rescue(none, scores)
    assert not none.any()
    for number in range(len(anatomy.groups)):
        span = anatomy.span(number)
        assert saved[span].sum() == 1
        assert saved[span][np.argmax(scores[span])]
    assert saved[anatomy.first_whole :].sum() == 2  # a branch of each module
    np.testing.assert_array_equal(anatomy.rescue(saved, scores), saved)
    small = anatomy.cut(Inceptions(), saved)
    assert macs(small, (torch.randn(2, *SMALL),)) == anatomy.cost(saved)
    assert not saved.all()


# -- wrong use -----------------------------------------------------------------------------------------------


class Answers(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.head, self.wrap = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.head(self.conv(x).mean((2, 3))))


@pytest.mark.parametrize(("wrap", "kind"), [(lambda y: {"logits": y}, "dict"), (lambda y: (y, y), "tuple")])
@pytest.mark.parametrize("kinds", [("channel",), ("block",)])
def test_one_tensor_is_what_a_network_gives(wrap: Callable[[Tensor], Any], kind: str, kinds: Any) -> None:
    with pytest.raises(ValueError, match=f"the network gives a {kind}; one tensor is needed"):
        Anatomy(Answers(wrap), (torch.randn(2, 3, 8, 8),), kinds)


def test_nothing_to_cut_is_said_with_reasons() -> None:
    with pytest.raises(ValueError, match="Sequential has no channel that can be cut: no convolution"):
        Anatomy(nn.Sequential(nn.Flatten(), nn.ReLU()), (torch.randn(2, 3, 2, 2),))
    with pytest.raises(
        ValueError, match=r"no channel that can be cut: 1: no layer reads it: it is an output"
    ):
        Anatomy(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (torch.randn(2, 3, 2, 2),))
    with pytest.raises(
        ValueError, match=r"LeNetNetwork has no block or branch .*: no addition .*; no concat"
    ):
        Anatomy(LeNet().build(), (torch.randn(2, 1, 28, 28),), ("block", "branch"))
