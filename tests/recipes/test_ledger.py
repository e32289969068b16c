"""The data ledger: what was handed out is counted where it goes out, and a closed feed can be proven."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from compress import DFAD, Generate, Prune, Recalibrate
from compress.session import Limit, Sees, Session
from compress.stage import Stage, State
from recipes.ledger import Ledger, kept
from recipes.recipe import Recipe, Workshop
from recipes.run import Quiet, run
from students import compact
from teachers.counted import Counted
from teachers.networks import DigitsCNN
from teachers.spec import spec
from teachers.task import Batch, Part, Split, Splits
from teachers.tasks import Scenes, Shapes, Toy
from teachers.teacher import Checkpoint
from teachers.train import Train

pytestmark = pytest.mark.usefixtures("unpacked")

TASK = Toy(samples=120, batch=32)
TEACHER = Checkpoint(
    name="toy", network=DigitsCNN(classes=3), task=TASK, train=Train(epochs=4, lr=0.05, warmup=1)
)


@spec
class Glance(Stage):
    """Moves a weight after so many batches of train and one pass over val, and keeps quiet about it."""

    batches: int = 1
    """how many"""
    epochs: int = 1
    """loops over them"""
    sees: ClassVar[Sees] = Sees.INPUTS

    def __call__(self, state: State, session: Session) -> State:
        """Look."""
        draft = state.draft()
        for _ in session.epochs(self.epochs, draft=draft):
            for _, batch in zip(range(self.batches), session.batches(), strict=False):
                assert batch.target is None
            session.log({"looked": 1.0}, 0)
        for batch in session.batches(Split.VAL):
            assert batch.target is None
        session.read.clear()  # what a stage says of itself does not count
        with torch.no_grad():
            next(draft.parameters()).add_(1e-3)
        return replace(state, student=draft.eval())


def recipe(*stages: Stage, name: str, **more: Any) -> Recipe:
    return Recipe(name=name, task=TASK, teachers=(TEACHER,), stages=stages, **more)


def ledger_of(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "result.json").read_text())["ledger"]
    assert compact.card(folder / "compact")["ledger"] == found
    return dict(found)


def rows(ledger: dict[str, Any], who: str) -> list[tuple[object, ...]]:
    names = ("why", "split", "labels", "samples", "distinct", "of")
    return [tuple(row[name] for name in names) for row in ledger["reads"] if row["who"] == who]


# -- counting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task",
    [Toy(samples=120, batch=32), Shapes(samples=40), Scenes(samples=40)],
    ids=lambda task: type(task).__name__,
)
def test_samples_have_numbers(task: Any) -> None:
    """Passes and parts of passes over the same samples are told from new ones, in every kind of data."""
    splits = task.open(None)
    counted, generator = Counted(splits, labels=False), torch.Generator().manual_seed(0)
    seen: list[int] = []
    for passes in (1, 3):
        for _ in range(passes):
            for batch in counted.batches(Split.TRAIN, torch.device("cpu"), generator):
                assert batch.target is None
                assert batch.rows is not None
                assert len(batch.rows) == len(batch)
                seen += batch.rows.tolist()
        (handed,) = counted.handed()
        assert (handed.samples, handed.distinct) == (len(seen), len(set(seen)))
        assert handed.of == splits.samples(Split.TRAIN) >= len(set(seen))
    list(counted.batches(Split.VAL, torch.device("cpu")))
    val = counted.handed()[1]
    assert val.samples == val.distinct == val.of == splits.samples(Split.VAL)


def test_a_graph_is_counted_by_its_nodes() -> None:
    """Of the whole graph all of them; of parts around seeds, each node once however often it is in the surroundings."""
    parts = [torch.tensor([0, 1, 5]), torch.tensor([2, 5]), None]

    class Graph(Splits):
        def samples(self, split: Split) -> int:
            return 3

        def steps(self, split: Split) -> int:
            return 1

        def batches(
            self, split: Split, device: torch.device, generator: torch.Generator | None = None
        ) -> Iterator[Batch]:
            nodes = parts.pop(0)
            part = Part(nodes, None, 1, complete=nodes is None)
            yield Batch((torch.zeros(8 if nodes is None else len(nodes), 4),), None, part)

    counted = Counted(Graph())
    for samples, distinct in ((3, 3), (5, 4), (13, 8)):
        list(counted.batches(Split.TRAIN, torch.device("cpu")))
        assert [(each.samples, each.distinct, each.of) for each in counted.handed()] == [
            (samples, distinct, 3)
        ]


def test_data_without_numbers_are_counted_all_the_same() -> None:
    class Unnumbered(Splits):
        def samples(self, split: Split) -> int:
            return 8

        def steps(self, split: Split) -> int:
            return 2

        def batches(
            self, split: Split, device: torch.device, generator: torch.Generator | None = None
        ) -> Iterator[Batch]:
            for _ in range(2):
                yield Batch((torch.zeros(4, 1),), torch.zeros(4))

    counted = Counted(Unnumbered())
    for _ in range(2):
        list(counted.batches(Split.TRAIN, torch.device("cpu")))
    assert [(each.samples, each.distinct, each.of) for each in counted.handed()] == [(16, None, 8)]


def test_what_nobody_gave_a_reason_for_is_a_row_too(tmp_path: Path) -> None:
    books, splits, cpu = Ledger(), TASK.open(None), torch.device("cpu")
    list(books.hand(TASK, splits).batches(Split.VAL, cpu))

    def break_off() -> None:
        with books.reading("breaks off", tmp_path):
            next(iter(books.hand(TASK, splits, labels=False).batches(Split.TRAIN, cpu)))
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert [(row["why"], row["split"], row["labels"]) for row in kept(tmp_path)] == [
        ("breaks off", "train", False)
    ]
    books.settle(tmp_path)
    books.settle(tmp_path)
    assert [(row["why"], row["samples"]) for row in kept(tmp_path)] == [
        ("breaks off", 32),
        ("looks", splits.samples(Split.VAL)),
    ]


# -- runs -------------------------------------------------------------------------------------------------


def test_every_reader_has_a_row(bench: Workshop) -> None:
    made = run(recipe(Glance(batches=2, epochs=3), name="rows"), bench)
    ledger = ledger_of(made.folder)
    splits = TASK.open(None)
    train, val, test = (splits.samples(split) for split in Split)
    assert rows(ledger, "teacher toy")[0] == ("learns", "train", True, 4 * 96, train, train)
    (looked, chose) = rows(ledger, "1 Glance")
    assert looked[:4] == ("learns", "train", False, 6 * 32)
    assert 64 < int(str(looked[4])) <= train  # three shuffled passes, two batches of each
    assert chose == ("chooses", "val", False, val, val, val)
    assert rows(ledger, "runner") == [
        ("scores toy", "val", True, val, val, val),
        ("scores 1 Glance", "val", True, val, val, val),
        ("tests teachers and student", "test", True, 2 * test, test, test),
    ]
    assert ledger["feeds"] == [{"who": "1 Glance", "sees": "inputs", "open": True}]
    assert not ledger["closed"]
    assert ledger["proof"] is None
    assert {row["source"] for row in ledger["reads"]} == {"teachers.tasks.Toy"}
    again = run(recipe(Glance(batches=2, epochs=3), name="rows"), bench)
    assert ledger_of(again.folder) == ledger
    longer = run(recipe(Glance(batches=2, epochs=3), Glance(), name="rows"), bench)
    assert rows(ledger_of(longer.folder), "1 Glance") == [looked, chose], (
        "work that is taken up brings its ledger"
    )


def test_a_run_without_data_proves_it(bench: Workshop) -> None:
    few = {"epochs": 2, "rounds": 1, "batch": 16, "latent": 8, "width": 4}
    stages = (
        Generate(images=64, **few), Prune(macs=0.5), Recalibrate(batches=4, generated=True),
        DFAD(lr=0.01, **few),
    )  # fmt: skip
    made = run(recipe(*stages, name="closed"), bench)
    ledger = ledger_of(made.folder)
    assert ledger["closed"]
    assert "its feed is closed" in ledger["proof"]
    assert [feed["open"] for feed in ledger["feeds"]] == [False] * 4
    own = [row for row in ledger["reads"] if row["who"][0].isdigit()]
    assert [(row["who"], row["split"], row["source"], row["labels"]) for row in own] == [
        ("3 Recalibrate", "generated", "generated", False)
    ]
    assert own[0]["distinct"] == 64
    report = (made.folder / "report.html").read_text()
    assert "No stage was handed a sample of the task" in report
    assert "code of a stage that would open files by itself" in report
    opened = run(recipe(*stages[1:2], Recalibrate(batches=1), name="closed"), bench)
    assert ledger_of(opened.folder)["proof"] is None


def test_the_ledger_of_a_stopped_stage_goes_on(bench: Workshop) -> None:
    class Stop(Quiet):
        def epoch(self, done: int, total: int, values: Any) -> None:
            if done == 2:
                raise KeyboardInterrupt

    page = recipe(Glance(batches=1, epochs=4), name="stopped")
    whole = run(replace(page, name="unbroken"), bench)
    with pytest.raises(KeyboardInterrupt):
        run(page, bench, display=Stop())
    made = run(page, bench)
    assert ledger_of(made.folder) == ledger_of(whole.folder)


def test_a_rehearsal_counts_too() -> None:
    bench = Session.bare(TASK, sees=Sees.INPUTS, limit=Limit(batches=2, epochs=1))
    list(bench.batches())
    (handed,) = bench.handed()
    assert (handed.samples, handed.labels) == (64, False)
    assert Session(sees=Sees.NOTHING).handed() == ()
