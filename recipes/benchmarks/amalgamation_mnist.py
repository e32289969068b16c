"""Amalgamation on MNIST: two LeNets of some digits each into one of all ten, no label seen.

    python -m recipes.benchmarks.amalgamation_mnist --data DATA --work FOLDER [--parts alike mismatch overlap]
        [--ways default raw select supervised] [--network lenet lenet5] [--seeds 0 1 2]

DATA holds MNIST/ as torchvision lays it out, FOLDER keeps the teachers, which are trained on the first call. A row
a run goes to reports/results/amalgamation-mnist.jsonl, one that is there is passed over; amalgamation-mnist-rows.md is
drawn anew from all.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compress.amalgamate import Amalgamate
from recipes.benchmarks.dfad_mnist import fields_of
from recipes.benchmarks.gal_cifar10 import RESULTS
from recipes.benchmarks.parts import Opened, amalgamated, measure, part, supervised, table, teachers_of
from recipes.benchmarks.rows import Rows
from teachers.networks import LeNet, LeNet5
from teachers.tasks import MNIST
from teachers.teacher import Checkpoint
from teachers.train import Train

KEYS = ("network", "parts", "way", "fields", "epochs")
ROWS = Rows(RESULTS / "amalgamation-mnist.jsonl", (*KEYS, "seed"))
TASK = MNIST()
TEACH = Train(epochs=2, lr=0.05, warmup=0.3)
SMOOTH, LONG = replace(TEACH, label_smoothing=0.2), replace(TEACH, epochs=6)
PARTS = {
    "alike": (("low", "01234", TEACH), ("high", "56789", TEACH)),
    "mismatch": (("low-smooth", "01234", SMOOTH), ("high-long", "56789", LONG)),
    "overlap": (("zero-five", "012345", TEACH), ("four-nine", "456789", TEACH)),
}
NETWORKS: dict[str, LeNet | LeNet5] = {"lenet": LeNet(), "lenet5": LeNet5()}
STAGE = Amalgamate(epochs=6, lr=0.05)
RAW: dict[str, Any] = {"merge": "concat", "calibrate": "raw"}
WAYS: dict[str, dict[str, Any]] = {
    "default": {}, "raw": RAW, "select": {"merge": "select"}, "ce": {"merge": "ce"}, "average": {"merge": "average"},
    "teacher_q99": {"calibrate": "teacher_q99"}, "class_z": {"calibrate": "class_z"},
}  # fmt: skip


def checkpoints(parts: str, network: str, seed: int) -> list[Checkpoint]:
    """The teachers of an experiment."""
    return [
        part(f"{network}-{name}", replace(NETWORKS[network], classes=len(keep)), TASK, keep, train, seed)
        for name, keep, train in PARTS[parts]
    ]


def main() -> None:
    """Measure what is asked for and not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds MNIST/")
    parser.add_argument("--work", type=Path, required=True, help="folder for the teachers")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument(
        "--ways", nargs="+", choices=(*WAYS, "supervised"), default=["default", "raw", "supervised"]
    )
    parser.add_argument("--network", choices=tuple(NETWORKS), default="lenet")
    parser.add_argument("--fields", nargs="*", default=[], help="fields of Amalgamate to set: lr=0.1 kappa=6")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, help="another file for the rows, and its table beside it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = Rows(arguments.rows, ROWS.key) if arguments.rows else ROWS
    opened = Opened(arguments.data)
    for parts in arguments.parts:
        for way in arguments.ways:
            if parts == "overlap" and way == "raw":
                continue  # shared labels have no place beside each other
            stage = replace(
                STAGE,
                student=NETWORKS[arguments.network],
                **{**WAYS.get(way, {}), **fields_of(arguments.fields)},
            )
            for seed in arguments.seeds:
                whole = way == "supervised"
                key = {
                    "network": arguments.network, "parts": "all" if whole else parts, "way": way,
                    "fields": " ".join(sorted(arguments.fields)), "epochs": stage.epochs, "seed": seed,
                }  # fmt: skip

                def make(
                    parts: str = parts, stage: Amalgamate = stage, seed: int = seed, whole: bool = whole
                ) -> Any:
                    if whole:
                        train = replace(TEACH, epochs=max(round(stage.epochs), 1))
                        return supervised(NETWORKS[arguments.network], train, TASK, opened, seed)
                    known = checkpoints(parts, arguments.network, seed)
                    teachers = teachers_of(known, arguments.work, opened)
                    return amalgamated([stage], teachers, known, TASK, opened, seed)

                path = rows.path.with_name(f"{rows.path.stem}-rows.md")
                measure(rows, key, make, path, lambda: table(rows, KEYS))


if __name__ == "__main__":
    main()
