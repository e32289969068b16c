"""Blocks and branches: found in the graph, taken out of it, and the graph that is left."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, fx, nn

from students.blocks import find_wholes, take_out, trace
from students.surgery import Anatomy
from teachers.networks import DenseNet, GoogLeNet, ResNet

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual block of 4 channels whose addition, and what follows the convolutions, is given."""

    def __init__(
        self,
        join: Callable[[Tensor, Tensor], Tensor] = torch.add,
        end: Callable[[Tensor], Tensor] = nn.Identity(),
    ) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.head, self.join, self.end = nn.Linear(4, 3), join, end

    def forward(self, x: Tensor) -> Tensor:
        y = self.end(self.conv2(F.relu(self.conv1(x))))
        return self.head(self.join(x, y).mean((2, 3)))  # type: ignore[no-any-return]


def names(network: nn.Module, kinds: tuple[str, ...] = ("block", "branch")) -> list[str]:
    return [whole.name for whole in find_wholes(network, kinds)[0]]


# -- found ---------------------------------------------------------------------------------------------------


def test_the_blocks_and_branches_of_known_networks() -> None:
    places = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]
    for shortcut in ("A", "B"):
        assert names(ResNet(depth=20, shortcut=shortcut).build()) == places  # type: ignore[arg-type]
    assert len(names(tv.resnet50(), ("block",))) == 16
    assert len(names(tv.mobilenet_v2(), ("block",))) == 10
    googlenet = names(GoogLeNet().build(), ("branch",))
    assert len(googlenet) == 36
    assert googlenet[:4] == ["a3.b1.1", "a3.b2.4", "a3.b3.7", "a3.b4.2"]  # the norms that carry their scalars
    assert names(GoogLeNet().build(), ("block",)) == []


def test_torchvisions_stochastic_depth_is_no_obstacle() -> None:
    assert len(names(tv.efficientnet_b0(), ("block",))) == 9


def test_a_scale_per_channel_behind_a_block_is_no_obstacle() -> None:
    stages = [tv.convnext.CNBlockConfig(8, 16, 2), tv.convnext.CNBlockConfig(16, None, 1)]
    network = tv.ConvNeXt(stages, num_classes=5)
    assert len(names(network, ("block",))) == 3
    anatomy = Anatomy(network, (torch.randn(2, 3, 32, 32),), ("block",))
    assert len(anatomy.wholes) == 3


def test_dense_layers_are_no_branches_as_a_norm_revives_what_is_silenced() -> None:
    anatomy = Anatomy(DenseNet(depth=13).build(), (torch.randn(2, 3, 16, 16),), ("channel", "branch"))
    assert not anatomy.wholes
    assert any("taking it out differs from silencing it by" in lock.reason for lock in anatomy.locked)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (Block(end=torch.sigmoid), "it ends in 'sigmoid', behind which no factor can be moved"),
        (Block(end=lambda y: y + 1), "it ends in 'add', behind which no factor"),
        (Block(lambda x, y: x + y + y.mean()), "'end' at its end is also read elsewhere"),
        (Block(end=nn.BatchNorm2d(4, affine=False)), "it ends in 'end', behind which"),
    ],
)
def test_why_a_block_stays(block: nn.Module, reason: str) -> None:
    found, locked = find_wholes(block, ("block",))
    assert not found
    assert any(reason in lock.reason for lock in locked), locked


def test_no_block_where_factors_differ_or_nothing_goes_around() -> None:
    for join in (partial(torch.add, alpha=2), torch.mul, lambda x, y: y + 2):
        assert find_wholes(Block(join), ("block",)) == ((), ())


def test_layers_used_elsewhere_keep_a_block_in_place() -> None:
    class Shared(Block):
        def forward(self, x: Tensor) -> Tensor:
            x = x + self.conv2(F.relu(self.conv1(x)))
            return self.head(x.mean((2, 3))) * self.conv1(x).mean()  # type: ignore[no-any-return]

    found, locked = find_wholes(Shared(), ("block",))
    assert not found
    assert "'conv1' inside it is also used elsewhere" in [lock.reason for lock in locked]

    class Peeked(Block):
        def forward(self, x: Tensor) -> Tensor:
            inner = F.relu(self.conv1(x))
            return self.head((x + self.conv2(inner)).mean((2, 3)) * inner.mean())  # type: ignore[no-any-return]

    (lock,) = find_wholes(Peeked(), ("block",))[1]
    assert "inside it is also read elsewhere" in lock.reason


