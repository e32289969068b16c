"""What was measured after a stage, as it is kept and compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reports.evaluate import TestScore, ValScore
from reports.profile import Profile


@dataclass(frozen=True)
class Record:
    """What was measured after a stage; position 0 is the teacher.

    val       by which one may choose; None where the task has no val split
    test      after the last stage only
    seconds   the stage took, without measuring
    read      samples the stage was handed, by split
    made      anything else that made it: the commit, versions, device
    notes     lines for the reader: locked groups, say
    chose     whether the stage chose among teachers and made no student: what was measured is the best of them
    """

    stage: str
    position: int
    profile: Profile
    metric: str
    val: ValScore | None
    seconds: float
    seed: int
    commit: str
    test: TestScore | None = None
    read: Mapping[str, int] = field(default_factory=dict)
    made: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    chose: bool = False

    def metrics(self) -> dict[str, float]:
        """The numbers under the tracker's names: `score/accuracy`, `score/accuracy_test`, `cost/macs`, ..."""
        scores = {
            **({f"score/{self.metric}": self.val.value} if self.val else {}),
            **({f"score/{self.metric}_test": self.test.value} if self.test else {}),
        }
        read = {f"data/{split}_samples": float(count) for split, count in self.read.items()}
        return {**scores, **self.profile.metrics(), "time/seconds": self.seconds, **read}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back equal."""
        return {
            **vars(self),
            "profile": self.profile.to_dict(),
            "val": self.val and self.val.to_dict(),
            "test": self.test and self.test.to_dict(),
            "read": dict(self.read),
            "made": dict(self.made),
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Read what `to_dict` wrote."""
        scores = {"val": data["val"] and ValScore.from_dict(data["val"])}
        scores |= {"test": data["test"] and TestScore.from_dict(data["test"])}
        profile, notes = Profile.from_dict(data["profile"]), tuple(data["notes"])
        return cls(**{**data, **scores, "profile": profile, "notes": notes})

    def to_json(self) -> str:
        """The record as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read what `to_json` wrote."""
        return cls.from_dict(json.loads(text))
