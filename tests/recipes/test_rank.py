"""Several teachers on a page, end to end: ranked, chosen, transferred; kept, tracked, and taken up again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compress import DEPARA, GAL, Finetune, Prune, Rank, SelectLayer
from compress.stage import Stage
from recipes import folders
from recipes.__main__ import main
from recipes.page import write
from recipes.plan import plan
from recipes.ranking import rank
from recipes.recipe import Recipe, Workshop
from recipes.run import Quiet, run
from teachers.networks import Autoencoder, Blocks
from teachers.tasks import Digits, Few, Grouped, Levels, Shuffled
from teachers.teacher import Checkpoint
from teachers.train import Train

pytestmark = pytest.mark.usefixtures("unpacked")

DIGITS = Digits(val=0.3, batch=32)
TASK = Few(of=Grouped(of=DIGITS, groups={"seven": ("7",), "eight": ("8",), "nine": ("9",)}), per_class=40)
SMALL = {"widths": (6, 8), "channels": 1}
TRAIN = Train(epochs=4, lr=0.05, warmup=1)


def checkpoint(name: str, task: Any, network: Any = None, train: Train = TRAIN) -> Checkpoint:
    made = network or Blocks(classes=task.signature().classes, **SMALL)
    return Checkpoint(name=name, network=made, task=task, train=train)


TEACHERS = (
    checkpoint("digits", DIGITS, train=replace(TRAIN, epochs=8)),
    checkpoint("target", TASK, train=replace(TRAIN, epochs=12)),
    checkpoint("random", Shuffled(of=DIGITS)),
    checkpoint("auto", Levels(of=DIGITS, levels=3), Autoencoder(classes=3, **SMALL)),
)
CHOICE = DEPARA(target="target", probe=50, resamples=20, embeddings={"auto": "encoder"})
LABELLED = Finetune(epochs=4, lr=0.05, soft_targets=0, labels=1)


def recipe(name: str, *stages: Stage, **more: Any) -> Recipe:
    return Recipe(**{"name": name, "task": TASK, "teachers": TEACHERS, "stages": stages, **more})


class Told(Quiet):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Keep it."""
        self.tables.append((title, columns, rows))


