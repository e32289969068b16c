"""The options page: everything a page may name, with its fields, as markdown; `reports/options.md` is made of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Annotated

from recipes.names import fields, walk
from recipes.schema import kind, meaning
from recipes.writing import show

_HEADS = {
    "recipes": "Recipes",
    "compress": "Stages and what they take",
    "teachers": "Teachers and their training",
    "teachers.networks": "Networks",
    "teachers.tasks": "Tasks",
}
_ORDER = ("recipes", "compress", "teachers", "teachers.tasks", "teachers.networks")


def options(trust: tuple[str, ...] = ()) -> str:
    """Every spec that a page may name, those of packages in `trust` too: docstring, and a table of its fields."""
    specs = walk(trust)
    packages = sorted(
        {name.rpartition(".")[0] for name in specs},
        key=lambda package: (_ORDER.index(package) if package in _ORDER else len(_ORDER), package),
    )
    lines = [
        "# Options",
        "",
        "All that a recipe's page may name, as `decoct describe --markdown` prints it: every field with its type and "
        "bounds, its default, and what it means. A field without a default has to be given.",
        "",
    ]
    for package in packages:
        names = [name for name in specs if name.rpartition(".")[0] == package]
        links = " · ".join(f"[{name.rpartition('.')[2]}](#{_anchor(name)})" for name in names)
        lines += [f"- {_HEADS.get(package, package)}: {links}"]
    for package in packages:
        lines += ["", f"## {_HEADS.get(package, package)}"]
        for name, cls in specs.items():
            if name.rpartition(".")[0] == package:
                lines += ["", *_spec(name, cls)]
    return "\n".join(lines) + "\n"


def _spec(name: str, cls: type) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    yield from _prose(inspect.getdoc(cls) or "")
    if not fields(cls):
        return
    yield ""
    yield "| field | type | default | |"
    yield "| --- | --- | --- | --- |"
    for field, info in fields(cls).items():
        annotation = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        default = "" if info.is_required() else f"`{show(info.get_default(call_default_factory=True))}`"
        cells = (
            f"`{field}`",
            _escaped(kind(annotation)),
            default.replace("|", "\\|"),
            _escaped(meaning(cls, field)),
        )
        yield f"| {' | '.join(cells)} |"


def _prose(text: str) -> Iterator[str]:
    """A docstring: what is set apart by its indentation, or laid out in columns, keeps its shape."""
    fenced = False
    for block in re.split(r"\n\s*\n", text):
        rows = block.splitlines()
        shaped = all(row.startswith("    ") for row in rows) or any(
            re.search(r"\S {2,}\S", row) for row in rows
        )
        if fenced:
            yield ""
        fenced = True
        if shaped:
            yield "```text"
            yield from rows
            yield "```"
        else:
            yield _escaped(" ".join(row.strip() for row in rows))


def _escaped(text: str) -> str:
    """Text on one line in which markdown sees no table, emphasis or tag of its own; what stands in backticks stays."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(
        part if place % 2 else re.sub(r"([*<>])", r"\\\1", part) for place, part in enumerate(parts)
    )


def _anchor(name: str) -> str:
    """How a heading of that name is linked to: in lower case, dots left out."""
    return name.lower().replace(".", "")
