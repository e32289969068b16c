"""The bench: data as far as a stage may see it, epochs that resume to the bit, a log that stops on NaN."""

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.session import Diverged, Limit, Sees, Session, Stopped, stop_on_signals
from students import files
from teachers.task import Split
from teachers.tasks import Toy
from teachers.train import cosine

TASK = Toy(samples=60, batch=16, evaluation=8, crop=1, flip=True)  # 54 train: 3 whole batches; 6 val: 1


# -- data --------------------------------------------------------------------------------------------------


def test_nothing_closes_the_feed() -> None:
    session = Session.bare(TASK, sees=Sees.NOTHING, name="compress.DFAD")
    for ask in (lambda: next(session.batches()), session.steps, lambda: session.steps(Split.VAL)):
        with pytest.raises(
            ValueError, match=r"compress.DFAD sees nothing, yet asked for (train|val) data: declare"
        ):
            ask()
    assert not session.read


@pytest.mark.parametrize("split", [Split.TRAIN, Split.VAL])
def test_inputs_come_without_targets(split: Split) -> None:
    blind, seeing = (
        list(Session.bare(TASK, sees=sees).batches(split)) for sees in (Sees.INPUTS, Sees.LABELS)
    )
    assert all(batch.target is None for batch in blind)
    assert all(batch.target is not None for batch in seeing)
    for one, other in zip(blind, seeing, strict=True):
        assert torch.equal(one.inputs[0], other.inputs[0])


@pytest.mark.parametrize("sees", [Sees.INPUTS, Sees.LABELS])
def test_the_test_split_is_refused(sees: Sees) -> None:
    session = Session.bare(TASK, sees=sees, name="compress.GAL")
    for ask in (lambda: next(session.batches(Split.TEST)), lambda: session.steps(Split.TEST)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"compress.GAL asked for the test split, which is read once"):
            ask()


def test_a_session_without_a_task_says_so() -> None:
    with pytest.raises(ValueError, match="asked for train data, but its session was made without a task"):
        next(Session.bare().batches())


def test_the_ledger_counts_what_was_handed_out() -> None:
    session = Session.bare(TASK)
    assert session.steps() == len(list(session.batches())) == 3
    assert session.read == {"train": 48}
    list(session.batches(Split.VAL))
    next(session.batches())
    assert session.read == {"train": 64, "val": 6}


def test_a_seed_decides_the_order() -> None:
    def first(seed: int) -> Tensor:
        return next(Session.bare(TASK, seed=seed).batches()).inputs[0]

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    session = Session.bare(TASK)
    assert not torch.equal(next(session.batches()).inputs[0], next(session.batches()).inputs[0])
    plain = [next(session.batches(Split.VAL)).inputs[0] for _ in range(2)]
    assert torch.equal(*plain)


def test_a_rehearsal_is_short() -> None:
    session = Session.bare(TASK, limit=Limit(batches=2, epochs=1))
    assert session.steps() == len(list(session.batches())) == 2
    assert session.steps(Split.VAL) == 1
    assert session.epochs_of(9) == 1
    assert list(session.epochs(9)) == [0]
    assert session.read == {"train": 32}


# -- epochs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "batches"), [(2.0, [3, 3]), (1.67, [3, 2]), (0.33, [1]), (0.01, [1]), (2.01, [3, 3, 1])]
)
def test_the_last_epoch_may_be_a_part_of_one(total: float, batches: list[int]) -> None:
    session = Session.bare(TASK)
    assert session.total_steps(total) == sum(batches)
    taken = []
    for _ in session.epochs(total):
        taken.append(len(list(session.batches())))
        assert session.steps() == taken[-1]
        assert len(list(session.batches(Split.VAL))) == session.steps(Split.VAL) == 1
    assert taken == batches
    assert session.steps() == len(list(session.batches())) == 3  # whole again
    short = Session.bare(TASK, limit=Limit(batches=2, epochs=1))
    assert short.total_steps(1.67) == 2
    assert [len(list(short.batches())) for _ in short.epochs(1.67)] == [2]


class Cut(Exception):
    """Stands in for whatever stops a run."""


class Work:
    """A loop with every kind of state: momentum, a schedule, dropout, a batch norm, the feed's own generator."""

    def __init__(self, folder: Path | None) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 3)
        )
        self.learn = torch.optim.SGD(self.net.parameters(), 0.05, 0.9)
        self.adam = torch.optim.Adam(self.net.parameters(), 1e-3)
        self.schedule = cosine(self.learn, 12, 3)
        self.session = Session(splits=TASK.open(None), folder=folder, seed=7)
        self.seen: list[int] = []

    def epochs(self, total: float = 4) -> Iterator[int]:
        return self.session.epochs(
            total, net=self.net, learn=self.learn, adam=self.adam, schedule=self.schedule
        )

    def run(self, cut: tuple[int, int] | None = None, total: float = 4) -> "Work":
        self.session.place(self.net)
        for epoch in self.epochs(total):
            self.seen.append(epoch)
            for step, batch in enumerate(self.session.batches()):
                if cut == (epoch, step):
                    raise Cut
                loss = nn.functional.cross_entropy(self.net(*batch.inputs), batch.target)
                for optimiser in (self.learn, self.adam):
                    optimiser.zero_grad()
                loss.backward()
                self.learn.step()
                self.adam.step()
                self.schedule.step()
        return self

    def everything(self) -> list[Tensor]:
        return [*self.net.state_dict().values(), torch.get_rng_state(), self.session.generator.get_state()]


