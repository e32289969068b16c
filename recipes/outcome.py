"""What a finished run came to, read back from its folder or its artifacts, and the runs of one recipe together."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from recipes import decisions
from recipes.decisions import Decisions
from recipes.page import read
from recipes.recipe import Recipe
from recipes.writing import canonical
from reports.track import flatten

ROOT = "recipes.Recipe"
COSTS = ("macs", "params", "bytes", "latency_ms_p50_b1", "latency_ms_p50_node")


@dataclass(frozen=True)
class Outcome:
    """One finished run.

    fields   the page's, flat and with dots, as they are logged: `recipes.Recipe.seed`, ...
    metric   of `score`, which is that of the student on test, in [0, 1]; NaN and None are told by who compares
    samples  that the score rests on, where that is known
    cost     MACs, parameters, bytes and latencies of the student, those that are known
    teacher  the same of the first teacher, with its `score` on test
    seconds  that the stages took; None where not known
    where    the run's folder, or its id in MLflow
    file     of the decisions, where there is one at hand
    page     the page's text, or None where it could not be had
    """

    fields: Mapping[str, str]
    metric: str
    score: float | None
    samples: int | None
    cost: Mapping[str, float]
    teacher: Mapping[str, float]
    seconds: float | None
    where: str
    file: Path | None = None
    page: str | None = None
    began: float = 0.0

    @property
    def name(self) -> str:
        """The recipe's."""
        return self.fields[f"{ROOT}.name"]

    @property
    def seed(self) -> int:
        """The run's."""
        return int(self.fields[f"{ROOT}.seed"])

    @cached_property
    def kind(self) -> str:
        """sha256 of all fields but the seed: what runs of one recipe share."""
        rest = {name: text for name, text in self.fields.items() if name != f"{ROOT}.seed"}
        return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()

    @cached_property
    def task(self) -> dict[str, str]:
        """The task's fields, flat: `teachers.tasks.Digits.batch`, ..."""
        head = f"{ROOT}.task."
        return {name.removeprefix(head): text for name, text in self.fields.items() if name.startswith(head)}

    @cached_property
    def decisions(self) -> Decisions | None:
        """What was answered to every sample of test, or None where nobody kept it."""
        return decisions.read(self.file) if self.file is not None and self.file.exists() else None


@dataclass(frozen=True)
class Side:
    """One recipe and its runs, by seed; `label` is its name, told apart where two recipes have the same."""

    label: str
    runs: Mapping[int, Outcome] = field(default_factory=dict)

    @property
    def first(self) -> Outcome:
        """The run of the lowest seed."""
        return self.runs[min(self.runs)]


def fields_of(recipe: Recipe) -> dict[str, str]:
    """A recipe's fields, flat, as they are logged."""
    return flatten(canonical(recipe))


def of_folder(folder: Path, trust: tuple[str, ...] = ()) -> Outcome:
    """The outcome of a run's folder.

    Raises ValueError where it is no run folder, where the run is not finished, or where it made no student.
    """
    page, result = folder / "page.yaml", folder / "result.json"
    if not page.is_file():
        raise ValueError(f"{folder} is no run folder: it has no page.yaml")
    if not result.is_file():
        raise ValueError(f"{folder} is not finished: go on with `decoct resume {folder}`, then compare")
    text = page.read_text(encoding="utf-8")
    found = of_result(
        fields_of(read(page, trust)), json.loads(result.read_text(encoding="utf-8")), str(folder), page=text
    )
    return replace(found, file=folder / decisions.FILE, began=result.stat().st_mtime)


def of_result(
    fields: Mapping[str, str], result: Mapping[str, Any], where: str, *, page: str | None = None
) -> Outcome:
    """The outcome that a `result.json` tells. Raises ValueError where the run made no student."""
    records: Sequence[Mapping[str, Any]] = result["records"]
    last = records[-1]
    if not last["position"] or last.get("chose"):
        raise ValueError(f"{where} ranks teachers and makes no student: there is nothing to compare")
    test, before = last["test"], records[0]
    teacher = _costs(before["profile"])
    # A teacher of several is asked about its own labels, which is another question.
    alone = sum(not record["position"] for record in records) == 1
    if before["test"] and alone and before["metric"] == last["metric"]:
        teacher["score"] = before["test"]["value"]
    return Outcome(
        fields=fields,
        metric=last["metric"],
        score=test["value"] if test else None,
        samples=test["samples"] if test else None,
        cost=_costs(last["profile"]),
        teacher=teacher if alone else {},
        seconds=sum(record["seconds"] for record in records if record["position"]),
        where=where,
        page=page,
    )


def _costs(profile: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(profile[name]) for name in COSTS if profile.get(name) is not None}


def sides(outcomes: Iterable[Outcome]) -> list[Side]:
    """Runs of equal recipes together, in the order in which they come; a seed that comes twice begins another side.

    (Two runs of one recipe and seed differ by code or machine: whoever names both wants to see them side by side.)
    """
    found: list[tuple[str, dict[int, Outcome]]] = []
    for outcome in outcomes:
        place = next(
            (runs for kind, runs in found if kind == outcome.kind and outcome.seed not in runs), None
        )
        if place is None:
            found.append((outcome.kind, place := {}))
        place[outcome.seed] = outcome
    names = [next(iter(runs.values())).name for _, runs in found]
    made, seen = list[Side](), set[str]()
    for (kind, runs), name in zip(found, names, strict=True):
        label = name if names.count(name) == 1 else f"{name}@{kind[:6]}"
        number = 2
        while label in seen:  # the same recipe and seed again
            label, number = f"{name}@{kind[:6]}.{number}", number + 1
        seen.add(label)
        made.append(Side(label, dict(sorted(runs.items()))))
    return made


def scored(side: Side) -> tuple[Side, list[str]]:
    """The side without runs that have no finite score on test, and a line for each that was left out."""
    notes, kept = [], dict[int, Outcome]()
    for seed, run in side.runs.items():
        if run.score is None:
            notes.append(
                f"{side.label}, seed {seed} ({run.where}) has no score on test and is left out: "
                "there was no sample of test to score it on"
            )
        elif not math.isfinite(run.score):
            notes.append(
                f"{side.label}, seed {seed} ({run.where}) has {run.metric} {run.score} and is left out: "
                "look at that run, a student that diverged is no seed among others"
            )
        else:
            kept[seed] = run
    return replace(side, runs=kept), notes
