"""Which channels may go, which are locked and why; the knife; the trials that prove a group."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from students.groups import Group, Locked, Member, find_groups, refuse_tied
from students.knife import cut, scale_inputs
from students.surgery import Anatomy
from students.trial import Trial, sift
from teachers.networks import DigitsCNN, ResNet

IMAGES = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
Stir = Callable[..., nn.Module]
Compare = Callable[..., nn.Module]


class Net(nn.Module):
    """Two convolutions and a classifier, with something between the first two."""

    def __init__(self, between: Callable[[Tensor], Tensor] | nn.Module, width: int = 8) -> None:
        super().__init__()
        self.conv1, self.between = nn.Conv2d(3, width, 3, padding=1), between
        self.conv2, self.head = nn.Conv2d(width, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(self.between(self.conv1(x))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Folded(nn.Module):
    """A reshape that knows how many features there are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 16, 3, stride=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv2(self.conv1(x)).view(-1, 16))  # type: ignore[no-any-return]


def look(
    network: nn.Module, inputs: tuple[Tensor, ...] = IMAGES
) -> tuple[dict[str, Group], dict[str, Locked]]:
    groups, locked = find_groups(network, inputs)
    return {group.name: group for group in groups}, {lock.name: lock for lock in locked}


# -- locked --------------------------------------------------------------------------------------------------


def test_the_stream_of_a_residual_network_with_padded_shortcuts_is_locked() -> None:
    groups, locked = look(ResNet(depth=20).build())
    assert set(groups) == {f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in (0, 1, 2)}
    assert set(locked) == {"conv1", "linear"}
    assert "does not run once it is cut" in locked["conv1"].reason
    assert {"conv1", "layer3.2.conv2", "linear"} <= locked["conv1"].modules


def test_a_reshape_of_fixed_size_locks_the_layer_before_it() -> None:
    groups, locked = look(Folded())
    assert set(groups) == {"conv1"}
    assert set(locked) == {"conv2", "head"}


@pytest.mark.parametrize(
    "mixes",
    [nn.Softmax(1), nn.GroupNorm(2, 8), nn.GroupNorm(8, 8), nn.LocalResponseNorm(3), nn.LayerNorm([8, 8, 8]),
     lambda x: x.flip(1), lambda x: x / x.norm(dim=1, keepdim=True), lambda x: x - x.mean(1, keepdim=True)],
    ids=["softmax", "group", "groups of one", "response", "layer", "flip", "normalise", "centre"],
)  # fmt: skip
def test_what_mixes_channels_is_locked(mixes: Any) -> None:
    groups, locked = look(Net(mixes))
    assert set(groups) == {"conv2"}
    assert set(locked) == {"conv1", "head"}
    assert locked["conv1"].reason


@pytest.mark.parametrize("hides", ["gamma", "dead", "tiny"])
def test_a_wrong_cut_is_seen_where_trained_weights_would_hide_it(hides: str) -> None:
    network = Net(nn.Softmax(1))
    with torch.no_grad():
        if hides == "dead":
            network.conv2.bias.fill_(-1e3)
        else:
            network.head.weight.mul_(0.0 if hides == "gamma" else 1e-9)
    assert "conv1" in look(network)[1]


def test_the_head_is_never_cut() -> None:
    for network in (Net(nn.ReLU()), nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.Flatten())):
        groups, locked = look(network)
        (head,) = locked.values()
        assert head.reason == "no layer reads it: it is an output of the network"
        assert all(m.axis == "in" for g in groups.values() for m in g.members if m.module == head.name)


def test_an_output_that_is_read_again_is_no_group() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head, self.back = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.head(self.conv(x).mean((2, 3)))
            return y + self.back(torch.relu(y))  # type: ignore[no-any-return]

    groups, locked = look(Recurrent())
    assert set(groups) == {"conv"}
    assert "whose shape would change from 2x5" in locked["head"].reason


def test_a_network_that_cannot_be_followed_is_locked_as_a_whole() -> None:
    groups, locked = look(tv.shufflenet_v2_x0_5(num_classes=5), (torch.randn(2, 3, 32, 32),))
    assert not groups
    (lock,) = locked.values()
    assert str(lock).startswith("the whole network: torch-pruning cannot follow its channels (")


