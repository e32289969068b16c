"""Rows of a benchmark: one JSON object a line, kept as they come, so that a stopped benchmark goes on."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]


class Rows:
    """The rows of one file; a row is known by its key fields and never measured twice."""

    def __init__(self, path: Path, key: Sequence[str]) -> None:
        self.path, self.key = path, tuple(key)

    def all(self) -> list[Row]:
        """Every row so far."""
        if not self.path.exists():
            return []
        return [
            json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line.strip()
        ]

    def has(self, **key: object) -> bool:
        """Whether a row with these key fields is there."""
        return any(all(row.get(k) == key.get(k) for k in self.key) for row in self.all())

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row; a single short write, so that several programs may share the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "commit": commit()}, sort_keys=True) + "\n")


def commit() -> str:
    """The commit that measures, with a plus where the tree has changes."""
    here = Path(__file__).parent
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=8"], cwd=here, capture_output=True, text=True
    )
    return run.stdout.strip() or "unknown"


def machine() -> str:
    """The machine, in words fit for a table's caption."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    bf16 = "with bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "without bf16"
    return f"{platform.machine()} CPU {bf16}, PyTorch {torch.__version__}"


def spread(values: Iterable[float], scale: float = 100.0) -> str:
    """Mean and standard deviation over seeds, as '86.5 ± 0.2 (3)'; the number of values in brackets."""
    numbers = [value * scale for value in values]
    if not numbers:
        return "-"
    deviation = f" ± {statistics.stdev(numbers):.2f}" if len(numbers) > 1 else ""
    return f"{statistics.fmean(numbers):.2f}{deviation} ({len(numbers)})"


def markdown(head: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in body]
    return "\n".join(lines)


def of_scores(head: Sequence[str], body: Iterable[Sequence[object]], metric: str = "Accuracy") -> str:
    """A table of scores by `spread`, with the line that says what they are."""
    said = f"{metric} on test in %, mean ± standard deviation over seeds (how many). {machine()}."
    return f"{said}\n\n{markdown(head, body)}\n"
