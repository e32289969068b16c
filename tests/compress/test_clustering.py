"""Batched k-means and the one-dimensional optimum beside scikit-learn and exhaustive twins."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from compress.clustering import cluster
from compress.scalars import optimum


def error_of(points: torch.Tensor, index: torch.Tensor) -> float:
    """Loop twin: squared distances to the mean of each cluster."""
    return sum(
        (points[index == which] - points[index == which].double().mean(0)).square().sum().item()
        for which in index.unique()
    )


def slow_optimum(row: np.ndarray, count: int) -> float:
    """The least cost of `count` intervals, by dynamic programming over every split."""
    x = np.sort(row)
    size = len(x)
    least = np.full((count + 1, size + 1), np.inf)
    least[0, 0] = 0.0
    for k in range(1, count + 1):
        for end in range(1, size + 1):
            least[k, end] = min(
                least[k - 1, start] + ((x[start:end] - x[start:end].mean()) ** 2).sum()
                for start in range(end)
            )
    return least[:, size][1:].min()


@settings(deadline=None)  # the first example compiles
@given(
    values=st.lists(
        st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3, width=32)), min_size=1, max_size=14
    ),
    count=st.integers(1, 14),
)
def test_scalars_reach_the_optimum(values: list[float], count: int) -> None:
    row = np.array(values)
    count = min(count, len(values))
    index = optimum(row[None], count)[0]
    assert index.min() >= 0
    assert index.max() < count
    cost = error_of(torch.from_numpy(row)[:, None], torch.from_numpy(index))
    assert cost == pytest.approx(slow_optimum(row, count), rel=1e-9, abs=1e-9 * (1 + (row**2).sum()))
    assert (np.diff(index[np.argsort(row, kind="stable")]) >= 0).all()


@pytest.mark.parametrize("count", [2, 13, 64, 65, 127])
def test_evenly_spaced_scalars_where_every_price_ties(count: int) -> None:
    row = np.arange(128.0)
    cost = error_of(torch.from_numpy(row)[:, None], torch.from_numpy(optimum(row[None], count)[0]))
    small, large = divmod(128, count)[0], 128 % count
    sizes = [small + 1] * large + [small] * (count - large)
    assert cost == pytest.approx(sum(n * (n * n - 1) / 12 for n in sizes))


@pytest.mark.parametrize(("outputs", "count", "numbers"), [(32, 4, 9), (32, 16, 9), (64, 8, 25), (24, 23, 3)])
def test_error_is_at_most_the_mean_of_ten_seeds_of_scikit_learn(
    outputs: int, count: int, numbers: int
) -> None:
    torch.manual_seed(0)
    points = torch.randn(6, outputs, numbers) * torch.rand(6, outputs, 1)
    ours = cluster(points, count)
    theirs = [
        [KMeans(count, n_init=1, random_state=seed).fit(row.double().numpy()).inertia_ for seed in range(10)]
        for row in points
    ]
    assert ours.error.sum().item() <= np.mean(theirs, axis=1).sum() * (1 + 1e-9)
    for row, index, error in zip(points, ours.index, ours.error, strict=True):
        assert error_of(row.double(), index) == pytest.approx(error.item(), rel=1e-5)


def test_every_point_takes_its_nearest_centroid_and_centroids_are_means() -> None:
    torch.manual_seed(1)
    points = torch.randn(5, 40, 9)
    found = cluster(points, 7)
    distances = torch.cdist(points.double(), found.centroids.double())
    taken = distances.gather(2, found.index[..., None])[..., 0]
    torch.testing.assert_close(taken, distances.amin(2), rtol=1e-5, atol=1e-6)
    for row, index, centroids in zip(points, found.index, found.centroids, strict=True):
        for which in range(7):
            torch.testing.assert_close(centroids[which], row[index == which].double().mean(0).float())


def test_the_same_every_time_and_sorted() -> None:
    points = torch.randn(4, 30, 9, generator=torch.Generator().manual_seed(3))
    one, other = cluster(points, 6), cluster(points, 6)
    assert torch.equal(one.index, other.index)
    assert torch.equal(one.centroids, other.centroids)
    assert (one.centroids[..., 0].diff(dim=-1) >= 0).all()
    state = torch.get_rng_state()
    cluster(points, 6, seed=9)
    assert torch.equal(state, torch.get_rng_state())


def test_fewer_distinct_kernels_than_clusters() -> None:
    points = torch.randn(2, 3, 9).repeat(1, 4, 1)
    assert cluster(points, 8).error.max() < 1e-10
    assert cluster(points[..., :1], 8).error.max() < 1e-10
    assert cluster(torch.zeros(2, 12, 9), 5).error.max() == 0


@pytest.mark.parametrize("numbers", [1, 9])
@pytest.mark.parametrize("count", [1, 10])
def test_one_cluster_and_as_many_as_there_are(numbers: int, count: int) -> None:
    points = torch.randn(3, 10, numbers)
    found = cluster(points, count)
    want = 0.0 if count == 10 else (points.double() - points.double().mean(1, keepdim=True)).square().sum()
    assert found.error.sum().item() == pytest.approx(float(want), rel=1e-5, abs=1e-10)


def test_an_empty_batch_is_no_error() -> None:
    assert cluster(torch.zeros(0, 8, 9), 3).index.shape == (0, 8)


@pytest.mark.parametrize("count", [0, 11])
def test_a_count_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"cannot be shared out to {count} clusters: ask for 1 to 10"):
        cluster(torch.randn(2, 10, 9), count)


def test_kernels_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        cluster(torch.full((1, 4, 9), torch.nan), 2)
