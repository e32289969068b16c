"""A run in the words of whoever opens the tracker and never read a page: names, parameters, descriptions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from compress.stage import Stage
from recipes.names import name_of
from recipes.recipe import Recipe
from recipes.writing import canonical
from reports import plots, reads
from reports.record import Record
from teachers.task import Task

Plain = Mapping[str, Any]
MOST = 500
"""characters of a parameter's value, which every store takes"""
_MARK = re.compile(r"[^\w\-. :/]", re.ASCII)


def title(recipe: Recipe) -> str:
    """What a run is called: its recipe and its seed."""
    return f"{recipe.name}, seed {recipe.seed}"


def chain(recipe: Recipe) -> str:
    """The stages in order: GAL > Finetune."""
    return " > ".join(type(stage).__name__ for stage in recipe.stages)


def params(recipe: Recipe) -> dict[str, str]:
    """All that the page says, under names that fit a column.

    precision, stages, task and task.val, teacher and teacher.train.lr (teacher 2 where there are several), 1 GAL.macs,
    2 Finetune.lr, ...; what is None or empty is left out. Name and seed go under the page's own names, by which runs
    are told from each other: recipes.Recipe.name, recipes.Recipe.seed.
    """
    root = name_of(type(recipe))
    found = {
        f"{root}.name": recipe.name,
        f"{root}.seed": str(recipe.seed),
        "precision": recipe.precision,
        "stages": chain(recipe),
        **flat("task", recipe.task),
    }
    for place, teacher in enumerate(recipe.teachers, start=1):
        name = "teacher" if len(recipe.teachers) == 1 else f"teacher {place}"
        inner = flat(name, teacher)
        found |= {name: teacher.name, **{key: text for key, text in inner.items() if key != name}}
    for place, stage in enumerate(recipe.stages, start=1):
        found |= {
            key: text for key, text in flat(f"{place} {type(stage).__name__}", stage).items() if "." in key
        }
    return {_MARK.sub("", key): text[:MOST] for key, text in found.items()}


def stage_params(stage: Stage) -> dict[str, str]:
    """A stage's fields by their own names."""
    found = flat("", stage)
    return {_MARK.sub("", key.removeprefix(".")): text[:MOST] for key, text in found.items() if key}


def flat(name: str, spec: Any) -> dict[str, str]:
    """A spec's fields as dotted names under `name`, whose own value is what the spec is called."""
    return dict(_flat(name, canonical(spec)))


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        ((only, inner), *more) = value.items() if value else (("", None),)
        if (
            value
            and not more
            and re.fullmatch(r"[a-z_]\w*(\.\w+)*\.[A-Z]\w*", only)
            and isinstance(inner, dict)
        ):
            fields = [pair for field, item in inner.items() for pair in _flat(f"{name}.{field}", item)]
            return [(name, only.rpartition(".")[2]), *fields]
        return [pair for key, item in value.items() for pair in _flat(f"{name}.{key.strip(chr(34))}", item)]
    if isinstance(value, list):
        if any(isinstance(item, dict | list) for item in value):
            return [pair for place, item in enumerate(value) for pair in _flat(f"{name}.{place}", item)]
        return [(name, ", ".join(map(str, value)))] if value else []
    return [] if value is None else [(name, str(value))]


# -- descriptions -----------------------------------------------------------------------------------------


def about(recipe: Recipe, hash: str) -> str:
    """What a run sets out to do, in markdown."""
    who = ", ".join(f"**{teacher.name}**" for teacher in recipe.teachers)
    steps = "\n".join(f"{n}. `{type(s).__name__}`: {_first(s)}" for n, s in enumerate(recipe.stages, start=1))
    many = "s" if len(recipe.teachers) > 1 else ""
    return (
        f"Recipe `{recipe.name}`, seed {recipe.seed}: teacher{many} {who}, task `{type(recipe.task).__name__}`.\n\n"
        f"{steps}\n\nThe runs below this one are the teacher{many} (0) and every stage (1, 2, ...). "
        f"`page.yaml` under Artifacts is the whole recipe: `decoct run page.yaml` does it again. Hash `{hash[:12]}`."
    )


def _first(thing: Stage) -> str:
    """The first line of what a stage says of itself."""
    return (type(thing).__doc__ or "").strip().partition("\n")[0]


def about_stage(position: int, name: str, recipe: Recipe) -> str:
    """What a child run is."""
    if not position:
        return f"Teacher `{name}` as it came: what every stage of `{recipe.name}` is compared with."
    stage = recipe.stages[position - 1]
    return (
        f"Stage {position} of {len(recipe.stages)} of `{recipe.name}`. {_first(stage)}\n\n"
        f"`{name.lower()}/...` are curves over the stage's own epochs; `score/...` and `cost/...` were measured when "
        "it was done."
    )


def about_model(record: Record, recipe: Recipe) -> str:
    """What a model is, and how to use it."""
    if not record.position:
        return (
            f"Teacher `{record.stage}` of recipe `{recipe.name}`, as it came. Its files stay where they were."
        )
    return (
        f"What stage {record.position} of `{recipe.name}`, `{record.stage}`, left. Its artifacts are its weights and "
        "its structure, which decoct takes up again; the student to give away is `compact/` in the run's folder."
    )


def headline(first: Record, last: Record) -> str:
    """What came of it in a line, in markdown; empty where nothing was measured."""
    found = changes(first, last)
    cost = (
        [f"{found['left/macs_percent']:.1f} % of the teacher's MACs"] if "left/macs_percent" in found else []
    )
    score = [
        f"{value:+.2f} points of {name.removeprefix('change/').removesuffix('_points').replace('_', ' on ')}"
        for name, value in found.items()
        if name.startswith("change/")
    ]
    return f"**{', '.join(cost + score)}**" if cost or score else ""


def outcome(records: Sequence[Record], ledger: Plain) -> str:
    """What came of it: a table of all stages, and what they were handed."""
    first = records[0].to_dict()
    columns = plots.COLUMNS
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(plots.row(record.to_dict(), first)) for record in records]
    table = "\n".join(f"| {line} |" for line in lines)
    said = f"Handed to the stages: {reads.told(ledger)}."
    return f"{table}\n\n{said} `report.html` under Artifacts has all of it, with pictures."


def changes(first: Record, last: Record) -> dict[str, float]:
    """What was won and lost against the teacher, for the columns of a run table: per cent that are left, and points."""
    found = {}
    for name in ("macs", "params", "bytes", "latency_ms_p50_b1"):
        before, after = getattr(first.profile, name), getattr(last.profile, name)
        if before and after:
            found[f"left/{name}_percent"] = 100 * after / before
    before_, after_ = (first.test, last.test) if first.test and last.test else (first.val, last.val)
    if before_ and after_ and first.metric == last.metric:
        split = "test" if first.test and last.test else "val"
        found[f"change/{last.metric}_{split}_points"] = 100 * (after_.value - before_.value)
    return found


def described(task: Task) -> str:
    """A task in a word, for a tag."""
    return type(task).__name__