@pytest.mark.parametrize("total", [4, 3.67])
@pytest.mark.parametrize("cut", [(0, 0), (1, 0), (1, 2), (3, 1)])
def test_a_loop_that_was_cut_ends_to_the_bit_as_an_unbroken_one(
    cut: tuple[int, int], total: float, tmp_path: Path
) -> None:
    whole = Work(None).run(total=total)
    wanted = whole.everything()
    with pytest.raises(Cut):
        Work(tmp_path).run(cut, total)
    torch.manual_seed(99)
    resumed = Work(tmp_path).run(total=total)
    assert resumed.seen == list(range(cut[0], 4))
    for a, b in zip(resumed.everything(), wanted, strict=True):
        assert torch.equal(a, b)
    assert resumed.learn.state_dict()["param_groups"] == whole.learn.state_dict()["param_groups"]
    assert resumed.schedule.state_dict() == whole.schedule.state_dict()
    assert resumed.session.read == whole.session.read == {"train": 16 * (12 if total == 4 else 11)}


def test_a_finished_loop_hands_back_its_state_and_yields_nothing(tmp_path: Path) -> None:
    whole = Work(tmp_path).run()
    again = Work(tmp_path).run()
    assert again.seen == []
    for a, b in zip(again.everything(), whole.everything(), strict=True):
        assert torch.equal(a, b)
    assert (again.session.finished_epochs, again.session.total_epochs) == (4, 4)


def test_two_loops_are_kept_apart(tmp_path: Path) -> None:
    first = Work(tmp_path).run(total=2)
    with pytest.raises(Cut):
        first.run(cut=(1, 1), total=3)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["loop-1.safetensors", "loop-2.safetensors"]
    second = Work(tmp_path)
    second.run(total=2)
    assert second.seen == []
    second.run(total=3)
    assert second.seen == [1, 2]
    assert (second.session.finished_epochs, second.session.total_epochs) == (5, 5)
    unbroken = Work(None)
    unbroken.run(total=2)
    unbroken.run(total=3)
    for a, b in zip(second.everything()[:-2], unbroken.everything()[:-2], strict=True):
        assert torch.equal(a, b)


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Work(None).run(total=1)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_loses_no_finished_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Cut):
        Work(tmp_path).run((2, 0))
    before = (tmp_path / "loop-1.safetensors").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", full)
        with pytest.raises(OSError, match=r"loop-1.safetensors was not written .*Free some space and resume"):
            Work(tmp_path).run()
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("loop-1.safetensors", before)]
    resumed = Work(tmp_path).run()
    assert resumed.seen == [2, 3]


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    Work(tmp_path).run(total=1)
    path = tmp_path / "loop-1.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"loop-1.safetensors is damaged .*: delete it to start this stage anew"
    ):
        Work(tmp_path).run()
    path.unlink()
    assert Work(tmp_path).run(total=1).seen == [0]


# -- the log -----------------------------------------------------------------------------------------------


def test_the_log_is_told() -> None:
    told: list[tuple[Mapping[str, float], int]] = []
    session = Session(report=lambda values, step: told.append((values, step)))
    session.log({"gap": 0.3}, 2)
    assert told == [({"gap": 0.3}, 2)]
    Session().log({"gap": 0.3}, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_stops_the_stage(value: float, tmp_path: Path) -> None:
    told: list[object] = []
    session = Session(report=lambda *what: told.append(what), folder=tmp_path, name="compress.GAL")
    with pytest.raises(Diverged, match="no epoch was finished before, so there is nothing to go on from"):
        session.log({"game": value}, 0)
    list(session.epochs(4))
    with pytest.raises(Diverged) as caught:
        session.log({"data": 1.0, "game": value}, 4)
    assert str(caught.value) == (
        f"compress.GAL: game is {value} at epoch 5; the last finished epoch is kept in {tmp_path}. "
        "A smaller learning rate, or fp32 in place of bf16, usually helps"
    )
    assert told == []
    with pytest.raises(Diverged, match="nothing is kept: no folder"):
        Session().log({"game": value}, 0)


def test_the_epoch_that_diverged_is_not_kept(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    session = Session(folder=tmp_path)

    def work() -> None:
        for epoch in session.epochs(3, net=net):
            with torch.no_grad():
                net.weight.fill_(float("nan") if epoch == 1 else 1.0)
            session.log({"sum": net.weight.sum().item()}, epoch)

    with pytest.raises(Diverged, match="sum is nan at epoch 2"):
        work()
    other = nn.Linear(2, 2)
    assert next(iter(Session(folder=tmp_path).epochs(3, net=other))) == 1
    assert torch.equal(other.weight, torch.ones(2, 2))


# -- the rest ----------------------------------------------------------------------------------------------


def test_autocast_is_what_the_precision_says() -> None:
    a = torch.ones(4, 4)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with Session(precision=precision).autocast():  # type: ignore[arg-type]
            assert (a @ a).dtype == dtype


def test_modules_are_placed_in_channels_last() -> None:
    conv = Session().place(nn.Conv2d(3, 4, 3))
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_sigterm_becomes_stopped() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop_on_signals()
        with pytest.raises(Stopped, match="asked to stop by SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert issubclass(Stopped, KeyboardInterrupt)