def test_blocks_of_one_name_are_told_apart() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(4)])
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            a, b, c, d = self.body
            x = x + b(F.relu(a(x)))
            x = x + d(F.relu(c(x)))
            return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]

    network = Two()
    assert names(network) == ["body:add", "body:add_1"]
    anatomy = Anatomy(network, (X,), ("block",))
    alive = anatomy.full()
    alive[1] = False
    small = anatomy.cut(network, alive)
    assert [name for name, m in small.named_modules() if isinstance(m, nn.Conv2d)] == ["body.0", "body.1"]


# -- taken out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "join", [torch.add, lambda x, y: x + y, lambda x, y: y + x, lambda x, y: y.add_(x), lambda x, y: x.add(y)]
)
@pytest.mark.parametrize("end", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.ReLU(), nn.Dropout2d(0.1), F.relu])
def test_what_is_left_is_the_way_around(join: Any, end: Any) -> None:
    network = Block(join, end).eval()
    (whole,), locked = find_wholes(network, ("block",))
    assert not locked
    small = take_out(network, [whole])
    torch.testing.assert_close(small(X), network.head(X.mean((2, 3))))
    assert [name for name, _ in small.named_modules()] == ["", "head"]
    assert network.conv1 is not None  # the network itself is whole
    assert small.head is network.head


def test_a_concatenation_never_loses_all() -> None:
    network = GoogLeNet().build()
    branches, _ = find_wholes(network, ("branch",))
    with pytest.raises(ValueError, match=r"'cat' would lose everything it joins \(a3.b1.1, .*\): keep one"):
        take_out(network, branches)


# -- the graph -----------------------------------------------------------------------------------------------


class Moody(nn.Module):
    """Dropout by function, a rate that is a number only in training, and a block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.conv3, self.conv4 = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.dropout(self.conv2(F.relu(self.conv1(x))), 0.5, self.training)
        x = x + F.dropout(self.conv4(F.relu(self.conv3(x))), p=0.5, training=self.training)
        return self.head(F.dropout(x.mean((2, 3)), p=0.4 if self.training else 0.0, training=True))  # type: ignore[no-any-return]


@pytest.mark.parametrize("training", [True, False])
def test_a_traced_network_keeps_both_its_modes(training: bool) -> None:
    network = Moody().train(training)
    graph = trace(network)
    assert graph.training == training
    for mode in (True, False, True):
        answers = []
        for one in (network, graph):
            torch.manual_seed(0)
            answers.append(one.train(mode)(X))
        torch.testing.assert_close(*answers, rtol=0, atol=0)
    found, locked = find_wholes(network, ("block",))
    assert (len(found), locked) == (2, ())
    small = take_out(take_out(network, found[:1]), [])  # a graph of a graph
    assert torch.equal(small.eval()(X), small(X))
    assert not torch.equal(small.train()(X), small(X))


def test_modes_that_differ_layer_by_layer_are_kept() -> None:
    network = ResNet(depth=20).build().train()
    network.layer2[0].bn1.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    graph = trace(network)
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert {n: m.training for n, m in graph.named_modules()} == {
        n: modes[n] for n, _ in graph.named_modules()
    }


def test_a_layer_under_another_name_stays_a_layer() -> None:
    class MyNorm(nn.BatchNorm2d):
        def __init__(self, width: int) -> None:
            super().__init__(width, eps=1e-3)

    (whole,), _ = find_wholes(Block(end=MyNorm(4)), ("block",))
    assert whole.tail == "end"


def test_what_cannot_be_traced_is_said() -> None:
    class Loose(Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else x

    class Other(Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * 2 if self.training else x)

    with pytest.raises(
        ValueError, match=r"Loose cannot be traced, .*prune channels instead, or free its forward"
    ):
        find_wholes(Loose(), ("block",))
    with pytest.raises(ValueError, match="Other calls other things in training mode than in evaluation"):
        find_wholes(Other(), ("block",))
    assert isinstance(trace(Block()), fx.GraphModule)