@pytest.mark.timeout(20)
def test_positions_that_multiply_without_end_are_no_endless_loop() -> None:
    network = tv.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=5)
    groups, locked = look(network, (torch.randn(2, 3, 32, 32),))
    assert groups or "without end" in locked["the whole network"].reason


def test_parametrized_layers_and_bare_parameters_are_locked() -> None:
    network = Net(nn.ReLU())
    network.conv2 = weight_norm(network.conv2)  # type: ignore[assignment]
    groups, locked = look(network)
    assert not groups
    assert "'conv2' is parametrized" in locked["conv1"].reason

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(8, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    groups, locked = look(Net(Scaled()))
    assert set(groups) == {"conv2"}
    assert "bare parameter" in locked["conv1"].reason


def test_a_single_channel_and_a_multiplier_are_locked() -> None:
    locked = look(Net(nn.ReLU(), width=1))[1]
    assert locked["conv1"].reason == "it has a single unit, and a layer keeps at least one"
    many = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 2, 1), nn.Flatten())
    groups, locked = look(many)
    assert "0" not in groups
    assert "single unit" in locked["0"].reason


# -- tied and shared -----------------------------------------------------------------------------------------


def test_tied_weights_are_refused_by_both_names() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(48, 5))
    network[1].weight = network[0].weight
    with pytest.raises(
        ValueError, match=r"'0.weight' and '1.weight' are one tied parameter of shape \(3, 3, 3, 3\)"
    ):
        Anatomy(network, IMAGES)


def test_one_layer_under_two_names_or_called_twice_is_cut_exactly(
    stirred: Stir, same_when_cut: Compare
) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.again, self.norm = self.inner, nn.BatchNorm2d(8)
            self.last, self.head = nn.Conv2d(8, 6, 3), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.norm(self.inner(F.relu(self.stem(x)))))
            x = self.last(F.relu(self.again(x)))
            return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]

    network = stirred(Shared())
    refuse_tied(network)
    anatomy = Anatomy(network, IMAGES)
    assert {group.name: group.width for group in anatomy.groups}["last"] == 6
    small = same_when_cut(network, IMAGES, anatomy)
    assert small.again is small.inner


# -- exact where it may be ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "between",
    [nn.PReLU(8), nn.PReLU(), nn.InstanceNorm2d(8, affine=True), nn.InstanceNorm2d(8, track_running_stats=True),
     nn.BatchNorm2d(8, affine=False), nn.Conv2d(8, 8, 3, groups=8), nn.Dropout(0.5), nn.ELU(),
     nn.ConvTranspose2d(8, 8, 2, groups=8), nn.Conv2d(8, 8, 3, groups=2), lambda x: x[:, :, ::2] * 2,
     lambda x: torch.cat([x, -x], 1)[:, :8]],
)  # fmt: skip
def test_what_keeps_channels_apart_is_cut_exactly(
    between: Any, stirred: Stir, same_when_cut: Compare
) -> None:
    torch.manual_seed(0)
    network = stirred(Net(between))
    cut = same_when_cut(network, IMAGES, Anatomy(network, IMAGES))
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in network.parameters())


