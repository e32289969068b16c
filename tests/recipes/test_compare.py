"""Recipes compared: from folders, from MLflow, from pages; what is told, and what is refused."""

import csv
import json
import re
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compress import Prune, Recalibrate
from recipes.__main__ import main
from recipes.benchmarks.made_runs import TASK, Made, grid, put, recipe, store
from recipes.compare import compare, of_place
from recipes.decisions import Decisions
from recipes.kept import of_experiment
from recipes.outcome import Outcome, fields_of, of_folder, sides
from recipes.page import write
from recipes.recipe import Recipe
from reports.comparison import Comparison, lines
from teachers.tasks import Digits, Toy

GENERATOR = torch.Generator().manual_seed(1)
HARD = torch.rand(300, generator=GENERATOR)


def right(share: float, noise: float = 0.02) -> torch.Tensor:
    """Right on the easier samples, much the same ones every time."""
    return HARD + noise * torch.randn(300, generator=GENERATOR) < share


def runs(
    home: Path, name: str, share: float, seeds: range | tuple[int, ...] = range(3), **more: object
) -> list[Outcome]:
    """Made-up runs of one recipe, in folders."""
    made = [Made(recipe(name, seed), right(share), **more) for seed in seeds]  # type: ignore[arg-type]
    return [of_folder(put(one, home / name / str(one.recipe.seed))) for one in made]


def said(made: Comparison) -> str:
    return "\n".join(lines(made))


# -- what is told -----------------------------------------------------------------------------------------


def test_better_worse_and_no_difference(tmp_path: Path) -> None:
    outcomes = [*runs(tmp_path, "first", 0.8), *runs(tmp_path, "good", 0.9), *runs(tmp_path, "bad", 0.6)]
    outcomes += runs(tmp_path, "like", 0.8)
    made = compare(outcomes, ())
    assert [pair.verdict for pair in made.pairs] == ["better", "worse", "no difference told"]
    assert "good is better than first: +" in said(made)
    assert "like against first: no difference told: " in said(made)
    assert all(
        pair.p is not None and pair.found.p is not None and pair.p >= pair.found.p for pair in made.pairs
    )
    assert [row.label for row in made.rows] == ["first", "good", "bad", "like"]
    assert made.rows[0].minutes == 1.5
    assert made.rows[0].share == pytest.approx(0.8)
    assert made.teacher is not None
    assert made.teacher[:2] == ("toy", 0.97)
    again = compare([*outcomes[3:6], *outcomes[:3]], ())
    assert again.pairs[0].verdict == "worse"
    assert again.pairs[0].found.value == -made.pairs[0].found.value


def test_equal_on_every_sample(tmp_path: Path) -> None:
    same = right(0.8)
    outcomes = [
        of_folder(put(Made(recipe(name, seed), same), tmp_path / name / str(seed)))
        for name in "ab"
        for seed in (0, 1)
    ]
    assert "b and a answer alike on every sample (300 samples, 2 seeds)" in said(compare(outcomes, ()))


def test_one_seed_says_so(tmp_path: Path) -> None:
    made = compare([*runs(tmp_path, "a", 0.8, (4,)), *runs(tmp_path, "b", 0.9, (4,))], ())
    assert made.pairs[0].found.seed is None
    assert "on the one seed 4" in said(made)
    assert "one seed says nothing of others" in said(made)
    assert re.search(r"McNemar \d+ to \d+, p < 0.001", said(made))


def test_without_decisions_seeds_alone_speak(tmp_path: Path) -> None:
    outcomes = [
        of_folder(put(Made(recipe(name, seed), None, score + seed / 500), tmp_path / name / str(seed)))
        for name, score in (("a", 0.8), ("b", 0.9))
        for seed in range(3)
    ]
    made = compare(outcomes, ())
    assert made.pairs[0].found.both is None
    assert made.pairs[0].found.seed is not None
    assert "seeds alone speak" in said(made)


def test_samples_with_scores_of_their_own(tmp_path: Path) -> None:
    outcomes = [*runs(tmp_path, "a", 0.8), *runs(tmp_path, "b", 0.9)]
    for place, outcome in enumerate(outcomes):
        scores = torch.rand(50, generator=torch.Generator().manual_seed(place)) / 2 + (
            0.3 if place > 2 else 0
        )
        outcome.__dict__["decisions"] = Decisions(scores, None, None, "task", "inputs", "recipe")
    made = compare(outcomes, ())
    (pair,) = made.pairs
    assert not pair.labels
    assert pair.found.swaps == ()
    assert pair.found.both is not None
    assert pair.found.both.value == pytest.approx(0.3, abs=0.06)
    assert "mean of the accuracy of every sample by itself is compared, which is not the score" in said(made)


