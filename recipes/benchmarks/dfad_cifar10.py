"""DFAD on CIFAR-10: a fresh student, one that inherits blocks, and networks cut without a single image.

    python -m recipes.benchmarks.dfad_cifar10 --data DATA --teachers TEACHERS [--ways fresh] [--seeds 0 1 2]

DATA holds the image folder `cifar10/{train,test}/<class>/`, TEACHERS the checkpoints of `teachers.zoo`. `-real` behind
the name of a way gives the same with real unlabeled images in place of generated ones: the price of having no data.
A row a run goes to reports/results/dfad-cifar10.jsonl, one that is there is passed over; dfad-cifar10-rows.md is drawn
anew from all. `--split val` scores on images of the training set and leaves test alone: settings are compared so.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from compress import DFAD, Finetune, Generate, Inherit, Prune, Recalibrate
from compress.stage import Stage, State
from recipes.benchmarks.curve import Watching
from recipes.benchmarks.dfad_mnist import fields_of
from recipes.benchmarks.gal_cifar10 import RESULTS, Bench
from recipes.benchmarks.rows import Rows, machine, markdown, spread
from reports.profile import macs
from students.files import write_text
from teachers.networks import ResNet
from teachers.task import Split

ROWS = Rows(RESULTS / "dfad-cifar10.jsonl", ("way", "fields", "epochs", "seed", "split"))
SMALL = ResNet(depth=20)
IMAGES: dict[str, Any] = {"batch": 128, "latent": 256, "width": 32}
GENERATE = Generate(images=8192, epochs=10, rounds=25, **IMAGES)
PLAY = DFAD(epochs=24, rounds=25, warmup=2, features=5.0, **IMAGES)
# The cut and its budget, for chains.
CUTS = {"chain": 0.7, "chain-half": 0.5}


def stages_of(way: str, fields: Mapping[str, Any]) -> tuple[int, tuple[Stage, ...], DFAD | Finetune]:
    """The teacher's depth, what is done first, and how the student learns then."""
    kind, real = way.removesuffix("-real"), way.endswith("-real")
    first: tuple[Stage, ...] = () if real else (GENERATE,)
    if kind == "fresh":
        return 56, (), replace(PLAY, **{"lr": 0.05, **fields, "student": SMALL})
    learn = Finetune(epochs=5) if real else replace(PLAY, **{"lr": 0.03, "generated": True, **fields})
    if kind == "inherit":
        return 56, (*first, Inherit(student=SMALL), Recalibrate(generated=not real)), learn
    return 20, (*first, Prune(macs=CUTS[kind]), Recalibrate(generated=not real)), learn


def run(bench: Bench, stages: tuple[Stage, ...], seed: int, every: int, split: Split) -> dict[str, Any]:
    """One student: what it scores after every stage, what it costs, and the curve of the last stage."""
    torch.manual_seed(seed)
    state = State((bench.teacher,))
    start = time.perf_counter()
    judge = partial(bench.score, split=split)
    row: dict[str, Any] = {"teacher": judge(bench.teacher.module)}
    steps: dict[str, float] = {}
    spent = 0.0
    for number, stage in enumerate(stages):
        session = Watching(
            judge, every, splits=bench.splits, sees=stage.sees, precision=bench.precision,
            seed=seed + 1000 * number,
        )  # fmt: skip
        state = stage(state, session)
        spent += session.spent
        row |= {"curve": session.curve, "notes": session.notes}
        if state.student is not None:
            steps[type(stage).__name__] = judge(state.student)
    assert state.student is not None
    row["steps"], row["chosen"] = steps, list(steps.values())[-1]
    if row["curve"]:
        row["last"], row["oracle"] = row["curve"][-1][1], max(score for _, score in row["curve"])
    row["macs"] = macs(state.student, bench.teacher.signature.example(1)) / bench.full
    return {**row, "cpu_seconds": round(spent, 1), "minutes": round((time.perf_counter() - start) / 60, 1)}


def table() -> str:
    """Seeds together: the student chosen without labels is the result, the others stand beside it."""
    rows = ROWS.all()
    body = []
    of_key = itemgetter("split", "way", "fields", "epochs")
    for key in sorted({of_key(row) for row in rows}):
        of = [row for row in rows if of_key(row) == key]
        before = " → ".join(f"{100 * score:.1f}" for score in list(of[0]["steps"].values())[:-1]) or "–"
        scores = [
            spread(r[name] for r in of) if name in of[0] else "–" for name in ("chosen", "last", "oracle")
        ]
        share = sum(r["chosen"] / r["teacher"] for r in of) / len(of)
        cost = sum(r["cpu_seconds"] for r in of) / len(of)
        body.append((*key, f"{of[0]['macs']:.1%}", before, *scores, f"{share:.3f}", f"{cost / 60:.0f}"))
    head = (
        "split", "way", "fields", "epochs", "MACs left", "on the way", "chosen", "last", "oracle", "of the teacher's",
        "CPU min",
    )  # fmt: skip
    said = f"Accuracy in %, mean ± standard deviation over seeds (how many). {machine()}."
    return f"{said}\n\n{markdown(head, body)}\n"


def main() -> None:
    """Measure what is asked for and not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ways = [
        f"{way}{real}"
        for way in ("fresh", "inherit", *CUTS)
        for real in ("", "-real")
        if way + real != "fresh-real"
    ]
    parser.add_argument("--data", type=Path, required=True, help="folder that holds cifar10/")
    parser.add_argument("--teachers", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--ways", nargs="+", choices=ways, default=["fresh"])
    parser.add_argument("--fields", nargs="*", default=[], help="fields of DFAD to set: lr=0.1 width=64")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--every", type=int, default=5, help="epochs between two looks, for the curve")
    parser.add_argument(
        "--split", choices=("val", "test"), default="test", help="what students are scored on"
    )
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    fields = fields_of(arguments.fields)
    benches: dict[int, Bench] = {}
    for way in arguments.ways:
        depth, before, learn = stages_of(way, fields)
        if depth not in benches:
            benches[depth] = Bench(depth, arguments.data, arguments.teachers, "bf16", True, None)
        for seed in arguments.seeds:
            told = "" if way.endswith("-real") else " ".join(sorted(arguments.fields))
            key: Mapping[str, Any] = {
                "way": way, "fields": told, "epochs": learn.epochs, "seed": seed, "split": arguments.split,
            }  # fmt: skip
            if ROWS.has(**key):
                continue
            row = run(benches[depth], (*before, learn), seed, arguments.every, Split(arguments.split))
            ROWS.add({**key, **row})
            write_text(RESULTS / "dfad-cifar10-rows.md", table())
            print({**key, **{name: value for name, value in row.items() if name != "curve"}}, flush=True)


if __name__ == "__main__":
    main()
