"""Budgets: met, in round widths, never a layer without a channel, and refused with the floor where they cannot be."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reports.profile import macs
from reports.units import count
from students.budget import choose, floor, uniform
from students.surgery import Alive, Anatomy
from teachers.networks import ResNet


class Small(nn.Module):
    """A stem, a residual block, three branches of which one is dear, a depthwise layer on two makers, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.conv1, self.conv2 = nn.Conv2d(12, 20, 3, padding=1), nn.Conv2d(20, 12, 3, padding=1)
        self.a, self.b, self.c = nn.Conv2d(12, 10, 5, padding=2), nn.Conv2d(12, 7, 1), nn.Conv2d(12, 8, 1)
        self.d, self.e = nn.Conv2d(25, 3, 1), nn.Conv2d(25, 13, 1)
        self.apart, self.head = nn.Conv2d(16, 16, 3, groups=16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.conv2(torch.relu(self.conv1(x)))
        x = torch.relu(torch.cat([self.a(x), self.b(x), self.c(x)], 1))
        x = self.apart(torch.cat([self.d(x), self.e(x)], 1))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


INPUTS = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
KINDS: tuple[Any, ...] = (("channel",), ("block",), ("branch",), ("channel", "block", "branch"))
ANATOMIES: dict[Any, Anatomy] = {}


def anatomy_of(kinds: Any) -> Anatomy:
    if kinds not in ANATOMIES:
        torch.manual_seed(0)
        ANATOMIES[kinds] = Anatomy(Small(), INPUTS, kinds)
    return ANATOMIES[kinds]


def cost(anatomy: Anatomy, alive: Alive) -> int:
    """By cutting, not by arithmetic."""
    return macs(anatomy.cut(Small(), alive), INPUTS)


def priorities(anatomy: Anatomy, seed: int, ties: bool) -> Any:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, anatomy.size).astype(float) if ties else rng.random(anatomy.size)


def test_the_small_network_has_what_these_tests_need() -> None:
    anatomy = anatomy_of(KINDS[-1])
    assert {g.name: g.width for g in anatomy.groups} == {
        "conv2": 12, "conv1": 20, "a": 10, "b": 7, "c": 8, "apart": 16,
    }  # fmt: skip
    assert [(w.kind, w.tail) for w in anatomy.wholes] == [
        ("block", "conv2"), ("branch", "a"), ("branch", "b"), ("branch", "c"),
    ]  # fmt: skip


# -- meeting it ----------------------------------------------------------------------------------------------

ANY = {
    "kinds": st.sampled_from(KINDS),
    "seed": st.integers(0, 10_000),
    "ties": st.booleans(),
    "round_to": st.sampled_from([1, 2, 4, 8, 64]),
    "share": st.floats(0, 1),
}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(**ANY)
def test_a_budget_is_met_in_round_widths_that_are_never_nothing(
    kinds: Any, seed: int, ties: bool, round_to: int, share: float
) -> None:
    anatomy = anatomy_of(kinds)
    least = floor(anatomy, round_to)
    budget = int(least + share * (anatomy.macs - least))
    alive = choose(anatomy, priorities(anatomy, seed, ties), budget, round_to)
    assert cost(anatomy, alive) == anatomy.cost(alive) <= budget
    for number, group in enumerate(anatomy.groups):
        width = int(alive[anatomy.span(number)].sum())
        if number in anatomy.hollow:
            assert alive[anatomy.first_whole + anatomy.hollow[number]] == (width > 0)
            if not width:
                continue
        assert width == group.width or (
            0 < width < group.width and width % round_to == 0 and anatomy.channels
        )
    branches = [alive[anatomy.first_whole + p] for p, w in enumerate(anatomy.wholes) if w.kind == "branch"]
    assert any(branches) or not branches
    if "branch" not in kinds:
        assert len(anatomy.wholes) == ("block" in kinds)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(**ANY, more=st.floats(0, 1))
def test_a_larger_budget_never_buys_less(
    kinds: Any, seed: int, ties: bool, round_to: int, share: float, more: float
) -> None:
    anatomy = anatomy_of(kinds)
    priority, least = priorities(anatomy, seed, ties), floor(anatomy, round_to)
    budgets = [int(least + part * (anatomy.macs - least)) for part in sorted((share, more))]
    costs = [anatomy.cost(choose(anatomy, priority, budget, round_to)) for budget in budgets]
    assert costs[0] <= costs[1]
    assert costs[1] <= budgets[1]


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("round_to", [1, 8])
def test_the_floor_and_the_whole_are_budgets_too(kinds: Any, round_to: int) -> None:
    anatomy = anatomy_of(kinds)
    flat = np.ones(anatomy.size)
    least = floor(anatomy, round_to)
    assert anatomy.cost(choose(anatomy, flat, least, round_to)) == least < anatomy.macs
    assert choose(anatomy, flat, anatomy.macs, round_to).all()