def test_missing_seeds_are_named(tmp_path: Path) -> None:
    made = compare([*runs(tmp_path, "a", 0.8, range(4)), *runs(tmp_path, "b", 0.9, (0, 1, 7))], ())
    assert "a was not run with 7 and b was not run with 2, 3: compared on seeds 0, 1" in said(made)
    assert made.pairs[0].found.seeds == (0, 1)


def test_a_nan_is_named_and_left_out(tmp_path: Path) -> None:
    first, other = runs(tmp_path, "a", 0.8), runs(tmp_path, "b", 0.9)
    made = compare([*first, *other[:2], replace(other[2], score=float("nan"), where="run 77")], ())
    assert "b, seed 2 (run 77) has accuracy nan and is left out" in said(made)
    assert made.pairs[0].found.seeds == (0, 1)


def test_fields_that_differ(tmp_path: Path) -> None:
    one = of_folder(put(Made(recipe("a"), right(0.8)), tmp_path / "a"))
    other = of_folder(put(Made(recipe("b", macs=0.3), right(0.8)), tmp_path / "b"))
    made = compare([one, other], ())
    assert made.pairs[0].fields == (("name", "a", "b"), ("stages.0 GAL.macs", "0.5", "0.3"))
    unread = compare([one, replace(other, page="recipes.Recipe: {nam: b}")], ())
    assert "b's page cannot be read" in said(unread)


def test_sides() -> None:
    def outcome(made: Recipe, where: str) -> Outcome:
        return Outcome(fields_of(made), "accuracy", 0.5, 10, {}, {}, 1.0, where)

    found = sides([
        outcome(recipe("a", 0), "1"), outcome(recipe("a", 1), "2"), outcome(recipe("a", 0), "3"),
        outcome(recipe("b", 0), "4"), outcome(recipe("a", 0, macs=0.2), "5"),
    ])  # fmt: skip
    assert [[run.where for run in side.runs.values()] for side in found] == [["1", "2"], ["3"], ["4"], ["5"]]
    labels = [side.label for side in found]
    assert labels[2] == "b"
    assert len(set(labels)) == 4
    assert all(label.startswith("a@") for label in (labels[0], labels[1], labels[3]))


# -- what is refused --------------------------------------------------------------------------------------


def test_other_test_sets_are_refused(tmp_path: Path) -> None:
    (one, *_) = runs(tmp_path, "a", 0.8)

    def other(name: str, task: Toy = TASK, samples: int = 300, inputs: str = "inputs") -> Outcome:
        made = Made(replace(recipe(name), task=task), right(0.8)[:samples], inputs=inputs)
        return of_folder(put(made, tmp_path / name))

    with pytest.raises(ValueError, match="a, seed 0 was scored on 300 samples, few, seed 0 on 200"):
        compare([one, other("few", samples=200)], ())
    drawn = other("drawn", replace(TASK, seed=3), inputs="others")
    with pytest.raises(
        ValueError, match=r"differ: .*Toy.seed is 0 and 3, and their test inputs are not the same"
    ):
        compare([one, drawn], ())
    with pytest.raises(ValueError, match=r"Toy.seed is 0 and 3, and what was answered to test was not kept"):
        compare([replace(one, file=None), replace(drawn, file=None)], ())
    # Another batch size is another task to the page, and the same test set to the bit.
    assert compare([one, other("batches", replace(TASK, batch=64))], ()).pairs
    assert "not the same to the bit" in said(compare([one, other("decoded", inputs="one pixel apart")], ()))
    with pytest.raises(
        ValueError, match=r"a, seed 0 is for teachers.tasks.Toy and dig, seed 0 for teachers.tasks.Digits"
    ):
        compare([one, replace(one, fields=fields_of(replace(recipe("dig"), task=Digits())))], ())
    with pytest.raises(ValueError, match="is judged by accuracy and iou, seed 0 by mIoU"):
        compare([one, replace(one, fields=fields_of(recipe("iou")), metric="mIoU")], ())


