"""Teachers of parts of a toy task, trained in a second, and ways to look at a student of them."""

import contextlib
from functools import cache

import torch
from torch import nn

from teachers.networks import DigitsCNN
from teachers.task import Split, Task
from teachers.tasks import Subset, Toy
from teachers.teacher import Teacher
from teachers.train import Train

CPU = torch.device("cpu")
TASK = Toy(classes=5, samples=400, batch=32)
P = TASK.labels
WIDTHS = (6, 8, 10)
STUDENT = DigitsCNN(classes=5, widths=WIDTHS)


@cache
def taught(
    name: str, keep: tuple[int, ...], widths: tuple[int, int, int] = WIDTHS, epochs: int = 6
) -> Teacher:
    """A teacher of some of the patterns."""
    task = Subset(of=TASK, keep=tuple(P[number] for number in keep))
    torch.manual_seed(len(name) + sum(keep))
    network = Train(epochs=epochs, lr=0.05, warmup=1)(
        DigitsCNN(classes=len(keep), widths=widths).build(), task.open(None), device=CPU,
        autocast=contextlib.nullcontext, epochs=lambda total, **_: range(total), log=lambda *_: None,
    )  # fmt: skip
    return Teacher(name, network, task.signature())


def one() -> Teacher:
    """Patterns 0 to 2."""
    return taught("one", (0, 1, 2))


def two() -> Teacher:
    """Patterns 3 and 4: nothing in common with one."""
    return taught("two", (3, 4))


def over() -> Teacher:
    """Patterns 2 to 4: one in common with one."""
    return taught("over", (2, 3, 4))


def accuracy(network: nn.Module, task: Task = TASK) -> float:
    """On test, all labels together."""
    right = seen = 0
    with torch.no_grad():
        for batch in task.open(None).batches(Split.TEST, CPU):
            right += int((network(*batch.inputs).argmax(1) == batch.target).sum())
            seen += len(batch)
    return right / seen
