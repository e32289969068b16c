"""Blocks that go with the last of their channels: which they are, what that costs, and that the cut is exact."""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn

from reports.profile import macs
from students.budget import choose, floor
from students.surgery import Anatomy, SoftMasks
from teachers.networks import ResNet

INPUTS = (torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)),)
BOTH = ("channel", "block")


class Forked(nn.Module):
    """Two residual blocks: one whose channels have a way around them inside the block, and a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.narrow, self.wide = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(8, 10, 1)
        self.join = nn.Conv2d(16, 8, 1)
        self.inner, self.outer = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + self.join(F.relu(torch.cat([self.narrow(x), self.wide(x)], 1)))
        x = x + self.outer(F.relu(self.inner(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def named(network: nn.Module) -> dict[str, str]:
    anatomy = Anatomy(network, INPUTS, BOTH)
    return {anatomy.groups[group].name: anatomy.wholes[place].tail for group, place in anatomy.hollow.items()}


def test_basic_blocks_hang_on_the_channels_between_their_convolutions() -> None:
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3)]
    assert named(ResNet(depth=20).build()) == {f"{b}.conv1": f"{b}.bn2" for b in blocks}


def test_bottlenecks_hang_on_either_of_two_widths() -> None:
    network = partial(tv.ResNet, tv.resnet.Bottleneck, [1, 2, 1, 1], num_classes=5)()
    found = named(network)
    for block in ("layer1.0", "layer2.1"):
        assert found[f"{block}.conv1"] == found[f"{block}.conv2"] == f"{block}.bn3"


def test_a_block_with_a_way_around_a_group_does_not_hang_on_it() -> None:
    assert named(Forked()) == {"inner": "outer"}


def test_without_blocks_or_without_channels_nothing_hangs() -> None:
    network = ResNet(depth=20).build()
    assert Anatomy(network, INPUTS, ("channel",)).hollow == {}
    assert Anatomy(network, INPUTS, ("block",)).hollow == {}


def test_the_cut_network_is_the_masked_one_and_costs_what_was_foretold(
    stirred: Callable[..., nn.Module],
) -> None:
    network = stirred(ResNet(depth=20).build())
    anatomy = Anatomy(network, INPUTS, BOTH)
    alive = anatomy.full()
    alive[anatomy.span(4)] = False  # layer2.1 has no channel left
    alive[anatomy.span(0)][3:] = False
    settled = anatomy.hollowed(alive)
    assert not settled[anatomy.first_whole + 4]
    assert settled.sum() == alive.sum() - 1
    block_first = anatomy.full()
    block_first[anatomy.first_whole + 4] = False
    assert not anatomy.hollowed(block_first)[anatomy.span(4)].any()

    masks = SoftMasks(anatomy, copy.deepcopy(network))
    with torch.no_grad():
        masks.values.copy_(torch.from_numpy(settled).float())
        wanted = masks(*INPUTS)
        small = anatomy.cut(copy.deepcopy(network), alive)
        torch.testing.assert_close(small(*INPUTS), wanted, rtol=1e-5, atol=1e-5)
    assert macs(small, INPUTS) == anatomy.cost(alive) == anatomy.cost(settled)
    assert "layer2.1.conv1" not in dict(small.named_modules())


@pytest.mark.parametrize("round_to", [1, 4, 8])
def test_a_budget_may_take_the_last_channels_of_a_block(round_to: int) -> None:
    """Where they are worth least: what that frees keeps more of the others than narrow blocks everywhere would."""
    network = ResNet(depth=20).build()
    both, channels = (Anatomy(network, INPUTS, kinds) for kinds in (BOTH, ("channel",)))
    worth = np.random.default_rng(0).uniform(1, 2, both.size)
    poor = [1, 2, 4]
    for group in poor:
        worth[both.span(group)] = np.random.default_rng(group).uniform(0, 0.1, both.groups[group].width)
    worth[both.first_whole :] = 5.0  # as a whole, no block looks dispensable
    budget = int(0.4 * both.macs)
    joint = choose(both, worth, budget, round_to)
    alone = choose(channels, worth[: both.first_whole], budget, round_to)
    assert both.cost(joint) <= budget
    for group in poor:
        assert not joint[both.span(group)].any()
        assert not joint[both.first_whole + both.hollow[group]]
        assert alone[channels.span(group)].any()
    rest = np.ones(both.first_whole, dtype=bool)
    for group in poor:
        rest[both.span(group)] = False
    assert joint[: both.first_whole][rest].sum() > alone[rest].sum()
    assert floor(both, round_to) < floor(channels, round_to)
    small = both.cut(copy.deepcopy(network), joint)
    assert macs(small, INPUTS) == both.cost(joint)
