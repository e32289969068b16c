"""DFAD on MNIST, LeNet-5 to its half, no image seen: accuracy against seconds, for each preset.

    python -m recipes.benchmarks.dfad_mnist --data DATA --work FOLDER [--presets default official] [--seeds 0 1 2]

DATA holds MNIST/ as torchvision lays it out, FOLDER keeps the teacher that is trained on the first call. A row a run
goes to reports/results/dfad-mnist.jsonl, one that is there is passed over; dfad-mnist-rows.md is drawn anew from all.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.dfad import DFAD
from compress.stage import State
from recipes.benchmarks.curve import Watching
from recipes.benchmarks.gal_cifar10 import RESULTS
from recipes.benchmarks.rows import Rows, of_scores, spread
from recipes.benchmarks.taught import taught
from reports.evaluate import TestScore, evaluate
from students.files import write_text
from teachers.networks import LeNet5
from teachers.task import Split, Splits
from teachers.tasks import MNIST
from teachers.teacher import Checkpoint, Teacher
from teachers.train import Train

ROWS = Rows(RESULTS / "dfad-mnist.jsonl", ("preset", "fields", "epochs", "seed"))
TASK = MNIST()
TEACHER = Checkpoint(
    name="lenet5-mnist", network=LeNet5(), task=TASK, train=Train(epochs=10, lr=0.05, warmup=1.0)
)
HALF = LeNet5(widths=(3, 8, 60, 42))
STAGES = {
    "default": DFAD(student=HALF, epochs=60, rounds=50, batch=128, latent=100, width=16),
    # The published sizes, but for the batch of 512.
    "official": DFAD(
        student=HALF, preset="official", epochs=60, rounds=50, batch=128, latent=100, width=64, lr=0.01,
        weight_decay=1e-4, output="published",
    ),
}  # fmt: skip


def score_of(network: nn.Module, splits: Splits) -> float:
    """Accuracy on test."""
    batches = splits.batches(Split.TEST, torch.device("cpu"))
    return evaluate(network, batches, TASK.predict, TASK.score, kind=TestScore, autocast=nullcontext).value


def run(stage: DFAD, teacher: Teacher, splits: Splits, seed: int) -> dict[str, Any]:
    """One student: the one chosen without labels, the last, the best on test, and the curve."""
    torch.manual_seed(seed)
    session = Watching(lambda network: score_of(network, splits), sees=stage.sees, seed=seed)
    student = stage(State((teacher,)), session).student
    assert student is not None
    spent = session.spent
    return {
        "teacher": score_of(teacher.module, splits), "chosen": score_of(student, splits),
        "last": session.curve[-1][1], "oracle": max(score for _, score in session.curve),
        "cpu_seconds": round(spent, 1), "curve": session.curve,
        "notes": session.notes,
    }  # fmt: skip


def table() -> str:
    """Seeds together: the student chosen without labels is the result, the others stand beside it."""
    rows = ROWS.all()
    body = []
    for key in sorted({(r["preset"], r["fields"], r["epochs"]) for r in rows}):
        of = [r for r in rows if (r["preset"], r["fields"], r["epochs"]) == key]
        seconds = sum(r["cpu_seconds"] for r in of) / len(of)
        steps = [spread(r[name] for r in of) for name in ("chosen", "last", "oracle")]
        at = [
            " ".join(f"{100 * next((s for t, s in reversed(r['curve']) if t <= limit), 0):.1f}" for r in of)
            for limit in (60, 120, 300)
        ]
        body.append((*key, f"{min(r['chosen'] for r in of):.2%}", *steps, f"{seconds:.0f}", *at))
    head = (
        "preset", "fields", "epochs", "worst seed", "chosen", "last", "oracle", "CPU s", "at 60 s", "120 s", "300 s",
    )  # fmt: skip
    return of_scores(head, body)


def main() -> None:
    """Measure what is asked for and not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds MNIST/")
    parser.add_argument("--work", type=Path, required=True, help="folder for the teacher")
    parser.add_argument("--presets", nargs="+", choices=tuple(STAGES), default=["default"])
    parser.add_argument("--fields", nargs="*", default=[], help="fields of DFAD to set: lr=0.1 width=32")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    splits = TASK.open(arguments.data)
    teacher = taught(TEACHER, arguments.work / f"{TEACHER.name}.safetensors", splits)
    fields = fields_of(arguments.fields)
    for preset in arguments.presets:
        stage = replace(STAGES[preset], **fields)
        for seed in arguments.seeds:
            key = {
                "preset": preset, "fields": " ".join(sorted(arguments.fields)), "epochs": stage.epochs, "seed": seed,
            }  # fmt: skip
            if ROWS.has(**key):
                continue
            row = run(stage, teacher, splits, seed)
            ROWS.add({**key, **row})
            write_text(RESULTS / "dfad-mnist-rows.md", table())
            print({**key, **{name: value for name, value in row.items() if name != "curve"}}, flush=True)


def fields_of(given: list[str]) -> dict[str, Any]:
    """What `name=value` set: numbers, true and false where they can be read as such."""
    return {name: _value(text) for name, text in (field.split("=", 1) for field in given)}


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


if __name__ == "__main__":
    main()
