"""The command `decoct compare`: pages, folders of runs, or an experiment; a table, and files where asked for."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from recipes.compare import compare, of_pages, of_place, show
from recipes.display import Display
from recipes.outcome import Outcome
from recipes.recipe import Recipe, Workshop

SEEDS = tuple(range(5))


def contest(
    asked: Namespace,
    workshop: Workshop,
    trust: tuple[str, ...],
    recipe_of: Callable[[str], Recipe],
    display: Display,
) -> None:
    """Gather the runs that are asked for, compare them and say so.

    asked      what, seeds, experiment, csv, html: the words of the command
    recipe_of  reads a page

    Raises ValueError for what cannot be compared, OSError for a store out of reach.
    """
    if asked.experiment is not None:
        _of_experiment(asked, workshop, trust, display)
        return
    if not asked.what:
        raise ValueError(
            "name what to compare: two pages at least, folders of finished runs, or --experiment NAME of MLflow"
        )
    if twice := [word for word in asked.what if asked.what.count(word) > 1]:
        raise ValueError(f"{twice[0]} is named twice: what can be compared are recipes that differ")
    places = {word: place for word in asked.what if (place := Path(word)).is_dir()}
    pages = {word: recipe_of(word) for word in asked.what if word not in places}
    if len(asked.what) < 2 and pages:
        raise ValueError(
            f"a comparison takes two recipes at least, and there is {asked.what[0]} alone: name another"
        )
    if asked.seeds is not None and not pages:
        raise ValueError(
            "--seeds says what pages are run with; of folders, the seeds are those of their runs"
        )
    found: dict[str, list[Outcome]] = {}
    notes = list[str]()
    for word, place in places.items():
        found[word], said = of_place(place, trust)
        notes += said
    if pages:
        made = of_pages(list(pages.values()), asked.seeds or SEEDS, workshop, display, trust)
        for word, outcomes in zip(pages, made, strict=True):
            found[word] = outcomes
    ordered = [outcome for word in asked.what for outcome in found[word]]
    show(compare(ordered, trust, notes), display, csv=asked.csv, html=asked.html)


def _of_experiment(asked: Namespace, workshop: Workshop, trust: tuple[str, ...], display: Display) -> None:
    from recipes.kept import of_experiment

    if asked.seeds is not None:
        raise ValueError(
            "--seeds says what pages are run with; of an experiment, the seeds are those of its runs"
        )
    uri = workshop.tracking or f"sqlite:///{workshop.runs.resolve()}/mlflow.db"
    if uri == "off":
        raise ValueError("--experiment reads an MLflow store, and --tracking off names none")
    with tempfile.TemporaryDirectory(prefix="decoct-compare-") as folder:
        outcomes, notes = of_experiment(uri, asked.experiment, asked.what, Path(folder))
        show(compare(outcomes, trust, notes), display, csv=asked.csv, html=asked.html)
