"""Amalgamation without data on MNIST: halves of the digits, and pairs of digits with any of ten labels; every ablation.

    python -m recipes.benchmarks.amalgamation_data_free --data DATA --work FOLDER [--parts halves pairs]
        [--ways default no-one_hot no-activation no-entropy no-sparsity no-consistency no-batch_norm one-stream ...]
        [--seeds 0 1 2]

DATA holds MNIST/ as torchvision lays it out, FOLDER keeps the teachers, which are trained on the first call. Every
student is scored as it is, and again after its batch norms were measured anew on 256 images without labels. A row a run
goes to reports/results/amalgamation-data-free.jsonl, one that is there is passed over; the table beside it is new.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compress.amalgamate_data_free import AmalgamateDataFree
from compress.recalibrate import Recalibrate
from recipes.benchmarks.gal_cifar10 import RESULTS
from recipes.benchmarks.grid import SUPERVISED, measured, options
from recipes.benchmarks.parts import amalgamated, part, supervised, teachers_of
from recipes.benchmarks.rows import Rows
from recipes.benchmarks.taught import Opened
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
    ),  # without batch norm, and for the halves alone: pairs are too wide
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
    parser = options(__doc__, "MNIST/", tuple(TASKS), tuple(WAYS), (("halves",), ("default",)))
    parser.add_argument("--network", choices=tuple(NETWORKS), default="digits-cnn")
    arguments = parser.parse_args()
    opened, name = Opened(arguments.data), arguments.network
    network, cuts = NETWORKS[name]
    normed = name == "digits-cnn"  # what has batch norms can be asked what they remember, and measured anew

    def stage(parts: str, way: str) -> AmalgamateDataFree | None:
        if parts == "halves" and way == "no-sparsity":
            return None  # labels that exclude each other are sparse as they are
        plain: dict[str, Any] = {} if normed else {"batch_norm": 0.0}
        return replace(STAGE, student=network, cuts=cuts, **{**plain, **WAYS.get(way, {})})

    def make(parts: str, way: str, stage: AmalgamateDataFree, seed: int) -> dict[str, Any]:
        if way == SUPERVISED:
            return supervised(network, TEACH[parts], TASKS[parts], opened, seed)
        known = checkpoints(parts, name, seed)
        teachers = teachers_of(known, arguments.work, opened)
        stages = [stage, Recalibrate(batches=2)] if normed else [stage]
        return amalgamated(stages, teachers, known, TASKS[parts], opened, seed)

    measured(
        arguments, ROWS, KEYS, stage, make, more={"network": name}, metric="Accuracy (halves) and mAP (pairs)"
    )


if __name__ == "__main__":
    main()
