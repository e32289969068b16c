"""Recipe: the science, with nothing of the machine in it. Workshop: this machine, with nothing of the science."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from compress.session import Precision
from compress.stage import Stage
from recipes.budget import Budget
from teachers.spec import Field, spec
from teachers.task import Task
from teachers.teacher import Checkpoint


@spec
class Recipe:
    """Teachers, a task and a row of stages.

    Two equal recipes on the same machine and device give the same student, to the bit on a CPU.
    `precision` changes the numbers, so it is science; the device is not.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """used for folders and in the tracker"""
    teachers: Annotated[tuple[Checkpoint, ...], Field(min_length=1)]
    """who is asked"""
    task: Task
    """what the student is for"""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """what is done, in order"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of every random number"""
    precision: Precision = "fp32"
    """"bf16" runs forward passes under autocast"""
    at_most: Budget | None = None
    """what the student may cost and lose at most; no part of how it is made"""


@dataclass(frozen=True)
class Workshop:
    """What is true of this machine.

    runs      where run folders go
    data      where data sets lie; None for embedded ones
    device    "auto" takes an accelerator if there is one
    tracking  an MLflow store's URI; None is a sqlite file in `runs`; "off" tracks nothing
    """

    runs: Path = Path("runs")
    data: Path | None = None
    device: str = "auto"
    tracking: str | None = None
    reuse: bool = False
    """take up stages finished by other code, too"""
    register: str | None = None
    """the registered model in MLflow that the student becomes a version of; None registers nothing"""
    test: bool = True
    """whether a run reads test at its end, and packs the student; a trial of a sweep, chosen by val, does neither"""
    above: str | None = None
    """the tracker's key of the run that runs lie under: of a sweep's trial"""
