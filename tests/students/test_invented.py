"""Networks that nobody designed: whatever hypothesis strings together is cut exactly, or locked."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from students.surgery import Anatomy

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
UP = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
MEAN = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
SIZE = 4

Step = tuple[str, int, int, bool]
"""what, width, a number to choose by, bias"""


class Residual(nn.Module):
    """x + inner(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Concat(nn.Module):
    """Branches side by side; with `keep` what came in stands first."""

    def __init__(self, branches: list[nn.Module], keep: bool) -> None:
        super().__init__()
        self.branches, self.keep = nn.ModuleList(branches), keep

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*([x] if self.keep else []), *(branch(x) for branch in self.branches)], 1)


class Twice(nn.Module):
    """One layer called two times."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(F.relu(self.inner(x)))


class Gate(nn.Module):
    """Squeeze and excitation: a factor per channel, out of all channels."""

    def __init__(self, dims: int, width: int, hidden: int) -> None:
        super().__init__()
        self.squeeze, self.down, self.up = (
            MEAN[dims](1),
            CONV[dims](width, hidden, 1),
            CONV[dims](hidden, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(self.squeeze(x)))))


def layers(dims: int, width: int, step: Step) -> tuple[list[nn.Module], int]:
    """What a step adds to a network of `width` channels, and the width after it."""
    kind, wide, number, bias = step
    conv, size = CONV[dims], 1 + 2 * (number % 2)
    if kind == "conv":
        return [conv(width, wide, size, padding=size // 2, bias=bias)], wide
    if kind == "unit":
        return [conv(width, wide, size, padding=size // 2, bias=bias), BATCH[dims](wide), nn.ReLU()], wide
    if kind == "transposed":
        return [UP[dims](width, wide, 3, padding=1, bias=bias), nn.ReLU()], wide
    if kind == "grouped":
        groups = 2 + number % 2
        before = conv(width, groups * wide, 1, bias=bias)
        return [before, nn.ReLU(), conv(groups * wide, groups * 2, 3, padding=1, groups=groups)], groups * 2
    if kind == "upgrouped":
        before = conv(width, 2 * wide, 1, bias=bias)
        return [before, UP[dims](2 * wide, 4, 3, padding=1, groups=2)], 4
    if kind == "depthwise":
        return [conv(width, width, 3, padding=1, groups=width, bias=bias), nn.ReLU6()], width
    if kind == "residual":
        inner = [conv(width, wide, size, padding=size // 2, bias=bias), BATCH[dims](wide), nn.ReLU()]
        return [Residual(nn.Sequential(*inner, conv(wide, width, 1)))], width
    if kind == "concat":
        other = 2 + number
        branches = [
            conv(width, wide, 1, bias=bias),
            nn.Sequential(conv(width, other, 3, padding=1), BATCH[dims](other)),
        ]
        return [Concat(branches, keep=bias)], wide + other + bias * width
    if kind == "twice":
        return [Twice(conv(width, width, size, padding=size // 2, bias=bias))], width
    if kind == "gate":
        return [Gate(dims, width, wide)], width
    norms: list[nn.Module] = [
        nn.PReLU(width), nn.PReLU(), nn.GELU(), INSTANCE[dims](width, affine=bias),
        BATCH[dims](width, affine=bias), nn.GroupNorm(1, width), nn.Dropout(0.3), nn.Softmax(1),
    ]  # fmt: skip
    return [norms[number % len(norms)]], width


class Invented(nn.Module):
    def __init__(self, dims: int, channels: int, steps: list[Step], head: int) -> None:
        super().__init__()
        width, rows = channels, []
        for step in steps:
            more, width = layers(dims, width, step)
            rows += more
        self.body = nn.Sequential(*rows)
        pool = head % 2
        self.pool = MEAN[dims](1) if pool else nn.Identity()
        features = width * (1 if pool else SIZE**dims)
        hidden = [nn.Linear(features, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)]
        self.head = nn.Sequential(*(hidden if head >= 2 else [nn.Linear(features, 3)]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.body(x)), 1))


KINDS = (
    "conv", "unit", "transposed", "grouped", "upgrouped", "depthwise", "residual", "concat", "twice", "gate",
    "other", "other",
)  # fmt: skip
steps = st.tuples(st.sampled_from(KINDS), st.integers(2, 6), st.integers(0, 7), st.booleans())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    dims=st.sampled_from([1, 2, 2, 3]),
    steps=st.lists(steps, min_size=1, max_size=6),
    head=st.integers(0, 3),
    blocks=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_whatever_is_cut_is_cut_exactly(
    stirred: Callable[..., nn.Module],
    same_when_cut: Callable[..., nn.Module],
    dims: int,
    steps: list[Step],
    head: int,
    blocks: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    network = stirred(Invented(dims, 3, steps, head), seed)
    inputs = (torch.randn(2, 3, *[SIZE] * dims),)
    kinds: Any = ("channel", "block", "branch") if blocks else ("channel",)
    try:
        anatomy = Anatomy(network, inputs, kinds)
    except ValueError as refusal:
        if "can be cut: " not in str(refusal):
            raise
        return
    cut = same_when_cut(network, inputs, anatomy, seeds=(seed,), bites=False)
    assert sum(p.numel() for p in cut.parameters()) <= sum(p.numel() for p in network.parameters())