def test_other_truths_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (one, *_) = runs(tmp_path, "a", 0.8)
    (two, *_) = runs(tmp_path, "b", 0.8)
    assert two.decisions is not None
    assert two.decisions.targets is not None
    two.__dict__["decisions"] = replace(two.decisions, targets=two.decisions.targets.flip(0))
    with pytest.raises(ValueError, match="300 and 300 samples whose true labels are not the same"):
        compare([one, two], ())


def test_too_few(tmp_path: Path) -> None:
    first = runs(tmp_path, "a", 0.8)
    with pytest.raises(ValueError, match="two recipes at least, and there is a with a score"):
        compare(first, ())
    (bare,) = runs(tmp_path, "b", 0.8, (0,))
    with pytest.raises(
        ValueError, match=r"there is a with .*b, seed 0 .* has no score on test and is left out"
    ):
        compare([*first, replace(bare, score=None)], ())
    with pytest.raises(ValueError, match="no seed is shared: a was run with 0, 1, 2, c with 8, 9"):
        compare([*first, *runs(tmp_path, "c", 0.8, (8, 9))], ())


def test_folders(tmp_path: Path) -> None:
    runs(tmp_path, "a", 0.8)
    (tmp_path / "a" / "unfinished").mkdir()
    shutil.copy(tmp_path / "a" / "0" / "page.yaml", tmp_path / "a" / "unfinished")
    found, notes = of_place(tmp_path / "a", ())
    assert sorted(one.seed for one in found) == [0, 1, 2]
    assert notes == [f"{tmp_path / 'a' / 'unfinished'} is not finished and is left out"]
    with pytest.raises(ValueError, match=r"unfinished is not finished: go on with `decoct resume"):
        of_place(tmp_path / "a" / "unfinished", ())
    with pytest.raises(ValueError, match="no run folder"):
        of_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no finished run in it"):
        of_place(tmp_path / "empty", ())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name what to compare"),
        (["digits"], "two recipes at least, and there is digits alone"),
        (["digits", "digits"], "digits is named twice"),
        (
            ["digits", "mnist-lenet-gal"],
            "digits is for teachers.tasks.Digits and mnist-lenet-gal for teachers.tasks.MNIST",
        ),
        (["digitz", "digits-kse"], "did you mean 'digits'"),
        (["--experiment", "x", "--seeds", "2"], "--seeds says what pages are run with"),
        (["--experiment", "x", "--tracking", "off"], "--tracking off names none"),
        (["--experiment", "x", "--tracking", "nowhere"], "is no tracking address"),
        (["--experiment", "x", "--runs", "nothing-here"], "there is no store"),
        (["a", "b", "--seeds", "0"], "must be a whole number, at least 1"),
        (["a", "b", "--seeds", "3,3"], "names a seed twice"),
    ],
)
def test_messages(
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words]) == 2
    heard = capsys.readouterr()
    assert told in heard.err
    assert "Traceback" not in heard.err
    assert list(tmp_path.iterdir()) == []


# -- the command ------------------------------------------------------------------------------------------


def test_the_command_on_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs(tmp_path, "first", 0.8)
    runs(tmp_path, "second", 0.9)
    files = ["--csv", str(tmp_path / "t.csv"), "--html", str(tmp_path / "page.html")]
    assert main(["compare", str(tmp_path / "first"), str(tmp_path / "second"), *files]) == 0
    out = capsys.readouterr().out
    assert "second is better than first" in out
    assert "fields that differ" in out
    with open(tmp_path / "t.csv", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first["recipe"], first["verdict"], first["seeds"]) == ("first", "", "0 1 2")
    assert second["verdict"] == "better"
    assert float(second["difference"]) == pytest.approx(float(second["score"]) - float(first["score"]))
    assert float(second["both_low"]) > 0
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.search(r"https?:|url\(|@import|<script", html) is None
    for told in (
        "second is better than first",
        "Side by side",
        "MACs of one input",
        "Samples that one alone has right",
    ):
        assert told in html


