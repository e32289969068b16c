"""What a recipe's student may cost and lose at most: asked on the page, judged at the end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator

from reports import plots
from teachers.spec import Field, spec

_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BYTES = {
    **_COUNTS,
    "b": 1,
    **{f"{letter}b": size for letter, size in _COUNTS.items() if letter},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}
_MILLISECONDS = {"": 1, "ms": 1}
_WRITTEN = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([A-Za-z%]*)\s*")


@dataclass(frozen=True)
class Amount:
    """So much of something: a number of its own unit, or a share of what the teacher has."""

    value: float
    share: bool

    def limit(self, reference: float | None) -> float | None:
        """The number it stands for; None for a share of something unknown."""
        if not self.share:
            return self.value
        return None if reference is None else self.value * reference


def amount(name: str, written: str | float) -> Amount:
    """Read `40%`, `300kB`, `1.5M`, `5000000`: as bound `name` of a Budget understands it.

    Raises ValueError where it is no such amount, not above 0, or a number that can only be meant as a share.
    """
    units = {"bytes": _BYTES, "latency_ms_p95": _MILLISECONDS}.get(name, _COUNTS)
    examples = {"bytes": "300kB, 1.5MiB or 40%", "latency_ms_p95": "3.0 or 50%"}.get(name, "1.5M or 40%")
    found = _WRITTEN.fullmatch(str(written))
    unit = found[2].lower() if found else ""
    if not found or (unit != "%" and unit not in units):
        known = ", ".join(sorted({u for u in units if u}, key=lambda u: (units[u], u)))
        raise ValueError(f"{written!r} is no amount of {name}: write {examples} (units: {known}, %)")
    value = float(found[1]) * (0.01 if unit == "%" else units[unit])
    if value <= 0:
        raise ValueError(f"{written!r} leaves nothing: {name} must be above 0")
    if unit != "%" and name != "latency_ms_p95" and value < 1:
        raise ValueError(
            f"{written} is less than one of {name}: write {100 * value:g}% for a share of the teacher's"
        )
    return Amount(value, unit == "%")


def _checked(name: str) -> BeforeValidator:
    def check(written: object) -> object:
        # What is neither text nor a number is for pydantic to refuse; true and false it would take for 1 and 0.
        if isinstance(written, bool):
            raise ValueError(f"{name} must be an amount, not true or false")
        if isinstance(written, str | int | float):
            amount(name, written)
        return written

    return BeforeValidator(check)


COSTS = ("macs", "params", "bytes", "latency_ms_p95")
"""the bounds that are costs; `accuracy_drop` is judged on test"""


@spec
class Budget:
    """What the finished student may have at most; every bound that is asked must hold.

    A share (`40%`) is of the teacher: of the only one, or the one that was chosen; of all that were amalgamated
    together. Costs are those in the table of a run; latency is taken in turns with the teacher's.
    """

    macs: Annotated[str | int | float | None, _checked("macs")] = None
    """multiply-accumulates of one input: 40%, 1.5M"""
    params: Annotated[str | int | float | None, _checked("params")] = None
    """parameters: 40%, 100k"""
    bytes: Annotated[str | int | float | None, _checked("bytes")] = None
    """of the weights file: 40%, 300kB (1000 bytes), 1.5MiB"""
    latency_ms_p95: Annotated[str | int | float | None, _checked("latency_ms_p95")] = None
    """milliseconds that 95 of 100 calls at batch 1 (of graphs, a node) take at most, on the run's machine: 3.0, 50%"""
    accuracy_drop: Annotated[float, Field(ge=-100, le=100)] | None = None
    """points (hundredths) of the task's score on test that the student may be below its teacher"""

    def __post_init__(self) -> None:
        if not self.asked() and self.accuracy_drop is None:
            raise ValueError(f"a budget asks for something: set one of {', '.join(COSTS)}, accuracy_drop")

    def asked(self) -> dict[str, Amount]:
        """The costs that are bounded, by name."""
        written = {name: getattr(self, name) for name in COSTS}
        return {name: amount(name, value) for name, value in written.items() if value is not None}


def said(name: str, value: float) -> str:
    """A cost as people read it.

    >>> said("macs", 1_500_000), said("bytes", 307_200), said("latency_ms_p95", 3.0)
    ('1.5M', '300.0 KiB', '3 ms')
    """
    if name == "bytes":
        return plots.size(round(value))
    return f"{plots.milliseconds(value)} ms" if name == "latency_ms_p95" else plots.short(value)
