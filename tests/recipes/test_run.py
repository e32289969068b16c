"""The runner, with small stages made for it: what it checks, keeps, counts and takes up again."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import torch
from torch import nn

from compress import DFAD, Generate, Prune, Recalibrate
from compress.session import Diverged, Sees, Session
from compress.stage import Ranking, Stage, State
from recipes import folders
from recipes.gather import trained_folder
from recipes.plan import plan
from recipes.recipe import Recipe, Workshop
from recipes.run import Quiet, run
from reports.record import Record
from students import compact
from teachers.networks import DigitsCNN, Own
from teachers.spec import Field, spec
from teachers.tasks import Toy, Unseen
from teachers.teacher import Checkpoint
from teachers.train import Train

pytestmark = pytest.mark.usefixtures("unpacked")

TASK = Toy(samples=120, batch=32)
TEACHER = Checkpoint(
    name="toy", network=DigitsCNN(classes=3), task=TASK, train=Train(epochs=4, lr=0.05, warmup=1)
)


@spec
class Nudge(Stage):
    """Move the draft towards the teacher's answers under noise: every kind of random number is drawn."""

    epochs: Annotated[int, Field(ge=1)] = 3
    """passes over train"""
    lr: Annotated[float, Field(ge=0)] = 0.01
    """of SGD"""
    bad: int = -1
    """the epoch in which the loss is reported as NaN"""
    sees: ClassVar[Sees] = Sees.INPUTS

    def __call__(self, state: State, session: Session) -> State:
        """Train the draft."""
        teacher, student = state.teacher(), session.place(state.draft()).train()
        learn = torch.optim.SGD(student.parameters(), lr=self.lr, momentum=0.9)
        for epoch in session.epochs(self.epochs, student=student, learn=learn):
            for batch in session.batches():
                assert batch.target is None
                (images,) = batch.inputs
                loss = nn.functional.mse_loss(student(images + torch.randn_like(images)), teacher(images))
                learn.zero_grad()
                loss.backward()
                learn.step()
            session.log({"loss": float("nan") if epoch == self.bad else loss.item()}, epoch)
        return replace(state, student=student.eval())


@spec
class Idle(Stage):
    """Does nothing and hopes that nobody notices."""

    sees: ClassVar[Sees] = Sees.NOTHING

    def __call__(self, state: State, session: Session) -> State:
        """A copy of what was there."""
        return replace(state, student=state.draft())


@spec
class Spoil(Stage):
    """Changes its teacher."""

    sees: ClassVar[Sees] = Sees.NOTHING

    def __call__(self, state: State, session: Session) -> State:
        """Add to the teacher's weights."""
        draft = state.draft()
        with torch.no_grad():
            next(state.teacher().module.parameters()).add_(1)
            next(draft.parameters()).add_(1)
        return replace(state, student=draft)


@spec
class Peek(Stage):
    """Says that it sees nothing, and looks."""

    sees: ClassVar[Sees] = Sees.NOTHING

    def __call__(self, state: State, session: Session) -> State:
        """Look."""
        next(iter(session.batches()))
        return state


@spec
class Judge(Stage):
    """Ranks teachers and makes no student."""

    sees: ClassVar[Sees] = Sees.NOTHING

    def __call__(self, state: State, session: Session) -> State:
        """By name."""
        names = tuple(sorted(teacher.name for teacher in state.teachers))
        return replace(state, ranking=Ranking(names, tuple(float(n) for n in range(len(names)))))


