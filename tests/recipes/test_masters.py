"""The end of a run with several teachers: student against each, all together, and what the report says of it."""

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from compress import Amalgamate
from compress.amalgamation import Amalgamation
from recipes import measure
from recipes.masters import compared
from recipes.plan import plan
from recipes.recipe import Recipe, Workshop
from recipes.run import run
from reports import mastery
from reports.mastery import Duel
from teachers.networks import DeepLab, DigitsCNN
from teachers.tasks import Pairs, Scenes, Shapes, Subset, Toy
from teachers.tasks.segmentation import mean_iou
from teachers.teacher import Checkpoint, Teacher
from teachers.train import Train

TASK = Toy(classes=4, samples=240, batch=32)
P = TASK.labels
TEACHERS = tuple(
    Checkpoint(
        name=name, network=DigitsCNN(classes=2, widths=(6, 8, 10)), task=Subset(of=TASK, keep=keep),
        train=Train(epochs=6, lr=0.05, warmup=1),
    )
    for name, keep in (("odd", (P[1], P[3])), ("even", (P[0], P[2])))
)  # fmt: skip
PAGE = Recipe(
    name="parts", task=TASK, teachers=TEACHERS,
    stages=(Amalgamate(student=DigitsCNN(classes=4, widths=(6, 8, 10)), epochs=6),),
)  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setattr(measure, "SECONDS", 0.01)
    return Workshop(runs=tmp_path, device="cpu", tracking="off")


def test_the_plan_says_who_owns_which_label(bench: Workshop) -> None:
    said = str(plan(PAGE, bench, probe=False))
    assert "4 labels asked of 2 teachers: even 2 of 2 (softmax), odd 2 of 2 (softmax)" in said
    for number, who in enumerate(("even", "odd", "even", "odd")):
        assert f"pattern {number}: {who}" in said
    assert "even and odd: disjoint" in said
    assert "merge: auto, class evidence" in said


def test_a_run_tells_of_every_teacher_and_of_all_together(bench: Workshop) -> None:
    made = run(PAGE, bench)
    found = json.loads((made.folder / "amalgamation.json").read_text())
    assert [one["name"] for one in found["teachers"]] == ["even", "odd"]
    for one in found["teachers"]:
        assert one["low"] <= one["student"] - one["other"] <= one["high"]
        assert one["samples"] == 120
        assert one["master"] == (one["student"] >= one["other"])
    joint = found["joint"]
    test = made.records[-1].test
    assert test is not None
    assert joint["student"] == pytest.approx(test.value), "the student's own score on test"
    assert joint["samples"] == 240
    assert found["groups"]["names"] == ["even", "odd"]
    assert np.sum(found["groups"]["counts"]) == 240
    teachers = [record.profile for record in made.records[:2]]
    assert found["cost"]["params_teachers"] == sum(p.params for p in teachers)
    assert found["cost"]["macs_teachers"] == sum(p.macs for p in teachers)
    report = (made.folder / "report.html").read_text()
    for words in (
        "Student and teachers, on each one", "all labels together", "How the teachers were made comparable",
        "Whose label was true", "MACs of 2 teachers together; master of",
    ):  # fmt: skip
        assert words in report
    assert "score against MACs" not in report, "a teacher's score is of its own labels, the student's of all"
    card = json.loads((made.folder / "compact" / "card.json").read_text())
    assert card["amalgamation"]["calibration"]["how"] == "class"
    assert card["signature"]["labels"] == list(P)
    # A second call reads what is there; the state read back from disk is the same.
    again = run(PAGE, bench)
    assert again.state.amalgamation == made.state.amalgamation
    assert json.loads((made.folder / "amalgamation.json").read_text()) == found