def test_a_layer_with_many_makers_never_loses_one(stirred: Stir, same_when_cut: Compare) -> None:
    class Joined(nn.Module):
        """Two convolutions side by side, then one that keeps channels apart: one group, two makers."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 6, 3)
            self.apart, self.head = nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.apart(torch.cat([self.a(x), self.b(x)], 1)).mean((2, 3)))  # type: ignore[no-any-return]

    network = stirred(Joined())
    anatomy = Anatomy(network, IMAGES)
    for seed in range(8):
        small = same_when_cut(network, IMAGES, anatomy, seeds=(seed,), bites=False)
        assert min(small.a.out_channels, small.b.out_channels) >= 1


def test_a_group_speaks_of_every_layer_it_touches() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
    )
    (group,) = look(network)[0].values()
    assert (group.name, group.width) == ("0", 4)
    assert {(m.module, m.axis) for m in group.members} == {("0", "out"), ("1", "both"), ("4", "in")}
    (reader,) = group.readers()
    assert torch.equal(reader.index, torch.arange(256))
    assert torch.equal(reader.unit, torch.arange(256) // 64)  # one unit owns an image of 8x8


# -- the knife -----------------------------------------------------------------------------------------------


def test_the_knife_leaves_no_layer_empty_and_no_group_uneven() -> None:
    conv = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2))
    group = Group("0", 4, (Member("0", "out", torch.arange(4), torch.arange(4)),))
    with pytest.raises(
        ValueError, match="the cut would leave '0' without a channel: keep at least one of its 4"
    ):
        cut(conv, {"0": torch.ones(4, dtype=torch.bool)}, [group])
    with pytest.raises(
        ValueError, match="'0' has 2 convolution groups, which must lose the same channels each"
    ):
        cut(conv, {"0": torch.tensor([True, False, False, False])}, [group])
    cut(conv, {"0": torch.ones(4, dtype=torch.bool)}, [group], gone=frozenset({"0"}))
    assert conv[0].out_channels == 4
    cut(conv, {"0": torch.tensor([True, False, True, False])}, [group])
    assert (conv[0].weight.shape, conv[0].bias.shape, conv[0].out_channels) == ((2, 2, 1, 1), (2,), 2)
    assert conv(torch.randn(1, 4, 2, 2)).shape == (1, 2, 2, 2)


def test_the_knife_knows_no_other_layers() -> None:
    group = Group("0", 8, (Member("0", "both", torch.arange(8), torch.arange(8)),))
    with pytest.raises(ValueError, match="'0' is a LayerNorm, which nobody here knows how to narrow"):
        cut(nn.Sequential(nn.LayerNorm(8)), {"0": torch.arange(8) < 1}, [group])


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Linear(6, 4), (6,)), (nn.Conv1d(6, 4, 3), (6, 5)), (nn.Conv2d(6, 4, 3, groups=2), (6, 5, 5)),
     (nn.Conv3d(6, 6, 2, groups=6), (6, 3, 3, 3)), (nn.ConvTranspose1d(6, 4, 3), (6, 5)),
     (nn.ConvTranspose2d(6, 4, 3, groups=2), (6, 4, 4))],
)  # fmt: skip
def test_scaled_inputs_are_scaled_weights(layer: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, scale = torch.randn(2, *shape), torch.rand(6)
    wanted = layer(x * scale.view(-1, *[1] * (len(shape) - 1)))
    scaled = copy.deepcopy(layer)
    with torch.no_grad():
        scaled.weight.copy_(scale_inputs(layer, layer.weight, scale))
    torch.testing.assert_close(scaled(x), wanted)


# -- trials --------------------------------------------------------------------------------------------------


@given(
    bad=st.sets(st.integers(0, 19)),
    rival=st.sets(st.integers(0, 19), min_size=2, max_size=2),
    count=st.integers(0, 20),
)
def test_sifting_keeps_what_goes_together(bad: set[int], rival: set[int], count: int) -> None:
    tried: list[list[int]] = []

    def differs(items: list[int]) -> str | None:
        tried.append(items)
        wrong = bad & set(items) or (rival if rival <= set(items) else set())
        return f"{sorted(wrong)}" if wrong else None

    kept, refused = sift(range(count), differs)
    assert sorted([*kept, *(item for item, _ in refused)]) == list(range(count))
    assert differs(kept) is None
    assert {item for item, _ in refused} - bad <= rival
    if not bad and max(rival) >= count:
        assert len(tried) <= 2  # all at once, and the look above


def test_trials_run_on_copies_drawn_anew() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)).train()
    nn.init.zeros_(network[1].weight)
    trial = Trial.of(network, (IMAGES[0][:1],))
    assert len(trial.inputs[0]) == 2
    assert len(trial.twins) == 3
    for twin, whole in zip(trial.twins, trial.wholes, strict=True):
        assert not twin.training
        assert twin[1].weight.min() >= 0.5
        torch.testing.assert_close(twin(*trial.inputs), whole)
    assert network.training
    assert not network[1].weight.any()


def test_a_network_that_makes_numbers_of_its_own_is_tried_in_its_precision() -> None:
    insists = Net(lambda x: x.float().relu())
    assert Trial.of(insists, IMAGES).tolerance > Trial.of(Net(nn.ReLU()), IMAGES).tolerance
    assert set(look(insists)[0]) == {"conv1", "conv2"}
    half = DigitsCNN().build().to(torch.bfloat16)
    groups, _ = look(half, (torch.randn(2, 1, 8, 8, dtype=torch.bfloat16),))
    assert len(groups) == 3
    assert half.linear.weight.dtype == torch.bfloat16
