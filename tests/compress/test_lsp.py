"""LSP as a stage: it keeps local structure, learns, stops and chooses by val; and the stages it is compared with."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress import (
    GCRD,
    LSP,
    AttentionTransfer,
    Finetune,
    FitNet,
    Kernel,
    Prune,
    Session,
    SoftTargets,
    State,
)
from compress.affinity import PRESETS
from compress.answers import Answers
from compress.balance import Balance
from compress.distillation import Distillation, Still
from compress.hints import _Attention, _Contrast
from compress.losses import local_structure, log_structure, soft_labels
from compress.lsp import LocalStructure
from compress.neighbours import Neighbours
from compress.noted import Noted, Seen, default_pairs, edges_of
from compress.session import Sees
from recipes.folders import fingerprint
from teachers.networks import DGCNN, GAT, GCN, DigitsCNN, GraphSAGE, Network, NodeMLP
from teachers.signature import Signature
from teachers.task import Batch, Part, Split, Splits
from teachers.tasks import DigitsGraph, Toy
from teachers.tasks.graph_splits import Graph, GraphsSplits, NodeSplits
from teachers.teacher import Teacher
from teachers.train import Train

CPU = torch.device("cpu")
SIGNATURE = Signature(((5,), (2,)), ("a", "b", "c"), nodes=60, edges=240)
STUDENT = GCN(inputs=5, classes=3, widths=(6,), input_dropout=0.0)
FEW: dict[str, Any] = {"epochs": 3, "embedding": 0}


def data(seed: int = 0) -> Graph:
    """Three kinds of nodes, joined to their own kind mostly, with features that say a little."""
    dice = torch.Generator().manual_seed(seed)
    kind = torch.arange(60) % 3
    receive = torch.arange(60).repeat_interleave(4)
    send = (receive + 3 * torch.randint(1, 20, (240,), generator=dice)) % 60
    send[::6] = (receive[::6] + 1) % 60
    features = F.one_hot(kind, 5).float() + 0.8 * torch.randn(60, 5, generator=dice)
    order = torch.randperm(60, generator=dice)
    rows = dict(zip(Split, order.split([15, 20, 25]), strict=True))
    return Graph(features, torch.stack([send, receive]), kind, rows).tidy("it")


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    from contextlib import nullcontext

    torch.manual_seed(0)
    network = GAT(inputs=5, classes=3, widths=(8,), heads=(4,), input_dropout=0.0, dropout=0.2).build()
    train = Train(epochs=60, lr=0.02, optimizer="adam", schedule="constant", choose="best")
    train(
        network, NodeSplits(data()), device=CPU, autocast=nullcontext, epochs=lambda total, **_: range(total),
        log=lambda *_: None,
    )  # fmt: skip
    return Teacher("gat", network, SIGNATURE)


def session(splits: Splits | None = None, told: list[dict[str, float]] | None = None, **more: Any) -> Session:
    def report(values: Any, _: int) -> None:
        if told is not None:
            told.append(dict(values))

    return Session(splits=splits or NodeSplits(data()), report=report, **more)


def taught(stage: Distillation, teacher: Teacher, bench: Session | None = None, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    student = stage(State((teacher,)), bench or session(sees=stage.sees)).student
    assert student is not None
    return student


def structure(student: nn.Module, teacher: Teacher, graph: Graph, layer: str = "activations.0") -> float:
    """The divergence of both networks' local structure, written out here."""
    seen = []
    for network in (student, teacher.module):
        noted = Noted(network.eval(), [layer], "before")
        with torch.no_grad(), noted.watching() as found:
            network(graph.features, graph.edges)
        seen.append(found[layer].the_features())
    return float(local_structure(seen[0], seen[1], graph.edges))


# -- it works --------------------------------------------------------------------------------------------------


