"""Whether a student became the master: its score against every teacher's on the same samples, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor

Plain = Mapping[str, Any]
_DRAWS = 2000
_FEWER = 200  # where every draw is a score of its own


@dataclass(frozen=True)
class Duel:
    """Two scores on the same samples: the student's and another's, and the 95 % interval of their difference.

    The interval is the paired bootstrap's: samples are drawn again with both answers, and the difference taken anew.
    """

    student: float
    other: float
    low: float
    high: float
    samples: int

    @property
    def master(self) -> bool:
        """Whether the student is at least as good."""
        return self.student >= self.other

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "master": self.master}


def of_shares(student: Tensor, other: Tensor, seed: int = 0) -> Duel:
    """Shares of right answers, from which were right: (n,) of bool each.

    Only how often the one was right and the other wrong matters for the difference: a draw of n samples is a draw from
    those three counts, so that 2000 take no time.
    """
    n = len(student)
    better, worse = int((student & ~other).sum()), int((other & ~student).sum())
    drawn = np.random.default_rng(seed).multinomial(
        n, [better / n, worse / n, 1 - (better + worse) / n], _DRAWS
    )
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, (0.025, 0.975))
    return Duel(float(student.double().mean()), float(other.double().mean()), float(low), float(high), n)


def of_tables(student: Tensor, other: Tensor, seed: int = 0) -> Duel:
    """Mean intersection over union, from a table (true, said) of pixels for every image: (n, K, K) each."""
    n = len(student)
    draws = torch.from_numpy(np.random.default_rng(seed).multinomial(n, [1 / n] * n, _DRAWS)).double()
    apart = [iou((draws @ t.double().flatten(1)).view(_DRAWS, *t.shape[1:])) for t in (student, other)]
    low, high = torch.quantile(
        apart[0] - apart[1], torch.tensor([0.025, 0.975], dtype=torch.float64)
    ).tolist()
    whole = [iou(t.double().sum(0, keepdim=True)).item() for t in (student, other)]
    return Duel(whole[0], whole[1], low, high, n)


def of_scores(
    score: Callable[[Tensor, Tensor], float], student: Tensor, other: Tensor, truth: Tensor, seed: int = 0
) -> Duel:
    """Any score of answers (n, ...) and the truth: as many scores as draws, so that these are fewer."""
    n = len(truth)
    generator = torch.Generator().manual_seed(seed)
    apart = []
    for _ in range(_FEWER):
        rows = torch.randint(n, (n,), generator=generator)
        apart.append(score(student[rows], truth[rows]) - score(other[rows], truth[rows]))
    low, high = np.quantile(apart, (0.025, 0.975))
    return Duel(score(student, truth), score(other, truth), float(low), float(high), n)


def iou(tables: Tensor) -> Tensor:
    """Mean intersection over union of tables (..., K, K), rows true and columns said; absent classes are left out."""
    both = tables.diagonal(dim1=-2, dim2=-1)
    either = tables.sum(-1) + tables.sum(-2) - both
    there = either > 0
    shares = torch.where(there, both / either.clamp_min(1e-12), 0.0)
    return shares.sum(-1) / there.sum(-1).clamp_min(1)


def table(said: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels by what is true and what was said, image by image: (n, ...) each to (n, K, K); truth below 0 is void."""
    tables = []
    for mine, its in zip(said.flatten(1), truth.flatten(1), strict=True):
        judged = its >= 0
        pairs = its[judged] * classes + mine[judged]
        tables.append(torch.bincount(pairs, minlength=classes * classes).view(classes, classes))
    return torch.stack(tables)


def calibration_error(sure: Tensor, right: Tensor, bins: int = 15) -> float:
    """The mean over samples of |how sure - how often right| within bins of equal width; both (n,)."""
    place = (sure.double() * bins).long().clamp(0, bins - 1)
    count, confident, correct = (
        torch.zeros(bins, dtype=torch.float64).index_add_(0, place, values.double())
        for values in (torch.ones_like(sure), sure, right)
    )
    return float((confident - correct).abs().sum() / count.sum())


# -- for people -------------------------------------------------------------------------------------------


def lines(found: Plain) -> list[str]:
    """What to say on a terminal."""
    said = []
    for one in found["teachers"]:
        verdict = "master" if one["master"] else "not yet master"
        said.append(
            f"{one['name']} ({one['metric']} on its own labels): student {100 * one['student']:.2f} %, teacher "
            f"{100 * one['other']:.2f} %, {_points(one)}: {verdict}"
        )
    if joint := found["joint"]:
        said.append(
            f"all labels together: student {100 * joint['student']:.2f} %, the teachers as an ensemble "
            f"{100 * joint['other']:.2f} %, {_points(joint)}"
        )
    return said


def verdict(found: Plain) -> str:
    """One line: what the student costs of all teachers together, of how many it is the master, and how well it does."""
    cost, teachers = found["cost"], found["teachers"]
    share = 100 * cost["macs"] / cost["macs_teachers"] if cost["macs_teachers"] else 0.0
    won = sum(one["master"] for one in teachers)
    said = (
        f"{share:.1f} % of the MACs of {len(teachers)} teachers together; master of {won} of {len(teachers)}"
    )
    if joint := found["joint"]:
        points = 100 * (joint["student"] - joint["other"])
        said += f"; all labels together {100 * joint['student']:.2f} %, {points:+.2f} points to the teachers' ensemble"
    return f"{said} (test)."


