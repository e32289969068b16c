"""A benchmark as a grid of parts, ways and seeds: the options that choose among them, and a row for each, once."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from compress.course import Taught
from recipes.benchmarks.dfad_mnist import fields_of
from recipes.benchmarks.parts import table
from recipes.benchmarks.rows import Rows
from students.files import write_text

SUPERVISED = "supervised"
S = TypeVar("S", bound=Taught)


def options(
    doc: str | None,
    holds: str,
    parts: Sequence[str],
    ways: Sequence[str],
    first: tuple[Sequence[str], Sequence[str]],
) -> argparse.ArgumentParser:
    """What every such benchmark asks for.

    holds  what the data folder has in it; first  the parts and the ways that are measured where none is named
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder that holds {holds}")
    parser.add_argument("--work", type=Path, required=True, help="folder for the teachers")
    parser.add_argument("--parts", nargs="+", choices=tuple(parts), default=list(first[0]))
    parser.add_argument("--ways", nargs="+", choices=(*ways, SUPERVISED), default=list(first[1]))
    parser.add_argument("--fields", nargs="*", default=[], help="fields of the stage to set: lr=0.1 kappa=6")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, help="another file for the rows, and its table beside it")
    return parser


def measured(
    arguments: argparse.Namespace,
    rows: Rows,
    keys: Sequence[str],
    stage: Callable[[str, str], S | None],
    make: Callable[[str, str, S, int], dict[str, Any]],
    *,
    more: Mapping[str, Any] | None = None,
    metric: str = "Accuracy",
    whole: str | None = None,
) -> None:
    """Measure what is asked for and not there yet, and draw the table anew after every row.

    stage  of parts and a way, without the fields that were set; None where the two make no sense together
    make   what is measured of parts, a way, the stage, and a seed
    more   of a row's key
    whole  what the parts of SUPERVISED are called where it is the same for all; None keeps them apart
    """
    torch.set_num_threads(arguments.threads)
    if arguments.rows:
        rows = Rows(arguments.rows, rows.key)
    path = rows.path.with_name(f"{rows.path.stem}-rows.md")
    for parts in arguments.parts:
        for way in arguments.ways:
            plain = stage(parts, way)
            if plain is None:
                continue
            chosen = replace(plain, **fields_of(arguments.fields))
            for seed in arguments.seeds:
                where = whole if whole is not None and way == SUPERVISED else parts
                key = {
                    **(more or {}), "parts": where, "way": way, "fields": " ".join(sorted(arguments.fields)),
                    "epochs": chosen.epochs, "seed": seed,
                }  # fmt: skip
                if rows.has(**key):
                    continue
                row = make(parts, way, chosen, seed)
                rows.add({**key, **row})
                write_text(path, table(rows, keys, metric))
                joint = row["result"]["joint"]
                said = {**key, "joint": joint and joint["student"], "cpu_seconds": row["cpu_seconds"]}
                print(said, flush=True)
