"""Judging a budget: before a run by what its stages could leave, after it by what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from recipes.budget import Amount, Budget, said
from recipes.foresee import Least
from reports.evaluate import TestScore, wilson
from reports.profile import Profile
from reports.verdict import Bound, Verdict

_DRAWS = 2000
_UNIT = {"macs": "MACs", "params": "parameters", "bytes": "of weights", "latency_ms_p95": "a call (p95)"}


class Infeasible(ValueError):
    """A budget that nothing the recipe does could keep to; `verdict` says why."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        broken = "; ".join(f"{bound.name}: {bound.said}" for bound in verdict.bounds if bound.held is False)
        super().__init__(f"INFEASIBLE: {broken}. Ask for less, or give the stages more to cut")


@dataclass(frozen=True)
class Drop:
    """How far the student's score lies below its teacher's, in points, with the 95 % interval, and how that was had."""

    points: float
    low: float
    high: float
    samples: int
    how: str


# -- after a run ------------------------------------------------------------------------------------------


def judge(
    budget: Budget, cost: Profile, reference: Mapping[str, float | None], drop: Drop | None, why: str = ""
) -> Verdict:
    """The verdict on a finished student.

    reference  what the teacher has of every cost, for shares of it
    drop       of the score on test; `why` says what is in the way of one
    """
    bounds = [
        _measured(name, asked, getattr(budget, name), _of(cost, name), reference.get(name))
        for name, asked in budget.asked().items()
    ]
    if budget.accuracy_drop is not None:
        bounds.append(_dropped(budget.accuracy_drop, drop, why))
    return Verdict.of(tuple(bounds))


def costs(profile: Profile) -> dict[str, float | None]:
    """What a profile says of every cost that can be bounded."""
    return {name: _of(profile, name) for name in _UNIT}


def summed(profiles: Sequence[Profile]) -> dict[str, float | None]:
    """The costs of several networks together; None where one is not known."""
    rows = [costs(profile) for profile in profiles]
    return {
        name: None if any(row[name] is None for row in rows) else sum(row[name] or 0.0 for row in rows)
        for name in _UNIT
    }


def _of(profile: Profile, name: str) -> float | None:
    if name != "latency_ms_p95":
        value: float | None = getattr(profile, name)
        return value
    node = profile.latency_ms_p95_node
    return profile.latency_ms_p95_b1 if node is None else node


def _measured(name: str, asked: Amount, written: object, found: float | None, of: float | None) -> Bound:
    limit = asked.limit(of)
    if found is None or limit is None:
        what = "it was not measured" if found is None else "what the teacher has was not measured"
        return Bound(name, str(written), limit, found, None, f"at most {written} asked, {what}")
    share = f", {found / of:.1%} of the teacher's" if of else ""
    most = f"at most {said(name, limit)}" + (f" ({written})" if asked.share else "")
    return Bound(
        name, str(written), limit, found, found <= limit, f"{said(name, found)} {_UNIT[name]}{share}; {most}"
    )


def _dropped(asked: float, drop: Drop | None, why: str) -> Bound:
    most = f"at most {asked:g} points"
    if drop is None:
        return Bound("accuracy_drop", f"{asked:g}", asked, None, None, f"{most} asked, and {why}")
    held = drop.points <= asked + 1e-9
    beyond = "; the interval reaches beyond it" if held and drop.high > asked else ""
    beyond = "; the interval reaches down to it" if not held and drop.low <= asked else beyond
    line = (
        f"{drop.points:.2f} points below the teacher ({drop.low:.2f} to {drop.high:.2f}, 95 %, {drop.samples} test "
        f"samples, {drop.how}); {most}{beyond}"
    )
    return Bound("accuracy_drop", f"{asked:g}", asked, drop.points, held, line, drop.low, drop.high)


def dropped(student: TestScore, teacher: TestScore, decisions: Path | None = None) -> Drop:
    """The drop on test: paired sample by sample where decisions were kept, else by the two scores alone.

    Paired, samples are drawn again with both answers (bootstrap). Else the interval is that of two independent shares
    (Newcombe 1998, from Wilson's): wider, for two networks that are right about the same samples differ by less.
    """
    points = 100 * (teacher.value - student.value)
    pair = _pair(decisions) if decisions is not None else None
    if pair is not None:
        apart = 100 * (pair[1] - pair[0])
        n = len(apart)
        low, high = np.quantile(_drawn(apart), (0.025, 0.975))
        # Where samples' own scores do not add up to the task's, theirs is the spread, and the task's the place.
        shift = points - float(apart.mean())
        return Drop(points, float(low) + shift, float(high) + shift, n, "paired")
    (low_s, high_s), (low_t, high_t) = (wilson(score.value, score.samples) for score in (student, teacher))
    down = np.hypot(teacher.value - low_t, high_s - student.value)
    up = np.hypot(high_t - teacher.value, student.value - low_s)
    return Drop(points, points - 100 * float(down), points + 100 * float(up), student.samples, "unpaired")