def all_together(found: Plain, records: Sequence[Plain]) -> Plain:
    """A record of all teachers as one: costs summed, scored as the ensemble."""
    names = {one["name"] for one in found["teachers"]}
    mine = [record for record in records if not record["position"] and record["stage"] in names]
    profile = dict(mine[0]["profile"])
    for name in profile:
        values = [record["profile"][name] for record in mine]
        if name in ("macs", "flops", "params", "bytes"):
            profile[name] = sum(values) if None not in values else None
        elif name.startswith("latency"):
            profile[name] = None  # taken one by one, and not in turns with the student
    test = None
    if joint := found["joint"]:
        test = {
            "value": joint["other"],
            "low": joint["other"],
            "high": joint["other"],
            "samples": joint["samples"],
        }
    return {**mine[0], "stage": "teachers together", "profile": profile, "val": None, "test": test}


def _points(one: Plain) -> str:
    return f"{100 * (one['student'] - one['other']):+.2f} points ({100 * one['low']:+.2f} to {100 * one['high']:+.2f})"


def sections(found: Plain) -> dict[str, str]:
    """Title -> HTML for the report."""
    rows = [
        (
            one["name"], one["metric"], f"{100 * one['student']:.2f} %", f"{100 * one['other']:.2f} %", _points(one),
            f"{one['samples']:,}", "yes" if one["master"] else "no",
        )
        for one in found["teachers"]
    ]  # fmt: skip
    head = ("teacher", "by", "student", "teacher", "difference (95 %)", "samples", "master")
    made = {"Student and teachers, on each one's own labels": _grid(head, rows) + _dim(
        "Answers are taken among the teacher's labels, as if the group were known. The student is the master where "
        "it is at least as good on every one; intervals are of the paired bootstrap."
    )}  # fmt: skip
    cost = found["cost"]
    summary = [
        ("parameters", f"{cost['params']:,}", f"{cost['params_teachers']:,}", _share(cost, "params")),
        ("MACs", f"{cost['macs']:,}", f"{cost['macs_teachers']:,}", _share(cost, "macs")),
    ]
    joint = found["joint"]
    if joint:
        summary.insert(
            0,
            (
                "all labels together",
                f"{100 * joint['student']:.2f} %",
                f"{100 * joint['other']:.2f} %",
                _points(joint),
            ),
        )
        if joint.get("error_student") is not None:
            summary.insert(
                1,
                (
                    "calibration error", f"{100 * joint['error_student']:.1f} %", f"{100 * joint['error_other']:.1f} "
                    "%", "",
                ),
            )  # fmt: skip
    made["Student and all teachers together"] = _grid(("", "student", "teachers", ""), summary) + _dim(
        "The ensemble asks every teacher and merges their answers as the student was taught to: what could be had "
        "without a student. Labels it cannot know apart it does not know apart either."
    )
    if groups := found["groups"]:
        body = [
            (name, *(f"{count:,}" for count in row))
            for name, row in zip(groups["names"], groups["counts"], strict=True)
        ]
        made["Whose label was true, and whose was said"] = _grid(("true \\ said", *groups["names"]), body)
    if fitted := found["amalgamation"]["calibration"]:
        fitted_rows = [
            (
                of["name"], f"{of['reach']:.3g}", f"{100 * share:.1f} %", f"{100 * mass:.1f} %", f"{bias:+.2f}",
            )
            for of, share, mass, bias in zip(
                fitted["teachers"], fitted["share"], fitted["mass"], fitted["bias"], strict=True
            )
        ]  # fmt: skip
        top = ("teacher", "99 % of its largest logit", "most evidence on", "mean probability", "bias, nats")
        made["How the teachers were made comparable"] = _grid(top, fitted_rows) + _dim(
            f"Merge: {found['amalgamation']['merge']}; evidence: {fitted['how']}, kappa {fitted['kappa']:g}, over "
            f"{fitted['samples']:,} unlabeled samples."
        )
    return made


def _share(cost: Plain, name: str) -> str:
    whole = cost[f"{name}_teachers"]
    return f"{100 * cost[name] / whole:.1f} %" if whole else "–"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>"
        + "".join(f'<td data-label="{escape(h)}">{escape(c)}</td>' for h, c in zip(head, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _dim(text: str) -> str:
    return f'<p class="dim">{escape(text)}</p>'


def metrics(found: Plain) -> dict[str, float]:
    """The numbers under the tracker's names."""
    values: dict[str, float] = {"amalgamation/master": float(found["master"])}
    for one in found["teachers"]:
        values |= {
            f"amalgamation/{one['name']}/{name}": float(one[key])
            for name, key in (("student", "student"), ("teacher", "other"), ("low", "low"), ("high", "high"))
        }
    if joint := found["joint"]:
        values |= {"amalgamation/joint": joint["student"], "amalgamation/joint_ensemble": joint["other"]}
    return values