class Interrupt(Quiet):
    """Stops the run after so many epochs of a stage were told."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.on = False

    def stage(self, name: str, position: int, total: int) -> None:
        """Count in the last stage only."""
        self.on = position == total

    def epoch(self, done: int, total: int, values: Mapping[str, float]) -> None:
        """Count down."""
        self.left -= self.on
        if self.left == 0:
            raise KeyboardInterrupt


def test_rank_tells_and_makes_no_student(bench: Workshop) -> None:
    told = Told()
    made = rank(recipe("ranked", CHOICE, SelectLayer(), LABELLED), bench, display=told)
    ranking = made.state.ranking
    assert ranking is not None
    assert made.state.student is None
    assert [teacher.name for teacher in made.state.teachers] == [ranking.names[0]]
    assert ranking.names[0] != "random"
    assert [record.chose for record in made.records] == [False] * 4 + [True]
    assert made.records[-1].val == next(r for r in made.records if r.stage == ranking.names[0]).val
    assert all(record.test is None for record in made.records), "nothing was made, so test is not read"
    ((title, columns, rows),) = told.tables
    assert title == "ranked: teachers"
    assert columns[:4] == ("", "teacher", "score", "95 %")
    assert [row[1] for row in rows] == list(ranking.names)
    assert "random is near chance on its own task" in told.notes
    assert not (made.folder / "compact").exists()
    (stage,) = made.folder.glob("01-depara-*")
    assert json.loads((stage / "ranking.json").read_text())["names"] == list(ranking.names)
    assert (stage / "similarity.svg").read_text().startswith("<svg xmlns")
    html = (made.folder / "report.html").read_text()
    assert f"{ranking.names[0]} is the one to start from, of 3." in html
    assert "Similarity of all models" in html
    assert json.loads((made.folder / "result.json").read_text())["ranking"]["stability"] == ranking.stability


def test_the_best_of_them_then_a_layer_then_learning(bench: Workshop) -> None:
    stages = (CHOICE, SelectLayer(probe=50, resamples=10, embeddings={"auto": "encoder"}), LABELLED)
    told = Told()
    page = recipe("ranked", *stages)
    made = run(page, bench, display=told)
    assert any(note.startswith("01-depara") and "reused" in note for note in told.notes), (
        "what rank did is taken up"
    )
    assert made.state.target is not None
    assert made.state.target.name == "target"
    assert [teacher.name for teacher in made.state.teachers] == ["target"]
    assert made.state.freeze
    assert made.state.student is not None
    val = made.records[-1].val
    assert val is not None
    assert val.value > 0.6, "of three digits"
    assert made.records[-1].test is not None
    assert made.records[-1].metric == "accuracy"
    (_, _, rows) = told.tables[-1]
    assert rows[0][0] == "target", "the student is compared with the network for its task"
    assert rows[0][4] == "100.0 %"
    further = run(replace(page, stages=(*stages, Prune(macs=0.6, round_to=1), LABELLED)), bench)
    assert further.records[-1].profile.macs < 0.7 * made.records[-1].profile.macs, "and then shrunk"
    for after in (1, 3):
        again = replace(page, name=f"cut-{after}")
        with pytest.raises(KeyboardInterrupt):
            run(again, bench, display=Interrupt(after))
        resumed = run(again, bench)
        assert resumed.state.student is not None
        assert folders.fingerprint(resumed.state.student) == folders.fingerprint(made.state.student)
        assert resumed.state.freeze == made.state.freeze
        assert resumed.state.ranking == made.state.ranking


def test_scores_with_labels_say_so(bench: Workshop) -> None:
    told = Told()
    made = rank(
        recipe("by-log-me", Rank(by="log_me", target="target", resamples=4, embeddings={"auto": "encoder"})),
        bench,
        display=told,
    )
    assert made.state.ranking is not None
    assert made.state.ranking.by == "log_me"
    assert set(made.state.ranking.names) == {"digits", "random", "auto"}
    assert "Similarity of all models" not in (made.folder / "report.html").read_text()
    shown = str(plan(recipe("p", Rank(by="log_me"), Rank(by="dds", target="target")), bench, probe=False))
    assert "reads train with labels" in shown.split("\n1. ")[1].split("\n2. ")[0]
    assert "reads train without labels" in shown.split("\n2. ")[1]


def test_rehearsal_and_plan(bench: Workshop) -> None:
    page = recipe("rehearsed", CHOICE, SelectLayer(embeddings={"auto": "encoder"}), LABELLED)
    assert run(page, bench, rehearse=True).state.student is not None
    shown = str(plan(page, bench, probe=False))
    assert "compares 3 networks with 'target', keeps 1: digits, random, auto" in shown
    assert "what it touches depends on whom DEPARA chooses" in shown


def test_a_teacher_near_chance_may_be_looked_at_and_not_worked_with(bench: Workshop) -> None:
    few = (TEACHERS[1], TEACHERS[2], TEACHERS[2].__class__(**{**vars(TEACHERS[2]), "name": "random-too"}))
    page = recipe("chance", replace(CHOICE, embeddings={}), SelectLayer(), LABELLED, teachers=few)
    for _ in range(2):  # also where the teachers' records are there already
        with pytest.raises(ValueError, match=r"teacher 'random.*' scores .* chance is 10.00 %"):
            run(page, bench)
    told = Told()
    rank(page, bench, display=told)
    assert any(note.startswith("beware: teacher 'random") for note in told.notes)


@pytest.mark.parametrize("stage", [Prune(macs=0.5, round_to=1), GAL(macs=0.5, epochs=1, round_to=1)])
def test_a_teacher_of_another_task_is_no_student_yet(stage: Stage, bench: Workshop) -> None:
    others = (TEACHERS[0], TEACHERS[1], TEACHERS[2])
    page = recipe("unfit", replace(CHOICE, embeddings={}), stage, teachers=others)
    with pytest.raises(
        ValueError, match=r"for another task: .* and 3 classes, and the student gives .10,. .*SelectLayer"
    ):
        run(page, bench)


def test_rank_needs_somebody_who_ranks(bench: Workshop) -> None:
    with pytest.raises(
        ValueError, match=r"nobody begins with Finetune, which ranks nobody: put compress.DEPARA"
    ):
        rank(recipe("nobody", LABELLED), bench)


def test_the_command_and_mlflow(bench: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow.tracking import MlflowClient

    (tmp_path / "page.yaml").write_text(write(recipe("tracked", CHOICE)), encoding="utf-8")
    address = f"sqlite:///{tmp_path}/mlflow.db"
    words = [
        "rank",
        str(tmp_path / "page.yaml"),
        "--runs",
        str(bench.runs),
        "--device",
        "cpu",
        "--threads",
        "1",
    ]
    assert main([*words, "--tracking", address]) == 0
    said = capsys.readouterr().out
    assert "tracked: teachers" in said
    assert "By DEPARA, V + 1 E, compared with target." in said
    assert "student" not in said
    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("decoct")
    assert experiment is not None
    found_runs = client.search_runs([experiment.experiment_id])
    runs = {found.info.run_name: client.get_run(found.info.run_id) for found in found_runs}
    top = runs["tracked, seed 0"]
    stage = next(found for name, found in runs.items() if name == "1 DEPARA")
    for found in (top, stage):
        assert len(found.inputs.model_inputs) == 4
        assert not found.outputs.model_outputs
        assert "ranking/digits/V" in found.data.metrics
        files = {file.path for file in client.list_artifacts(found.info.run_id)}
        assert {"ranking.json", "similarity.svg"} <= files
    assert {i.model_id for i in top.inputs.model_inputs} == {i.model_id for i in stage.inputs.model_inputs}
    assert len(client.search_logged_models([experiment.experiment_id])) == 4, "each teacher once"
    assert torch.get_num_threads() == 1


def test_wrong_pages_say_so(bench: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and one message for every row of bad input that a page can hold."""
    rows = [
        (replace(CHOICE, target="tarjet"), "there is no such teacher; did you mean 'target'"),
        (
            replace(CHOICE, embeddings={"auto": "encodr"}),
            "'auto' has no layer 'encodr'; did you mean 'encoder'",
        ),
        (replace(CHOICE, keep=4), "is to keep the best 4 of 3 teachers"),
        (
            Rank(by="leep", target="target"),
            "'auto' gives (3, 8, 8) numbers a sample and no classes, which leep needs",
        ),
    ]
    for stage, message in rows:
        (tmp_path / "page.yaml").write_text(write(recipe("wrong", stage)), encoding="utf-8")
        words = ["rank", str(tmp_path / "page.yaml"), "--runs", str(bench.runs), "--device", "cpu"]
        assert main([*words, "--tracking", "off"]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert "Traceback" not in said
