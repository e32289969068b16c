"""Training curves on disk: one JSON line for what a stage said at a step, in `curves.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def add(folder: Path, values: Mapping[str, float], step: int) -> None:
    """Append what was said at a step."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "curves.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **values}) + "\n")


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve as (step, value) pairs, steps rising.

    Of a step said twice, as after a resume, the last counts. A line cut short by a kill is passed over: the
    resumed epoch says it again.
    """
    path = folder / "curves.jsonl"
    found: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        step = values.pop("step")
        for name, value in values.items():
            found.setdefault(name, {})[step] = value
    return {name: sorted(points.items()) for name, points in found.items()}
