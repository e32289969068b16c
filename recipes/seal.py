"""The hash of a plan: the page, every teacher's structure, and what stages would touch, whatever the weights are.

A plan made before a teacher was trained holds after it; a network whose code has changed does not match it any more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import nn

from recipes.foresee import Step
from recipes.page import digest
from recipes.recipe import Recipe
from reports.profile import layers
from students.files import write_json
from students.layers import parts_of
from students.structure import Untraceable
from students.trace import nodes_of
from teachers.signature import Signature
from teachers.teacher import Teacher

FILE = "plan.json"
_SHORT = 8


@dataclass(frozen=True)
class Seal:
    """What a plan stands for, part by part.

    page      sha256 of the recipe
    teachers  name -> sha256 of the network's structure
    stages    sha256 of what each stage would touch
    """

    page: str
    teachers: Mapping[str, str]
    stages: tuple[str, ...]

    @classmethod
    def of(cls, recipe: Recipe, teachers: Sequence[Teacher], steps: Sequence[Step]) -> Self:
        """The seal of a recipe, its teachers and the steps foreseen."""
        return cls(
            digest(recipe),
            {teacher.name: structure(teacher.module, teacher.signature) for teacher in teachers},
            tuple(_sha256([type(step.stage).__name__, *step.settled]) for step in steps),
        )

    @property
    def hash(self) -> str:
        """All of it, in hexadecimal."""
        return _sha256(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back equal."""
        return {"page": self.page, "teachers": dict(self.teachers), "stages": list(self.stages)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(data["page"], dict(data["teachers"]), tuple(data["stages"]))

    def must_be(self, asked: str) -> None:
        """Raises ValueError where this is not the plan of that hash, or of one that begins so."""
        if len(asked) < _SHORT:
            raise ValueError(
                f"--plan {asked}: give at least the first {_SHORT} characters of the plan's hash"
            )
        if not self.hash.startswith(asked.lower()):
            raise ValueError(
                f"planned with {asked[:12]}, now {self.hash[:12]}: the page, a network or what its stages would touch "
                "has changed since; look at `decoct plan` again"
            )

    def keep(self, folder: Path) -> None:
        """Write `plan.json`, unless a run of this folder was planned otherwise: then raise ValueError.

        A page that differs in its budget or its name alone is no other plan for what is done.
        """
        path = folder / FILE
        if path.exists():
            try:
                old = Seal.from_dict(json.loads(path.read_text(encoding="utf-8"))["seal"])
            except (ValueError, KeyError, TypeError) as problem:
                raise ValueError(f"{path} is damaged ({problem}): delete it, and run again") from problem
            if what := self.unlike(old):
                raise ValueError(
                    f"{folder} was planned with {old.hash[:12]}, now {self.hash[:12]}: {what}. What was done there is "
                    "of another network: put its code back, or delete that folder and begin anew"
                )
        write_json(path, {"hash": self.hash, "seal": self.to_dict()})

    def unlike(self, old: Seal) -> str | None:
        """What of the work differs from another plan, in words; None where nothing does."""
        said = [
            f"teacher {name!r} has another structure"
            for name, mine in self.teachers.items()
            if old.teachers.get(name) != mine
        ]
        said += [
            f"stage {place} would touch something else"
            for place, (mine, its) in enumerate(zip(self.stages, old.stages, strict=False), 1)
            if mine != its
        ]
        if len(self.stages) != len(old.stages):
            said.append(f"there are {len(self.stages)} stages, not {len(old.stages)}")
        return "; ".join(said) or None


def structure(module: nn.Module, signature: Signature) -> str:
    """sha256 of what a network is made of: its layers and the order they are called in, no value of any weight.

    Of one whose code cannot be followed: its printed form, every tensor's shape, and what layers do in which order.
    """
    try:
        (calls, constants), (parts, tied) = nodes_of(module), parts_of(module)
        return _sha256([calls, constants, parts, tied])
    except (Untraceable, ValueError):
        shapes = [f"{name} {tuple(x.shape)} {x.dtype}" for name, x in module.state_dict().items()]
        done = [f"{layer.name} {layer.macs}" for layer in layers(module, signature.usual(1))]
        return _sha256([repr(module), *shapes, *done])


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