class Interrupt(Quiet):
    """Stops the run when so many epochs were told, as Ctrl-C would."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.notes: list[str] = []

    def epoch(self, done: int, total: int, values: Mapping[str, float]) -> None:
        """Count down."""
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)


def recipe(*stages: Stage, name: str = "toy", **more: Any) -> Recipe:
    return Recipe(name=name, task=TASK, teachers=(TEACHER,), stages=stages, **more)


def bits(module: nn.Module | None) -> str:
    assert module is not None
    return folders.fingerprint(module)


def test_records_of_every_stage(bench: Workshop) -> None:
    made = run(recipe(Nudge(), Nudge(epochs=1), name="records"), bench)
    assert [record.position for record in made.records] == [0, 1, 2]
    teacher, first, last = made.records
    assert teacher.val is not None
    assert teacher.val.value > 0.6
    assert first.read == {"train": 3 * 96}
    assert first.test is None
    assert last.test is not None
    assert teacher.test is not None
    assert last.profile.macs == teacher.profile.macs > 0
    assert last.profile.latency_ms_p50_b1 is not None
    assert last.seconds > 0
    for record, place in zip(made.records, sorted(made.folder.glob("0*")), strict=True):
        kept = Record.from_json((place / "record.json").read_text())
        assert kept.val == record.val
        assert kept.test == record.test
    result = json.loads((made.folder / "result.json").read_text())
    assert 0 < result["shares"]["own"] < 1
    assert 0 < result["shares"]["work"] < 1
    assert {"stages", "saving", "tracking", "measuring"} <= result["seconds"].keys()
    card = compact.card(made.folder / "compact")
    assert card["teachers"][0]["sha256"]
    assert card["test"]["value"] == last.test.value
    assert "Nudge" in card["recipe"]
    assert "<svg" in (made.folder / "report.html").read_text()


def test_finished_work_is_reused(bench: Workshop) -> None:
    told = Interrupt(-1)
    first = run(recipe(Nudge(), Nudge(epochs=1), name="reuse"), bench)
    again = run(recipe(Nudge(), Nudge(epochs=1), name="reuse"), bench, display=told)
    assert again.folder == first.folder
    assert sum("reused" in note for note in told.notes) == 2
    assert [r.test for r in again.records] == [r.test for r in first.records]
    longer = run(recipe(Nudge(), Nudge(epochs=2), name="reuse"), bench, display=(told := Interrupt(-1)))
    assert longer.folder != first.folder
    assert sum("reused" in note for note in told.notes) == 1, (
        "the unchanged beginning is taken from the other run"
    )
    assert bits(longer.state.student) != bits(first.state.student)


def test_what_the_hash_covers(bench: Workshop) -> None:
    place = run(recipe(Nudge(epochs=1), name="hash"), bench).folder
    assert run(recipe(Nudge(epochs=1), name="hash", seed=1), bench).folder != place
    assert run(recipe(Nudge(epochs=1, lr=0.02), name="hash"), bench).folder != place
    other = replace(TEACHER, train=Train(epochs=4, lr=0.04, warmup=1))
    assert run(replace(recipe(Nudge(epochs=1), name="hash"), teachers=(other,)), bench).folder != place


def test_other_code_needs_reuse(bench: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    page = recipe(Nudge(epochs=1), name="code")
    made = run(page, bench)
    newer = folders.Code("0123456789ab", "f" * 64)
    monkeypatch.setattr(folders, "this_code", lambda: newer)
    run(page, replace(bench, reuse=True), display=(told := Interrupt(-1)))
    assert "reused, made by" in told.notes[0]
    assert not list(made.folder.glob("01-nudge-*.1"))
    again = run(page, bench, display=(told := Interrupt(-1)))
    assert "made by other code" in told.notes[0]
    assert "than this (commit 0123456789ab): it is done again" in told.notes[0]
    assert bits(again.state.student) == bits(made.state.student)
    assert len(list(made.folder.glob("01-nudge-*.1/record.json"))) == 1
    assert "0123456789ab" in (made.folder / "result.json").read_text()


@pytest.mark.parametrize("after", [1, 2, 3, 4, 6])
def test_interrupted_and_resumed_equals_unbroken(bench: Workshop, tmp_path: Path, after: int) -> None:
    page = recipe(Nudge(), Nudge(epochs=3, lr=0.02), name=f"cut{after}")
    whole = run(replace(page, name="whole"), bench)
    with pytest.raises(KeyboardInterrupt):
        run(page, bench, display=Interrupt(after))
    made = run(page, bench)
    assert bits(made.state.student) == bits(whole.state.student)
    assert [r.val for r in made.records] == [r.val for r in whole.records]
    assert [r.read for r in made.records] == [r.read for r in whole.records]
    assert not list(made.folder.glob("*/loop-*"))


def test_teacher_training_resumes(tmp_path: Path, bench: Workshop) -> None:
    own = replace(bench, runs=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(Nudge(epochs=1)), own, display=Interrupt(2))
    assert list(tmp_path.glob("teachers/toy-*/loop-1.safetensors"))
    whole = run(recipe(Nudge(epochs=1)), bench)
    made = run(recipe(Nudge(epochs=1)), own)
    assert bits(made.state.teacher().module) == bits(whole.state.teacher().module)
    assert not list(tmp_path.glob("teachers/toy-*/loop-1.safetensors"))


def test_gate(bench: Workshop, tmp_path: Path) -> None:
    weak = replace(TEACHER, name="weak", train=Train(epochs=1, lr=1e-6))
    with pytest.raises(ValueError, match=r"teacher 'weak' scores .*chance is 33\.33 %.*normalised"):
        run(replace(recipe(Nudge()), teachers=(weak,)), bench)


def test_unchanged_stage_is_an_error(bench: Workshop) -> None:
    with pytest.raises(ValueError, match=r"Idle changed nothing: the student equals what went in"):
        run(recipe(Idle(), name="idle"), bench)
    with pytest.raises(ValueError, match=r"Nudge changed nothing|Idle changed nothing"):
        run(recipe(Nudge(epochs=1), Idle(), name="idle"), bench)


def test_spoilt_teacher_is_an_error(bench: Workshop) -> None:
    with pytest.raises(ValueError, match=r"Spoil changed the teacher toy it was given"):
        run(recipe(Spoil(), name="spoil"), bench)


def test_stage_that_sees_nothing(bench: Workshop) -> None:
    with pytest.raises(ValueError, match="sees nothing, yet asked for train data"):
        run(recipe(Peek(), name="peek"), bench)


def test_without_any_data_a_run_ends_unverified(bench: Workshop, tmp_path: Path) -> None:
    """The teacher's file and its shapes are all there is: nothing is scored, and the report says so."""
    known = run(recipe(Nudge(epochs=1), name="teach"), bench).state.teacher()
    torch.save(known.module.state_dict(), tmp_path / "toy.pth")
    task = Unseen((1, 8, 8), 3, mean=(0.5,), std=(0.35,))
    alone = replace(TEACHER, task=task, train=None, weights=str(tmp_path / "toy.pth"))
    few = {"epochs": 2, "rounds": 2, "batch": 16, "latent": 8, "width": 4}
    stages = (
        Generate(images=64, **few), Prune(macs=0.5), Recalibrate(batches=2, generated=True), DFAD(lr=0.01, **few)
    )  # fmt: skip
    page = replace(recipe(*stages, name="unseen"), task=task, teachers=(alone,))
    made = run(page, bench)
    assert [(r.val, r.test) for r in made.records] == [(None, None)] * 5
    assert [dict(r.read) for r in made.records[1:]] == [{}, {}, {"generated": 128}, {}]
    html = (made.folder / "report.html").read_text(encoding="utf-8")
    assert "UNVERIFIED" in html
    assert "No stage was handed a sample of the task" in html
    with pytest.raises(ValueError, match="there is no train data: the task is Unseen"):
        run(replace(page, name="unseen-gal", stages=(Nudge(epochs=1),)), bench)


