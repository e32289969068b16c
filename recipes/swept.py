"""What came of a sweep: the trials and the best of them, as a table, a CSV, a picture, and pages to go on with."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recipes.display import Display
from recipes.goals import FACTS, Bound, Objective
from recipes.page import write
from recipes.recipe import Recipe
from recipes.space import Space
from recipes.study import Trial
from reports import plots
from reports.pareto import Spot, pareto
from reports.ranking import alone
from students.files import write_json, write_text

_METRICS = {
    "macs": "cost/macs",
    "bytes": "cost/bytes",
    "params": "cost/params",
    "latency_ms_p50": "cost/latency_ms_p50_b1",
    "latency_ms_p95": "cost/latency_ms_p95_b1",
    "seconds": "time/seconds",
}


@dataclass(frozen=True)
class Swept:
    """What a sweep leaves.

    trials   all of them, in the order in which they were proposed
    front    the best by val: no other trial within the bounds beats them in all objectives at once; best first
    teacher  the facts of the first teacher, under names like `teacher_macs`
    test     scores on test of the best, by trial, where they were asked for; to tell, not to choose by
    """

    folder: Path
    name: str
    metric: str
    objectives: tuple[Objective, ...]
    bounds: tuple[Bound, ...]
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    teacher: Mapping[str, float]
    test: Mapping[int, float] = field(default_factory=dict)

    @property
    def facts(self) -> tuple[str, ...]:
        """Which facts are told: the objectives, those that bounds are on, and the score, MACs and bytes anyway."""
        told = {each.name for each in self.objectives} | {each.name for each in self.bounds}
        told |= {"score", "macs", "bytes"}
        known = {name for trial in self.trials for name in trial.facts}
        return tuple(name for name in FACTS if name in told and name in known)


def metrics(trial: Trial, metric: str) -> dict[str, float]:
    """A trial's facts under the tracker's names."""
    names = {"score": f"score/{metric}", **_METRICS}
    return {names[name]: value for name, value in trial.facts.items() if name in names}


def told(trial: Trial) -> str:
    """A trial's score and cost in a few words."""
    facts = trial.facts
    score = f"{amount('score', facts['score'])} on val, " if "score" in facts else ""
    return f"{score}{amount('macs', facts['macs'])} MACs, {amount('bytes', facts['bytes'])}"


def amount(name: str, value: float) -> str:
    """A fact as people read it."""
    if name == "score":
        return f"{100 * value:.2f} %"
    if name == "bytes":
        return plots.size(round(value))
    if name == "seconds":
        return plots.duration(value)
    return plots.milliseconds(value) if name.startswith("latency") else plots.short(value)


def short(drawn: Any) -> str:
    """A value that was drawn, in four digits."""
    return f"{drawn:.4g}" if isinstance(drawn, float) else str(drawn)


# -- files ------------------------------------------------------------------------------------------------


def best_names(found: Swept) -> list[str]:
    """The files of the best pages."""
    return [f"best-{place}.yaml" for place in range(1, len(found.front) + 1)]


def keep(found: Swept, about: Mapping[str, Any], pages: Mapping[int, Recipe]) -> None:
    """Write `sweep.json`, `sweep.csv`, `pareto.svg` and the pages of the best, in place of those of an earlier call."""
    folder = found.folder
    write_json(
        folder / "sweep.json",
        {
            "about": about,
            "name": found.name,
            "metric": found.metric,
            "teacher": dict(found.teacher),
            "trials": [{**asdict(trial), "folders": list(trial.folders)} for trial in found.trials],
            "front": [trial.number for trial in found.front],
            "test": {str(number): score for number, score in found.test.items()},
        },
    )
    write_text(folder / "sweep.csv", table(found))
    picture = drawing(found)
    if picture:
        write_text(folder / "pareto.svg", alone(picture))
    for old in folder.glob("best-*.yaml"):
        if old.name not in best_names(found):
            old.unlink()
    for name, trial in zip(best_names(found), found.front, strict=True):
        values = "".join(f"#   {path}: {short(drawn)}\n" for path, drawn in trial.drawn.items())
        head = f"# Trial {trial.number} of the sweep {found.name}, {told(trial)}:\n{values}"
        write_text(folder / name, head + write(pages[trial.number]))


