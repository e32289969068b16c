"""The trials of a sweep as they are proposed: the same killed and whole, whoever does them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from recipes.goals import Bound, Objective
from recipes.space import Choice, Range, Space
from recipes.study import Study

SPACE = Space(
    (
        Range("stages.0.macs", 0.1, 0.9),
        Range("stages.1.epochs", 1, 5, whole=True),
        Choice("stages.0.importance", {"l1": "l1", "l2": "l2"}),
    )
)
TOTAL, BATCH = 18, 3
Drawn = list[Mapping[str, Any]]


def study(file: Path, hash: str = "a" * 64, seed: int = 0, bounds: tuple[Bound, ...] = ()) -> Study:
    first = {"stages.0.macs": 0.5, "stages.1.epochs": 2, "stages.0.importance": "l2"}
    goals = (Objective("score"), Objective("macs"))
    return Study(f"sqlite:///{file}", "mine", hash, SPACE, goals, bounds, seed, first)


def facts(drawn: Mapping[str, Any]) -> dict[str, float]:
    """A made-up run: macs as drawn; the score rises with them, and with epochs."""
    macs, epochs = drawn["stages.0.macs"], drawn["stages.1.epochs"]
    return {
        "macs": macs,
        "score": 1 - math.exp(-4 * macs) / epochs - 0.1 * (drawn["stages.0.importance"] == "l1"),
    }


def go_on(of: Study, total: int, batch: int, *, backwards: bool = False, stop: int | None = None) -> Study:
    """Do trials up to `total`, or stop as if killed when `stop` more have been told."""
    told = 0
    while todo := of.next(total, batch):
        for trial in reversed(todo) if backwards else todo:
            if told == stop:
                return of
            problem = "it would not" if trial.drawn["stages.1.epochs"] == 4 else None
            of.tell(trial.number, {} if problem else facts(trial.drawn), ("here",), problem)
            told += 1
    return of


def drawn(of: Study) -> Drawn:
    return [trial.drawn for trial in of.trials()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return go_on(study(tmp_path_factory.mktemp("whole") / "study.db"), TOTAL, BATCH)


def test_the_page_comes_first_and_the_proposals_learn(whole: Study) -> None:
    trials = whole.trials()
    assert len(trials) == TOTAL
    assert trials[0].drawn == {"stages.0.macs": 0.5, "stages.1.epochs": 2, "stages.0.importance": "l2"}
    assert {trial.state for trial in trials} == {"complete", "failed"}
    assert all(trial.problem == "it would not" for trial in trials if trial.state == "failed")
    assert len({str(each) for each in drawn(whole)}) > TOTAL // 2


def test_nobody_on_the_front_is_beaten(whole: Study) -> None:
    done = [trial.facts for trial in whole.trials() if trial.state == "complete"]

    def beaten(one: Mapping[str, float]) -> bool:
        return any(
            other["score"] >= one["score"] and other["macs"] <= one["macs"] and other != one for other in done
        )

    front = whole.front()
    assert [trial.facts for trial in front] == sorted(
        (one for one in done if not beaten(one)), key=lambda one: -one["score"]
    )


@pytest.mark.parametrize("stop", [1, 14])
def test_killed_and_continued_equals_unbroken(whole: Study, tmp_path: Path, stop: int) -> None:
    file = tmp_path / "study.db"
    go_on(study(file), TOTAL, BATCH, stop=stop)
    assert drawn(go_on(study(file), TOTAL, BATCH)) == drawn(whole)


def test_killed_while_it_was_asking(whole: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one trial of the batch drawn by half, and the rest not at all."""
    file = tmp_path / "study.db"
    go_on(study(file), 12, BATCH)
    calls = iter(range(3 + 1))
    plain = optuna.storages._CachedStorage.set_trial_param

    def dies(*words: Any) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        plain(*words)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages._CachedStorage, "set_trial_param", dies)
        with pytest.raises(KeyboardInterrupt):
            study(file).next(TOTAL, BATCH)
    assert drawn(go_on(study(file), TOTAL, BATCH)) == drawn(whole)


def test_who_ends_first_and_pieces_make_no_difference(whole: Study, tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    go_on(study(file), 2 * BATCH, BATCH, backwards=True)
    assert drawn(go_on(study(file), TOTAL, BATCH, backwards=True)) == drawn(whole)
    assert drawn(go_on(study(tmp_path / "other.db", seed=1), 4, BATCH)) != drawn(whole)[:4]


def test_bounds_keep_trials_off_the_front(tmp_path: Path) -> None:
    made = go_on(study(tmp_path / "study.db", bounds=(Bound("macs", 0.4),)), 9, 3)
    done = [trial for trial in made.trials() if trial.state == "complete"]
    assert any(trial.facts["macs"] > 0.4 for trial in done)
    assert made.front()
    for trial in done:
        assert trial.keeps_bounds == (trial.facts["macs"] <= 0.4)
    assert all(trial.facts["macs"] <= 0.4 for trial in made.front())


def test_facts_that_are_lacking_fail_the_trial(tmp_path: Path) -> None:
    made = study(tmp_path / "study.db", bounds=(Bound("bytes", 3),))
    for trial, found in zip(made.next(2, 2), ({"macs": 1.0}, {"macs": 1.0, "score": 1.0}), strict=True):
        made.tell(trial.number, found)
    assert [trial.problem for trial in made.trials()] == [
        "the bound bytes at most 3 cannot be judged: bytes was not measured",
    ] * 2  # fmt: skip


def test_the_batch_is_kept(tmp_path: Path) -> None:
    assert study(tmp_path / "study.db").batch(None, 2) == 2
    assert study(tmp_path / "study.db").batch(None, 8) == 2
    assert study(tmp_path / "study.db").batch(4, 8) == 4


def test_storages_that_will_not_do(tmp_path: Path) -> None:
    study(tmp_path / "study.db")
    with pytest.raises(
        ValueError, match=r"holds another sweep under the name mine \(.*not these: aaaaaaaa, not bbbb"
    ):
        study(tmp_path / "study.db", hash="b" * 64)
    (tmp_path / "broken.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(ValueError, match=r"the storage .*broken.db cannot be used \(.*best moved away"):
        study(tmp_path / "broken.db")
    with pytest.raises(ValueError, match="'nowhere' is no storage for a sweep"):
        Study("nowhere", "mine", "a", SPACE, (Objective("score"),), (), 0)