def test_ranking_is_kept(bench: Workshop) -> None:
    made = run(recipe(Judge(), name="judge"), bench)
    assert made.state.ranking == Ranking(("toy",), (0.0,))
    assert made.state.student is None
    assert run(recipe(Judge(), name="judge"), bench).state.ranking == made.state.ranking


def test_nan_stops_the_stage_and_keeps_the_last_good_epoch(bench: Workshop) -> None:
    with pytest.raises(
        Diverged, match=r"loss is nan at epoch 2; the last finished epoch is kept in .*nan.*01-nudge"
    ):
        run(recipe(Nudge(bad=1), name="nan"), bench)
    assert list(bench.runs.glob("nan/*/01-nudge-*/loop-1.safetensors"))


def test_rehearsal_leaves_nothing(bench: Workshop) -> None:
    before = sorted(bench.runs.rglob("*"))
    made = run(recipe(Nudge(epochs=50), name="rehearsed"), bench, rehearse=True)
    assert made.records[-1].read == {"train": 64}
    assert made.records[-1].test is None
    assert sorted(bench.runs.rglob("*")) == before
    assert not made.folder.exists()


def test_two_runs_in_one_folder(bench: Workshop) -> None:
    made = run(recipe(Nudge(epochs=1), name="twice"), bench)
    with folders.alone(made.folder), pytest.raises(ValueError, match="being worked in by process"):
        run(recipe(Nudge(epochs=1), name="twice"), bench)


