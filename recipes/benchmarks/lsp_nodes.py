"""What LSP brings, and what it does not: citation networks and the digits graph, methods and students, paired seeds.

    python -m recipes.benchmarks.lsp_nodes --data DATA --work FOLDER [--tasks Cora CiteSeer] [--students gat mlp]
                                           [--methods labels "soft targets" ...] [--seeds 0 1 2]

DATA holds planetoid/<name>/raw, FOLDER keeps the teachers, one a seed, that are trained on the first call. A row a run
goes to reports/results/lsp-nodes.jsonl, one that is there is passed over; lsp-nodes-rows.md is drawn anew from all.
Students are chosen on val by their stage, test is read once a run; the tasks digits and dynamic need no data.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student_t
from torch import nn

from compress.distillation import Distillation
from compress.hints import GCRD, AttentionTransfer, FitNet, SoftTargets
from compress.losses import local_structure
from compress.lsp import LSP
from compress.noted import Noted, default_pairs
from compress.session import Session
from compress.stage import State
from recipes.benchmarks.gal_cifar10 import RESULTS
from recipes.benchmarks.rows import Rows, machine, markdown, spread
from recipes.benchmarks.taught import taught
from reports.evaluate import TestScore, evaluate
from students.files import write_text
from teachers.networks import DGCNN, GAT, GCN, GraphSAGE, NodeMLP
from teachers.networks.network import Network
from teachers.task import Split, Splits, Task
from teachers.tasks import DigitsGraph, Planetoid
from teachers.tasks.graphs import Graphs
from teachers.teacher import Checkpoint, Teacher
from teachers.train import Train

CPU = torch.device("cpu")
KEY = ("task", "student", "method", "seed")
TASKS: dict[str, Graphs] = {
    "Cora": Planetoid(name="Cora"),
    "CiteSeer": Planetoid(name="CiteSeer"),
    "digits": DigitsGraph(),
    "dynamic": DigitsGraph(),
}
TRAIN = Train(epochs=200, lr=0.005, weight_decay=5e-4, optimizer="adam", schedule="constant", choose="best")
METHODS: dict[str, Distillation] = {
    "labels": SoftTargets(soft_targets=0.0),
    "soft targets": SoftTargets(),
    "LSP as published": LSP.published(embedding=0),
    "LSP": LSP(soft_targets=0.0, embedding=0),
    "LSP by loss": LSP(soft_targets=0.0, embedding=0, choose="loss"),
    "labels by loss": SoftTargets(soft_targets=0.0, choose="loss"),
    "LSP + soft targets": LSP(embedding=0),
    "G-CRD": GCRD(soft_targets=0.0),
    "G-CRD + soft targets": GCRD(),
    "FitNet + soft targets": FitNet(),
    "attention + soft targets": AttentionTransfer(),
}
# An MLP that is to learn what a graph network says of every node has to remember it: no dropout within, no decay, and
# answers made surer than they are (GLNN). Where it has labels alone, the usual ones keep it from learning those by
# heart.
GLNN: dict[str, Any] = {"labels": 0.1, "soft_targets": 3.0, "temperature": 0.5, "weight_decay": 0.0}


def teacher_network(name: str, task: Graphs) -> Network:
    """The big network of a task."""
    classes = len(task.labels)
    if name == "dynamic":
        return DGCNN(
            inputs=64, classes=classes, per_node=True, widths=(32, 32), embedding=64, head=(32,), k=10
        )
    dropout: Any = {"input_dropout": 0.2} if name == "digits" else {}
    return GAT(inputs=task.width, classes=classes, **dropout)


def students(name: str, task: Graphs) -> dict[str, Network]:
    """The small networks of a task."""
    ins, outs = task.width, len(task.labels)
    if name == "dynamic":
        return {
            "dgcnn": DGCNN(
                inputs=64, classes=outs, per_node=True, widths=(8, 8), embedding=16, head=(16,), k=6
            )
        }
    more: Any = {"input_dropout": 0.2} if name == "digits" else {}
    return {
        "gat": GAT(inputs=ins, classes=outs, heads=(1,), **more),
        "gcn": GCN(inputs=ins, classes=outs, widths=(8,), **more),
        "sage": GraphSAGE(inputs=ins, classes=outs, widths=(8,), **more),
        "mlp": NodeMLP(inputs=ins, classes=outs, **more),
    }


def stage(method: str, student: str, network: Network, task: str, **more: Any) -> Distillation:
    """A method for a student; the options of an MLP with soft targets are GLNN's."""
    found = METHODS[method]
    if student == "mlp" and found.soft_targets:
        found, network = replace(found, **GLNN), replace(network, dropout=0.0)  # type: ignore[type-var]
    if task == "dynamic":
        more = {"features": "after", **more}
    return replace(found, student=network, **more)


def teacher_of(
    name: str, task: Graphs, splits: Splits, seed: int, folder: Path, epochs: int | None = None
) -> Teacher:
    """The teacher of a seed, from `folder` or trained."""
    train = replace(TRAIN, seed=seed, epochs=TRAIN.epochs if epochs is None else epochs)
    checkpoint = Checkpoint(
        name=f"{name}-{seed}", network=teacher_network(name, task), task=task, train=train
    )
    return taught(checkpoint, folder / f"{name}-{seed}.safetensors", splits)


