"""Amalgamation without data on MNIST: halves of the digits, and pairs of digits with any of ten labels; every ablation.

    python -m recipes.benchmarks.amalgamation_data_free --data DATA --work FOLDER [--parts halves pairs]
        [--ways default no-one_hot no-activation no-entropy no-sparsity no-consistency no-batch_norm one-stream ...]
        [--seeds 0 1 2]

DATA holds MNIST/ as torchvision lays it out, FOLDER keeps the teachers, which are trained on the first call. Every
student is scored as it is, and again after its batch norms were measured anew on 256 images without labels. A row a run
goes to reports/results/amalgamation-data-free.jsonl, one that is there is passed over; the table beside it is new.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compress.amalgamate_data_free import AmalgamateDataFree
from compress.recalibrate import Recalibrate
from recipes.benchmarks.dfad_mnist import fields_of
from recipes.benchmarks.gal_cifar10 import RESULTS
from recipes.benchmarks.parts import Opened, amalgamated, measure, part, supervised, table, teachers_of
from recipes.benchmarks.rows import Rows
from teachers.networks import DigitsCNN, LeNet5
from teachers.task import Task
from teachers.tasks import MNIST, Pairs
from teachers.teacher import Checkpoint
from teachers.train import Train

KEYS = ("network", "parts", "way", "fields", "epochs")
ROWS = Rows(RESULTS / "amalgamation-data-free.jsonl", (*KEYS, "seed"))
NETWORKS: dict[str, tuple[DigitsCNN | LeNet5, tuple[str, ...]]] = {
    "digits-cnn": (DigitsCNN(widths=(16, 32, 64)), ("bn1", "bn2")),
    "lenet5": (
        LeNet5(),
        ("conv1", "conv2"),
    ),  # without batch norm; the halves alone: pairs are too wide for it
}
TASKS: dict[str, Task] = {"halves": MNIST(), "pairs": Pairs(of=MNIST(), samples=20000)}
TEACH = {"halves": Train(epochs=6, lr=0.05, warmup=0.3), "pairs": Train(epochs=15, lr=0.1, warmup=1.0)}
STAGE = AmalgamateDataFree(
    student=DigitsCNN(), cuts=("bn1", "bn2"), generator_epochs=30, block_epochs=5, epochs=15, batch_norm=1.0
)
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"batch_norm": 0.0},
    **{
        f"no-{term}": {term: 0.0}
        for term in ("one_hot", "activation", "entropy", "sparsity", "consistency", "batch_norm")
    },
    "one-stream": {"streams": 1},
    "owned": {"owned": True},
    "alternate": {"alternate": True, "disagreement": 0.1},
    "least": {"leave": "least"},
}


def checkpoints(parts: str, name: str, seed: int) -> list[Checkpoint]:
    """The teachers of an experiment."""
    network = replace(NETWORKS[name][0], classes=5)
    return [
        part(f"{name}-{parts}-{half}", network, TASKS[parts], keep, TEACH[parts], seed)
        for half, keep in (("low", "01234"), ("high", "56789"))
    ]


def main() -> None:
    """Measure what is asked for and not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds MNIST/")
    parser.add_argument("--work", type=Path, required=True, help="folder for the teachers")
    parser.add_argument("--parts", nargs="+", choices=tuple(TASKS), default=["halves"])
    parser.add_argument("--ways", nargs="+", choices=(*WAYS, "supervised"), default=["default"])
    parser.add_argument("--network", choices=tuple(NETWORKS), default="digits-cnn")
    parser.add_argument("--fields", nargs="*", default=[], help="fields to set: rounds=50 entropy=2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, help="another file for the rows, and its table beside it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = Rows(arguments.rows, ROWS.key) if arguments.rows else ROWS
    opened = Opened(arguments.data)
    for parts in arguments.parts:
        for way in arguments.ways:
            if parts == "halves" and way == "no-sparsity":
                continue  # labels that exclude each other are sparse as they are
            network, cuts = NETWORKS[arguments.network]
            plain: dict[str, Any] = {} if arguments.network == "digits-cnn" else {"batch_norm": 0.0}
            stage = replace(
                STAGE,
                student=network,
                cuts=cuts,
                **{**plain, **WAYS.get(way, {}), **fields_of(arguments.fields)},
            )
            for seed in arguments.seeds:
                whole = way == "supervised"
                key = {
                    "network": arguments.network, "parts": parts, "way": way,
                    "fields": " ".join(sorted(arguments.fields)), "epochs": stage.epochs, "seed": seed,
                }  # fmt: skip

                def make(
                    parts: str = parts,
                    stage: AmalgamateDataFree = stage,
                    seed: int = seed,
                    whole: bool = whole,
                ) -> Any:
                    if whole:
                        return supervised(
                            NETWORKS[arguments.network][0], TEACH[parts], TASKS[parts], opened, seed
                        )
                    known = checkpoints(parts, arguments.network, seed)
                    teachers = teachers_of(known, arguments.work, opened)
                    stages = [stage, Recalibrate(batches=2)] if arguments.network == "digits-cnn" else [stage]
                    return amalgamated(stages, teachers, known, TASKS[parts], opened, seed)

                path = rows.path.with_name(f"{rows.path.stem}-rows.md")
                measure(rows, key, make, path, lambda: table(rows, KEYS, "Accuracy (halves) and mAP (pairs)"))


if __name__ == "__main__":
    main()
