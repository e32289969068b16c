"""The signs of a collapse, on constructed cases."""

import math

import pytest
import torch

from compress.watch import class_entropy, collapsed, largest_share, variety


def test_entropy_of_the_mean_prediction() -> None:
    sure = 1e3 * torch.eye(4)
    assert class_entropy(sure) == pytest.approx(1)
    assert class_entropy(sure[[2, 2, 2]]) == pytest.approx(0, abs=1e-6)
    assert class_entropy(sure[[0, 1]]) == pytest.approx(0.5)
    mixed = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    p = [sum(math.exp(row[k]) / sum(map(math.exp, row)) for row in mixed.tolist()) / 7 for k in range(5)]
    assert class_entropy(mixed) == pytest.approx(-sum(q * math.log(q) for q in p) / math.log(5), rel=1e-5)
    assert class_entropy(torch.randn(6, 1)) == 1
    dense = mixed.reshape(7, 5, 1, 1).expand(7, 5, 2, 3)
    assert class_entropy(dense) == pytest.approx(class_entropy(mixed), rel=1e-5)


def test_the_most_frequent_decision() -> None:
    assert largest_share(torch.eye(4)[[0, 1, 1, 3]]) == 0.5
    assert largest_share(torch.eye(4)[[2, 2]]) == 1
    assert largest_share(torch.eye(3)[[0, 1]].reshape(2, 3, 1, 1).expand(2, 3, 4, 4)) == 0.5


def test_variety_is_the_mean_distance_of_pairs() -> None:
    images = torch.randn(9, 2, 3, 3, generator=torch.Generator().manual_seed(0)) + 0.3
    flat = images.flatten(1)
    pairs = [(flat[i] - flat[j]).square().mean() for i in range(9) for j in range(9) if i != j]
    wanted = math.sqrt(sum(pairs) / len(pairs) / flat.square().mean())
    assert variety(images) == pytest.approx(wanted, rel=1e-5)
    assert variety(images[:1].expand(5, 2, 3, 3)) == pytest.approx(0, abs=1e-3)
    assert variety(torch.randn(400, 64)) == pytest.approx(math.sqrt(2), rel=0.02)


def test_when_a_generator_has_collapsed() -> None:
    images = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    even = 9 * torch.eye(4)[torch.arange(40) % 4]
    assert not collapsed(images, even)
    assert collapsed(images[:1].expand(40, 3, 4, 4), even)  # all alike
    assert collapsed(images, 9 * torch.eye(4)[torch.zeros(40, dtype=torch.long)])  # all of one class
    ground = torch.eye(3)[(torch.arange(40) % 8 == 0).long()].reshape(40, 3, 1, 1).expand(40, 3, 4, 4) * 9
    assert class_entropy(ground) < 0.5
    assert not collapsed(images, ground)  # seven eighths of all pixels are ground, as in many a scene
    assert collapsed(
        images, 9 * torch.eye(3)[torch.zeros(40, dtype=torch.long)].reshape(40, 3, 1, 1).expand(40, 3, 4, 4)
    )