def test_the_structure_is_kept_at_no_cost_in_accuracy(teacher: Teacher) -> None:
    """With the hint the student's local structure comes three times nearer, at least; val says nothing against it."""
    apart, near, scores = 0.0, 0.0, [0.0, 0.0]
    for seed in (0, 1):
        plain = taught(SoftTargets(student=STUDENT, epochs=60, patience=None), teacher, seed=seed)
        kept = taught(
            LSP(student=STUDENT, epochs=60, patience=None, embedding=0, balance=1.0), teacher, seed=seed
        )
        apart += structure(plain, teacher, data())
        near += structure(kept, teacher, data())
        (batch,) = NodeSplits(data()).batches(Split.VAL, CPU)
        assert batch.target is not None
        for place, network in enumerate((plain, kept)):
            scores[place] += float((network(*batch.inputs).argmax(1) == batch.target).sum()) / 40
    assert 3 * near < apart
    assert scores[1] > scores[0] - 0.1
    assert scores[1] > 0.6


def test_the_published_form_changes_next_to_nothing(teacher: Teacher) -> None:
    """Its gradient is some hundred thousandths of the labels': with it or without, nearly the same student comes
    out.
    """
    told: list[dict[str, float]] = []
    stage = LSP.published(student=STUDENT, epochs=40, embedding=0, patience=None)
    assert (stage.kernel, stage.weight, stage.soft_targets, stage.hint_epochs) == ("official", 1.0, 0.0, 30)
    with_it = taught(stage, teacher, session(told=told))
    without = taught(replace(stage, weight=1e-30), teacher)
    assert ["hint" in values for values in told[:-1]] == [True] * 30 + [False] * 10
    (batch,) = NodeSplits(data()).batches(Split.TEST, CPU)
    assert (with_it(*batch.inputs).argmax(1) == without(*batch.inputs).argmax(1)).float().mean() > 0.95
    assert structure(with_it, teacher, data()) > 0.5 * structure(without, teacher, data())


