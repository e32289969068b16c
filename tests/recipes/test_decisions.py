"""What was answered to test: kept in the task's order, equal to the score, beside the right teacher."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from compress import Prune
from recipes import decisions
from recipes.decisions import Answers, Seen, answered, join, keep, read, task_digest
from recipes.page import digest
from recipes.recipe import Recipe, Workshop
from recipes.run import run
from reports.evaluate import evaluate
from teachers.networks import DigitsCNN
from teachers.task import Batch, Split
from teachers.tasks import PPI, DigitsGraph, Shapes, Toy
from teachers.tasks.graph_splits import IGNORED
from teachers.teacher import Checkpoint
from teachers.train import Train

TASK = Toy(samples=120, batch=32)
TRAIN = Train(epochs=4, lr=0.05, warmup=1)
TEACHER = Checkpoint(name="toy", network=DigitsCNN(classes=3), task=TASK, train=TRAIN)


@pytest.mark.usefixtures("unpacked")
def test_a_run_keeps_what_it_answered(bench: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(name="kept", task=TASK, teachers=(TEACHER,), stages=(Prune(macs=0.5),))
    made = run(recipe, bench)
    path = made.folder / "decisions.safetensors"
    found = read(path)
    student, test = made.state.student, made.records[-1].test
    assert student is not None
    assert test is not None
    (truth, said) = (
        torch.cat(part)
        for part in zip(
            *(
                (batch.target, student(*batch.inputs).argmax(1))
                for batch in TASK.open(None).batches(Split.TEST, torch.device("cpu"))
                if batch.target is not None
            ),
            strict=True,
        )
    )
    assert found.targets is not None
    assert torch.equal(found.targets, truth)
    assert torch.equal(found.student, said)
    assert float(found.merit.mean()) == test.value
    assert len(found) == test.samples == 120
    assert found.teacher is not None
    before = made.records[0].test
    assert before is not None
    assert float((found.teacher == found.targets).double().mean()) == before.value
    assert (found.task, found.recipe) == (task_digest(TASK), digest(recipe))

    # Taken up again, test is not read: the files lie there, and what is joined anew is the same.
    monkeypatch.setattr(
        "recipes.measure.Instruments.test", lambda *_, **__: pytest.fail("test was read again")
    )
    path.unlink()
    run(recipe, bench)
    assert torch.equal(read(path).student, said)


def test_a_score_of_every_sample() -> None:
    task = Shapes(samples=6)
    truth = torch.randint(-1, 3, (5, 4, 4), generator=torch.Generator().manual_seed(0))
    said = truth.clamp_min(0)
    truth[truth < 0] = IGNORED
    said[1, 0] = (said[1, 0] + 1) % 3
    kept = answered(task, said, truth, task.score(said, truth), "")
    assert kept is not None
    assert kept.targets is None
    assert kept.said.dtype == torch.float32
    assert kept.said.tolist() == pytest.approx(
        [task.score(said[n : n + 1], truth[n : n + 1]) for n in range(5)]
    )
    assert kept.said[0] == 1
    assert kept.said[1] < 1

    many = torch.tensor([[1.0, 0.0, 1.0], [torch.nan] * 3, [0.0, 0.0, 1.0]])
    kept = answered(PPI(), many > 0.5, many, 1.0, "")
    assert kept is not None
    assert kept.said.tolist() == [1.0, 1.0]  # the second belongs to another split


def test_what_no_single_sample_has_is_not_kept() -> None:
    class Area(Toy):
        metric = "roc_auc"

    areas = torch.rand(4, 3)
    assert answered(Area(), areas, areas.round(), 0.5, "") is None
    labels = torch.tensor([0, 1, 2])
    assert answered(TASK, labels, labels, 0.9, "") is None, (
        "0.9 is not the share of right answers, which is 1"
    )


def test_samples_of_other_splits_are_left_out() -> None:
    kept = answered(DigitsGraph(), torch.tensor([0, 1, 2, 1]), torch.tensor([0, -1, 2, 2]), 2 / 3, "")
    assert kept is not None
    assert kept.targets is not None
    assert (kept.said.tolist(), kept.targets.tolist()) == ([0, 2, 1], [0, 2, 2])


def test_the_hash_of_what_was_seen() -> None:
    def seen(*batches: Tensor) -> str:
        found = Seen([Batch((batch,), torch.zeros(len(batch))) for batch in batches])
        assert len(list(found)) == len(batches)
        return found.hexdigest()

    images = torch.rand(4, 2, 3, 3)
    whole = seen(images)
    assert seen(images.to(memory_format=torch.channels_last)) == whole
    assert seen(images + 1) != whole
    assert seen(images.view(4, 2, 9)) != whole


def answers(said: list[int], truth: list[int]) -> Answers:
    return Answers(torch.tensor(said), torch.tensor(truth), "task", "inputs")


def test_the_first_teacher_that_was_asked_the_same(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("student", "unlike", "shorter", "alike", "later")}
    keep(folders["student"])(answers([0, 1], [0, 0]))
    keep(folders["unlike"])(answers([0, 0], [0, 0]))
    keep(folders["shorter"])(answers([0], [0]))
    keep(folders["alike"])(answers([1, 0], [0, 0]))
    keep(folders["later"])(answers([0, 0], [0, 0]))
    teachers = [(folders[name], name != "unlike") for name in ("unlike", "shorter", "alike", "later")]
    path = join(folders["student"], teachers, tmp_path, "hash")
    assert path is not None
    found = read(path)
    assert found.teacher is not None
    assert found.teacher.tolist() == [1, 0]
    assert found.merit.tolist() == [1.0, 0.0]
    alone = join(folders["student"], teachers[:2], tmp_path, "hash")
    assert alone is not None
    assert read(alone).teacher is None
    assert join(tmp_path / "nobody", teachers, tmp_path, "hash") is None


def test_damaged(tmp_path: Path) -> None:
    (tmp_path / "d.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"d\.safetensors is damaged .*: delete it"):
        read(tmp_path / "d.safetensors")
    keep(tmp_path)(answers([1], [1]))
    with pytest.raises(ValueError, match="not one answer for each of its samples"):
        read(tmp_path / "answers.safetensors")


def test_evaluate_tells_what_it_judged() -> None:
    told: list[tuple[Tensor, Tensor]] = []
    rows = [Batch((torch.eye(3)[:2],), torch.tensor([0, 2])), Batch((torch.eye(3)[2:],), torch.tensor([2]))]
    from reports.evaluate import TestScore

    score = evaluate(
        torch.nn.Identity(),
        rows,
        TASK.predict,
        TASK.score,
        kind=TestScore,
        keep=lambda *pair: told.append(pair),
    )
    ((said, truth),) = told
    assert (said.tolist(), truth.tolist()) == ([0, 1, 2], [0, 2, 2])
    assert score == TestScore(2 / 3, 3)


@pytest.mark.usefixtures("unpacked")
def test_interrupted_between_two_readings(bench: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's test was read and the student's not: what was read is kept, and not read again."""
    from recipes.measure import Instruments

    recipe = Recipe(name="cut", task=TASK, teachers=(TEACHER,), stages=(Prune(macs=0.5),))
    true, calls = Instruments.test, list[int]()

    def once(*given: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return true(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(Instruments, "test", once)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, bench)
    made = run(recipe, bench)
    assert len(calls) == 3
    assert read(made.folder / decisions.FILE).teacher is not None
