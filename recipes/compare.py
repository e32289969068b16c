"""Recipes compared: their runs gathered, proven to be of one test set, set side by side, and told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from recipes.difference import difference
from recipes.display import Display
from recipes.outcome import ROOT, Outcome, Side, of_folder, scored, sides
from recipes.page import read
from recipes.recipe import Recipe, Workshop
from recipes.same_test import same_test, tasks_alike
from reports import comparison, comparison_page
from reports.comparison import Against, Comparison, Row
from reports.files import write_text
from reports.paired import Paired, holm, paired, spread

_DIFFS = 3  # with more recipes than this their fields are told on the page alone


class _Brief:
    """Tells of a run's stages, and leaves out its tables: the comparison has one of its own."""

    def __init__(self, display: Display) -> None:
        self.stage, self.epoch, self.note = display.stage, display.epoch, display.note

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Nothing."""


def of_pages(
    recipes: Sequence[Recipe],
    seeds: Sequence[int],
    workshop: Workshop,
    display: Display,
    trust: tuple[str, ...],
) -> list[list[Outcome]]:
    """Run every recipe with every seed, or take up what is done: seed by seed, so that a stop leaves pairs.

    Raises ValueError before anything runs where two are the same, or where their tasks are of two kinds.
    """
    from recipes.run import run

    for place, recipe in enumerate(recipes):
        if any(replace(recipe, seed=0) == replace(other, seed=0) for other in recipes[:place]):
            raise ValueError(f"{recipe.name} is named twice: what can be compared are recipes that differ")
        tasks_alike(recipes[0].name, recipes[0].task, recipe.name, recipe.task)
    folders: dict[tuple[int, int], Path] = {}
    for seed in seeds:
        for place, recipe in enumerate(recipes):
            display.note(f"{recipe.name}, seed {seed}")
            made = run(replace(recipe, seed=seed), workshop, display=_Brief(display))
            folders[place, seed] = made.folder
    return [[of_folder(folders[place, seed], trust) for seed in seeds] for place in range(len(recipes))]


def of_place(place: Path, trust: tuple[str, ...]) -> tuple[list[Outcome], list[str]]:
    """The run in a folder, or the finished runs in the folders below it, the latest of every recipe and seed.

    Raises ValueError where there is none.
    """
    if (place / "page.yaml").is_file():
        return [of_folder(place, trust)], []
    below = sorted(page.parent for depth in ("*", "*/*") for page in place.glob(f"{depth}/page.yaml"))
    done = [folder for folder in below if (folder / "result.json").is_file()]
    if not done:
        raise ValueError(f"{place} has no finished run in it: name a run's folder, or a folder of such")
    notes = [f"{folder} is not finished and is left out" for folder in below if folder not in done]
    latest: dict[tuple[str, int], Outcome] = {}
    for outcome in sorted((of_folder(folder, trust) for folder in done), key=lambda one: one.began):
        latest[outcome.kind, outcome.seed] = outcome
    return list(latest.values()), notes


def compare(outcomes: Sequence[Outcome], trust: tuple[str, ...], notes: Sequence[str] = ()) -> Comparison:
    """All recipes against the first, on the seeds that both were run with.

    notes  of whoever gathered the runs
    Raises ValueError for fewer than two recipes, for other test sets or metrics, and where no seed is shared.
    """
    said, known = list(notes), list[Side]()
    for side in sides(outcomes):
        kept, left = scored(side)
        said += left
        if kept.runs:
            known.append(kept)
    if len(known) < 2:
        names = ", ".join(side.label for side in known) or "none"
        why = f" ({'; '.join(said)})" if said else ""
        raise ValueError(
            f"a comparison takes two recipes at least, and there is {names} with a score on test{why}"
        )
    first, *others = known
    for other in others:
        said += same_test(first, other)
    found, left_out = list[tuple[Side, Paired, bool]](), list[Side]()
    for other in others:
        shared = [seed for seed in first.runs if seed in other.runs]
        if not shared:
            left_out.append(other)
            continue
        said += _missing(first, other, shared)
        found.append((other, *_pair(first, other, shared, len(others))))
    if not found:
        raise ValueError(
            f"no seed is shared: {first.label} was run with {_listed(first.runs)}, "
            + ", ".join(f"{side.label} with {_listed(side.runs)}" for side in left_out)
            + ": run one with the seeds of the other (decoct run --seed)"
        )
    said += [
        f"{side.label} (seeds {_listed(side.runs)}) shares no seed with {first.label} and is left out"
        for side in left_out
    ]
    raised = holm([pair.p for _, pair, _ in found])
    fields, unread = _fields(first, [side for side, _, _ in found], trust)
    pairs = [
        Against(first.label, side.label, pair, p, labels, fields.get(side.label, ()))
        for (side, pair, labels), p in zip(found, raised, strict=True)
    ]
    shown = [first, *(side for side, _, _ in found)]
    return Comparison(
        title=" against ".join(side.label for side in shown) if len(shown) == 2 else f"{len(shown)} recipes",
        metric=first.first.metric,
        samples=first.first.samples or pairs[0].found.samples,
        rows=[_row(side) for side in shown],
        pairs=pairs,
        runs=[(s.label, seed, run.score or 0.0, run.where) for s in shown for seed, run in s.runs.items()],
        notes=[*said, *unread],
        teacher=_teacher(shown),
        unread=unread,
    )


def _pair(first: Side, other: Side, shared: Sequence[int], family: int) -> tuple[Paired, bool]:
    """What is found, and whether answers are labels."""
    pairs = {seed: (first.runs[seed], other.runs[seed]) for seed in shared}
    scores = {seed: (one.score or 0.0, its.score or 0.0) for seed, (one, its) in pairs.items()}
    merits, labels = {}, True
    for seed, (one, its) in pairs.items():
        if one.decisions is None or its.decisions is None:
            return paired(scores), labels
        labels = labels and one.decisions.targets is not None
        merits[seed] = (one.decisions.merit.numpy(), its.decisions.merit.numpy())
    return paired(scores, merits, labels=labels, family=family), labels


def _missing(first: Side, other: Side, shared: Sequence[int]) -> list[str]:
    """Seeds that one alone has, named."""
    lacks = [
        f"{side.label} was not run with {_listed(gone)}"
        for side, rest in ((first, other), (other, first))
        if (gone := [seed for seed in rest.runs if seed not in side.runs])
    ]
    return [f"{' and '.join(lacks)}: compared on seeds {_listed(shared)}"] if lacks else []


def _listed(seeds: Mapping[int, object] | Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _row(side: Side) -> Row:
    runs = list(side.runs.values())
    scores = tuple(run.score or 0.0 for run in runs)
    low, high = spread(scores, runs[0].samples)
    names = [name for name in runs[0].cost if all(name in run.cost for run in runs)]
    shares = [
        run.cost[name] / run.teacher[name]
        for run in runs
        for name in ("latency_ms_p50_b1", "latency_ms_p50_node")
        if name in run.cost and run.teacher.get(name)
    ]
    seconds = [run.seconds for run in runs if run.seconds is not None]
    return Row(
        label=side.label,
        seeds=tuple(side.runs),
        scores=scores,
        low=low,
        high=high,
        cost={name: sum(run.cost[name] for run in runs) / len(runs) for name in names},
        share=sum(shares) / len(shares) if len(shares) == len(runs) else None,
        minutes=sum(seconds) / len(seconds) / 60 if len(seconds) == len(runs) else None,
    )


def _teacher(shown: Sequence[Side]) -> tuple[str, float, dict[str, float]] | None:
    """Name, score and cost of the teacher, where all runs have the same one."""
    runs = [run for side in shown for run in side.runs.values()]
    head = f"{ROOT}.teachers."
    taught = [{name: text for name, text in run.fields.items() if name.startswith(head)} for run in runs]
    if any(one != taught[0] for one in taught) or any("score" not in run.teacher for run in runs):
        return None
    cost = {
        name: sum(run.teacher[name] for run in runs) / len(runs)
        for name in runs[0].teacher
        if name != "score" and all(name in run.teacher for run in runs)
    }
    name = next(
        (text for key, text in taught[0].items() if key.endswith(".0.teachers.Checkpoint.name")), "teacher"
    )
    return name, runs[0].teacher["score"], cost


def _fields(
    first: Side, others: Sequence[Side], trust: tuple[str, ...]
) -> tuple[dict[str, tuple[tuple[str, str, str], ...]], list[str]]:
    """The fields of every other recipe that differ from the first's, and notes on pages that could not be read."""
    pages, unread = dict[str, Recipe](), list[str]()
    for side in (first, *others):
        text = next((run.page for run in side.runs.values() if run.page is not None), None)
        if text is None:
            unread.append(f"{side.label}'s page is not at hand, so its fields are not set beside the others'")
            continue
        try:
            pages[side.label] = replace(read(text, trust), seed=0)
        except ValueError as problem:
            unread.append(f"{side.label}'s page cannot be read, so its fields are not told: {problem}")
    if first.label not in pages:
        return {}, unread
    return {
        side.label: tuple(
            (row.path, row.left, row.right) for row in difference(pages[first.label], pages[side.label])
        )
        for side in others
        if side.label in pages
    }, unread


def show(made: Comparison, display: Display, *, csv: Path | None = None, html: Path | None = None) -> None:
    """The table, what it says, the fields that differ; and files where they are asked for."""
    display.table(f"{made.metric} on test", comparison.COLUMNS, [comparison.cells(row) for row in made.rows])
    for line in comparison.lines(made):
        display.note(line)
    if len(made.pairs) <= _DIFFS:
        for pair in made.pairs:
            if pair.fields:
                display.table("fields that differ", ("field", pair.first, pair.other), pair.fields)
    elif html is None:
        display.note("what the recipes do differently, field by field, is on the page: --html FILE")
    if csv is not None:
        write_text(csv, comparison.csv_text(made))
        display.note(f"table    {csv}")
    if html is not None:
        comparison_page.write(html, made)
        display.note(f"page     {html}")
