"""How long each kernel's gradient is beside the labels', as it comes and once it is balanced.

    python -m recipes.benchmarks.lsp_gradients --data DATA --work FOLDER [--tasks Cora CiteSeer]

A student that learnt from labels (GAT of one head, seed 0) is held against its teacher; gradients are those of its
first weight matrix. FOLDER is the one of `lsp_nodes`, whose teachers are used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.affinity import PRESETS
from compress.balance import Balance
from compress.losses import local_structure
from compress.neighbours import Neighbours
from compress.noted import Noted, default_pairs
from compress.session import Session
from compress.stage import State
from recipes.benchmarks.lsp_nodes import TASKS, stage, students, teacher_of
from recipes.benchmarks.rows import machine, markdown
from teachers.task import Split, Splits
from teachers.teacher import Teacher
from teachers.train import supervised


def ratios(student: nn.Module, teacher: Teacher, splits: Splits) -> dict[str, tuple[float, float]]:
    """By kernel: |gradient of the structure| / |gradient of the labels|, and the same once balanced, share 1."""
    batch = next(splits.batches(Split.TRAIN, torch.device("cpu")))
    near = Neighbours.of(batch.inputs[1], len(batch.inputs[0]))
    (name, other), *_ = default_pairs(student, teacher.module).items()
    mine, its = Noted(student.eval(), [name], "before"), Noted(teacher.module, [other], "before")
    weight = next(p for key, p in student.named_parameters() if key.endswith("weight"))
    learn = torch.optim.SGD([weight], 0.0)
    with torch.no_grad(), its.watching() as wanted:
        teacher(*batch.inputs)
    assert batch.target is not None
    found: dict[str, tuple[float, float]] = {}
    for kernel in PRESETS:
        with mine.watching() as given:
            outputs = student(*batch.inputs)
        labels = supervised(outputs, batch.target, teacher.signature.kind)
        hint = local_structure(given[name].the_features(), wanted[other].the_features(), near, kernel=kernel)
        norms: list[Tensor] = [
            torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in (labels, hint)
        ]
        before = float(norms[1] / norms[0])
        found[kernel] = before, Balance(1.0).backward(labels, hint, learn) * before
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder that holds planetoid/")
    parser.add_argument("--work", type=Path, required=True, help="folder for the teachers")
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=["Cora", "CiteSeer"])
    parser.add_argument("--epochs", type=int, default=None, help="fewer, to try it out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = []
    for name in arguments.tasks:
        task = TASKS[name]
        splits = task.open(arguments.data)
        teacher = teacher_of(name, task, splits, 0, arguments.work, arguments.epochs)
        more = {} if arguments.epochs is None else {"epochs": arguments.epochs}
        torch.manual_seed(0)
        made = stage("labels", "gat", students(name, task)["gat"], name, **more)
        student = made(State((teacher,)), Session(splits=splits)).student
        assert student is not None
        columns.append(ratios(student, teacher, splits))
    body = [
        (kernel, *(f"{column[kernel][place]:.1e}" for column in columns for place in (0, 1)))
        for kernel in PRESETS
    ]
    head = (
        "kernel",
        *(f"{name}, {when}" for name in arguments.tasks for when in ("as it comes", "balanced")),
    )
    print(f"Gradient of the structure over that of the labels, first weights, share 1. {machine()}.\n")
    print(markdown(head, body))


if __name__ == "__main__":
    main()
