"""Whether a student keeps to its budget: a word, and a line for every bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Literal, Self

Word = Literal["MET", "MISSED", "INFEASIBLE", "UNVERIFIED", "POSSIBLE"]
"""POSSIBLE is what a plan says, before there is anything to judge"""

_MEANS: Mapping[str, str] = {
    "MET": "every bound is kept",
    "MISSED": "a bound is not kept",
    "INFEASIBLE": "no student of this recipe can keep to it",
    "UNVERIFIED": "no bound is broken, but one could not be checked",
    "POSSIBLE": "nothing stands against it so far",
}


@dataclass(frozen=True)
class Bound:
    """One bound of a budget.

    name         macs, params, bytes, latency_ms_p95 or accuracy_drop
    asked        as it stands on the page
    limit        in the bound's own unit; None for a share of what is not known
    found        in the same unit; None where it could not be had
    low, high    of a score: the 95 % interval
    held         whether it is kept; None where that is not known
    said         all of it, in words
    """

    name: str
    asked: str
    limit: float | None
    found: float | None
    held: bool | None
    said: str
    low: float | None = None
    high: float | None = None

    def line(self) -> str:
        """One line for a terminal."""
        mark = {True: "kept", False: "NOT kept", None: "open"}[self.held]
        return f"{self.name}: {mark}; {self.said}"


@dataclass(frozen=True)
class Verdict:
    """What came of a budget; without one there is none."""

    word: Word
    bounds: tuple[Bound, ...]

    @classmethod
    def of(cls, bounds: tuple[Bound, ...], otherwise: Word = "UNVERIFIED") -> Self:
        """MISSED where a bound is not kept, MET where all are, else what may be said where some are open."""
        if any(bound.held is False for bound in bounds):
            return cls("MISSED", bounds)
        return cls("MET" if all(bound.held for bound in bounds) else otherwise, bounds)

    @property
    def failed(self) -> bool:
        """Whether whoever waits for the budget should stop here."""
        return self.word in ("MISSED", "INFEASIBLE")

    def lines(self) -> list[str]:
        """What to say on a terminal: the word, then a line for every bound."""
        return [f"budget {self.word}: {_MEANS[self.word]}", *(f"  {bound.line()}" for bound in self.bounds)]

    def metrics(self) -> dict[str, float]:
        """The numbers under the tracker's names: `budget/macs_asked`, `budget/macs_found`, ..."""
        found: dict[str, float] = {}
        for bound in self.bounds:
            values = {"asked": bound.limit, "found": bound.found, "low": bound.low, "high": bound.high}
            found |= {
                f"budget/{bound.name}_{key}": value for key, value in values.items() if value is not None
            }
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back equal."""
        return {"word": self.word, "bounds": [asdict(bound) for bound in self.bounds]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(data["word"], tuple(Bound(**bound) for bound in data["bounds"]))


def html(data: Mapping[str, Any]) -> str:
    """A verdict, as `Verdict.to_dict` gives it, for the top of a report."""
    verdict = Verdict.from_dict(data)
    lines = "".join(f"<li>{escape(bound.line())}</li>" for bound in verdict.bounds)
    return (
        f'<section class="budget" data-verdict="{verdict.word}"><h2>Budget {verdict.word}</h2>'
        f"<p>{escape(_MEANS[verdict.word][:1].upper() + _MEANS[verdict.word][1:])}.</p><ul>{lines}</ul></section>"
    )