@pytest.mark.parametrize(
    "student",
    [
        GAT(inputs=5, classes=3, heads=(1,), input_dropout=0.0),
        GraphSAGE(inputs=5, classes=3, widths=(6,)),
        NodeMLP(inputs=5, classes=3, widths=(6,)),
        DGCNN(inputs=5, classes=3, per_node=True, k=5, widths=(6, 6), embedding=8, head=(8,)),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_students_of_every_kind(student: Network, teacher: Teacher) -> None:
    told: list[dict[str, float]] = []
    bench = session(told=told)
    made = taught(LSP(student=student, epochs=8, embedding=20), teacher, bench)
    assert all(values["weight"] > 0 for values in told[:-1])
    assert len(bench.pictures) == 2
    assert all(svg.startswith("<svg") for svg in bench.pictures.values())
    if isinstance(student, NodeMLP):
        assert made(data().features).shape == (60, 3)  # used without a graph


def test_without_labels_it_comes_near_the_teacher(teacher: Teacher) -> None:
    stage = LSP(student=STUDENT, labels=0, epochs=60, patience=None, embedding=0)
    assert stage.sees is Sees.INPUTS
    bench = session(sees=Sees.INPUTS)
    student = taught(stage, teacher, bench)
    x, edges = data().features, data().edges
    assert (student(x, edges).argmax(1) == teacher(x, edges).argmax(1)).float().mean() > 0.7
    assert bench.read.keys() == {"train", "val"}


def test_after_pruning_heads_and_channels(teacher: Teacher) -> None:
    state = State((teacher,))
    state = Prune(macs=0.75, units="heads")(state, Session.bare())
    state = Prune(macs=0.8, round_to=2)(state, Session.bare())
    assert state.student is not None
    source: Any = state.student.get_submodule("layers.0.source")
    assert source.groups < 4
    assert source.weight.shape[1] < 8
    cut = structure(state.student, teacher, data())
    tuned = LSP(epochs=40, embedding=0)(state, session()).student
    assert tuned is not None
    assert structure(tuned, teacher, data()) < cut


def test_nothing_that_was_given_is_touched(teacher: Teacher) -> None:
    before = fingerprint(teacher.module)
    student = STUDENT.build()
    mark = fingerprint(student)
    made = LSP(**FEW)(State((teacher,), student), session()).student
    assert made is not None
    assert (fingerprint(teacher.module), fingerprint(student)) == (before, mark)
    assert fingerprint(made) != mark
    assert not any(module._forward_hooks for module in [*made.modules(), *teacher.module.modules()])


def test_the_best_epoch_on_val_is_handed_on(teacher: Teacher) -> None:
    told: list[dict[str, float]] = []
    bench = session(told=told)
    student = taught(SoftTargets(student=STUDENT, epochs=200, patience=10), teacher, bench)
    scores = [values["val"] for values in told]
    best = max(range(len(scores)), key=lambda place: scores[place])
    assert len(scores) < 200
    assert f"stopped after epoch {len(scores)}: no better on val for 10 epochs" in bench.notes
    (batch,) = NodeSplits(data()).batches(Split.VAL, CPU)
    assert float((student(*batch.inputs).argmax(1) == batch.target).sum()) / 20 == pytest.approx(scores[best])


def test_or_the_epoch_of_the_lowest_loss(teacher: Teacher) -> None:
    told: list[dict[str, float]] = []
    bench = session(told=told)
    student = taught(SoftTargets(student=STUDENT, epochs=150, lr=0.05, choose="loss"), teacher, bench)
    losses = [values["val_loss"] for values in told]
    best = min(range(len(losses)), key=lambda place: losses[place])
    assert f"chosen on val: epoch {best + 1} of {len(losses)}, loss {losses[best]:.4f}" in bench.notes
    assert losses[best] < losses[-1]
    (batch,) = NodeSplits(data()).batches(Split.VAL, CPU)
    assert float(F.cross_entropy(student(*batch.inputs), batch.target)) == pytest.approx(losses[best])


# -- what it is compared with ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [FitNet, AttentionTransfer, GCRD], ids=lambda kind: kind.__name__)
def test_other_hints_fall_as_they_are_learnt(stage: type[Distillation], teacher: Teacher) -> None:
    told: list[dict[str, float]] = []
    taught(stage(student=STUDENT, epochs=60, patience=None, balance=1.0), teacher, session(told=told))
    assert told[-1]["hint"] < 0.8 * told[0]["hint"]


def test_hints_by_their_formulas() -> None:
    torch.manual_seed(0)
    z, t = torch.randn(6, 3), torch.randn(6, 4)
    batch = Batch((z,))
    a, b = (z**2).mean(1), (t**2).mean(1)
    wanted = float((a / a.norm() - b / b.norm()).square().sum())
    assert float(_Attention()(Seen(z), Seen(t), batch)) == pytest.approx(wanted, rel=1e-5)
    hint = _Contrast(3, 4, 5, 0.1, 100)
    p, q = (F.normalize(m(x), dim=1) for m, x in ((hint.mine, z), (hint.theirs, t)))
    rows = [-float((p[i] @ q[i] / 0.1) - torch.logsumexp(p[i] @ q.t() / 0.1, 0)) for i in range(6)]
    assert float(hint(Seen(z), Seen(t), batch)) == pytest.approx(sum(rows) / 6, rel=1e-5)
    part = Batch((z,), part=Part(torch.arange(6), None, 4, complete=False))
    assert float(_Attention()(Seen(z), Seen(t), part)) == pytest.approx(
        float(_Attention()(Seen(z[:4]), Seen(t[:4]), batch)), rel=1e-5
    )


def test_soft_labels_are_the_divergence_of_each_question() -> None:
    s, t = torch.randn(4, 3, dtype=torch.float64).requires_grad_(), torch.randn(4, 3, dtype=torch.float64)
    p, q = (t / 2).sigmoid(), (s / 2).sigmoid()
    wanted = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert soft_labels(s, t, 2.0).item() == pytest.approx(wanted.item())
    assert soft_labels(t, t).item() == pytest.approx(0)
    assert torch.autograd.gradcheck(lambda x: soft_labels(x, t, 2.0), s)


# -- the weight ----------------------------------------------------------------------------------------------------


def test_a_balanced_hint_has_its_share_of_the_gradient() -> None:
    """Whatever the kernel, eight orders of magnitude apart: the hint's gradient is so long as was asked."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(5, 4))
    for size in (1e-8, 1.0, 1e6):
        learn = torch.optim.SGD([weight], 0.0)
        balance = Balance(0.3)
        found = balance.backward(weight.square().sum(), size * weight.sin().sum(), learn)
        g, h = 2 * weight.detach(), size * weight.detach().cos()
        assert found * float(h.norm()) == pytest.approx(0.3 * float(g.norm()), rel=1e-5)
        torch.testing.assert_close(weight.grad, g + found * h)
        again = Balance(0.3)
        again.load_state_dict(balance.state_dict())
        assert again.backward(weight.square().sum(), size * weight.sin().sum(), learn) == pytest.approx(found)


def test_a_fixed_weight_is_that() -> None:
    weight = nn.Parameter(torch.randn(3))
    learn = torch.optim.SGD([weight], 0.0)
    assert Balance(0.3, 2.0).backward(weight.sum(), weight.sin().sum(), learn) == 2.0
    torch.testing.assert_close(weight.grad, 1 + 2 * weight.detach().cos())
    balance = Balance(0.3)
    assert balance.backward(weight.sum(), (weight * 0).sum(), learn) == 0.0, (
        "a hint that says nothing has no weight"
    )
    other = nn.Parameter(torch.randn(3))
    with pytest.raises(ValueError, match="reaches no parameter that labels or soft targets reach"):
        balance.backward(weight.sum(), other.sum(), torch.optim.SGD([weight, other], 0.0))


# -- batches ------------------------------------------------------------------------------------------------------


def seeds_loss(network: nn.Module, teacher: Teacher, batch: Batch, sees: str = "part") -> tuple[float, int]:
    """The hint of a batch, over its seeds, summed."""
    stage = LSP(reduction="sum")
    hint = LocalStructure(stage)
    pairs = {"activations.0": "activations.0"}
    answers = Answers(teacher, pairs, "before", {"activations.0": hint}, session(), sees)
    noted = Noted(network, ["activations.0"], "before")
    _, theirs = answers.of(batch)
    with torch.no_grad(), noted.watching() as mine:
        network(*batch.inputs)
    assert batch.part is not None
    return float(hint(mine["activations.0"], theirs["activations.0"], batch)), batch.part.seeds


@pytest.mark.parametrize("sees", ["part", "whole"])
def test_parts_with_whole_neighbourhoods_give_the_loss_of_the_whole_graph(
    teacher: Teacher, sees: str
) -> None:
    """Over seeds alone, with a hop more than the features take: neighbours' features have to be whole, too."""
    graph = data()
    every = replace(graph, rows={**graph.rows, Split.TRAIN: torch.arange(60)})
    network = GraphSAGE(inputs=5, classes=3, widths=(6,)).build().eval()
    (batch,) = NodeSplits(every).batches(Split.TRAIN, CPU)
    whole, count = seeds_loss(network, teacher, batch)
    assert count == 60
    parts = [
        seeds_loss(network, teacher, part, sees)
        for part in NodeSplits(every, 7, None, (-1, -1, -1)).batches(Split.VAL, CPU)
    ]
    assert len(parts) == 1
    drawn = NodeSplits(every, 7, 7, (-1, -1, -1)).batches(Split.TRAIN, CPU)
    found = [seeds_loss(network, teacher, part, sees) for part in drawn]
    assert sum(n for _, n in found) == 60
    assert sum(value for value, _ in found) == pytest.approx(whole, rel=1e-4)


def test_mini_batches_teach(teacher: Teacher) -> None:
    told: list[dict[str, float]] = []
    splits = NodeSplits(data(), 5, 10, (3, 3))
    taught(LSP(student=STUDENT, epochs=6, embedding=0), teacher, session(splits, told))
    assert all(values["hint"] > 0 for values in told[:-1])
    assert told[-2]["loss"] < told[0]["loss"]
    taught(LSP(student=STUDENT, teacher_sees="whole", **FEW), teacher, session(splits))


def several() -> GraphsSplits:
    graph = data()
    parts = [(0, 12), (12, 26), (26, 40), (40, 60)]
    ends = torch.tensor([0, 12, 26, 40, 60])
    of = torch.bucketize(torch.arange(60), ends, right=True)
    edges = graph.edges[:, of[graph.edges[0]] == of[graph.edges[1]]]
    target = torch.zeros(60, 3)
    target[torch.arange(60), graph.target] = 1.0
    rows = {Split.TRAIN: torch.arange(26), Split.VAL: torch.arange(26, 40), Split.TEST: torch.arange(40, 60)}
    assert len(parts) == len(ends) - 1
    return GraphsSplits(Graph(graph.features, edges, target, rows, ends).tidy("it"), 1)


def test_several_graphs_with_several_labels_and_a_memory(teacher: Teacher) -> None:
    """Outputs by node and scores by edge are asked for once; what is remembered is what was said."""
    splits = several()
    many = Teacher("gat", teacher.module, replace(SIGNATURE, kind="sigmoid"))
    calls = []
    handle = teacher.module.register_forward_hook(lambda *_: calls.append(1))
    told: list[dict[str, float]] = []
    taught(LSP(student=STUDENT, epochs=5, embedding=0), many, session(splits, told))
    handle.remove()
    assert len(calls) <= 6, "once to try, once a graph of train, and for the picture"
    pairs = {"activations.0": "activations.0"}
    hint = LocalStructure(LSP())
    answers = Answers(many, pairs, "before", {"activations.0": hint}, session())
    for _ in range(2):
        for batch in splits.batches(Split.TRAIN, CPU):
            outputs, seen = answers.of(batch)
            torch.testing.assert_close(outputs, many(*batch.inputs))
            near = Neighbours.of(batch.inputs[1], len(batch.inputs[0]))
            scores = seen["activations.0"].scores
            assert scores is not None
            assert scores[near.place].isfinite().all()
    assert told[-2]["loss"] < told[0]["loss"]


def test_finetune_takes_several_labels(teacher: Teacher) -> None:
    """Each output is a question of its own: its soft targets are those of Bernoulli, not a softmax over all."""
    many = Teacher("gat", teacher.module, replace(SIGNATURE, kind="sigmoid"))
    for fields in ({}, {"labels": 1.0}, {"labels": 1.0, "soft_targets": 0.0}):
        told: list[dict[str, float]] = []
        torch.manual_seed(0)
        stage = Finetune(epochs=6, lr=0.01, warmup=0, **fields)  # type: ignore[arg-type]
        student = GCN(inputs=5, classes=3, widths=(6,), dropout=0.0, input_dropout=0.0).build()
        stage(State((many,), student), session(several(), told, sees=stage.sees))
        assert told[-1]["loss"] < told[0]["loss"]
        assert all(0 <= value <= 1 for row in told for name, value in row.items() if name != "loss")


def test_scores_that_were_kept_are_those_of_the_features(teacher: Teacher) -> None:
    (batch,) = NodeSplits(data()).batches(Split.TRAIN, CPU)
    network = STUDENT.build().eval()
    found = []
    for strangers in (0, 3):  # strangers need the features, and get them
        stage = LSP(strangers=strangers)
        hint = LocalStructure(stage)
        pairs = {"activations.0": "activations.0"}
        answers = Answers(teacher, pairs, "before", {"activations.0": hint}, session())
        theirs = answers.of(batch)[1]["activations.0"]
        assert (theirs.scores is None) == bool(strangers)
        noted = Noted(network, ["activations.0"], "before")
        with torch.no_grad(), noted.watching() as mine:
            network(*batch.inputs)
        torch.manual_seed(0)
        found.append(float(hint(mine["activations.0"], theirs, batch)))
    assert found[0] == pytest.approx(structure(network, teacher, data()), rel=1e-5)
    assert found[1] != pytest.approx(found[0])


# -- dynamic graphs ---------------------------------------------------------------------------------------------------


def test_networks_that_build_their_graphs_meet_on_the_union() -> None:
    torch.manual_seed(0)
    signature = Signature(((20, 3),), ("a", "b", "c"))
    big = DGCNN(classes=3, widths=(8, 8, 8), embedding=16, head=(8,), k=6).build().eval()
    small = DGCNN(classes=3, widths=(4, 4, 4), embedding=8, head=(8,), k=4).build().eval()
    pairs = default_pairs(small, big)
    assert pairs == {f"layers.{n}.features": f"layers.{n}.features" for n in (1, 2)}
    (clouds,) = signature.example(2)
    noted = [Noted(network, list(pairs), "after") for network in (small, big)]
    with torch.no_grad(), noted[0].watching() as mine, noted[1].watching() as theirs:
        small(clouds), big(clouds)
    name = "layers.2.features"
    hint = LocalStructure(LSP(features="after"))
    near = hint.near(mine[name], theirs[name], Batch((clouds,)))
    pairs_of = [set(map(tuple, seen[name].edges.t().tolist())) for seen in (mine, theirs)]  # type: ignore[union-attr]
    wanted = {(j, i) for j, i in pairs_of[0] | pairs_of[1] if j != i}
    assert set(zip(near.neighbour.tolist(), near.centre.tolist(), strict=True)) == wanted
    assert all(j // 20 == i // 20 for j, i in wanted), "no edge leads from one cloud to another"
    value = hint(mine[name], theirs[name], Batch((clouds,)))
    kernel = PRESETS["cosine"]
    logs = [log_structure(kernel.scores(seen[name].the_features(), near), near) for seen in (theirs, mine)]
    assert float(value) == pytest.approx(float((logs[0].exp() * (logs[0] - logs[1])).sum()) / 40, rel=1e-4)


def test_edges_of_nearest_neighbours() -> None:
    near = torch.tensor([[[0, 1], [1, 0], [2, 1]], [[0, 2], [1, 2], [2, 0]]])
    assert edges_of(near).tolist() == [
        [0, 1, 1, 0, 2, 1, 3, 5, 4, 5, 5, 3],
        [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5],
    ]


def test_the_digits_in_their_dynamic_form() -> None:
    """Teacher and student each build their graphs from what they make of the digits."""
    torch.manual_seed(0)
    task = DigitsGraph(k=5)
    network = DGCNN(
        inputs=64, classes=10, per_node=True, k=6, widths=(16, 16), embedding=32, head=(16,)
    ).build()
    teacher = Teacher("dgcnn", network, task.signature())
    student = DGCNN(inputs=64, classes=10, per_node=True, k=4, widths=(8, 8), embedding=16, head=(8,))
    told: list[dict[str, float]] = []
    stage = LSP(student=student, epochs=2, embedding=0)
    taught(stage, teacher, session(task.open(None), told))
    assert told[0]["hint"] > 0


# -- looking in ---------------------------------------------------------------------------------------------------


def test_before_and_after_the_activation(teacher: Teacher) -> None:
    x, edges = data().features, data().edges
    seen = {}
    for where in ("before", "after"):
        noted = Noted(teacher.module, ["activations.0"], where)  # type: ignore[arg-type]
        with noted.watching() as found:
            teacher(x, edges)
        seen[where] = found["activations.0"].the_features()
    layer: Any = teacher.module.get_submodule("layers.0")
    torch.testing.assert_close(seen["before"], layer(x, edges))
    torch.testing.assert_close(seen["after"], F.elu(seen["before"]))


def test_dropout_is_off_for_the_hint_and_on_again() -> None:
    network = GAT(inputs=5, classes=3, dropout=0.5).build().train()
    still = Still(network)
    assert still.moves
    x, edges = data().features, data().edges
    with still():
        assert torch.equal(network(x, edges), network(x, edges))
    assert not torch.equal(network(x, edges), network(x, edges))
    assert not Still(GAT(inputs=5, classes=3, dropout=0, input_dropout=0, attention_dropout=0).build()).moves


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (
            LSP(student=STUDENT, pairs={"activation.0": "activations.0"}, **FEW),
            "has no module 'activation.0' .*'activations.0'",
        ),
        (
            LSP(student=STUDENT, pairs={"activations.0": "layers.7"}, **FEW),
            "GraphNetwork has no module 'layers.7'",
        ),
        (LSP(student=STUDENT, pairs={"layers": "activations.0"}, **FEW), "never calls its module 'layers'"),
        (
            LSP(student=GCN(inputs=6, classes=3), **FEW),
            r"student does not take what the task gives, \(64, 5\) and",
        ),
        (LSP(student=GCN(inputs=5, classes=4), **FEW), r"answer differently, \(64, 4\) and \(64, 3\)"),
        (SoftTargets(student=DigitsCNN(classes=3), epochs=1), "student does not take what the task gives"),
    ],
    ids=["typo", "nowhere", "uncalled", "width", "classes", "images"],
)
def test_networks_and_layers_that_do_not_fit(stage: LSP, said: str, teacher: Teacher) -> None:
    with pytest.raises(ValueError, match=said):
        taught(stage, teacher)


def test_nothing_to_learn_from() -> None:
    for fields in ({"labels": 0, "soft_targets": 0}, {"soft_targets": 0, "weight": 0}):
        with pytest.raises(ValueError, match=r"nothing to learn from|no distillation"):
            LSP(**fields)  # type: ignore[arg-type]


class Pool(nn.Module):
    """Gives features of half as many nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.activations = nn.ModuleList([nn.ReLU()])
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        self.activations[0](x[::2])
        return self.linear(x)


def test_features_of_other_nodes(teacher: Teacher) -> None:
    with pytest.raises(ValueError, match=r"features of 32 nodes and the teacher's 'activations.0' of 64"):
        LSP(**FEW)(State((teacher,), Pool()), session())


def test_no_graph_where_one_is_needed() -> None:
    task = Toy(samples=60, batch=20)
    teacher = Teacher("cnn", DigitsCNN(classes=3).build(), task.signature())
    stage = LSP(pairs={"linear": "linear"}, **FEW)
    with pytest.raises(
        ValueError, match=r"the task gives no edges and neither network builds a graph of its own"
    ):
        stage(State((teacher,)), Session.bare(task))
    with pytest.raises(ValueError, match=r"no module of the student is called activations\.N"):
        LSP(**FEW)(State((teacher,)), Session.bare(task))


def test_a_student_that_wants_edges_which_nobody_has() -> None:
    signature = Signature(((5,),), ("a", "b", "c"), nodes=60, edges=0)
    teacher = Teacher("mlp", NodeMLP(inputs=5, classes=3).build(), signature)
    with pytest.raises(ValueError, match=r"student does not take what the task gives, \(64, 5\): .*edges"):
        LSP(student=STUDENT, **FEW)(State((teacher,)), session())


def test_features_that_are_no_numbers(teacher: Teacher) -> None:
    graph = data()
    features = graph.features.clone()
    features[3, 1] = torch.nan
    splits = NodeSplits(replace(graph, features=features))
    with pytest.raises((ValueError, ArithmeticError), match=r"NaN|nan"):
        taught(LSP(student=STUDENT, **FEW), teacher, session(splits))


def test_isolated_nodes_and_duplicates_are_told(teacher: Teacher) -> None:
    graph = data()
    edges = graph.edges[:, graph.edges[1] != 5]
    edges = torch.cat([edges, edges[:, :7]], 1)
    bench = session(NodeSplits(replace(graph, edges=edges)))
    taught(LSP(student=STUDENT, **FEW), teacher, bench)
    assert any("1 with no neighbour, 7 edges that were given twice" in note for note in bench.notes)


def test_the_plan_names_the_layers(teacher: Teacher) -> None:
    (line,) = LSP(student=STUDENT).plan(State((teacher,)), SIGNATURE)
    assert line == "compares activations.0 (6) with the teacher's activations.0 (32)"
    assert SoftTargets(student=STUDENT).plan(State((teacher,)), SIGNATURE) == []
    kernel = Kernel(measure="squared_l2", exponential=True, gamma=2.0)
    assert LSP(student=STUDENT, kernel=kernel).kernel == kernel