def _drawn(apart: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Means of as many samples drawn again, 2000 times; alike ones are counted, not drawn one by one."""
    values, counts = np.unique(apart, return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(apart), counts / len(apart), _DRAWS)
    means: np.ndarray[Any, np.dtype[np.float64]] = draws @ values / len(apart)
    return means


def _pair(
    path: Path,
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]] | None:
    """What student and teacher have of every test sample: 1 or 0, or a score; None where either is missing."""
    if not path.exists():
        return None
    with safe_open(path, framework="np") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    if {"targets", "student", "teacher"} <= held.keys():
        mine, its = (held[who] == held["targets"] for who in ("student", "teacher"))
    elif {"student_score", "teacher_score"} <= held.keys():
        mine, its = held["student_score"], held["teacher_score"]
    else:
        return None
    return mine.astype(np.float64), its.astype(np.float64)


# -- before a run -----------------------------------------------------------------------------------------


def outlook(
    budget: Budget,
    planned: Profile | None,
    least: Least | None,
    reference: Mapping[str, float | None],
    tests: int | None,
    *,
    sure: bool,
) -> Verdict:
    """What can be said of a budget before anything was trained.

    planned    the cost of the student as foreseen, `sure` or only about
    least      the smallest that the recipe's stages could leave
    tests      samples of test; None where nobody has counted them
    INFEASIBLE where a bound lies below the smallest, MISSED where the stages are set to leave more than it allows.
    """
    bounds, infeasible = [], False
    for name, asked in budget.asked().items():
        bound, never = _foreseen(
            name, asked, str(getattr(budget, name)), planned, least, reference.get(name), sure
        )
        bounds.append(bound)
        infeasible = infeasible or never
    if budget.accuracy_drop is not None:
        line = f"at most {budget.accuracy_drop:g} points asked; " + (
            "there is no test sample: it will stay unverified" if tests == 0 else "judged on test, at the end"
        )
        bounds.append(
            Bound("accuracy_drop", f"{budget.accuracy_drop:g}", budget.accuracy_drop, None, None, line)
        )
    if infeasible:
        return Verdict("INFEASIBLE", tuple(bounds))
    missed = any(bound.held is False for bound in bounds)
    return Verdict("MISSED" if missed else "POSSIBLE", tuple(bounds))


def _foreseen(
    name: str,
    asked: Amount,
    written: str,
    planned: Profile | None,
    least: Least | None,
    of: float | None,
    sure: bool,
) -> tuple[Bound, bool]:
    """A bound before the run, and whether nothing can keep it."""
    limit = asked.limit(of)
    if name == "latency_ms_p95":
        return Bound(name, written, limit, None, None, f"at most {written} asked; measured at the end"), False
    if limit is None or planned is None or least is None:
        return Bound(
            name, written, limit, None, None, f"at most {written} asked; what comes out is not known"
        ), False
    most = f"at most {said(name, limit)}" + (f" ({written})" if asked.share else "")
    found, floor = _of(planned, name), float(getattr(least, name))
    assert found is not None
    unit = _UNIT[name]

    def share(value: float) -> str:
        return f" ({value / of:.1%} of the teacher's)" if of else ""

    if floor > limit:
        held_up = f"; {least.blocks}" if least.blocks else ""
        line = (
            f"{most} cannot be kept: the smallest that {least.stage} can leave has {said(name, floor)} {unit}"
            f"{share(floor)}{held_up}"
        )
        return Bound(name, written, limit, floor, False, line), True
    about = "" if sure else "about "
    small = f"smallest reachable {said(name, floor)}{share(floor)}"
    line = f"as planned {about}{said(name, found)} {unit}{share(found)}; {most}; {small}"
    if found <= limit:
        return Bound(name, written, limit, found, True if sure else None, line), False
    # A game may end a little below its own budget, and a guess be a little off; that far is for the run to say.
    over = sure or found > 1.1 * limit
    more = ": the stages are set to leave more than that" if over else ""
    return Bound(name, written, limit, found, False if sure else None, line + more), False