def table(found: Swept) -> str:
    """All trials as CSV: its state, whether it is among the best and within the bounds, facts, values, and folders."""
    paths = list(dict.fromkeys(path for trial in found.trials for path in trial.drawn))
    facts = list(dict.fromkeys(name for trial in found.trials for name in trial.facts))
    best = {trial.number for trial in found.front}
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["trial", "state", "best", "within_bounds", *facts, "test", *paths, "problem", "folders"])
    for trial in found.trials:
        rows.writerow(
            [
                trial.number,
                trial.state,
                trial.number in best,
                trial.keeps_bounds,
                *(trial.facts.get(name, "") for name in facts),
                found.test.get(trial.number, ""),
                *(trial.drawn.get(path, "") for path in paths),
                trial.problem or "",
                " ".join(trial.folders),
            ]
        )
    return text.getvalue()


def drawing(found: Swept) -> str:
    """Every trial within the bounds and the teacher, score against MACs, as SVG; empty where there are not two."""
    done = [trial for trial in found.trials if trial.keeps_bounds and "score" in trial.facts]
    spots = [Spot(f"trial {trial.number}", trial.facts["score"], trial.facts.get("macs")) for trial in done]
    if "teacher_score" in found.teacher:
        score, macs = found.teacher["teacher_score"], found.teacher.get("teacher_macs")
        spots.append(Spot("teacher", score, macs, kind="teacher"))
    return pareto(spots, "MACs of one input", f"{found.metric} on val")


# -- the terminal -----------------------------------------------------------------------------------------


def show(found: Swept, display: Display, space: Space) -> None:
    """The best as a table, what to know of it, and where everything lies."""
    failed = sum(trial.state == "failed" for trial in found.trials)
    title = f"{found.name}: {len(found.front)} best of {len(found.trials)} trials"
    columns = (
        "trial",
        *found.facts,
        *(["test"] if found.test else []),
        *(each.path for each in space),
        "page",
    )
    if found.front:
        display.table(title + (f", {failed} failed" if failed else ""), columns, _rows(found, space))
    else:
        display.note(
            f"none of {len(found.trials)} trials keeps all bounds; the nearest is "
            f"trial {_nearest(found).number}, above {_by_how_much(_nearest(found))}"
        )
    names = " and ".join(str(each) for each in found.objectives)
    display.note(
        f"best: {names}, by val; among {len(found.trials)} trials the best by val is partly lucky, so its val score "
        "flatters it" + ("" if found.test else "; test was not read")
    )
    display.note(f"sweep    {found.folder}")


def _rows(found: Swept, space: Space) -> list[Sequence[str]]:
    first = [amount(name, found.teacher[f"teacher_{name}"]) if f"teacher_{name}" in found.teacher else "–"
             for name in found.facts]  # fmt: skip
    rows: list[Sequence[str]] = [
        ("teacher", *first, *(["–"] if found.test else []), *("–" for _ in space), "")
    ]
    for trial, name in zip(found.front, best_names(found), strict=True):
        test = [amount("score", found.test[trial.number]) if trial.number in found.test else "–"]
        rows.append(
            (
                str(trial.number),
                *(amount(fact, trial.facts[fact]) if fact in trial.facts else "–" for fact in found.facts),
                *(test if found.test else []),
                *(short(trial.drawn[each.path]) for each in space),
                name,
            )
        )
    return rows


def _nearest(found: Swept) -> Trial:
    done = [trial for trial in found.trials if trial.state == "complete"]
    return min(done, key=lambda trial: sum(max(0.0, excess) for excess in trial.excess.values()))


def _by_how_much(trial: Trial) -> str:
    return " and ".join(
        f"{words} by {100 * excess:.3g} {'points' if words.startswith('accuracy') else '%'}"
        for words, excess in trial.excess.items()
        if excess > 0
    )
