"""Local structure against a loop over nodes, what leaves it as it is, its gradients, and what it refuses."""

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress import affinity
from compress.affinity import PRESETS, Kernel, Preset, inner, manhattan
from compress.losses import Direction, Over, local_structure, log_structure
from compress.neighbours import Neighbours, SelfLoops

KERNELS = {
    **PRESETS,
    "near": Kernel(measure="squared_l2", sign=-1),
    "cubic": Kernel(measure="dot", c=1, degree=3),
}
SHIFTED = [name for name, kernel in KERNELS.items() if kernel.measure in ("l1", "l2", "squared_l2")]
TURNED = [name for name, kernel in KERNELS.items() if kernel.measure != "l1"]
SCALED = [name for name, kernel in KERNELS.items() if kernel.measure == "cosine"]
each = pytest.mark.parametrize("name", KERNELS)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def graph(nodes: int, edges: int, seed: int = 0) -> Tensor:
    return torch.randint(nodes, (2, edges), generator=torch.Generator().manual_seed(seed))


# -- the slow twin -----------------------------------------------------------------------------------------


def value(kernel: Kernel, x: list[float], y: list[float]) -> float:
    """The kernel's score of two nodes, by the formula."""
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    far = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
    m = {
        "dot": dot,
        "cosine": dot / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y)),
        "l1": sum(abs(a - b) for a, b in zip(x, y, strict=True)),
        "l2": math.sqrt(far),
        "squared_l2": far,
    }[kernel.measure]
    k = math.exp(-kernel.gamma * m) if kernel.exponential else (kernel.gamma * m + kernel.c) ** kernel.degree
    return kernel.sign * k / kernel.temperature


def shares(kernel: Kernel, features: Tensor, around: dict[int, list[int]]) -> dict[int, list[float]]:
    rows = features.tolist()
    found = {}
    for i, near in around.items():
        scores = [value(kernel, rows[i], rows[j]) for j in near]
        powers = [math.exp(s - max(scores)) for s in scores]
        found[i] = [p / sum(powers) for p in powers]
    return found


def slow(
    student: Tensor, teacher: Tensor, edges: Tensor, kernel: Kernel, direction: Direction, reduction: Over,
    self_loops: SelfLoops, centres: list[int],
) -> float:  # fmt: skip
    """Node by node, over plain numbers."""
    pairs = set(map(tuple, edges.t().tolist()))
    if self_loops != "keep":
        pairs = {(j, i) for j, i in pairs if i != j}
    if self_loops == "add":
        pairs |= {(i, i) for i in range(len(student))}
    around: dict[int, list[int]] = {}
    for j, i in sorted(pairs):
        if i in centres:
            around.setdefault(i, []).append(j)
    s, t = shares(kernel, student, around), shares(kernel, teacher, around)
    total = 0.0
    for i in around:
        q, p = (s[i], t[i]) if direction == "student_teacher" else (t[i], s[i])
        total += sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))
    counts = {
        "mean": len(centres), "mean_nonempty": len(around),
        "mean_edges": sum(map(len, around.values())), "sum": 1,
    }  # fmt: skip
    return total / max(counts[reduction], 1)


@settings(max_examples=120, deadline=None)
@given(
    name=st.sampled_from(sorted(KERNELS)),
    nodes=st.integers(2, 9),
    edges=st.integers(1, 30),
    direction=st.sampled_from(get_args(Direction)),
    reduction=st.sampled_from(get_args(Over)),
    loops=st.sampled_from(get_args(SelfLoops)),
    some=st.booleans(),
    seed=st.integers(0, 999),
)
def test_it_is_the_loop_over_nodes(
    name: str,
    nodes: int,
    edges: int,
    direction: Direction,
    reduction: Over,
    loops: SelfLoops,
    some: bool,
    seed: int,
) -> None:
    student, teacher = 0.7 * draw(nodes, 3, seed=seed), 0.7 * draw(nodes, 5, seed=seed + 1000)
    given_edges = graph(nodes, edges, seed)
    given_edges[:, 0] = torch.tensor([0, 1])  # one edge at least that is no self loop
    centres = torch.arange(nodes) % 2 == 0 if some else None
    said = local_structure(
        student, teacher, given_edges, kernel=KERNELS[name], direction=direction, reduction=reduction, self_loops=loops,
        centres=centres,
    )  # fmt: skip
    which = list(range(0, nodes, 2)) if some else list(range(nodes))
    wanted = slow(student, teacher, given_edges, KERNELS[name], direction, reduction, loops, which)
    assert said.item() == pytest.approx(wanted, rel=1e-9, abs=1e-11)


