"""Two recipes side by side, field by field."""

import difflib
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from compress import GAL, KSE, Finetune, Prune
from recipes.difference import Difference, aligned, difference
from recipes.recipe import Recipe
from teachers.networks import DigitsCNN
from teachers.tasks import Digits, Toy
from teachers.teacher import Checkpoint
from teachers.train import Train

TASK = Toy(samples=120)
TEACHER = Checkpoint(name="toy", network=DigitsCNN(classes=3), task=TASK, train=Train(epochs=4))
ONE = Recipe(
    name="one", task=TASK, teachers=(TEACHER,),
    stages=(GAL(macs=0.5, epochs=2), Finetune(epochs=1), KSE(granularity=5), Finetune(epochs=2)),
)  # fmt: skip


def told(left: Recipe, right: Recipe) -> dict[str, tuple[str, str]]:
    return {row.path: (row.left, row.right) for row in difference(left, right)}


def test_equal_recipes() -> None:
    assert difference(ONE, replace(ONE)) == ()


def test_fields() -> None:
    other = replace(
        ONE, name="other", seed=3, task=replace(TASK, samples=160),
        teachers=(replace(TEACHER, train=Train(epochs=4, lr=0.3), network=DigitsCNN(classes=3, widths=(8, 8, 8))),),
        stages=(GAL(macs=0.4, epochs=2), *ONE.stages[1:]),
    )  # fmt: skip
    found = told(ONE, other)
    assert found["name"] == ("one", "other")
    assert found["seed"] == ("0", "3")
    assert found["task.samples"] == ("120", "160")
    assert found["teachers.0.network.widths"][1] == "[8, 8, 8]"
    assert found["teachers.0.train.lr"][1] == "0.3"
    assert found["stages.0 GAL.macs"] == ("0.5", "0.4")
    assert len(found) == 6
    assert told(other, ONE) == {path: (right, left) for path, (left, right) in found.items()}


def test_stages_are_aligned_by_kind() -> None:
    shorter = replace(ONE, stages=(Finetune(epochs=1), Finetune(epochs=3)))
    found = difference(ONE, shorter)
    assert found == (
        Difference("stages.0", "compress.GAL: {macs: 0.5}", "–"),
        Difference("stages.2", "compress.KSE: {granularity: 5}", "–"),
        Difference("stages.3 Finetune.epochs", "2.0", "3.0"),
    )
    assert [row.path for row in found] == ["stages.0", "stages.2", "stages.3 Finetune.epochs"]
    assert [row.path for row in difference(shorter, ONE)] == [
        "stages.0",
        "stages.2",
        "stages.1 Finetune.epochs",
    ]


def test_specs_of_other_kinds_are_one_line() -> None:
    assert told(ONE, replace(ONE, task=Digits()))["task"] == ("teachers.tasks.Toy", "teachers.tasks.Digits")
    more = replace(ONE, teachers=(TEACHER, replace(TEACHER, name="second")))
    assert told(ONE, more) == {"teachers.1": ("–", "teachers.Checkpoint")}
    trained = replace(ONE, teachers=(replace(TEACHER, train=None, weights="w.pt"),))
    found = told(trained, ONE)
    assert found["teachers.0.weights"] == ("w.pt", "null")
    assert found["teachers.0.train"] == ("null", "teachers.Train")


def test_none_of_its_stages_is_alike() -> None:
    found = difference(replace(ONE, stages=(Prune(macs=0.5),)), replace(ONE, stages=(KSE(),)))
    assert [(row.left, row.right) for row in found] == [
        ("compress.Prune: {macs: 0.5}", "–"),
        ("–", "compress.KSE: {}"),
    ]


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_aligned(left: str, right: str) -> None:
    pairs = aligned(list(left), list(right))
    assert [i for i, _ in pairs if i is not None] == list(range(len(left)))
    assert [j for _, j in pairs if j is not None] == list(range(len(right)))
    both = [(i, j) for i, j in pairs if i is not None and j is not None]
    assert all(left[i] == right[j] for i, j in both)

    def longest(one: str, other: str) -> int:
        """Slow twin."""
        if not one or not other:
            return 0
        if one[0] == other[0]:
            return 1 + longest(one[1:], other[1:])
        return max(longest(one[1:], other), longest(one, other[1:]))

    assert len(both) == longest(left, right)
    assert len(both) >= sum(
        block.size for block in difflib.SequenceMatcher(None, left, right).get_matching_blocks()
    )
