"""The outcomes of an experiment's runs, as MLflow keeps them."""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from recipes import decisions
from recipes.outcome import COSTS, ROOT, Outcome, of_result
from reports.shelf import Kept, Shelf
from teachers.nearest import did_you_mean

_FILES = ("result.json", decisions.FILE)


def of_experiment(
    uri: str, experiment: str, names: Sequence[str], into: Path
) -> tuple[list[Outcome], list[str]]:
    """The latest finished run of every recipe and seed in an experiment, and notes on what was left out.

    names  of recipes, in the order wanted, wildcards as in `gal-*`; without any, all of them, the earliest first
    into   a folder for artifacts that do not lie on this machine

    Raises ValueError where there is no such experiment or recipe, or no run; OSError where the store is out of reach.
    """
    shelf = Shelf(uri)
    try:
        runs = shelf.runs(experiment)
    except KeyError:
        known = shelf.experiments()
        hint = did_you_mean(experiment, known) or f"; it has {', '.join(sorted(known))}"
        raise ValueError(f"{uri} has no experiment {experiment!r}{hint}") from None
    runs = [run for run in runs if f"{ROOT}.name" in run.params and f"{ROOT}.seed" in run.params]
    if not runs:
        raise ValueError(
            f"the experiment {experiment!r} in {uri} has no finished run of a recipe: `decoct run` makes some"
        )
    notes = list[str]()
    chosen = _chosen(runs, names, experiment)
    scored = [run for run in chosen if run.metric is not None]
    if not scored:
        raise ValueError(f"none of the {len(chosen)} runs chosen of {experiment!r} has a score on test")
    if len(scored) < len(chosen):
        notes.append(
            f"{len(chosen) - len(scored)} of {len(chosen)} runs have no score on test and are left out"
        )
    found = [_outcome(run) for run in scored]
    latest: dict[tuple[str, int], Outcome] = {}
    for outcome in found:
        latest.setdefault((outcome.kind, outcome.seed), outcome)  # the latest come first
    if len(latest) < len(found):
        older = len(found) - len(latest)
        notes.append(f"{older} older run{'s' if older > 1 else ''} of the same recipe and seed left out")
    outcomes = _filled(shelf, list(latest.values()), into)
    if shelf.lost:
        notes.append(f"{len(shelf.lost)} artifacts could not be fetched, the first because: {shelf.lost[0]}")
    order = _order(names)
    outcomes.sort(key=lambda outcome: (order(outcome.name), outcome.began))
    return outcomes, notes


def _chosen(runs: Sequence[Kept], names: Sequence[str], experiment: str) -> list[Kept]:
    if not names:
        return list(runs)
    known = {run.params[f"{ROOT}.name"] for run in runs}
    for name in names:
        if not fnmatch.filter(known, name):
            hint = did_you_mean(name, known) or f"; it has {', '.join(sorted(known))}"
            raise ValueError(f"the experiment {experiment!r} has no finished run of a recipe {name!r}{hint}")
    return [
        run for run in runs if any(fnmatch.fnmatchcase(run.params[f"{ROOT}.name"], name) for name in names)
    ]


def _order(names: Sequence[str]) -> Callable[[str], int]:
    def place(name: str) -> int:
        return next((n for n, pattern in enumerate(names) if fnmatch.fnmatchcase(name, pattern)), 0)

    return place


def _outcome(run: Kept) -> Outcome:
    """What the store's own numbers tell; files tell more."""
    assert run.metric is not None
    known = {name: run.metrics[f"cost/{name}"] for name in COSTS if f"cost/{name}" in run.metrics}
    return Outcome(
        fields=run.params,
        metric=run.metric,
        score=run.metrics[f"score/{run.metric}_test"],
        samples=None,
        cost=known,
        teacher={},
        seconds=run.metrics.get("time/total_seconds"),
        where=run.id,
        began=run.ended,
    )


def _filled(shelf: Shelf, outcomes: Sequence[Outcome], into: Path) -> list[Outcome]:
    """The same with what their artifacts tell: every run's result and decisions, and one page of every recipe."""
    pages = {outcome.kind: outcome.where for outcome in reversed(outcomes)}
    wanted = {
        outcome.where: (*_FILES, "page.yaml") if pages[outcome.kind] == outcome.where else _FILES
        for outcome in outcomes
    }
    files = shelf.fetch(wanted, into)
    texts = {
        kind: files[where]["page.yaml"].read_text(encoding="utf-8")
        for kind, where in pages.items()
        if "page.yaml" in files[where]
    }
    filled = []
    for outcome in outcomes:
        mine = files[outcome.where]
        if "result.json" in mine:
            told = json.loads(mine["result.json"].read_text(encoding="utf-8"))
            whole = of_result(outcome.fields, told, outcome.where)
            # A number that the store has as NaN was logged so by somebody: it is told, not smoothed over.
            score = (
                outcome.score
                if outcome.score is not None and not math.isfinite(outcome.score)
                else whole.score
            )
            outcome = replace(whole, score=score, began=outcome.began)
        filled.append(replace(outcome, file=mine.get(decisions.FILE), page=texts.get(outcome.kind)))
    return filled
