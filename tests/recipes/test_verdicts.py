"""Budgets on paper, and what is said of them before and after a run."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from recipes.budget import Amount, Budget, amount, said
from recipes.foresee import Least
from recipes.page import PageError, read, write
from recipes.verdict import Drop, Infeasible, costs, dropped, judge, outlook, summed
from reports.evaluate import TestScore
from reports.profile import Profile
from reports.verdict import Bound, Verdict, html

PAGE = """\
recipes.Recipe:
  name: bounded
  task: {teachers.tasks.Digits: }
  at_most: AT_MOST
  teachers:
    - teachers.Checkpoint:
        {name: t, task: {teachers.tasks.Digits: }, network: {teachers.networks.DigitsCNN: }, weights: w.pt}
  stages:
    - compress.Prune: {macs: 0.5}
"""
TEACHER = Profile(1000, 100, 4000, latency_ms_p95_b1=2.0)
STUDENT = Profile(400, 30, 1200, latency_ms_p95_b1=1.5)
LEAST = Least(100, 10, 400, "Prune", "'linear' with 50 MACs (locked: it is an output)")


# -- on paper ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "written", "value", "share"),
    [
        ("macs", "40%", 0.4, True),
        ("macs", "1.5M", 1.5e6, False),
        ("params", 5000, 5000, False),
        ("bytes", "300kB", 300_000, False),
        ("bytes", "1.5 MiB", 1.5 * 2**20, False),
        ("bytes", 1e6, 1e6, False),
        ("latency_ms_p95", 3.0, 3.0, False),
        ("latency_ms_p95", "0.5 ms", 0.5, False),
        ("latency_ms_p95", "50 %", 0.5, True),
    ],
)
def test_amounts(name: str, written: str | float, value: float, share: bool) -> None:
    assert amount(name, written) == Amount(pytest.approx(value), share)


def test_a_share_is_of_the_teachers() -> None:
    assert Amount(0.4, share=True).limit(1000) == 400
    assert Amount(0.4, share=True).limit(None) is None
    assert Amount(7.0, share=False).limit(None) == 7.0


def test_page_and_object() -> None:
    text = PAGE.replace("AT_MOST", "{macs: 40%, bytes: 300kB, latency_ms_p95: 3.0, accuracy_drop: 0.5}")
    recipe = read(text)
    assert recipe.at_most == Budget(macs="40%", bytes="300kB", latency_ms_p95=3.0, accuracy_drop=0.5)
    assert read(write(recipe)) == recipe
    assert read(PAGE.replace("  at_most: AT_MOST\n", "")).at_most is None


@pytest.mark.parametrize(
    ("at_most", "message"),
    [
        ("{macs: 0.4}", "0.4 is less than one of macs: write 40% for a share of the teacher's"),
        ("{macs: lots}", "'lots' is no amount of macs: write 1.5M or 40%"),
        ("{bytes: 3 kg}", "'3 kg' is no amount of bytes: write 300kB, 1.5MiB or 40%"),
        ("{params: 0%}", "'0%' leaves nothing: params must be above 0"),
        ("{macs: -5}", "-5 is no amount of macs"),
        ("{macs: true}", "macs must be an amount, not true or false"),
        ("{latency_ms_p95: 3 s}", "'3 s' is no amount of latency_ms_p95: write 3.0 or 50%"),
        ("{latency_ms_p95: [1]}", "must be text or a whole number or a number, not [1]"),
        ("{accuracy_drop: 200}", "accuracy_drop must be at most 100, not 200"),
        ("{accuracy_drop: some}", "must be a number, not 'some'"),
        ("{macz: 40%}", "recipes.Budget has no field 'macz'; did you mean 'macs'?"),
        ("{}", "a budget asks for something: set one of macs, params, bytes, latency_ms_p95, accuracy_drop"),
        ("40%", "at_most must be a Budget, not '40%'"),
    ],
)
def test_bad_budgets(at_most: str, message: str) -> None:
    with pytest.raises(PageError) as problem:
        read(PAGE.replace("AT_MOST", at_most))
    assert message in str(problem.value)
    assert "(line 4)" in str(problem.value)


def test_costs_as_people_read_them() -> None:
    assert said("macs", 1_500_000) == "1.5M"
    assert said("bytes", 300 * 1024) == "300.0 KiB"
    assert said("latency_ms_p95", 3.0) == "3 ms"


# -- after a run ------------------------------------------------------------------------------------------


def bounds(verdict: Verdict) -> dict[str, Bound]:
    return {bound.name: bound for bound in verdict.bounds}


def test_met() -> None:
    budget = Budget(macs="40%", params=30, bytes="1.2kB", latency_ms_p95=1.5, accuracy_drop=0.5)
    made = judge(budget, STUDENT, costs(TEACHER), Drop(0.5, 0.1, 0.9, 300, "paired"))
    assert made.word == "MET"
    assert not made.failed
    found = bounds(made)
    assert found["macs"].limit == 400
    assert found["macs"].said == "400 MACs, 40.0% of the teacher's; at most 400 (40%)"
    assert (found["accuracy_drop"].low, found["accuracy_drop"].high) == (0.1, 0.9)
    assert (
        "0.50 points below the teacher (0.10 to 0.90, 95 %, 300 test samples, paired)"
        in found["accuracy_drop"].said
    )
    assert "the interval reaches beyond it" in found["accuracy_drop"].said
    assert Verdict.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        (Budget(macs="39%", bytes="2kB"), "macs"),
        (Budget(params=29), "params"),
        (Budget(bytes=1199), "bytes"),
        (Budget(latency_ms_p95="70%"), "latency_ms_p95"),
        (Budget(macs="90%", accuracy_drop=0.4), "accuracy_drop"),
    ],
)
def test_missed(budget: Budget, name: str) -> None:
    made = judge(budget, STUDENT, costs(TEACHER), Drop(0.5, 0.1, 0.9, 300, "paired"))
    assert (made.word, made.failed) == ("MISSED", True)
    assert [bound.name for bound in made.bounds if bound.held is False] == [name]
    assert f"{name}: NOT kept" in "\n".join(made.lines())


def test_unverified_where_something_cannot_be_known() -> None:
    made = judge(
        Budget(macs="40%", accuracy_drop=0.5), STUDENT, costs(TEACHER), None, "there is no test sample"
    )
    assert (made.word, made.failed) == ("UNVERIFIED", False)
    assert bounds(made)["accuracy_drop"].said == "at most 0.5 points asked, and there is no test sample"
    untimed = judge(Budget(latency_ms_p95=3.0), Profile(1, 1, 1), {}, None)
    assert untimed.word == "UNVERIFIED"
    # What is broken stays broken, whatever else is unknown.
    assert judge(Budget(macs="30%", accuracy_drop=1), STUDENT, costs(TEACHER), None, "no").word == "MISSED"


def test_several_teachers_count_together() -> None:
    assert summed([TEACHER, STUDENT])["macs"] == 1400
    assert summed([TEACHER, Profile(1, 1, 1)])["latency_ms_p95"] is None


def test_metrics_and_report() -> None:
    made = judge(
        Budget(macs="40%", accuracy_drop=1), STUDENT, costs(TEACHER), Drop(0.5, 0.1, 0.9, 300, "paired")
    )
    assert made.metrics() == {
        "budget/macs_asked": 400.0, "budget/macs_found": 400, "budget/accuracy_drop_asked": 1.0,
        "budget/accuracy_drop_found": 0.5, "budget/accuracy_drop_low": 0.1, "budget/accuracy_drop_high": 0.9,
    }  # fmt: skip
    drawn = html(made.to_dict())
    assert "<h2>Budget MET</h2>" in drawn
    assert "40.0% of the teacher&#x27;s" in drawn


# -- the drop of the score --------------------------------------------------------------------------------


def test_paired_differences_are_surer_than_two_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 10, 1000)
    teacher = np.where(rng.random(1000) < 0.9, targets, (targets + 1) % 10)
    student = np.where(np.arange(1000) < 20, (targets + 2) % 10, teacher)
    scores = [TestScore(float((x == targets).mean()), 1000) for x in (student, teacher)]
    path = tmp_path / "decisions.safetensors"
    alone = dropped(scores[0], scores[1], path)
    assert alone.how == "unpaired"
    save_file({"targets": targets, "student": student, "teacher": teacher}, path)
    paired = dropped(scores[0], scores[1], path)
    assert paired.how == "paired"
    points = 100 * (scores[1].value - scores[0].value)
    assert alone.points == paired.points == pytest.approx(points)
    for drop in (alone, paired):
        assert drop.low < points < drop.high
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)
    # The slow twin: samples drawn one by one.
    apart = (teacher == targets).astype(float) - (student == targets)
    draws = [100 * apart[rng.integers(0, 1000, 1000)].mean() for _ in range(2000)]
    assert (paired.low, paired.high) == pytest.approx(tuple(np.quantile(draws, (0.025, 0.975))), abs=0.2)


def test_unpaired_interval_is_newcombes(tmp_path: Path) -> None:
    """Newcombe 1998, method 10, on his first example: 56/70 against 48/80."""
    drop = dropped(TestScore(48 / 80, 80), TestScore(56 / 70, 70))
    assert (drop.points, drop.low, drop.high) == pytest.approx((20.0, 5.24, 33.39), abs=0.01)


def test_scores_of_samples_are_paired_where_answers_are_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "decisions.safetensors"
    mine = np.linspace(0.2, 0.8, 50, dtype=np.float32)
    save_file({"student_score": mine, "teacher_score": mine + np.float32(0.1)}, path)
    drop = dropped(TestScore(0.5, 50), TestScore(0.62, 50), path)
    assert (drop.points, drop.how) == (pytest.approx(12.0), "paired")
    assert drop.low == pytest.approx(drop.high, abs=1e-3), "every sample lost the same"


def test_a_student_alone_in_the_file_cannot_be_paired(tmp_path: Path) -> None:
    path = tmp_path / "decisions.safetensors"
    save_file({"targets": np.zeros(9, dtype=np.int64), "student": np.zeros(9, dtype=np.int64)}, path)
    assert dropped(TestScore(1.0, 9), TestScore(1.0, 9), path).how == "unpaired"


# -- before a run -----------------------------------------------------------------------------------------


def test_below_the_smallest_is_infeasible() -> None:
    made = outlook(Budget(macs="5%"), STUDENT, LEAST, costs(TEACHER), 10, sure=False)
    assert (made.word, made.failed) == ("INFEASIBLE", True)
    (bound,) = made.bounds
    assert (
        "at most 50 (5%) cannot be kept: the smallest that Prune can leave has 100 MACs (10.0%" in bound.said
    )
    assert "'linear' with 50 MACs (locked: it is an output)" in bound.said
    assert "INFEASIBLE: macs: at most 50" in str(Infeasible(made))


def test_stages_set_to_leave_more_than_asked() -> None:
    sure = outlook(Budget(macs="30%"), STUDENT, LEAST, costs(TEACHER), 10, sure=True)
    assert sure.word == "MISSED"
    assert "as planned 400 MACs (40.0% of the teacher's); at most 300 (30%)" in sure.bounds[0].said
    unsure = outlook(Budget(macs="30%"), STUDENT, LEAST, costs(TEACHER), 10, sure=False)
    assert unsure.word == "POSSIBLE"
    assert "as planned about 400" in unsure.bounds[0].said


def test_what_a_plan_cannot_know_is_open() -> None:
    budget = Budget(macs="40%", latency_ms_p95=3.0, accuracy_drop=0.5)
    made = outlook(budget, STUDENT, LEAST, costs(TEACHER), 0, sure=True)
    assert made.word == "POSSIBLE"
    found = bounds(made)
    assert found["macs"].held is True
    assert "measured at the end" in found["latency_ms_p95"].said
    assert "there is no test sample: it will stay unverified" in found["accuracy_drop"].said
    unknown = outlook(Budget(macs="40%"), None, None, {}, None, sure=False)
    assert "what comes out is not known" in unknown.bounds[0].said
