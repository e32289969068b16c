"""Pruning in one go: budgets met by the real student, rankings as torch-pruning's, labels only for taylor."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from untouchable import Untouchable

from compress import Prune, State
from compress.session import Sees, Session
from teachers.networks import DigitsCNN, LeNet5
from teachers.signature import Signature
from teachers.tasks import Toy
from teachers.teacher import Teacher

Cost = Callable[[nn.Module], int]
Fingerprint = Callable[[nn.Module], dict[str, Any]]
IMPORTANCES = ["l1", "l2", "bn_scale", "taylor", "random"]
each = pytest.mark.parametrize("importance", IMPORTANCES)


def student_of(state: State) -> Any:
    assert state.student is not None
    return state.student


def prune(teacher: Teacher, task: Toy, stage: Prune, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return student_of(stage(State((teacher,)), Session.bare(task, sees=stage.sees)))


def kept(teacher: Teacher, student: Any) -> list[int]:
    """Which channels of conv1, which reads one pixel plane and so is cut in rows only, are still there."""
    rows = teacher.module.conv1.weight.flatten(1)  # type: ignore[union-attr, operator]
    return [int((rows == row).all(1).nonzero()) for row in student.conv1.weight.flatten(1)]


# -- the budget --------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("macs", [0.25, 0.6])
@pytest.mark.parametrize("scope", ["layer", "network"])
def test_the_budget_is_met_and_used(
    importance: Any, macs: float, scope: Any, teacher: Teacher, task: Toy, cost: Cost
) -> None:
    told: list[dict[str, float]] = []
    stage = Prune(macs=macs, importance=importance, scope=scope, round_to=1)
    session = Session.bare(task, sees=stage.sees, report=lambda values, _: told.append(dict(values)))
    student = student_of(stage(State((teacher,)), session))
    share = cost(student) / cost(teacher.module)
    assert macs - 0.03 < share <= macs
    assert told[0]["macs"] == cost(student)
    assert told[0]["channels"] == sum(
        m.num_features for m in student.modules() if isinstance(m, nn.BatchNorm2d)
    )


@pytest.mark.parametrize("round_to", [4, 8])
def test_widths_are_round(round_to: int, teacher: Teacher, task: Toy, cost: Cost) -> None:
    student = prune(teacher, task, Prune(macs=0.4, round_to=round_to))
    widths = [student.conv1.out_channels, student.conv2.out_channels, student.conv3.out_channels]
    assert all(width % round_to == 0 for width in widths)
    assert 0.25 < cost(student) / cost(teacher.module) <= 0.4


def test_a_layer_scope_cuts_all_layers_alike_and_a_network_scope_does_not(
    teacher: Teacher, task: Toy
) -> None:
    def shares(scope: Any) -> list[float]:
        student = prune(teacher, task, Prune(macs=0.4, scope=scope, round_to=1, importance="l1"))
        return [student.bn1.num_features / 32, student.bn2.num_features / 64, student.bn3.num_features / 64]

    alike = shares("layer")
    assert max(alike) - min(alike) < 0.1
    assert shares("network") != alike


def test_the_budget_is_a_share_of_what_comes_in(
    teacher: Teacher, task: Toy, cost: Cost, fingerprint: Fingerprint
) -> None:
    first = prune(teacher, task, Prune(macs=0.5, round_to=1))
    before = fingerprint(first)
    second = student_of(Prune(macs=0.5, round_to=1)(State((teacher,), first), Session.bare()))
    assert 0.45 < cost(second) / cost(first) <= 0.5
    assert fingerprint(first) == before


def test_a_budget_that_cannot_be_met_names_the_floor_and_what_holds_it_up(
    teacher: Teacher, task: Toy
) -> None:
    with pytest.raises(
        ValueError,
        match=r"a budget of 17\.9 k MACs \(1\.0%\) cannot be met: with widths in multiples of 8 the smallest "
        r"network reachable has [\d.]+ [kM] \(\d+\.\d%\); most of it is '\w+' with .*lower round_to",
    ):
        prune(teacher, task, Prune(macs=0.01))
    stage = Prune(macs=0.01, round_to=1)
    lines = stage.plan(State((teacher,)), task.signature())
    assert lines[0] == "may cut 160 channels in 3 groups"
    assert "can be met" in lines[-1]
    assert "CANNOT be met" in Prune(macs=0.01).plan(State((teacher,)), task.signature())[-1]


# -- the ranking -------------------------------------------------------------------------------------------


def own_ranking(
    teacher: Teacher, importance: str, inputs: tuple[Tensor, ...], gradients: bool, task: Toy
) -> Tensor:
    """torch-pruning's importance of conv1's channels, asked directly."""
    import torch_pruning as tp

    network = copy.deepcopy(teacher.module).requires_grad_(True)
    if gradients:
        batches = Session.bare(task).batches()
        for _ in range(3):
            batch = next(batches)
            F.cross_entropy(network(*batch.inputs), batch.target).backward()
    rank = {
        "l1": lambda: tp.importance.MagnitudeImportance(p=1),
        "l2": lambda: tp.importance.MagnitudeImportance(p=2),
        "bn_scale": tp.importance.BNScaleImportance,
        "taylor": tp.importance.TaylorImportance,
    }[importance]()
    saved = {name: parameter.grad for name, parameter in network.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(network, inputs)
    for name, parameter in network.named_parameters():  # its tracer runs a backward pass of its own
        parameter.grad = saved[name]
    group = graph.get_pruning_group(
        network.conv1,
        tp.prune_conv_out_channels,
        list(range(32)),  # type: ignore[arg-type, union-attr]
    )
    score: Tensor = rank(group)
    return score


@pytest.mark.parametrize("importance", ["l1", "l2", "bn_scale", "taylor"])
def test_the_ranking_is_torch_prunings_own(importance: Any, teacher: Teacher, task: Toy) -> None:
    stage = Prune(macs=0.3, importance=importance, round_to=1, batches=3)
    here = kept(teacher, prune(teacher, task, stage))
    score = own_ranking(teacher, importance, task.signature().example(2), importance == "taylor", task)
    assert sorted(here) == sorted(score.topk(len(here)).indices.tolist())


def test_every_importance_has_a_mind_of_its_own(teacher: Teacher, task: Toy) -> None:
    choices = {
        name: tuple(kept(teacher, prune(teacher, task, Prune(macs=0.3, importance=name, round_to=1))))
        for name in ("l1", "bn_scale", "taylor", "random")
    }
    assert len(set(choices.values())) == 4


def test_each_looks_at_what_it_says(teacher: Teacher, task: Toy) -> None:
    """Large weights on the first half of the channels, a large BN scale on the second."""
    module = copy.deepcopy(teacher.module)
    with torch.no_grad():
        module.conv1.weight[:16].mul_(10)  # type: ignore[union-attr, index, operator]
        module.conv1.weight[16:].mul_(0.1)  # type: ignore[union-attr, index, operator]
        module.bn1.weight[:] = torch.linspace(0.1, 0.2, 32)  # type: ignore[union-attr, operator, index]
    lopsided = Teacher("lopsided", module, task.signature())

    def half(importance: Any) -> list[int]:
        return kept(lopsided, prune(lopsided, task, Prune(macs=0.2, importance=importance, round_to=1)))

    for importance in ("l1", "l2"):
        assert max(half(importance)) < 16
    assert max(set(range(32)) - set(half("bn_scale"))) < min(half("bn_scale"))


def test_chance_is_seeded(teacher: Teacher, task: Toy) -> None:
    stage = Prune(macs=0.3, importance="random", round_to=1)
    first, again, other = (kept(teacher, prune(teacher, task, stage, seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("importance", ["l1", "l2", "bn_scale", "taylor"])
def test_nothing_else_is_left_to_chance(importance: Any, teacher: Teacher, task: Toy) -> None:
    stage = Prune(macs=0.3, importance=importance)
    first, again = (prune(teacher, task, stage, seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)


# -- data --------------------------------------------------------------------------------------------------


@each
def test_only_taylor_looks(importance: Any, teacher: Teacher, task: Toy) -> None:
    stage = Prune(macs=0.5, importance=importance, batches=3)
    if importance == "taylor":
        assert stage.sees is Sees.LABELS
        session = Session.bare(task, sees=stage.sees)
        stage(State((teacher,)), session)
        assert session.read == {"train": 3 * 16}
    else:
        assert stage.sees is Sees.NOTHING
        session = Session(splits=Untouchable(), sees=Sees.NOTHING)
        stage(State((teacher,)), session)
        assert not session.read


def test_taylor_takes_what_there_is_where_data_is_short(teacher: Teacher, task: Toy) -> None:
    stage = Prune(macs=0.5, importance="taylor", batches=999)
    session = Session.bare(task, sees=stage.sees)
    stage(State((teacher,)), session)
    assert session.read == {"train": session.steps() * 16}


# -- what it leaves ----------------------------------------------------------------------------------------


@each
def test_what_is_given_stays_the_same_to_the_bit(
    importance: Any, teacher: Teacher, task: Toy, fingerprint: Fingerprint
) -> None:
    given = copy.deepcopy(teacher.module).requires_grad_(True).train()
    before = [fingerprint(teacher.module), fingerprint(given)]
    stage = Prune(macs=0.5, importance=importance)
    stage(State((teacher,)), Session.bare(task, sees=stage.sees))
    stage(State((teacher,), given), Session.bare(task, sees=stage.sees))
    assert [fingerprint(teacher.module), fingerprint(given)] == before


@each
def test_the_student_is_a_plain_network_that_trains_on(importance: Any, teacher: Teacher, task: Toy) -> None:
    assert not any(p.requires_grad for p in teacher.module.parameters())  # frozen, and pruned all the same
    student = prune(teacher, task, Prune(macs=0.5, importance=importance))
    assert type(student) is type(teacher.module)
    assert list(student.state_dict()) == list(teacher.module.state_dict())
    assert not student.training
    assert all(p.requires_grad and p.grad is None for p in student.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())
    student(*task.signature().example(2)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in student.parameters())


def test_weights_that_stay_are_the_teachers(teacher: Teacher, task: Toy) -> None:
    student = prune(teacher, task, Prune(macs=0.5))
    rows = kept(teacher, student)
    assert torch.equal(student.bn1.running_mean, teacher.module.bn1.running_mean[rows])  # type: ignore[union-attr, index]
    assert torch.equal(student.linear.bias, teacher.module.linear.bias)


# -- errors ------------------------------------------------------------------------------------------------


def test_bn_scale_needs_batch_norms() -> None:
    signature = Signature(((1, 28, 28),), tuple("0123456789"))
    bare = Teacher("lenet", LeNet5().build(), signature)
    with pytest.raises(
        ValueError, match=r"'\w+' has no bn_scale importance \(no batch norm.*choose l1 or l2"
    ):
        Prune(macs=0.5, importance="bn_scale", round_to=1)(State((bare,)), Session.bare())
    Prune(macs=0.5, round_to=1)(State((bare,)), Session.bare())


def test_a_network_without_anything_to_cut() -> None:
    only = Teacher("linear", nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), Toy().signature())
    with pytest.raises(ValueError, match="Sequential has no channel that can be cut: 1: no layer reads it"):
        Prune(macs=0.5)(State((only,)), Session.bare())


def test_tied_weights_are_refused(teacher: Teacher) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.relu(self.b(F.relu(self.a(x.flatten(1))))))  # type: ignore[no-any-return]

    tied = Teacher("tied", Tied(), teacher.signature)
    with pytest.raises(ValueError, match=r"'a.weight' and 'b.weight' are one tied parameter.*Untie them"):
        Prune(macs=0.5)(State((tied,)), Session.bare())


def test_several_teachers_and_no_student() -> None:
    pair = [Teacher(name, DigitsCNN(classes=3).build(), Toy().signature()) for name in ("ann", "bob")]
    with pytest.raises(ValueError, match=r"asks one teacher, but 2 are in the room \(ann, bob\)"):
        Prune(macs=0.5)(State(tuple(pair)), Session.bare())
    alone = Prune(macs=0.5)(State(tuple(pair), DigitsCNN(classes=3).build()), Session.bare())
    assert alone.teachers == tuple(pair)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "macs"),
        ({"macs": 0}, "greater than 0"),
        ({"macs": 1}, "less than 1"),
        ({"macs": float("nan")}, "macs"),
        ({"macs": 0.5, "importance": "l3"}, "'l1', 'l2', 'bn_scale', 'taylor' or 'random'"),
        ({"macs": 0.5, "scope": "all"}, "'layer' or 'network'"),
        ({"macs": 0.5, "round_to": 0}, "greater than or equal to 1"),
        ({"macs": 0.5, "batches": 0}, "greater than or equal to 1"),
        ({"macs": 0.5, "rond_to": 8}, "rond_to"),
    ],
)
def test_fields_are_checked(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Prune(**fields)


def test_spared_layers_keep_their_width_and_are_told() -> None:
    task = Toy(samples=64, batch=32)
    teacher = Teacher("t", DigitsCNN(classes=3).build().eval().requires_grad_(False), task.signature())
    stage = Prune(macs=0.8, spare=("conv2",), round_to=1)
    session = Session(splits=task.open(None), sees=stage.sees)
    before = teacher.module.get_submodule("conv2").weight.shape  # type: ignore[union-attr]
    student = stage(State((teacher,)), session).student
    assert student is not None
    assert student.get_submodule("conv2").weight.shape == before  # type: ignore[union-attr]
    assert any("conv2" in note and "spared" in note for note in session.notes)


def test_a_pattern_that_matches_no_layer_is_refused_with_the_nearest() -> None:
    task = Toy(samples=64, batch=32)
    teacher = Teacher("t", DigitsCNN(classes=3).build().eval().requires_grad_(False), task.signature())
    stage = Prune(macs=0.8, spare=("cnv2",))
    with pytest.raises(ValueError, match=r"'cnv2' matches no layer.*did you mean 'conv2'"):
        stage(State((teacher,)), Session(splits=task.open(None), sees=stage.sees))