@pytest.mark.parametrize(
    ("whole", "network", "keeps"),
    [
        (
            Shapes(samples=40, size=16, batch=8),
            {"widths": (4, 4, 4, 4), "blocks": 1, "head": 4, "rates": (1,)},
            (("ground", "disc"), ("ground", "square")),
        ),
        (Pairs(of=Toy(classes=4, samples=160, batch=16), samples=60), None, ((P[0], P[1]), (P[2], P[3]))),
    ],
    ids=["pixels", "several labels"],
)
def test_other_kinds_of_answers(
    whole: Shapes,
    network: dict[str, object] | None,
    keeps: tuple[tuple[str, ...], ...],
    bench: Workshop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        import_module("recipes.run"), "admit", lambda *_: None
    )  # too few samples to be sure of anything

    def net(classes: int) -> DeepLab | DigitsCNN:
        if network is None:
            return DigitsCNN(classes=classes, widths=(6, 8, 10))
        return DeepLab(classes=classes, **network)  # type: ignore[arg-type]

    teachers = tuple(
        Checkpoint(
            name=f"teacher-{number}", network=net(2), task=Subset(of=whole, keep=keep),
            train=Train(epochs=4, lr=0.1, warmup=1),
        )
        for number, keep in enumerate(keeps)
    )  # fmt: skip
    stages = (Amalgamate(student=net(len(whole.signature().labels)), epochs=2),)
    made = run(Recipe(name="other", task=whole, teachers=teachers, stages=stages), bench)
    found = json.loads((made.folder / "amalgamation.json").read_text())
    test = made.records[-1].test
    assert test is not None
    assert found["joint"]["student"] == pytest.approx(test.value, abs=1e-6)
    for one, record in zip(found["teachers"], made.records[:2], strict=True):
        assert record.test is not None
        assert one["other"] == pytest.approx(record.test.value, abs=1e-6), (
            "the teacher's own score on its own task"
        )


def test_outputs_of_unlike_units_are_told_apart_and_never_averaged() -> None:
    both = Scenes(size=16, samples=12, batch=4)
    tasks = {ask: replace(both, ask=ask) for ask in ("shapes", "depth")}
    torch.manual_seed(0)
    small = {"widths": (4, 4, 4, 4), "blocks": 1, "head": 4, "rates": (1,)}
    teachers = [
        Teacher(name, DeepLab(classes=classes, **small).build(), tasks[name].signature())  # type: ignore[arg-type]
        for name, classes in (("shapes", 3), ("depth", 1))
    ]

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList(teacher.module for teacher in teachers)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([part(x) for part in self.parts], 1)

    made = Amalgamation(("depth", "shapes"), (("depth",), ("ground", "disc", "square")), "per_task")
    found = compared(Both(), teachers, tasks, both, made, lambda task: task.open(None), torch.device("cpu"))
    assert (found["joint"], found["groups"]) == (None, None)
    assert [one["metric"] for one in found["teachers"]] == ["delta1", "mIoU"]
    for one in found["teachers"]:
        assert one["student"] == one["other"], "the student is made of its teachers"
        assert (one["low"], one["high"]) == (0, 0)
    assert found["master"]
    assert "master of 2 of 2" in mastery.verdict(found)


# -- numbers -----------------------------------------------------------------------------------------------


def test_the_interval_of_two_shares_is_that_of_drawing_samples_again() -> None:
    generator = torch.Generator().manual_seed(0)
    mine, its = (torch.rand(300, generator=generator) < share for share in (0.9, 0.85))
    quick = mastery.of_shares(mine, its)
    slow = mastery.of_scores(lambda right, _: float(right.double().mean()), mine, its, torch.zeros(300))
    assert (quick.student, quick.other) == (slow.student, slow.other)
    assert quick.low == pytest.approx(slow.low, abs=0.015)
    assert quick.high == pytest.approx(slow.high, abs=0.015)
    assert Duel(0.5, 0.5, 0, 0, 1).master
    assert not Duel(0.4, 0.5, 0, 0, 1).master


def test_tables_of_pixels_are_the_mean_intersection_over_union() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(-1, 3, (6, 4, 5), generator=generator)
    said = torch.randint(0, 3, (6, 4, 5), generator=generator)
    tables = mastery.table(said, truth, 3)
    void = truth.clone()
    void[void < 0] = -100
    duel = mastery.of_tables(tables, tables)
    assert duel.student == pytest.approx(mean_iou(said, void, 3))
    assert (duel.low, duel.high) == (0, 0)


def test_calibration_error_by_hand() -> None:
    sure, right = torch.tensor([0.9, 0.9, 0.6, 0.6]), torch.tensor([True, True, False, True])
    assert mastery.calibration_error(sure, right) == pytest.approx((2 * 0.1 + 2 * 0.1) / 4)


def test_any_score_is_drawn_again() -> None:
    def score(one: Tensor, _: Tensor) -> float:
        return float(one.mean())

    duel = mastery.of_scores(score, torch.ones(9), torch.zeros(9), torch.zeros(9))
    assert (duel.low, duel.high) == (1, 1)