@pytest.mark.usefixtures("unpacked")
def test_pages_are_run_and_taken_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole: two pages, two seeds, run; then compared again, with nothing done anew."""
    for name, macs in (("half", 0.5), ("tenth", 0.1)):
        page = replace(recipe(name), stages=(Prune(macs=macs, importance="random"), Recalibrate(batches=2)))
        (tmp_path / f"{name}.yaml").write_text(write(page), encoding="utf-8")
    words = ["compare", str(tmp_path / "half.yaml"), str(tmp_path / "tenth.yaml"), "--seeds", "2"]
    words += ["--runs", str(tmp_path / "runs"), "--tracking", "off", "--device", "cpu", "--threads", "1"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "half, seed 1" in out
    assert "over 2 seeds" in out
    results = sorted((tmp_path / "runs").glob("*/*/result.json"))
    assert len(results) == 4
    before = [json.loads(path.read_text())["records"] for path in results]
    assert main(words) == 0
    again = capsys.readouterr().out
    assert again.count("reused") == 8
    assert [json.loads(path.read_text())["records"] for path in results] == before

    def told(text: str) -> list[str]:
        return [line for line in text.splitlines() if "tenth" in line and "half" in line]

    assert told(again) == told(out)
    assert told(out)


# -- from MLflow ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with 200 runs: 40 recipes, 5 seeds."""
    home = tmp_path_factory.mktemp("kept")
    return home, store(grid(40, 5, 1000), home)


def test_two_hundred_runs_within_five_seconds(kept: tuple[Path, str], tmp_path: Path) -> None:
    from mlflow.tracking import (
        MlflowClient,
    )  # the import alone takes seconds, and is not what is bounded here

    assert MlflowClient
    began = time.process_time()  # others may be busy on this machine
    outcomes, notes = of_experiment(kept[1], "decoct", [], tmp_path)
    made = compare(outcomes, (), notes)
    assert time.process_time() - began < 5
    assert len(made.runs) == 200
    assert len(made.pairs) == 39
    assert all(pair.found.both is not None and len(pair.found.swaps) == 5 for pair in made.pairs)
    assert made.pairs[-1].verdict == "worse"
    assert made.notes == []


def test_the_command_on_an_experiment(kept: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "recipe-03", "recipe-0[12]", "--experiment", "decoct", "--tracking", kept[1]]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "recipe-01 against recipe-03" in out or "recipe-01 is better than recipe-03" in out
    assert "recipe-02" in out
    assert "recipe-04" not in out
    assert "stages.0 GAL.macs" in out
    # From folders the same is said.
    home = kept[0] / "artifacts"
    at = {
        (one.name, one.seed): one.where
        for one in (of_folder(path.parent) for path in home.glob("*/page.yaml"))
    }
    folders = [at[name, seed] for name in ("recipe-03", "recipe-01") for seed in range(5)]
    assert main(["compare", *folders]) == 0
    line = next(
        line for line in capsys.readouterr().out.splitlines() if "recipe-01" in line and "recipe-03" in line
    )
    assert line.partition("; p ")[0] in out


def _without_decisions(home: Path, folder: Path) -> str:
    """A copy of the store, in which one run of recipe-00 has no decisions."""
    shutil.copytree(home, folder / "copy")
    uri = f"sqlite:///{folder}/copy/mlflow.db"
    with sqlite3.connect(folder / "copy" / "mlflow.db") as database:
        run, where = database.execute(
            "SELECT runs.run_uuid, artifact_uri FROM runs JOIN params ON runs.run_uuid = params.run_uuid "
            "WHERE params.value = 'recipe-00' ORDER BY end_time DESC LIMIT 1"
        ).fetchone()
        new = folder / "thinned"
        shutil.copytree(where.removeprefix("file://"), new)
        (new / "decisions.safetensors").unlink()
        database.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (new.as_uri(), run))
    return uri


def test_artifacts_that_lie_elsewhere_are_fetched(
    kept: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, _ = of_experiment(kept[1], "decoct", ["recipe-00", "recipe-01"], tmp_path)
    monkeypatch.setattr("reports.shelf._folder", lambda uri: None)
    far, _ = of_experiment(kept[1], "decoct", ["recipe-00", "recipe-01"], tmp_path)
    assert all(one.file is not None and one.file.is_relative_to(tmp_path) for one in far)
    assert not any(one.file is None or one.file.is_relative_to(tmp_path) for one in near)
    assert compare(far, ()).pairs == compare(near, ()).pairs
    gone, notes = of_experiment(
        _without_decisions(kept[0], tmp_path), "decoct", ["recipe-00", "recipe-01"], tmp_path
    )
    assert "artifacts could not be fetched, the first because: " in notes[0]
    assert sum(one.file is None for one in gone) == 1
    # What does not come in time is left out, and said.
    monkeypatch.setattr("reports.shelf.Shelf._fetch", lambda *_: time.sleep(0.2))
    monkeypatch.setattr("reports.shelf.Shelf.fetch.__kwdefaults__", {"patience": 0.05}, raising=False)
    late, notes = of_experiment(kept[1], "decoct", ["recipe-00", "recipe-01"], tmp_path)
    assert (
        "artifacts could not be fetched, the first because: the store did not send it within 0.05 s"
        in notes[0]
    )
    assert all(one.file is None for one in late)
    assert compare(late, ()).pairs[0].found.seed == compare(near, ()).pairs[0].found.seed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--experiment", "decoc"], "has no experiment 'decoc'; did you mean 'decoct'"),
        (["--experiment", "Default"], "the experiment 'Default' in sqlite"),
        (["--experiment", "decoct", "recipe-99"], "no finished run of a recipe 'recipe-99'; did you mean"),
        (["--experiment", "decoct", "recipe-07"], "two recipes at least, and there is recipe-07"),
    ],
)
def test_what_an_experiment_does_not_have(
    words: list[str], told: str, kept: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *words, "--tracking", kept[1]]) == 2
    assert told in capsys.readouterr().err


