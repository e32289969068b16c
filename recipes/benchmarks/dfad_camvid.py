"""DFAD for segmentation on CamVid: a small DeepLab from a larger one, with the images and without a single one.

    python -m recipes.benchmarks.dfad_camvid --data DATA --work FOLDER [--ways data free] [--seeds 0]

DATA holds camvid/ in SegNet's layout, FOLDER keeps the teacher that is trained on the first call. A row a run goes to
reports/results/dfad-camvid.jsonl, one that is there is passed over; dfad-camvid-rows.md is drawn anew from all.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress import DFAD, Finetune
from compress.session import Session
from compress.stage import State
from recipes.benchmarks.dfad_mnist import fields_of
from recipes.benchmarks.gal_cifar10 import RESULTS
from recipes.benchmarks.rows import Rows, of_scores, spread
from recipes.benchmarks.taught import taught
from reports.evaluate import TestScore, evaluate
from reports.profile import macs
from students.files import write_text
from teachers.networks import DeepLab
from teachers.task import Split, Splits
from teachers.tasks import CamVid
from teachers.teacher import Checkpoint, Teacher
from teachers.train import Train

ROWS = Rows(RESULTS / "dfad-camvid.jsonl", ("way", "fields", "epochs", "seed"))
TASK = CamVid()
TEACHER = Checkpoint(
    name="deeplab-camvid",
    network=DeepLab(),
    task=TASK,
    train=Train(epochs=40, lr=0.1, warmup=2.0),
)
SMALL = DeepLab(widths=(16, 32, 64, 64), blocks=1, head=48)
FREE = DFAD(student=SMALL, size=(128, 128), epochs=20, rounds=20, batch=16, latent=128, width=32, lr=0.1)
# From scratch, too: by the teacher's soft targets and the labels of the images.
DATA = Finetune(epochs=40, lr=0.1, labels=1.0, warmup=2.0)


def score_of(network: nn.Module, splits: Splits) -> float:
    """The mean intersection over union on test, whole images."""
    batches = splits.batches(Split.TEST, torch.device("cpu"))
    bf16 = torch.autocast("cpu", torch.bfloat16)
    return evaluate(network, batches, TASK.predict, TASK.score, kind=TestScore, autocast=lambda: bf16).value


def run(way: str, play: DFAD, teacher: Teacher, splits: Splits, seed: int) -> dict[str, Any]:
    """One student, with the images or without."""
    torch.manual_seed(seed)
    stage = play if way == "free" else DATA
    session = Session(splits=None if way == "free" else splits, sees=stage.sees, precision="bf16", seed=seed)
    start = time.process_time()
    student = stage(State((teacher,), None if way == "free" else SMALL.build()), session).student
    spent = time.process_time() - start
    assert student is not None
    inputs = teacher.signature.example(1)
    return {
        "cpu_seconds": round(spent, 1), "teacher": score_of(teacher.module, splits),
        "chosen": score_of(student, splits), "macs": macs(student, inputs) / macs(teacher.module, inputs),
        "notes": session.notes, "read": dict(session.read),
    }  # fmt: skip


def table() -> str:
    """Seeds together."""
    rows = ROWS.all()
    body = []
    for key in sorted({(r["way"], r["fields"], r["epochs"]) for r in rows}):
        of = [r for r in rows if (r["way"], r["fields"], r["epochs"]) == key]
        cost = sum(r["cpu_seconds"] for r in of) / len(of) / 60
        read = "–" if not of[0]["read"] else f"{of[0]['read']['train']:,}"
        scores = [spread(r[name] for r in of) for name in ("teacher", "chosen")]
        body.append((*key, *scores, f"{of[0]['macs']:.1%}", read, f"{cost:.0f}"))
    head = ("way", "fields", "epochs", "teacher", "student", "MACs left", "images read", "CPU min")
    return of_scores(head, body, "mIoU")


def main() -> None:
    """Measure what is asked for and not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds camvid/")
    parser.add_argument("--work", type=Path, required=True, help="folder for the teacher")
    parser.add_argument("--ways", nargs="+", choices=("data", "free"), default=["data", "free"])
    parser.add_argument("--fields", nargs="*", default=[], help="fields of DFAD to set: lr=0.05 width=64")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    splits = TASK.open(arguments.data)
    teacher = taught(TEACHER, arguments.work / f"{TEACHER.name}.safetensors", splits, "bf16")
    play = replace(FREE, **fields_of(arguments.fields))
    for way in arguments.ways:
        for seed in arguments.seeds:
            fields = " ".join(sorted(arguments.fields)) if way == "free" else ""
            key = {
                "way": way,
                "fields": fields,
                "epochs": (play if way == "free" else DATA).epochs,
                "seed": seed,
            }
            if ROWS.has(**key):
                continue
            row = run(way, play, teacher, splits, seed)
            ROWS.add({**key, **row})
            write_text(RESULTS / "dfad-camvid-rows.md", table())
            print({**key, **row}, flush=True)


if __name__ == "__main__":
    main()
