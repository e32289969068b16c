"""Labels by name: spaces, how they overlap, aliases, and parts of tasks."""

import contextlib
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from teachers.labels import LabelSpace, components, owners, relation
from teachers.networks import DeepLab, DigitsCNN
from teachers.task import Split
from teachers.tasks import Digits, Pairs, Scenes, Shapes, Subset, Table, Toy, Unseen
from teachers.tasks.pixels import IGNORED
from teachers.tasks.scoring import average_precision, within_a_quarter
from teachers.train import Train, agreeing, supervised

SMALL = DeepLab(classes=1, widths=(8, 8, 8, 8), blocks=1, head=8, rates=(1,))
CPU = torch.device("cpu")
A = LabelSpace(("cat", "dog", "auto"), "a")
B = LabelSpace(("dog", "ship"), "b")
spaces = st.lists(
    st.sets(st.sampled_from("abcdefgh"), min_size=1, max_size=4).map(
        lambda some: LabelSpace(tuple(sorted(some)))
    ),
    min_size=1,
    max_size=5,
)


def test_union_subset_and_places() -> None:
    assert A.union(B).names == B.union(A).names == ("auto", "cat", "dog", "ship")
    assert B.index_map(A.union(B)) == (2, 3)
    assert A.union(B).subset(("ship", "auto")).names == ("ship", "auto")
    assert owners((A, B)) == {"auto": ("a",), "cat": ("a",), "dog": ("a", "b"), "ship": ("b",)}
    assert A.renamed({"auto": "automobile"}).names == ("cat", "dog", "automobile")


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("ab", "cd", "disjoint"), ("ab", "ba", "identical"), ("abc", "cde", "overlapping"),
        ("ab", "abc", "contained in y"), ("abc", "ab", "contained in x"),
    ],
)  # fmt: skip
def test_relations(one: str, other: str, said: str) -> None:
    assert relation(LabelSpace(tuple(one), "x"), LabelSpace(tuple(other), "y")) == said


@given(spaces)
def test_components_are_those_of_the_graph(some: list[LabelSpace]) -> None:
    # Slow twin: spread from each space until nothing is added.
    def reach(place: int) -> set[int]:
        found = {place}
        while True:
            more = {o for p in found for o in range(len(some)) if set(some[p]) & set(some[o])}
            if more <= found:
                return found
            found |= more

    assert set(components(some)) == {tuple(sorted(reach(place))) for place in range(len(some))}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LabelSpace((), "a"), "a has no label"),
        (lambda: LabelSpace(("x", ""), "a"), "a has the label ''"),
        (lambda: LabelSpace(("x", 3), "a"), "a has the label 3"),  # type: ignore[arg-type]
        (lambda: LabelSpace(("x", "y", "x"), "a"), "a has the label 'x' twice among its 3"),
        (lambda: A.renamed({"bird": "dog"}), "a has no label 'bird' to call 'dog'"),
        (lambda: A.renamed({"cat": "dog"}), "aliases of a collide: 'cat' and 'dog' would both be called 'dog'"),
        (lambda: A.subset(("cat", "sheep")), "'sheep' is not among the labels of a .*cat, dog, auto"),
        (lambda: Subset(of=Digits(), keep=("1", "11")), "'11' is not among the labels of Digits"),
        (lambda: Subset(of=Digits(), keep=("1",)), "keeps one label, '1'.*two at least"),
        (lambda: Subset(of=Unseen(shape=(1, 8, 8), classes=3), keep=("1", "2")), "not of a Unseen"),
        (lambda: Pairs(of=Shapes()), "Shapes has none"),
    ],
    ids=lambda given: given if isinstance(given, str) else None,
)  # fmt: skip
def test_what_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_a_part_of_the_digits_keeps_every_split_apart() -> None:
    whole = Digits(batch=32)
    part = Subset(of=whole, keep=("7", "2", "5"))
    assert part.signature().labels == ("7", "2", "5")
    for split in Split:
        mine = [(b.inputs[0], b.target) for b in part.open(None).batches(split, CPU)]
        all_of = [(b.inputs[0], b.target) for b in whole.open(None).batches(split, CPU)]
        images, labels = torch.cat([x for x, _ in all_of]), torch.cat([y for _, y in all_of])
        kept = (labels == 7) | (labels == 2) | (labels == 5)
        assert torch.equal(torch.cat([x for x, _ in mine]), images[kept])
        numbers = torch.tensor([0, 0, 1, 0, 0, 2, 0, 0, 0, 0])
        assert torch.equal(torch.cat([y for _, y in mine]), numbers[labels[kept]])
    assert part.open(None).samples(Split.TRAIN) < whole.open(None).samples(Split.TRAIN)


def test_a_part_of_a_segmentation_has_void_elsewhere() -> None:
    whole = Shapes(samples=12)
    part = Subset(of=whole, keep=("square", "disc"))
    mine, its = (next(iter(t.open(None).batches(Split.TEST, CPU))).target for t in (part, whole))
    assert torch.equal(mine == IGNORED, its == 0)
    assert torch.equal(mine == 0, its == 2)
    assert part.score(torch.zeros_like(mine), mine) == pytest.approx(
        ((mine == 0).sum() / (mine >= 0).sum() / 2).item()
    )


