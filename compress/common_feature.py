"""Common feature learning: student and teachers, however different, meet in a space that is learned with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from compress.adapters import CommonSpace, resized
from compress.course import Streams, Terms
from compress.listening import LAST, Choir, heard, places
from compress.losses import mmd, paired
from compress.method import Method, Work, needed
from compress.panel import Panel
from teachers.spec import Field, spec

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@spec
class CommonFeature(Method):
    """Besides the merged answer, pull the student's features to each teacher's in a common space.

        L = imitation + weight * sum_m distance(h_S, h_m) + reconstruction * sum_m MSE(F^_m, F_m)      (`CommonSpace`)

    Features are of what the last layer takes in, or of named modules; those on other grids are brought to the
    student's. The space and its aligners are thrown away.
    Source: Luo et al., IJCAI 2019. There the distance is MMD with fixed bandwidths, most of them dead, which moreover
    forgets that both features are of one image: "paired" is the default here, "mmd" has the bandwidths of its batch.
    """

    tap: str = LAST
    """the student's module whose output is matched; without a name, what its last layer takes in"""
    teacher_taps: dict[str, str] = field(default_factory=dict)
    """by teacher, the same; without, what its last layer takes in"""
    width: Annotated[int, Field(ge=2)] = 64
    """channels of the common space"""
    weight: Weight = 1.0
    """of the distance"""
    reconstruction: Weight = 1.0
    """of the reconstruction: above 0 where the distance has a weight, or the space collapses"""
    distance: Literal["paired", "mmd"] = "paired"
    """1 - cosine of both features of an image, or the maximum mean discrepancy of a batch"""
    ramp: Weight = 1.0
    """epochs over which both weights rise from 0"""

    def __post_init__(self) -> None:
        if self.weight and not self.reconstruction:
            raise ValueError(
                f"CommonFeature with weight {self.weight:g} and reconstruction 0 has a perfect answer, a space in "
                "which everything is the same: set reconstruction above 0"
            )

    def plan(self, panel: Panel) -> list[str]:
        """Where features are matched."""
        where = ", ".join(
            f"{name} at {self.teacher_taps.get(name) or 'its last layer'}" for name in panel.names
        )
        return [
            f"features: student at {self.tap or 'its last layer'}, {where}; {self.distance}, width {self.width}"
        ]

    def __call__(self, work: Work, student: nn.Module | None, epochs: float) -> nn.Module:
        """Teach. Raises ValueError as `listening.places` does."""
        student = needed(student, "CommonFeature")
        choir = Choir(work.panel, [LAST], {name: (tap,) for name, tap in self.teacher_taps.items()})
        images = work.panel.given.example(2)[0].to(work.session.device)
        mine = places(student, [self.tap], (images,), "the student")
        with heard(student, mine) as features, torch.no_grad():
            student.eval()(images)
        shape = features[self.tap].shape
        grid = tuple(shape[2:])
        space = work.session.place(CommonSpace(shape[1], choir.widths[0], self.width, bool(grid)))
        ramp = Ramp(self.ramp * work.course.source.steps())

        def terms(images: Tensor, _: Streams) -> Terms:
            answers, (felt,) = choir.ask(images)
            with heard(student, mine) as features:
                outputs = student(images)
            of_student = features[self.tap]
            h, theirs, losses = space(of_student, [resized(f, of_student.shape[2:]) for f in felt])
            measure = mmd if self.distance == "mmd" else paired
            share = ramp.step()
            more: dict[str, Tensor] = {}
            for name, its, loss in zip(work.panel.names, theirs, losses, strict=True):
                more[f"{name} features"] = share * self.weight * measure(h, its)
                more[f"{name} reconstruction"] = share * self.reconstruction * loss
            return {**work.imitated(outputs, answers), **more}

        work.course.phase(terms, epochs, [student], [space], more={"ramp": ramp})
        return student


class Ramp:
    """A weight that rises in a line from 0 to 1 over so many steps, and is kept."""

    def __init__(self, steps: float) -> None:
        self.steps, self.done = steps, 0

    def step(self) -> float:
        """The weight of the next step."""
        self.done += 1
        return min(1.0, self.done / self.steps) if self.steps else 1.0

    def state_dict(self) -> dict[str, Any]:
        """How far it has come."""
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.done = int(state["done"])
