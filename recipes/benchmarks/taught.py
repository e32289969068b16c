"""What a benchmark makes for itself and keeps: data that were read, teachers that were trained."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from compress.session import Precision, Session
from teachers.place import place
from teachers.task import Splits, Task
from teachers.teacher import Checkpoint, Teacher


class Opened:
    """Every task's data, opened once."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.known: list[tuple[Task, Splits]] = []

    def __call__(self, task: Task) -> Splits:
        for known, splits in self.known:
            if known == task:
                return splits
        self.known.append((task, task.open(self.data)))
        return self.known[-1][1]


def taught(checkpoint: Checkpoint, path: Path, splits: Splits, precision: Precision = "fp32") -> Teacher:
    """The teacher of a checkpoint that has no file, from its training's seed on: weights are kept at `path`."""
    assert checkpoint.train is not None
    torch.manual_seed(checkpoint.train.seed)
    network = checkpoint.network.build()
    if path.exists():
        network.load_state_dict(load_file(path))
        return checkpoint.teacher(place(network, "cpu"))
    bench = Session(splits=splits, precision=precision)
    checkpoint.train(
        network,
        splits,
        device=bench.device,
        autocast=bench.autocast,
        epochs=bench.epochs,
        log=bench.log,
        kind=checkpoint.task.signature().kind,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return checkpoint.teacher(network)