def test_what_is_worth_most_stays() -> None:
    anatomy = anatomy_of(("channel",))
    priority = np.random.default_rng(1).random(anatomy.size)
    alive = choose(anatomy, priority, anatomy.macs // 2, 1)
    for number, group in enumerate(anatomy.groups):
        if group.name != "apart":  # there one unit of each maker stays, whatever it is worth
            span = anatomy.span(number)
            assert priority[span][alive[span]].min() > priority[span][~alive[span]].max(initial=-1)
    gone = ~alive & (priority > priority[alive].min())
    for unit in gone.nonzero()[
        0
    ]:  # what went though it was worth more than something left would not have fitted
        more = alive.copy()
        more[unit] = True
        assert anatomy.cost(more) > anatomy.macs // 2


def test_every_maker_of_a_group_keeps_a_channel() -> None:
    anatomy = anatomy_of(("channel",))
    (span,) = [anatomy.span(i) for i, g in enumerate(anatomy.groups) if g.name == "apart"]
    priority = np.ones(anatomy.size)
    priority[span][:3] = 0.0  # what the first maker makes is worth nothing
    small = anatomy.cut(Small(), choose(anatomy, priority, floor(anatomy, 1), 1))
    assert (small.d.out_channels, small.e.out_channels) == (1, 1)
    small = anatomy.cut(Small(), choose(anatomy, priority, floor(anatomy, 8), 8))
    assert (small.d.out_channels, small.e.out_channels) == (1, 7)


def test_a_dear_branch_is_given_up_where_the_budget_asks_for_it() -> None:
    anatomy = anatomy_of(("branch",))
    priority = np.ones(anatomy.size)
    priority[anatomy.first_whole] = 2.0  # the 5x5 is worth most
    roomy = choose(anatomy, priority, int(anatomy.macs * 0.98), 8)
    assert roomy[anatomy.first_whole]
    tight = choose(anatomy, priority, floor(anatomy, 8), 8)
    assert not tight[anatomy.first_whole]
    assert tight[: anatomy.first_whole].all()


# -- refusing it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", KINDS)
def test_a_budget_below_the_floor_says_where_the_floor_is(kinds: Any) -> None:
    anatomy = anatomy_of(kinds)
    least = floor(anatomy, 8)
    with pytest.raises(ValueError, match="cannot be met") as refusal:
        choose(anatomy, np.ones(anatomy.size), least - 1, 8)
    text = str(refusal.value)
    assert f"the smallest network reachable has {count(least)} ({least / anatomy.macs:.1%})" in text
    assert "in multiples of 8" in text
    assert any(f"most of it is '{layer.name}' with" in text for layer in anatomy.layers)


def test_the_lock_that_holds_a_floor_up_is_named() -> None:
    anatomy = Anatomy(ResNet(depth=20).build(), (torch.randn(2, 3, 16, 16),))
    with pytest.raises(
        ValueError, match=r"most of it is '.*' with .* [kM]? ?MACs \(locked with conv1: the network does"
    ):
        choose(anatomy, np.ones(anatomy.size), 1, 8)


@pytest.mark.parametrize(("odd", "stays"), [(np.nan, False), (-np.inf, False), (np.inf, True)])
def test_priorities_that_are_no_numbers_have_their_place(odd: float, stays: bool) -> None:
    anatomy = anatomy_of(("channel",))
    priority = np.ones(anatomy.size)
    (span,) = [anatomy.span(i) for i, g in enumerate(anatomy.groups) if g.name == "conv1"]
    priority[span][:4] = odd
    alive = choose(anatomy, priority, int(anatomy.macs * 0.9), 4)
    assert anatomy.cost(alive) <= anatomy.macs * 0.9
    assert alive[span][:4].all() == stays
    assert choose(anatomy, np.full(anatomy.size, odd), floor(anatomy, 8), 8).sum() < anatomy.size


# -- uniform -------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_uniform_ranks_within_each_group(seed: int, ties: bool) -> None:
    anatomy = anatomy_of(KINDS[-1])
    scores = priorities(anatomy, seed, ties)
    ranks = uniform(anatomy, scores)
    spans = [anatomy.span(number) for number in range(len(anatomy.groups))]
    for span in [*spans, slice(anatomy.first_whole, anatomy.size)]:
        width = span.stop - span.start
        np.testing.assert_allclose(np.sort(ranks[span]), (np.arange(width) + 1) / width)
        assert (np.diff(scores[span][np.argsort(ranks[span])]) >= 0).all()


def test_uniform_takes_like_shares_of_every_layer() -> None:
    anatomy = Anatomy(ResNet(depth=20, shortcut="B").build(), (torch.randn(2, 3, 16, 16),))
    scores = np.random.default_rng(0).random(anatomy.size) * np.linspace(1, 1000, anatomy.size)
    alive = choose(anatomy, uniform(anatomy, scores), anatomy.macs // 2, 1)
    shares = [alive[anatomy.span(number)].mean() for number in range(len(anatomy.groups))]
    assert max(shares) - min(shares) < 0.08