def test_tracker_without_server(bench: Workshop) -> None:
    """Nothing listens at the address: the run goes on, and the diary says how it ended."""
    away = replace(bench, tracking="http://127.0.0.1:9")
    page = recipe(Nudge(), name="away")
    with pytest.raises(KeyboardInterrupt):
        run(page, away, display=Interrupt(2))
    (diary,) = bench.runs.glob("away/*/tracking.jsonl")

    def ends() -> list[tuple[str, str]]:
        events = [json.loads(line) for line in diary.read_text().splitlines()]
        return [(e["run"].rsplit("-", 1)[0], e["status"]) for e in events if e["do"] == "end"]

    assert ends() == [("00", "FINISHED"), ("01-nudge", "KILLED"), ("run", "KILLED")]
    run(page, away)
    assert ends()[-2:] == [("01-nudge", "FINISHED"), ("run", "FINISHED")]
    losses = [json.loads(line) for line in diary.read_text().splitlines() if "nudge/loss" in line]
    assert [event["step"] for event in losses] == [0, 1, 2]


def test_weights_given(bench: Workshop, tmp_path: Path) -> None:
    run(recipe(Nudge(epochs=1)), bench)
    weights = trained_folder(TEACHER, bench.runs) / "weights.safetensors"
    given = Checkpoint(name="toy", network=TEACHER.network, task=TASK, weights=str(weights))
    made = run(replace(recipe(Nudge(epochs=1), name="given"), teachers=(given,)), bench)
    assert made.records[0].val is not None


def test_network_of_ones_own(bench: Workshop) -> None:
    """A network whose code cannot be traced is kept as the call that made it."""
    network = Own(factory="own_network:make", arguments={"classes": 3})
    own = replace(TEACHER, name="own", network=network, train=Train(epochs=20, lr=0.1, warmup=1))
    page = replace(recipe(Nudge(), Nudge(epochs=1), name="own"), teachers=(own,))
    made = run(page, bench)
    assert type(made.state.student).__name__ == "Winding"
    again = run(page, bench, display=(told := Interrupt(-1)))
    assert sum("reused" in note for note in told.notes) == 2
    assert bits(again.state.student) == bits(made.state.student)


def test_plan(bench: Workshop) -> None:
    page = recipe(Nudge(epochs=1), Judge(), name="planned")
    text = str(plan(page, replace(bench, runs=bench.runs / "elsewhere"), probe=False))
    assert "to be trained first" in text
    assert "reads train without labels (108 samples)" in text
    assert "reads no data" in text
    run(page, bench)
    text = str(plan(page, bench, probe=False))
    assert "trained before" in text
    assert text.count("done already") == 2


def test_seeds_are_far_apart() -> None:
    seeds = {folders.seed_of(seed, position) for seed in range(50) for position in range(1, 6)}
    assert len(seeds) == 250
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_device_that_is_not_there(bench: Workshop) -> None:
    with pytest.raises(ValueError, match="device 'warp' cannot be used here"):
        run(recipe(Nudge()), replace(bench, device="warp"))