# -- what it does not see ------------------------------------------------------------------------------------


@each
def test_a_student_like_the_teacher_loses_nothing(name: str) -> None:
    features, edges = draw(12, 4), graph(12, 40)
    assert local_structure(features, features.clone(), edges, kernel=KERNELS[name]).item() == 0


def change(name: str, features: Tensor) -> float:
    edges = graph(12, 40)
    before = local_structure(draw(12, 4), draw(12, 6, seed=1), edges, kernel=KERNELS[name])
    return abs(
        local_structure(features, draw(12, 6, seed=1), edges, kernel=KERNELS[name]).item() - before.item()
    )


@each
def test_turning_shifting_and_scaling_the_features(name: str) -> None:
    """A kernel is blind to what its measure is blind to, and to nothing else."""
    turn = torch.linalg.qr(draw(4, 4, seed=5)).Q
    features = draw(12, 4)
    for changed, blind in (
        (features @ turn, name in TURNED),
        (features + 3 * draw(1, 4, seed=7), name in SHIFTED),
        (features * 1.7, name in SCALED),
    ):
        assert (change(name, changed) < 1e-9) == blind


@each
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_order_does_not_matter(name: str, seed: int) -> None:
    student, teacher, edges = draw(12, 4, seed=seed), draw(12, 6, seed=seed + 100), graph(12, 40, seed)
    loss = local_structure(student, teacher, edges, kernel=KERNELS[name])
    generator = torch.Generator().manual_seed(seed)
    shuffled = edges[:, torch.randperm(40, generator=generator)]
    assert local_structure(student, teacher, shuffled, kernel=KERNELS[name]).item() == pytest.approx(
        loss.item()
    )
    order = torch.randperm(12, generator=generator)  # node order[k] becomes node k
    moved = order.argsort()[edges]
    again = local_structure(student[order], teacher[order], moved, kernel=KERNELS[name])
    assert again.item() == pytest.approx(loss.item(), rel=1e-9)


@each
def test_graphs_side_by_side_are_the_mean_over_all_nodes(name: str) -> None:
    parts = [(draw(n, 4, seed=n), draw(n, 6, seed=n + 50), graph(n, 4 * n, n)) for n in (5, 9)]
    alone = [local_structure(s, t, e, kernel=KERNELS[name], reduction="sum") for s, t, e in parts]
    (s1, t1, e1), (s2, t2, e2) = parts
    both = local_structure(
        torch.cat([s1, s2]), torch.cat([t1, t2]), torch.cat([e1, e2 + 5], 1), kernel=KERNELS[name]
    )
    assert both.item() == pytest.approx(sum(alone).item() / 14)  # type: ignore[union-attr]


def test_nodes_without_neighbours_count_as_nothing() -> None:
    student, teacher, edges = draw(6, 3), draw(6, 3, seed=1), torch.tensor([[0, 1, 2, 0], [1, 2, 0, 2]])
    whole = local_structure(student, teacher, edges)
    some = local_structure(student, teacher, edges, reduction="mean_nonempty")
    assert whole.item() == pytest.approx(some.item() / 2)
    assert Neighbours.of(edges, 6).said()["isolated"] == 3


# -- gradients -----------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("direction", get_args(Direction))
def test_gradients(name: str, direction: Direction) -> None:
    student, near = draw(7, 3).requires_grad_(), Neighbours.of(graph(7, 25), 7)
    teacher = draw(7, 4, seed=1)

    def loss(features: Tensor) -> Tensor:
        return local_structure(features, teacher, near, kernel=KERNELS[name], direction=direction)

    assert torch.autograd.gradcheck(loss, student)
    if direction == "student_teacher":
        return
    teacher.requires_grad_()
    local_structure(student, teacher, near, kernel=KERNELS[name]).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_l1_edge_by_edge_and_in_blocks() -> None:
    near = Neighbours.of(graph(20, 90), 20)
    weight = draw(len(near), seed=3)
    found = []
    for block in (None, 1, 37, 10**6):
        features = draw(20, 6).requires_grad_()
        distance = manhattan(features, near, block)
        (distance * weight).sum().backward()
        found.append((distance.detach(), features.grad))
    plain = (draw(20, 6)[near.centre] - draw(20, 6)[near.neighbour]).abs().sum(1)
    for distance, gradient in found:
        torch.testing.assert_close(distance, plain)
        torch.testing.assert_close(gradient, found[0][1])


