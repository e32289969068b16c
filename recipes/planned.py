"""A plan as data: what is known of every teacher and stage before anything is trained, and the text of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from recipes.seal import Seal
from reports.plots import duration, short, size
from reports.verdict import Verdict

_SHOWN = 12
"""layers that a line names before it only counts them"""


@dataclass(frozen=True)
class PlannedTeacher:
    """A teacher: where it comes from, what it costs, and how long its training would take."""

    name: str
    source: str
    macs: int
    params: int
    bytes: int
    seconds: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class PlannedStage:
    """One stage.

    reads      none, inputs or labels, of how many train samples
    touched    layer -> how it would change
    skipped    reason -> layers, groups and blocks that stay as they are
    macs, params, bytes   of the student afterwards; None where there is none, or nobody can know
    sure       whether these are exact, else about
    seconds, memory       about; None where no step was timed
    problem    why it would fail or refuse its work
    done       the folder in which a run would find it finished
    """

    position: int
    name: str
    settings: str
    reads: str
    labels: bool
    samples: int | None
    touched: Mapping[str, str]
    skipped: Mapping[str, tuple[str, ...]]
    lines: tuple[str, ...]
    macs: int | None
    params: int | None
    bytes: int | None
    sure: bool
    seconds: float | None
    memory: int | None
    problem: str | None
    done: str | None


@dataclass(frozen=True)
class Plan:
    """What a recipe would do; `str` of it is for people, `to_dict` for machines.

    hash      of the page, the teachers' structures and what stages would touch, whatever the weights are
    verdict   what can be said of the recipe's budget, if it has one
    """

    recipe: str
    page: str
    seed: int
    precision: str
    hash: str
    teachers: tuple[PlannedTeacher, ...]
    task: str
    samples: Mapping[str, int]
    notes: tuple[str, ...]
    stages: tuple[PlannedStage, ...]
    verdict: Verdict | None
    device: str | None
    seal: Seal = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = asdict(self)
        plain.pop("seal")
        return {**plain, "verdict": self.verdict.to_dict() if self.verdict else None}

    @property
    def seconds(self) -> float | None:
        """About how long all of it takes that is not done yet; None where no step was timed."""
        parts = [teacher.seconds or 0.0 for teacher in self.teachers]
        parts += [stage.seconds or 0.0 for stage in self.stages if stage.done is None]
        return sum(parts) if self.device is not None else None

    def __str__(self) -> str:
        return "\n".join(_text(self))


# -- for people -------------------------------------------------------------------------------------------


def _text(made: Plan) -> list[str]:
    lines = [
        f"{made.recipe}: seed {made.seed}, {made.precision}, hash {made.page[:8]}, plan {made.hash[:12]}",
        "",
    ]
    for teacher in made.teachers:
        lines.append(f"teacher {teacher.name}: {teacher.source}")
        lines.append(
            f"  {short(teacher.macs)} MACs, {short(teacher.params)} parameters, {size(teacher.bytes)}"
        )
        lines += _about(teacher.seconds, teacher.memory)
    counts = ", ".join(f"{count} {split}" for split, count in made.samples.items())
    lines += [f"task {made.task}: {counts} samples", *(f"  {note}" for note in made.notes), ""]
    first = made.teachers[0].macs if len(made.teachers) == 1 else None
    for stage in made.stages:
        lines.append(f"{stage.position}. {stage.settings}")
        lines.append(f"  reads {_reads(stage)}")
        lines += [f"  {line}" for line in stage.lines]
        if stage.touched:
            lines.append(f"  touches {_named(stage.touched)}")
        if stage.macs is not None:
            lines.append(f"  leaves {_cost(stage, first)}")
        lines += _about(stage.seconds, stage.memory)
        if stage.problem is not None:
            lines.append(f"  {stage.problem}")
        if stage.done is not None:
            lines.append(f"  done already: {stage.done}")
    lines += ["", "test is read once, at the end, by the runner"]
    if made.seconds is not None:
        lines.append(f"about {duration(made.seconds)} of work on {made.device}, measuring not counted")
    if made.verdict is not None:
        lines += ["", *made.verdict.lines()]
    return lines


def _reads(stage: PlannedStage) -> str:
    if stage.samples is None:
        return "no data"
    labels = "with" if stage.labels else "without"
    return f"train {labels} labels ({stage.samples} samples), and val {labels} labels"


def _named(touched: Mapping[str, str]) -> str:
    some = [f"{name} ({what})" for name, what in list(touched.items())[:_SHOWN]]
    more = len(touched) - len(some)
    return f"{len(touched)} layers: {', '.join(some)}" + (f", and {more} more" if more else "")


def _cost(stage: PlannedStage, first: int | None) -> str:
    assert stage.macs is not None
    about = "" if stage.sure else "about "
    share = f" ({stage.macs / first:.1%})" if first else ""
    return f"{about}{short(stage.macs)} MACs{share}, {short(stage.params)} parameters, {size(stage.bytes)}"


def _about(seconds: float | None, memory: int | None) -> list[str]:
    if seconds is None:
        return []
    return [f"  takes about {duration(max(seconds, 0.1))}, {size(memory)} of tensors at the peak"]
