"""Amalgamation on MNIST: two LeNets of some digits each into one of all ten, no label seen.

    python -m recipes.benchmarks.amalgamation_mnist --data DATA --work FOLDER [--parts alike mismatch overlap]
        [--ways default raw select supervised] [--network lenet lenet5] [--seeds 0 1 2]

DATA holds MNIST/ as torchvision lays it out, FOLDER keeps the teachers, which are trained on the first call. A row
a run goes to reports/results/amalgamation-mnist.jsonl, one that is there is passed over; amalgamation-mnist-rows.md is
drawn anew from all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compress.amalgamate import Amalgamate
from recipes.benchmarks.gal_cifar10 import RESULTS
from recipes.benchmarks.grid import SUPERVISED, measured, options
from recipes.benchmarks.parts import amalgamated, part, supervised, teachers_of
from recipes.benchmarks.rows import Rows
from recipes.benchmarks.taught import Opened
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
    parser = options(
        __doc__, "MNIST/", tuple(PARTS), tuple(WAYS), (tuple(PARTS), ("default", "raw", SUPERVISED))
    )
    parser.add_argument("--network", choices=tuple(NETWORKS), default="lenet")
    arguments = parser.parse_args()
    opened, network = Opened(arguments.data), NETWORKS[arguments.network]

    def stage(parts: str, way: str) -> Amalgamate | None:
        if (parts, way) == ("overlap", "raw"):
            return None  # shared labels have no place beside each other
        return replace(STAGE, student=network, **WAYS.get(way, {}))

    def make(parts: str, way: str, stage: Amalgamate, seed: int) -> dict[str, Any]:
        if way == SUPERVISED:
            train = replace(TEACH, epochs=max(round(stage.epochs), 1))
            return supervised(network, train, TASK, opened, seed)
        known = checkpoints(parts, arguments.network, seed)
        teachers = teachers_of(known, arguments.work, opened)
        return amalgamated([stage], teachers, known, TASK, opened, seed)

    measured(arguments, ROWS, KEYS, stage, make, more={"network": arguments.network}, whole="all")


if __name__ == "__main__":
    main()
