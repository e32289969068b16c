"""Sparsity, entropy and levels beside slow twins that follow the formulas one kernel at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress.indicator import (
    density,
    entropy,
    indicator,
    kernels_of_level,
    levels,
    normalised,
    sparsity,
)


def slow_density(kernels: Tensor, neighbours: int) -> list[list[float]]:
    return [
        [
            sum(sorted(math.dist(one, other) for m, other in enumerate(row) if m != n)[:neighbours])
            for n, one in enumerate(row)
        ]
        for row in kernels.double().tolist()
    ]


def slow_entropy(kernels: Tensor, neighbours: int) -> list[float]:
    result = []
    for row in slow_density(kernels, neighbours):
        whole = sum(row)
        result.append(-sum(d / whole * math.log2(d / whole) for d in row if d > 0) if whole else 0.0)
    return result


@settings(deadline=None)
@given(
    channels=st.integers(1, 4),
    outputs=st.integers(2, 9),
    numbers=st.sampled_from([1, 3, 9]),
    neighbours=st.integers(1, 6),
    repeated=st.booleans(),
    seed=st.integers(0, 99),
)
def test_indicator_parts_equal_their_slow_twins(
    channels, outputs, numbers, neighbours, repeated, seed
) -> None:
    torch.manual_seed(seed)
    kernels = torch.randn(channels, outputs, numbers)
    if repeated:
        kernels = kernels.round()
    want = torch.tensor(slow_density(kernels, neighbours), dtype=torch.float64)
    torch.testing.assert_close(density(kernels, neighbours), want, rtol=1e-12, atol=1e-12)
    want = torch.tensor(slow_entropy(kernels, neighbours), dtype=torch.float64)
    torch.testing.assert_close(entropy(kernels, neighbours), want, rtol=1e-9, atol=1e-9)
    want = torch.tensor([sum(abs(w) for k in c for w in k) for c in kernels.double().tolist()])
    torch.testing.assert_close(sparsity(kernels), want.double(), rtol=1e-5, atol=1e-5)


def test_groups_are_layers_of_their_own() -> None:
    kernels = torch.randn(2, 5, 8, 9)
    together = indicator(kernels)
    assert together.shape == (2, 5)
    for group in range(2):
        torch.testing.assert_close(together[group], indicator(kernels[group]), rtol=0, atol=0)


def test_the_indicator_is_its_formula() -> None:
    kernels = torch.randn(6, 12, 9)
    s, e = normalised(sparsity(kernels), 1.0), normalised(entropy(kernels), 0.0)
    torch.testing.assert_close(indicator(kernels, alpha=0.5), (s / (1 + 0.5 * e)).sqrt(), rtol=0, atol=0)
    torch.testing.assert_close(indicator(kernels, "sparsity"), s.sqrt(), rtol=0, atol=0)
    torch.testing.assert_close(indicator(kernels, "entropy"), (1 / (1 + e)).sqrt(), rtol=0, atol=0)
    again = indicator(kernels, renormalise=True)
    assert again.min() == 0
    assert again.max() == 1
    torch.testing.assert_close(again, normalised(indicator(kernels), 1.0), rtol=0, atol=0)


def test_the_released_layout_measures_filters_where_the_layer_is_square() -> None:
    kernels = torch.randn(7, 7, 9)
    torch.testing.assert_close(entropy(kernels, layout="released"), entropy(kernels.transpose(0, 1)))
    other = torch.randn(4, 6, 9)
    assert not torch.allclose(entropy(other, layout="released"), entropy(other))


@pytest.mark.parametrize(
    "kernels",
    [torch.zeros(3, 4, 9), torch.ones(3, 4, 9), torch.ones(1, 4, 1), torch.randn(1, 8, 9)],
    ids=["all zero", "all the same", "scalars", "one channel"],
)
def test_channels_that_are_alike_keep_everything(kernels: Tensor) -> None:
    v = indicator(kernels)
    assert v.isfinite().all()
    assert (levels(v, 4) == 3).all()


def test_one_zero_channel_goes() -> None:
    kernels = torch.randn(3, 8, 9)
    kernels[1] = 0
    assert levels(indicator(kernels), 4)[1] == 0


def test_a_single_kernel_has_no_neighbours() -> None:
    with pytest.raises(ValueError, match="has 1 kernel"):
        density(torch.randn(3, 1, 9))


@pytest.mark.parametrize(
    ("granularity", "shift", "counts"),
    [
        (2, 0, [0, 64]),
        (4, 0, [0, 16, 32, 64]),
        (5, 0, [0, 8, 16, 32, 64]),
        (5, 1, [0, 4, 8, 16, 64]),
        (6, 0, [0, 4, 8, 16, 32, 64]),
        (12, 3, [0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 64]),
    ],
)
def test_kernels_of_each_level(granularity: int, shift: int, counts: list[int]) -> None:
    found = [kernels_of_level(level, 64, granularity, shift) for level in range(granularity)]
    assert found == counts


def test_levels_are_floors() -> None:
    values = torch.tensor([0.0, 0.24, 0.25, 0.74, 0.75, 1.0])
    assert levels(values, 4).tolist() == [0, 0, 1, 2, 3, 3]
