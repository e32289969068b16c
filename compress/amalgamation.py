"""What a student of several teachers comes with: whose labels are where, and how their answers were put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from compress.calibration import Calibration


@dataclass(frozen=True)
class Amalgamation:
    """Goes with the state, into the report and onto the student's card.

    teachers     names, in the order in which they were asked
    labels       of each teacher, aliases taken
    merge        how their answers became one
    calibration  what was fitted, where anything was
    branches     teacher -> the block behind which its branch leaves the trunk; empty for a student of one piece
    """

    teachers: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    merge: str
    calibration: Calibration | None = None
    branches: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "branches": dict(self.branches)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, and JSON made lists of."""
        fitted = data["calibration"]
        return cls(
            tuple(data["teachers"]), tuple(map(tuple, data["labels"])), data["merge"],
            None if fitted is None else Calibration.from_dict(fitted), dict(data["branches"]),
        )  # fmt: skip