def tested(network: nn.Module, task: Task, splits: Splits) -> float:
    """The score on test."""
    return evaluate(network, splits.batches(Split.TEST, CPU), task.predict, task.score, kind=TestScore).value


@torch.no_grad()
def divergence(student: nn.Module, teacher: Teacher, splits: Splits) -> float | None:
    """How far local structure lies apart, by the default kernel, on the graph of the task; None for dynamic graphs."""
    (name, other), *_ = default_pairs(student, teacher.module).items()
    batch = next(splits.batches(Split.VAL, CPU))
    seen = []
    for network, layer in ((student, name), (teacher.module, other)):
        with Noted(network.eval(), [layer], "before").watching() as found:
            network(*batch.inputs)
        if found[layer].edges is not None:
            return None
        seen.append(found[layer].the_features())
    return float(local_structure(seen[0], seen[1], batch.inputs[1]))


def run(found: Distillation, teacher: Teacher, task: Task, splits: Splits, seed: int) -> dict[str, Any]:
    """One student."""
    torch.manual_seed(1000 + seed)
    told: list[dict[str, float]] = []
    session = Session(
        splits=splits, sees=found.sees, seed=seed, report=lambda values, _: told.append(dict(values))
    )
    start = time.process_time()
    student = found(State((teacher,)), session).student
    spent = time.process_time() - start
    assert student is not None
    return {
        "test": tested(student, task, splits), "val": max(row["val"] for row in told if "val" in row),
        "teacher": tested(teacher.module, task, splits), "structure": divergence(student, teacher, splits),
        "epochs": sum("loss" in row for row in told), "cpu_seconds": round(spent, 1), "notes": session.notes,
    }  # fmt: skip


def paired(rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> str:
    """The mean difference in points over the seeds that both have, with its 95 % interval (Student's t)."""
    by_seed = {row["seed"]: row["test"] for row in others}
    gaps = [100 * (row["test"] - by_seed[row["seed"]]) for row in rows if row["seed"] in by_seed]
    if len(gaps) < 2:
        return "-"
    half = float(student_t.ppf(0.975, len(gaps) - 1)) * statistics.stdev(gaps) / len(gaps) ** 0.5
    return f"{statistics.fmean(gaps):+.2f} ± {half:.2f}"


def table(rows: Rows) -> str:
    """Seeds together, methods beside labels alone, soft targets alone, and the teacher."""
    every = rows.all()
    groups: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in every:
        groups.setdefault((row["task"], row["student"]), {}).setdefault(row["method"], []).append(row)
    body = []
    for (task, student), methods in groups.items():
        teachers = [{**row, "test": row["teacher"]} for row in next(iter(methods.values()))]
        for method, of in methods.items():
            structures = [row["structure"] for row in of if row["structure"] is not None]
            body.append((
                task, student, method, spread(row["test"] for row in of), paired(of, methods.get("labels", [])),
                paired(of, methods.get("soft targets", [])), paired(of, teachers),
                f"{statistics.fmean(structures):.4f}" if structures else "-",
                f"{statistics.fmean(row['cpu_seconds'] for row in of):.0f}",
            ))  # fmt: skip
        body.append((task, "", "its teacher", spread(row["test"] for row in teachers), "", "", "", "", ""))
    head = (
        "task", "student", "method", "test", "over labels", "over soft targets", "over the teacher", "structure",
        "CPU s",
    )  # fmt: skip
    said = (
        "Accuracy on test in %, mean ± standard deviation over seeds (how many); differences in points, paired by "
        "seed, "
        f"with 95 % intervals; structure is the mean KL to the teacher's. {machine()}."
    )
    return f"{said}\n\n{markdown(head, body)}\n"


def main() -> None:
    """Measure what is asked for and not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder that holds planetoid/")
    parser.add_argument("--work", type=Path, required=True, help="folder for the teachers")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the rows")
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=["Cora", "CiteSeer"])
    parser.add_argument("--students", nargs="+", default=["gat", "gcn", "sage", "mlp", "dgcnn"])
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--epochs", type=int, help="fewer, to try it out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(arguments.results / "lsp-nodes.jsonl", KEY)
    more = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    for name in arguments.tasks:
        task = TASKS[name]
        splits = task.open(arguments.data)
        for seed in arguments.seeds:
            for student, network in students(name, task).items():
                for method in arguments.methods:
                    key = {"task": name, "student": student, "method": method, "seed": seed}
                    if student not in arguments.students or rows.has(**key):
                        continue
                    teacher = teacher_of(name, task, splits, seed, arguments.work, arguments.epochs)
                    row = run(stage(method, student, network, name, **more), teacher, task, splits, seed)
                    rows.add({**key, **row})
                    write_text(arguments.results / "lsp-nodes-rows.md", table(rows))
                    print(
                        {**key, **{part: value for part, value in row.items() if part != "notes"}}, flush=True
                    )


if __name__ == "__main__":
    main()