def test_runs_that_are_not_as_they_should_be(kept: tuple[Path, str], tmp_path: Path) -> None:
    """A NaN in the store, a run that did not finish, an older run of the same seed, artifacts that are gone."""
    shutil.copytree(kept[0], tmp_path / "store")
    uri = f"sqlite:///{tmp_path}/store/mlflow.db"
    with sqlite3.connect(tmp_path / "store" / "mlflow.db") as database:

        def run(name: str, seed: int) -> str:
            rows = database.execute(
                "SELECT a.run_uuid FROM params a JOIN params b ON a.run_uuid = b.run_uuid WHERE a.key = "
                "'recipes.Recipe.name' AND a.value = ? AND b.key = 'recipes.Recipe.seed' AND b.value = ?",
                (name, str(seed)),
            )
            return str(rows.fetchone()[0])

        def score(run: str, value: float, nan: bool = False) -> None:
            database.execute(
                "UPDATE latest_metrics SET value = ?, is_nan = ? WHERE key = 'score/accuracy_test' AND run_uuid = ?",
                (value, nan, run),
            )

        names = {(name, seed): run(name, seed) for name in ("recipe-01", "recipe-02") for seed in range(5)}
        score(names["recipe-02", 1], 0, nan=True)
        database.execute("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", (names["recipe-02", 2],))
        for key, value in (("seed", "3"), ("name", "recipe-02")):
            database.execute(
                "UPDATE params SET value = ? WHERE key = ? AND run_uuid = ?",
                (value, f"recipes.Recipe.{key}", names["recipe-02", 4]),
            )
        database.execute(
            "UPDATE runs SET artifact_uri = 'file:///gone' WHERE run_uuid = ?", (names["recipe-01", 0],)
        )
    outcomes, notes = of_experiment(uri, "decoct", ["recipe-01", "recipe-02"], tmp_path)
    made = compare(outcomes, (), notes)
    text = said(made)
    assert f"recipe-02, seed 1 ({names['recipe-02', 1]}) has accuracy nan" in text
    assert "1 older run of the same recipe and seed left out" in text
    assert "recipe-02 was not run with 1, 2, 4: compared on seeds 0, 3" in text
    assert (
        next(where for name, seed, _, where in made.runs if (name, seed) == ("recipe-02", 3))
        == names["recipe-02", 4]
    )
    assert "answers to single samples were not kept everywhere" in text, (
        "those of recipe-01, seed 0, are gone"
    )


@pytest.fixture
def mute() -> Iterator[str]:
    """A server that takes calls and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    open_, stop = list[socket.socket](), threading.Event()

    def take() -> None:
        while not stop.is_set():
            try:
                open_.append(server.accept()[0])
            except OSError:
                return

    threading.Thread(target=take, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    stop.set()
    server.close()
    for one in open_:
        one.close()


@pytest.mark.parametrize("silent", [True, False])
def test_a_server_out_of_reach(
    silent: bool, mute: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from reports import shelf

    before = shelf.Shelf.__init__.__kwdefaults__
    monkeypatch.setattr(shelf.Shelf.__init__, "__kwdefaults__", {**before, "patience": 1.0})
    began = time.monotonic()
    address = mute if silent else "http://127.0.0.1:1"
    assert main(["compare", "--experiment", "decoct", "--tracking", address]) == 2
    assert time.monotonic() - began < 60
    told = capsys.readouterr().err
    assert f"the tracking store {address} cannot be read" in told
    assert "Is it running" in told