def test_pairs_have_the_labels_of_both() -> None:
    task = Pairs(of=Digits(), samples=100)
    signature = task.signature()
    assert (signature.inputs, signature.kind, task.metric) == (((1, 8, 16),), "sigmoid", "mAP")
    splits = task.open(None)
    assert [splits.samples(split) for split in Split] == [90, 10, 20]
    batch = next(iter(splits.batches(Split.TEST, CPU)))
    assert batch.target is not None
    assert set(batch.target.sum(1).tolist()) <= {1.0, 2.0}
    part = Subset(of=task, keep=("1", "0"))
    narrowed = next(iter(part.open(None).batches(Split.TEST, CPU)))
    assert torch.equal(narrowed.target, batch.target[:, [1, 0]])
    assert torch.equal(narrowed.inputs[0], batch.inputs[0])
    assert part.chance == task.chance == pytest.approx(0.19)


@given(st.integers(0, 2**31), st.booleans())
def test_average_precision_is_that_of_scikit_learn(seed: int, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(30, 3, generator=generator)
    scores = (scores * 4).round() if ties else scores
    truth = (torch.rand(30, 3, generator=generator) < 0.3).double()
    truth[0] = 1
    mine = average_precision(scores, truth)
    for column in range(3):
        assert mine[column].item() == pytest.approx(
            average_precision_score(truth[:, column].numpy(), scores[:, column].numpy())
        )


def test_depths_are_right_within_a_quarter() -> None:
    assert within_a_quarter(torch.tensor([1.0, 1.2, 1.3, 0.82, -1.0]), torch.ones(5)) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("task", "network", "least"),
    [
        (Pairs(of=Digits(batch=32), samples=600), DigitsCNN(widths=(8, 16, 16)), 0.35),
        (Scenes("depth", size=16, samples=96), SMALL, 0.6),
    ],
    ids=["several labels", "depth"],
)  # fmt: skip
def test_other_kinds_of_answers_are_learned(task: Any, network: Any, least: float) -> None:
    torch.manual_seed(0)
    splits, told = task.open(None), []
    module = Train(epochs=8, lr=0.1, warmup=1)(
        network.build(), splits, device=CPU, autocast=contextlib.nullcontext, epochs=lambda total, **_: range(total),
        log=lambda values, _: told.append(values), kind=task.signature().kind,
    )  # fmt: skip
    assert told[-1]["loss"] < told[0]["loss"]
    with torch.no_grad():
        pairs = [(module(*b.inputs), b.target) for b in splits.batches(Split.TEST, CPU)]
    outputs, truth = (torch.cat(part) for part in zip(*pairs, strict=True))
    assert task.score(task.predict(outputs), truth) > least


def test_both_tasks_of_a_scene_are_judged_by_the_worse() -> None:
    task = Scenes(size=16, samples=8)
    (batch,) = task.open(None).batches(Split.TEST, CPU)
    truth = batch.target
    perfect = torch.cat(
        [torch.nn.functional.one_hot(truth[:, 0].long(), 3).movedim(3, 1).float(), truth[:, 1:]], 1
    )
    assert task.score(task.predict(perfect), truth) == 1
    perfect[:, -1] = 100
    assert task.score(task.predict(perfect), truth) == 0
    assert task.signature().kind == "mixed"
    assert not isinstance(task, Table | Toy)


def test_a_task_of_another_kind_of_answers_is_another_question() -> None:
    signature = Digits().signature()
    assert signature.unlike(signature) is None
    said = replace(signature, kind="sigmoid").unlike(signature)
    assert said == "answers with sigmoid outputs, the task has softmax ones"


def test_what_is_true_is_judged_by_what_outputs_mean() -> None:
    """The loss and the share of right answers, by the letter; what is not known is passed over."""
    outputs = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    truth = torch.tensor([[1.0, 0.0], [0.0, torch.nan]])
    known = [(1.0, 1.0), (-2.0, 0.0), (0.5, 0.0)]
    for smoothing in (0.0, 0.2):
        smooth = [(z, t * (1 - smoothing) + smoothing / 2) for z, t in known]
        slow = sum(math.log1p(math.exp(z)) - t * z for z, t in smooth) / 3
        assert supervised(outputs, truth, "sigmoid", smoothing) == pytest.approx(slow)
    assert tuple(map(int, agreeing(outputs, truth, "sigmoid"))) == (2, 3)
    depths = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    given = torch.tensor([[1.2, 2.0], [-3.0, 5.5]])
    assert supervised(given, depths, "regression") == pytest.approx((0.2 + 0 + 6 + 1.5) / 4)
    assert tuple(map(int, agreeing(given, depths, "regression"))) == (2, 4)
    with pytest.raises(ValueError, match="outputs of several kinds are not taught at once"):
        supervised(outputs, depths, "mixed")
    with pytest.raises(ValueError, match="targets are fractions, and exactly one label is said to be true"):
        supervised(outputs, depths, "softmax")
