"""Amalgamation on CIFAR-10 as JPEG files: teachers of parts into one ResNet-20 of all ten classes, no label seen.

    python -m recipes.benchmarks.amalgamation_cifar10 --data DATA --work FOLDER [--parts halves three unlike]
        [--ways soft raw layers common mmd supervised] [--seeds 0 1 2]

DATA holds cifar10/{train,test}/<class>/, FOLDER keeps the teachers, which are trained on the first call: ResNet-20, and
for `unlike` also a VGG-16-BN for images of 24x24 in another scale. A row a run goes to
reports/results/amalgamation-cifar10.jsonl, one that is there is passed over; the table beside it is drawn anew.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compress.amalgamate import Amalgamate
from compress.common_feature import CommonFeature
from compress.layer_wise import LayerWise
from recipes.benchmarks.gal_cifar10 import RESULTS
from recipes.benchmarks.grid import SUPERVISED, measured, options
from recipes.benchmarks.parts import amalgamated, part, supervised, teachers_of
from recipes.benchmarks.rows import Rows
from recipes.benchmarks.taught import Opened
from teachers.networks import VGG, ResNet
from teachers.tasks import ImageFolder
from teachers.teacher import Checkpoint
from teachers.train import Train
from teachers.zoo import CLASSES

KEYS = ("parts", "way", "fields", "epochs")
ROWS = Rows(RESULTS / "amalgamation-cifar10.jsonl", (*KEYS, "seed"))
TASK = ImageFolder(path="cifar10", size=(32, 32), classes=CLASSES, crop=4, flip=True)
SMALL = replace(TASK, size=(24, 24), mean=(0.5,) * 3, std=(0.25,) * 3, crop=3)
FIRST, SECOND = ("airplane", "automobile", "bird", "cat", "deer"), ("dog", "frog", "horse", "ship", "truck")
THREE = (FIRST, ("cat", "deer", "dog", "frog", "horse"), ("frog", "horse", "ship", "truck", "airplane"))
TAPS = ("bn1", *(f"layer{stage}.{block}.bn1" for stage in (1, 2, 3) for block in range(3)), "linear")
STAGE = Amalgamate(student=ResNet(), epochs=12, lr=0.1, warmup=1.0)
WAYS: dict[str, dict[str, Any]] = {
    "soft": {},
    "raw": {"merge": "concat", "calibrate": "raw"},
    "layers": {"method": LayerWise(taps=TAPS[:-1], code_epochs=1, layer_epochs=3), "epochs": 8},
    "common": {"method": CommonFeature(width=32)},
    "mmd": {"method": CommonFeature(width=32, distance="mmd", weight=0.1)},
}


def checkpoints(parts: str, seed: int, epochs: int) -> list[Checkpoint]:
    """The teachers of an experiment."""
    train = Train(epochs=epochs, lr=0.1, warmup=min(2.0, epochs / 4))
    if parts == "unlike":
        short = replace(train, epochs=max(epochs // 2, 1), warmup=min(1.0, epochs / 8), lr=0.05)
        return [
            part(f"first-{epochs}", ResNet(classes=5), TASK, FIRST, train, seed),
            part(f"second-vgg-{epochs}", VGG(classes=5), SMALL, SECOND, short, seed),
        ]
    sets = {"halves": (FIRST, SECOND), "three": THREE}[parts]
    names = ("first", "second") if parts == "halves" else ("first", "middle", "last")
    return [
        part(f"{name}-{epochs}", ResNet(classes=5), TASK, keep, train, seed)
        for name, keep in zip(names, sets, strict=True)
    ]


def main() -> None:
    """Measure what is asked for and not there yet."""
    parser = options(
        __doc__, "cifar10/", ("halves", "three", "unlike"), tuple(WAYS), (("halves",), ("soft",))
    )
    parser.add_argument("--teacher-epochs", type=int, default=20)
    parser.set_defaults(threads=2)
    arguments = parser.parse_args()
    opened = Opened(arguments.data)

    def stage(parts: str, way: str) -> Amalgamate | None:
        if (parts, way) in (("three", "raw"), ("unlike", "layers")):
            return None  # shared labels do not stand side by side; unlike networks have no layers in common
        return replace(STAGE, **WAYS.get(way, {}))

    def make(parts: str, way: str, stage: Amalgamate, seed: int) -> dict[str, Any]:
        if way == SUPERVISED:
            epochs = max(round(stage.epochs), 1)
            train = Train(epochs=epochs, lr=0.1, warmup=min(1.0, stage.epochs / 4))
            return supervised(ResNet(), train, TASK, opened, seed)
        known = checkpoints(parts, seed, arguments.teacher_epochs)
        teachers = teachers_of(known, arguments.work, opened, "bf16")
        return amalgamated([stage], teachers, known, TASK, opened, seed, "bf16")

    measured(arguments, ROWS, KEYS, stage, make, whole="all")


if __name__ == "__main__":
    main()
