"""The bench a stage works at: data as far as the stage may see it, epochs that resume, and a log."""

from __future__ import annotations

import math
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import nn

from students.files import load_states, save_states
from teachers.counted import Counted, Handed
from teachers.place import place
from teachers.signature import Signature
from teachers.task import Batch, Open, Split, Splits, Task

M = TypeVar("M", bound=nn.Module)
Epochs = TypeVar("Epochs", int, float)
Precision = Literal["fp32", "bf16"]


class Sees(Enum):
    """How much of the data a stage may look at; INPUTS are batches whose target is None."""

    NOTHING = "nothing"
    INPUTS = "inputs"
    LABELS = "labels"


class Stateful(Protocol):
    """Anything that can be put away and taken out again: modules, optimisers, schedules."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


class Diverged(ArithmeticError):
    """A logged number stopped being finite; the last good epoch is still on disk."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop (Ctrl-C, SIGTERM); what was finished is on disk and resumes."""


@dataclass(frozen=True)
class Limit:
    """What a rehearsal allows: this many batches a pass, this many epochs a loop."""

    batches: int
    epochs: int


class Session:
    """What one stage may use: its device, its data as far as `sees` allows, its epochs and its log.

    device     where the work happens
    precision  "fp32", or "bf16" for autocast around forward passes
    sees       NOTHING closes the feed: asking for a batch raises; INPUTS strips the targets
    seed       of the generator that shuffles and augments; global random numbers are seeded by the runner
    folder     where unfinished work is kept after every epoch; None keeps nothing
    report     called with (values, step) for every `log`
    limit      a rehearsal's limit; methods know nothing of it
    read       samples handed out so far, by split: the data ledger of the stage
    notes      what the stage wants a reader of the report to know
    pictures   for the report, too: SVG by title
    signature  what a network for the task takes and gives; None where there is no task
    """

    def __init__(
        self,
        *,
        splits: Splits | None = None,
        sees: Sees = Sees.LABELS,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        seed: int = 0,
        folder: Path | None = None,
        report: Callable[[Mapping[str, float], int], None] | None = None,
        limit: Limit | None = None,
        name: str = "stage",
        signature: Signature | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.signature = signature
        self.precision = precision
        self.sees = sees
        self.name = name
        self.read: Counter[str] = Counter()
        self.notes: list[str] = []
        self.pictures: dict[str, str] = {}
        self.generator = torch.Generator().manual_seed(seed)
        self.total_epochs = 0
        self.finished_epochs = 0
        self._splits = (
            splits if isinstance(splits, Counted) or splits is None else Counted(splits, sees is Sees.LABELS)
        )
        self._fed: Counted | None = None
        self._folder = folder
        self._report = report
        self._limit = limit
        self._loops = 0
        self._share = 1.0  # of a pass over train that the running epoch takes

    @classmethod
    def bare(cls, task: Task | None = None, folder: Path | None = None, **more: Any) -> Session:
        """A bench without a runner, for notebooks: `task` opened from the data `folder`, nothing kept or tracked."""
        if task is not None:
            more = {"signature": task.signature(), **more}
        return cls(splits=task.open(folder) if task else None, **more)

    # -- data ---------------------------------------------------------------------------------------------

    @property
    def shows_labels(self) -> bool:
        """Whether its batches come with their targets."""
        return self.sees is Sees.LABELS

    def handed(self) -> tuple[Handed, ...]:
        """What of the task's data went out through this session, and generated inputs: rows of the run's ledger.

        Nothing of the task where the stage sees nothing: then the feed is closed.
        """
        found = self._splits.handed() if self._splits is not None else ()
        drawn = self._fed.handed() if self._fed is not None else ()
        if drawn:
            found += (replace(drawn[0], split="generated"),)
        elif made := self.read["generated"]:
            found += (Handed("generated", False, made, None, made),)
        return found

    def feed(self, splits: Splits) -> None:
        """Take train batches from `splits`, which no task has made; the ledger counts them as "generated"."""
        self._fed = Counted(splits, labels=False)

    def batches(self, split: Open = Split.TRAIN) -> Iterator[Batch]:
        """One shuffled, augmented pass over train, or one plain pass in order over val, on `device`.

        The pass over train ends early in an epoch that is a part of one (`epochs`).
        Raises ValueError for the test split, which no stage may read, and for a stage that sees nothing.
        """
        splits = self._open(split)
        generator = self.generator if split is Split.TRAIN else None
        steps = self.steps(split)
        for batch in islice(splits.batches(split, self.device, generator), steps):
            self.read[split.value if self._fed is None else "generated"] += len(batch)
            yield batch if self.sees is Sees.LABELS else batch.unlabeled()

    def steps(self, split: Open = Split.TRAIN) -> int:
        """How many batches a pass over `split` takes now."""
        steps = self._open(split).steps(split)
        if split is Split.TRAIN:
            steps = max(1, round(self._share * steps))
        return min(steps, self._limit.batches) if self._limit is not None else steps

    def total_steps(self, epochs: float) -> int:
        """How many batches of train `epochs` will take, before they are begun; the last epoch may be a part of one."""
        epochs = self.epochs_of(epochs)
        whole, part = int(epochs), epochs % 1
        steps = self.steps()
        return whole * steps + (max(1, round(part * steps)) if part else 0)

    def _open(self, split: Split) -> Splits:
        if self._fed is not None and split is Split.TRAIN:
            return self._fed
        if self.sees is Sees.NOTHING:
            raise ValueError(
                f"{self.name} sees nothing, yet asked for {split.value} data: declare what it sees"
            )
        if split not in (Split.TRAIN, Split.VAL):
            raise ValueError(
                f"{self.name} asked for the test split, which is read once, by the runner, at the end"
            )
        if self._splits is None:
            raise ValueError(
                f"{self.name} asked for {split.value} data, but its session was made without a task"
            )
        return self._splits

    # -- work ---------------------------------------------------------------------------------------------

    def place(self, module: M) -> M:
        """The module on this device, with 4-D weights in channels_last order (faster convolutions)."""
        return place(module, self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 autocast where the precision says so, nothing otherwise."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def epochs(self, total: float, **keep: Stateful) -> Iterator[int]:
        """Count epochs; after each, put `keep` and all random states away, atomically; resume where a run stopped.

        Where `total` is no whole number, the last epoch is a part of a pass over train: 1.25 are one and a quarter.
        A stage may run several loops one after another: each is kept under its own number, and a finished one
        hands back its final state and yields nothing.
        """
        self._loops += 1
        total = self.epochs_of(total)
        planned = math.ceil(total)
        path = self._folder / f"loop-{self._loops}.safetensors" if self._folder else None
        start = self._restore(path, keep) if path is not None and path.exists() else 0
        self.total_epochs, self.finished_epochs = self.total_epochs + planned, self.finished_epochs + start
        for epoch in range(start, planned):
            self._share = min(1.0, total - epoch)
            yield epoch
            self._share = 1.0
            self.finished_epochs += 1
            if path is not None:
                self._save(path, epoch + 1, keep)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Tell how it goes, with bare names: {"gap": 0.3}. Raises Diverged where a value is not finite."""
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        if bad:
            if not self._folder:
                kept = "nothing is kept: no folder"
            elif not self.finished_epochs:
                kept = "no epoch was finished before, so there is nothing to go on from"
            else:
                kept = f"the last finished epoch is kept in {self._folder}"
            raise Diverged(
                f"{self.name}: {', '.join(f'{k} is {v}' for k, v in bad.items())} at epoch {step + 1}; {kept}. "
                "A smaller learning rate, or fp32 in place of bf16, usually helps"
            )
        if self._report is not None:
            self._report(values, step)

    def note(self, line: str) -> None:
        """Leave a line for the reader of the report: what was locked and why, say."""
        self.notes.append(line)

    def picture(self, title: str, svg: str) -> None:
        """Leave a picture for the report."""
        self.pictures[title] = svg

    def epochs_of(self, total: Epochs) -> Epochs:
        """How many of `total` epochs this session will really run."""
        return min(total, self._limit.epochs) if self._limit is not None else total

    def _save(self, path: Path, finished: int, keep: Mapping[str, Stateful]) -> None:
        # A SIGINT between the write and the rename would be harmless; one inside the dict building is too.
        states: dict[str, Any] = {name: thing.state_dict() for name, thing in keep.items()}
        states["session"] = {
            "finished": finished,
            "torch": torch.get_rng_state(),
            "feed": self.generator.get_state(),
            "read": dict(self.read),
            "handed": self._splits.state_dict() if self._splits is not None else {},
            "drawn": self._fed.state_dict() if self._fed is not None else {},
            **({"cuda": torch.cuda.get_rng_state()} if self.device.type == "cuda" else {}),
        }
        save_states(path, states)

    def _restore(self, path: Path, keep: Mapping[str, Stateful]) -> int:
        states = load_states(path)
        for name, thing in keep.items():
            thing.load_state_dict(states[name])
        mine = states["session"]
        torch.set_rng_state(mine["torch"])
        self.generator.set_state(mine["feed"])
        self.read = Counter(mine["read"])
        for counted, kept in ((self._splits, "handed"), (self._fed, "drawn")):
            if counted is not None:
                counted.load_state_dict(mine.get(kept, {}))  # a loop kept by older code has none
        if "cuda" in mine and self.device.type == "cuda":
            torch.cuda.set_rng_state(mine["cuda"])
        return int(mine["finished"])


def stop_on_signals() -> None:
    """Turn SIGTERM into `Stopped`, as Ctrl-C already is KeyboardInterrupt; in the main thread only."""
    if threading.current_thread() is threading.main_thread():

        def stop(signum: int, frame: object) -> None:
            raise Stopped(f"asked to stop by {signal.Signals(signum).name}")

        signal.signal(signal.SIGTERM, stop)
