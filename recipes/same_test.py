"""Whether runs were judged by one and the same test set: without that, no difference of theirs means anything."""

from __future__ import annotations

import re

import torch

from recipes.decisions import Decisions
from recipes.names import name_of
from recipes.outcome import Outcome, Side
from teachers.task import Task

_CLASS = re.compile(r"(?:[a-z_]\w*\.)*[A-Z]\w*")


def tasks_alike(first: str, one: Task, second: str, other: Task) -> None:
    """Before anything runs. Raises ValueError where two recipes' tasks are of two kinds, or other labels or metrics."""
    names = name_of(type(one)), name_of(type(other))
    if names[0] != names[1]:
        raise ValueError(_other_tasks(first, names[0], second, names[1]))
    if one.metric != other.metric:
        raise ValueError(_other_metrics(first, one.metric, second, other.metric))
    if one.signature().labels != other.signature().labels:
        raise ValueError(
            f"{first} and {second} tell other labels apart ({len(one.signature().labels)} and "
            f"{len(other.signature().labels)}): recipes are compared on one test set"
        )


def same_test(first: Side, other: Side) -> list[str]:
    """What to note of the test sets of two recipes' runs.

    Raises ValueError where the metric, the samples or the task differ. Fields of a task may differ (a batch size,
    say) where answers were kept and show that every test input and target is the same.
    """
    notes: list[str] = []
    base = first.first
    for side in (first, other):
        for run in side.runs.values():
            if run is not base:
                notes += _same(
                    base, f"{first.label}, seed {base.seed}", run, f"{side.label}, seed {run.seed}"
                )
    return list(dict.fromkeys(notes))


def _same(one: Outcome, first: str, other: Outcome, second: str) -> list[str]:
    if one.metric != other.metric:
        raise ValueError(_other_metrics(first, one.metric, second, other.metric))
    kinds = _kind(one), _kind(other)
    if kinds[0] != kinds[1]:
        raise ValueError(_other_tasks(first, kinds[0], second, kinds[1]))
    if one.samples and other.samples and one.samples != other.samples:
        raise ValueError(
            f"the test sets differ: {first} was scored on {one.samples:,} samples, {second} on {other.samples:,}"
        )
    apart = sorted(name for name in {*one.task, *other.task} if one.task.get(name) != other.task.get(name))
    if one.decisions is None or other.decisions is None:
        if apart:
            raise ValueError(
                f"{_fields(one, first, other, second, apart)}, and what was answered to test was not kept"
            )
        return []
    if not _same_targets(one.decisions, other.decisions):
        raise ValueError(
            f"the test sets differ: {first} and {second} were asked about {len(one.decisions):,} and "
            f"{len(other.decisions):,} samples whose true labels are not the same"
        )
    if one.decisions.inputs == other.decisions.inputs:
        return []
    if apart:
        raise ValueError(
            f"{_fields(one, first, other, second, apart)}, and their test inputs are not the same"
        )
    # The same fields, and the same truth: the files were decoded, or scaled, by another version or machine.
    return [f"test inputs of {first} and {second} are not the same to the bit, though task and targets are"]


def _same_targets(one: Decisions, other: Decisions) -> bool:
    if one.targets is None or other.targets is None:
        return one.targets is other.targets and len(one) == len(other)
    return torch.equal(one.targets, other.targets)


def _kind(run: Outcome) -> str:
    """The task's class, from its flat fields."""
    found = _CLASS.match(next(iter(run.task), ""))
    return found[0] if found else "unknown"


def _fields(one: Outcome, first: str, other: Outcome, second: str, apart: list[str]) -> str:
    told = ", ".join(
        f"{name} is {one.task.get(name, 'missing')} and {other.task.get(name, 'missing')}"
        for name in apart[:4]
    )
    return f"the tasks of {first} and {second} differ: {told}"


def _other_tasks(first: str, one: str, second: str, other: str) -> str:
    return (
        f"{first} is for {one} and {second} for {other}: recipes are compared on one test set; "
        "name those of one task"
    )


def _other_metrics(first: str, one: str, second: str, other: str) -> str:
    return f"{first} is judged by {one} and {second} by {other}: one metric is needed to compare them"
