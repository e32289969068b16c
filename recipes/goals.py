"""What a sweep is after: objectives, bounds that a trial must keep, and the facts of a run that both are read from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from reports.record import Record
from teachers.nearest import did_you_mean

FACTS = ("score", "macs", "bytes", "params", "latency_ms_p50", "latency_ms_p95", "seconds")
"""what may be an objective: the score on val, costs of the student, and the seconds its stages took"""
MEASURED = ("latency_ms_p50", "latency_ms_p95", "seconds")
"""facts that a clock gives, and that are another number the next time"""
BOUNDS = ("macs", "bytes", "params", "latency_ms_p50", "latency_ms_p95", "accuracy_drop")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_SIZES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_AMOUNT = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z%]*)", re.ASCII)


def facts(records: Sequence[Record]) -> dict[str, float]:
    """The facts of a run, from its records; those of its first teacher as `teacher_score`, `teacher_macs`, ...

    No score is among them where val is empty; the latency of a graph network is that of a node.
    """
    stages = [record.seconds for record in records if record.position]
    found = {**_of(records[-1], ""), **_of(records[0], "teacher_"), "seconds": sum(stages)}
    return {name: float(value) for name, value in found.items() if value is not None}


def mean(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every fact over runs with several seeds; the score's lowest and highest beside it."""
    names = [name for name in each[0] if all(name in one for one in each)]
    found = {name: fmean(one[name] for one in each) for name in names}
    if len(each) > 1 and "score" in found:
        scores = [one["score"] for one in each]
        found |= {"score_low": min(scores), "score_high": max(scores)}
    return found


def _of(record: Record, prefix: str) -> dict[str, float | None]:
    cost = record.profile
    return {
        f"{prefix}score": record.val.value if record.val is not None else None,
        f"{prefix}macs": cost.macs,
        f"{prefix}bytes": cost.bytes,
        f"{prefix}params": cost.params,
        f"{prefix}latency_ms_p50": cost.latency_ms_p50_b1
        if cost.latency_ms_p50_b1 is not None
        else cost.latency_ms_p50_node,
        f"{prefix}latency_ms_p95": cost.latency_ms_p95_b1
        if cost.latency_ms_p95_b1 is not None
        else cost.latency_ms_p95_node,
    }


@dataclass(frozen=True)
class Objective:
    """A fact that should be as high, or as low, as can be had."""

    name: str

    @property
    def direction(self) -> str:
        """As Optuna says it: the score is maximized, costs are minimized."""
        return "maximize" if self.name == "score" else "minimize"

    def __str__(self) -> str:
        return f"{'highest' if self.name == 'score' else 'lowest'} {self.name}"


def objectives(maximize: Sequence[str] = (), minimize: Sequence[str] = ()) -> tuple[Objective, ...]:
    """The objectives asked for, or the score and MACs where none was.

    Raises ValueError for a name that is no fact (with the nearest ones), one named twice, and a wrong direction.
    """
    names = [*maximize, *minimize]
    for name in names:
        if name not in FACTS:
            near = did_you_mean(name, FACTS) or f"; there are {', '.join(FACTS)}"
            raise ValueError(f"there is no objective {name!r}{near}")
        if names.count(name) > 1:
            raise ValueError(f"the objective {name} is named {names.count(name)} times: name it once")
    if backwards := [name for name in maximize if name != "score"]:
        raise ValueError(f"--maximize {backwards[0]}: costs are minimized, only the score is maximized")
    if "score" in minimize:
        raise ValueError("--minimize score: the score is maximized, 1 is perfect")
    return tuple(map(Objective, names)) or (Objective("score"), Objective("macs"))


@dataclass(frozen=True)
class Bound:
    """What a trial must keep: a fact at most so much, or at most so much of the teacher's.

    accuracy_drop  points (hundredths of the score) below the first teacher's, on val
    """

    name: str
    most: float
    share: bool = False

    def excess(self, found: Mapping[str, float]) -> float:
        """How far the facts are above the bound, as a share of it (of a drop, in score); 0 or less where it is kept.

        Raises ValueError where the fact was not measured.
        """
        if self.name == "accuracy_drop":
            self._need(found, "score", "teacher_score")
            return found["teacher_score"] - found["score"] - self.most / 100
        self._need(found, self.name)
        if not self.share:
            return found[self.name] / self.most - 1
        self._need(found, f"teacher_{self.name}")
        return found[self.name] / (self.most * found[f"teacher_{self.name}"]) - 1

    def _need(self, found: Mapping[str, float], *names: str) -> None:
        if lacking := [name for name in names if name not in found]:
            raise ValueError(f"the bound {self} cannot be judged: {lacking[0]} was not measured")

    def __str__(self) -> str:
        if self.name == "accuracy_drop":
            return f"accuracy_drop at most {self.most:g} points"
        return f"{self.name} at most " + (
            f"{100 * self.most:g} % of the teacher's" if self.share else f"{self.most:,.10g}"
        )


def bounds(texts: Sequence[str]) -> tuple[Bound, ...]:
    """The bounds in texts like `macs=40%`, `bytes=300kB`, `params=20k`, `latency_ms_p95=3.0`, `accuracy_drop=0.5`.

    Raises ValueError for anything else, with what would do.
    """
    found: dict[str, Bound] = {}
    for text in texts:
        name, _, amount = (part.strip() for part in text.partition("="))
        if name not in BOUNDS:
            near = did_you_mean(name, BOUNDS) or f"; there are {', '.join(BOUNDS)}"
            raise ValueError(f"--at-most {text}: there is no bound {name!r}{near}")
        if name in found:
            raise ValueError(f"--at-most names {name} twice: one bound is enough")
        found[name] = _bound(name, amount, text)
    return tuple(found.values())


class Amount(Protocol):
    """A number, or a share of the teacher's."""

    @property
    def value(self) -> float: ...

    @property
    def share(self) -> bool: ...


class Budget(Protocol):
    """What a page asks of its student: costs at most so much, and a score at most so many points below."""

    @property
    def accuracy_drop(self) -> float | None: ...

    def asked(self) -> Mapping[str, Amount]: ...


def of_page(budget: Budget | None, more: Sequence[Bound] = ()) -> tuple[Bound, ...]:
    """The bounds of a page's budget, those in `more` in place of its own on the same fact."""
    found: dict[str, Bound] = {}
    if budget is not None:
        found = {name: Bound(name, most.value, most.share) for name, most in budget.asked().items()}
        if budget.accuracy_drop is not None:
            found["accuracy_drop"] = Bound("accuracy_drop", budget.accuracy_drop)
    return tuple((found | {bound.name: bound for bound in more}).values())


def _bound(name: str, amount: str, text: str) -> Bound:
    match = _AMOUNT.fullmatch(amount)
    units = _SIZES | {"": 1} if name == "bytes" else _UNITS if name in ("macs", "params") else {"": 1}
    share = match is not None and match[2] == "%" and name != "accuracy_drop"
    least = 0 if name == "accuracy_drop" else 1e-300
    if match is None or not (share or match[2] in units) or float(match[1]) < least:
        say = "macs=40%, macs=1.2M, bytes=300kB, latency_ms_p95=3.0 (milliseconds) or accuracy_drop=0.5 (points)"
        raise ValueError(f"--at-most {text}: write an amount above 0, as in {say}")
    number = float(match[1])
    return Bound(name, number / 100, share=True) if share else Bound(name, number * units[match[2]])