@each
@pytest.mark.parametrize("width", [5, 64, 200])
def test_few_threads_and_many_find_the_same(name: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edge by edge in columns that fit the cache, with and without a gradient, and by sparse products."""
    monkeypatch.setattr(affinity, "NEAR_BY", 1)  # several columns, of 64
    near = Neighbours.of(graph(20, 90), 20, "keep")
    weight, found, threads = draw(len(near), seed=3), [], torch.get_num_threads()
    try:
        for some in (1, affinity.FEW):
            torch.set_num_threads(some)
            features = (draw(20, width) / width**0.5).requires_grad_()
            scores = KERNELS[name].scores(features, near)
            (scores * weight).sum().backward()
            found += [
                (scores.detach(), features.grad),
                (KERNELS[name].scores(features.detach(), near), features.grad),
            ]
    finally:
        torch.set_num_threads(threads)
    for scores, gradient in found:
        torch.testing.assert_close(scores, found[0][0])
        torch.testing.assert_close(gradient, found[0][1])


def test_scores_of_hundreds_stay_numbers() -> None:
    """Where log(softmax) of probabilities would be the logarithm of 0."""
    student, teacher = 30 * draw(10, 6).float(), 30 * draw(10, 12, seed=1).float()
    edges = graph(10, 40)
    for name in KERNELS:
        features = student.clone().requires_grad_()
        loss = local_structure(features, teacher, edges, kernel=KERNELS[name])
        loss.backward()
        assert loss.isfinite()
        assert features.grad is not None
        assert features.grad.isfinite().all()
        exact = local_structure(student.double(), teacher.double(), edges, kernel=KERNELS[name])
        assert loss.item() == pytest.approx(exact.item(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
def test_neighbours_too_far_to_count_leave_nothing(direction: Any) -> None:
    """Two at distances whose shares are 1 and e^-90: less than full precision holds, and exactly no divergence."""
    edges = torch.tensor([[0, 1], [2, 2]])
    student = torch.tensor([[0.0], [10.0], [0.5]], requires_grad=True)
    teacher = torch.tensor([[0.0], [30.0], [0.1]])
    kernel = Kernel(measure="squared_l2", sign=-1)
    shares = log_structure(kernel.scores(student.detach(), Neighbours.of(edges, 3)), Neighbours.of(edges, 3))
    assert shares.tolist() == pytest.approx([0, 0.5**2 - 9.5**2])
    loss = local_structure(student, teacher, edges, kernel=kernel, direction=direction)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert student.grad.tolist() == [[0], [0], [0]]


def test_shares_around_a_node_sum_to_one() -> None:
    near = Neighbours.of(graph(8, 30), 8)
    sums = torch.zeros(8).index_add(0, near.centre, log_structure(draw(len(near)).float(), near).exp())
    torch.testing.assert_close(sums[near.degree > 0], torch.ones(int((near.degree > 0).sum())))


def test_no_tensor_of_edges_times_width() -> None:
    """One row an edge would be 80 MB here; the largest that autograd keeps is a number an edge, or a row a node."""
    near = Neighbours.of(graph(500, 40000), 500)
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    for name in KERNELS:
        features = torch.randn(500, 64).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            local_structure(features, torch.randn(500, 128), near, kernel=KERNELS[name])
    assert max(sizes) <= max(len(near), 500 * 64)


# -- edges -----------------------------------------------------------------------------------------------------


def test_teachers_scores_may_be_kept() -> None:
    student, teacher, edges = draw(9, 3), draw(9, 5, seed=1), graph(9, 30)
    near = Neighbours.of(edges, 9)
    kept = PRESETS["cosine"].scores(teacher, near)
    assert local_structure(student, kept, near).item() == local_structure(student, teacher, edges).item()
    with pytest.raises(ValueError, match=r"edges, but 3 scores of the teacher: they belong to another graph"):
        local_structure(student, kept[:3], near)


@settings(max_examples=40, deadline=None)
@given(
    nodes=st.integers(2, 9),
    edges=st.integers(1, 40),
    seed=st.integers(0, 99),
    loops=st.sampled_from(["keep", "add"]),
)
def test_each_edge_once_and_where_it_was(nodes: int, edges: int, seed: int, loops: SelfLoops) -> None:
    given_edges = graph(nodes, edges, seed)
    near = Neighbours.of(given_edges, nodes, loops)
    pairs = list(zip(near.neighbour.tolist(), near.centre.tolist(), strict=True))
    wanted = set(map(tuple, given_edges.t().tolist())) | (
        {(i, i) for i in range(nodes)} if loops == "add" else set()
    )
    assert sorted(pairs, key=lambda pair: pair[::-1]) == pairs
    assert set(pairs) == wanted
    assert len(pairs) == len(wanted)
    for pair, place in zip(pairs, near.place.tolist(), strict=True):
        assert (pair[0] == pair[1]) if place < 0 else tuple(given_edges[:, place].tolist()) == pair
    values = draw(len(near), seed=seed)
    dense = torch.zeros(nodes, nodes, dtype=torch.float64)
    dense[near.centre, near.neighbour] = values
    torch.testing.assert_close(near.matrix(values).to_dense(), dense)
    torch.testing.assert_close(near.transposed(values).to_dense(), dense.t())
    torch.testing.assert_close(
        inner(draw(nodes, 3), near), (draw(nodes, 3) @ draw(nodes, 3).t())[near.centre, near.neighbour]
    )


def test_duplicates_are_left_out_and_counted() -> None:
    edges = torch.tensor([[1, 2, 1, 1, 0], [0, 0, 0, 2, 1]])
    near = Neighbours.of(edges, 3)
    assert (len(near), near.duplicates) == (4, 1)
    student, teacher = draw(3, 2), draw(3, 2, seed=1)
    once = local_structure(student, teacher, edges[:, [0, 1, 3, 4]])
    assert local_structure(student, teacher, edges).item() == once.item()


def test_union_of_both_edge_sets() -> None:
    mine, its = torch.tensor([[1, 2], [0, 0]]), torch.tensor([[2, 0, 1], [0, 1, 1]])
    near = Neighbours.union(mine, its, nodes=3)
    assert list(zip(near.neighbour.tolist(), near.centre.tolist(), strict=True)) == [(1, 0), (2, 0), (0, 1)]


def test_strangers_join_the_neighbours() -> None:
    near = Neighbours.of(graph(50, 120), 50)
    more = near.with_strangers(5, torch.Generator().manual_seed(0))
    old, new = (set(zip(n.neighbour.tolist(), n.centre.tolist(), strict=True)) for n in (near, more))
    assert old < new
    assert {i for _, i in new} == {i for _, i in old}
    assert not any(i == j for i, j in new)
    again = near.with_strangers(5, torch.Generator().manual_seed(0))
    assert torch.equal(more.neighbour, again.neighbour)


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        (torch.zeros(2, 0, dtype=torch.long), "no edges: local structure needs nodes with neighbours"),
        (
            torch.tensor([[0, 1], [0, 1]]),
            "all 2 edges of this graph are self loops.*Set self_loops to keep or add",
        ),
        (torch.tensor([[0, 4], [1, 2]]), r"leads to node 4, but there are 4 nodes \(0 to 3\)"),
        (torch.tensor([[0, -1], [1, 2]]), "leads to node -1"),
        (torch.tensor([[0, 1, 2]]), r"edges have shape \(1, 3\)"),
        (torch.rand(2, 3), "torch.float32: they are whole numbers"),
    ],
    ids=["none", "self", "beyond", "negative", "shape", "type"],
)
def test_edges_that_are_none(edges: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        local_structure(draw(4, 2), draw(4, 2), edges)


def test_features_that_are_wrong() -> None:
    edges, good = graph(6, 20), draw(6, 3)
    bad = good.clone()
    bad[2, 1] = torch.nan
    with pytest.raises(ValueError, match="student's features hold NaN or infinities for 1 of 6 nodes"):
        local_structure(bad, good, edges)
    with pytest.raises(ValueError, match="teacher's features hold NaN or infinities for 1 of 6 nodes"):
        local_structure(good, bad, edges)
    with pytest.raises(
        ValueError, match="features of 6 nodes, the teacher of 5: both must see the same graph"
    ):
        local_structure(good, good[:5], edges)
    with pytest.raises(ValueError, match=r"shape \(5, 3\) do not belong to a graph of 6 nodes"):
        PRESETS["dot"].scores(good[:5], Neighbours.of(edges, 6))
    with pytest.raises(ValueError, match="neither c nor degree"):
        Kernel(exponential=True, c=1)


@each
def test_a_teacher_in_another_node_order_is_another_teacher(name: str) -> None:
    """Nobody can tell an order from features alone; but it is no quiet zero, and kept scores fit their own edges
    only.
    """
    features, edges = draw(9, 4), graph(9, 30)
    turned = features.flip(0)
    assert local_structure(features, turned, edges, kernel=KERNELS[name]).item() > 1e-12
    kept = KERNELS[name].scores(features, Neighbours.of(edges, 9))
    with pytest.raises(ValueError, match="they belong to another graph, or to edges in another order"):
        local_structure(features, kept, Neighbours.of(edges[:, :20], 9), kernel=KERNELS[name])


def test_every_preset_has_a_name() -> None:
    assert set(get_args(Preset)) == set(PRESETS)
