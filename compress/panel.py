"""Several teachers as they are, asked about one task's images: each in its own size, channels and scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.losses import fine
from compress.spaces import Aliases, spaces_of
from students.adapt import Adapt
from students.fold import swift
from teachers.labels import LabelSpace, components, owners, relation
from teachers.nearest import did_you_mean
from teachers.place import place
from teachers.signature import Kind, Signature
from teachers.teacher import Teacher

_PIXELS = 0.02  # how far outside [0, 1] a pixel may lie before it is none


@dataclass(frozen=True)
class Member:
    """One teacher at the table.

    front  brings the task's images to what it takes; None where they are that already
    swift  the same network for answering without gradients, batch norms folded
    space  its labels, aliases taken
    own    which of its outputs are asked for, in the order of the task's labels
    index  where these stand among the task's labels
    """

    teacher: Teacher
    front: Adapt | None
    swift: nn.Module
    space: LabelSpace
    own: tuple[int, ...]
    index: tuple[int, ...]

    @property
    def name(self) -> str:
        """The teacher's."""
        return self.teacher.name

    @property
    def kind(self) -> Kind:
        """What its outputs mean."""
        return self.teacher.signature.kind

    def fronted(self, images: Tensor) -> Tensor:
        """The task's images as this teacher takes them; gradients pass."""
        return images if self.front is None else self.front(images)  # type: ignore[no-any-return]


class Panel:
    """Teachers ordered by name, and the labels that are asked of them; the teachers themselves are not touched.

    teachers   copies of them are asked, on `device`
    signature  of the task that feeds them; its labels are what is asked. None: the first teacher's inputs, and all
               labels of all teachers, ordered by name
    aliases    teacher -> {its label: the name it is to have}
    taxonomy   label -> the label above it; labels that contain each other may not belong to different teachers
    Raises ValueError for what cannot be asked, and says who and what (see each message).
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        signature: Signature | None,
        *,
        aliases: Aliases | None = None,
        taxonomy: Mapping[str, str] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.notes: list[str] = []
        self.device = torch.device(device)
        spaces = spaces_of(teachers, aliases or {}, taxonomy or {})
        everything = next(iter(spaces.values())).union(*spaces.values())
        first = min(teachers, key=lambda teacher: teacher.name).signature
        given = signature or first
        self.asked = LabelSpace(signature.labels if signature is not None else everything.names)
        if unknown := [name for name in self.asked if name not in everything]:
            raise ValueError(
                f"no teacher knows {', '.join(map(repr, unknown))}{did_you_mean(unknown[0], everything.names)}; they "
                f"know {', '.join(everything)}. Leave such labels out of the task, or add a teacher"
            )
        self.given = given
        _described(teachers, given)
        members = []
        for teacher in sorted(teachers, key=lambda teacher: teacher.name):
            space = spaces[teacher.name]
            index = tuple(place for place, name in enumerate(self.asked) if name in space)
            if not index:
                self.notes.append(f"{teacher.name} answers none of the labels asked for, and is not asked")
                continue
            own = tuple(space.names.index(self.asked.names[place]) for place in index)
            at_work = teacher.to(device)
            front = fronting(given, teacher)
            quick = swift(at_work.module, tuple(x.to(device) for x in teacher.signature.example(2)))
            quick = place(quick, device).requires_grad_(False)
            front = front if front is None else front.to(device)
            members.append(Member(at_work, front, quick, space, own, index))
        self.members = tuple(members)
        self.spaces = tuple(member.space for member in members)
        self.kinds = tuple(member.kind for member in members)
        self.shapes = self._dry()
        self._of_one_sort()

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers that are asked."""
        return tuple(member.name for member in self.members)

    @property
    def dense(self) -> bool:
        """Whether every pixel has an answer."""
        return len(self.shapes[0]) > 2

    @torch.no_grad()
    def ask(self, images: Tensor) -> list[Tensor]:
        """Every teacher's logits for the task's images, (n, K_m, ...) each, in fp32."""
        return [fine(member.swift(member.fronted(images))) for member in self.members]

    def pieces(self, answers: Sequence[Tensor]) -> list[Tensor]:
        """Of every teacher's logits those that are asked for, in the order of the task's labels."""
        return [answer[:, list(m.own)] for answer, m in zip(answers, self.members, strict=True)]

    def plan(self) -> list[str]:
        """Who owns which label, in words."""
        who = owners(self.spaces)
        lines = [f"{name}: {', '.join(who[name])}" for name in self.asked]
        counts = ", ".join(f"{m.name} {len(m.index)} of {len(m.space)} ({m.kind})" for m in self.members)
        lines = [f"{len(self.asked)} labels asked of {len(self.members)} teachers: {counts}", *lines]
        for place_, one in enumerate(self.spaces):
            for other in self.spaces[place_ + 1 :]:
                lines.append(f"{one.owner} and {other.owner}: {relation(one, other)}")
        for member in self.members:
            if member.front is not None:
                wanted = member.teacher.signature
                scale = (
                    "" if wanted.mean == self.given.mean and wanted.std == self.given.std else ", its scale"
                )
                shape = "x".join(map(str, wanted.inputs[0]))
                lines.append(f"{member.name} is shown the images brought to {shape}{scale}")
        parts = len(components(self.spaces))
        if parts > 1 and all(kind == "softmax" for kind in self.kinds):
            lines.append(
                f"{parts} parts that share no label: which part an image belongs to is not in the answers, and is "
                "taken from evidence that is measured first"
            )
        return lines + self.notes

    def look(self, images: Tensor) -> None:
        """The first batch. Raises ValueError where it is a single sample, or where its pixels are none."""
        if len(images) < 2:
            raise ValueError(
                f"a batch of {len(images)} has no statistics of its own: at least 2 samples a batch are needed"
            )
        if images.dim() != 4 or not any(m.teacher.signature.mean for m in self.members):
            return
        mean, std = (
            images.new_tensor(row if row is not None else (plain,) * images.shape[1])[:, None, None]
            for row, plain in ((self.given.mean, 0.0), (self.given.std, 1.0))
        )
        pixels = images * std + mean
        low, high = float(pixels.min()), float(pixels.max())
        if low < -_PIXELS or high > 1 + _PIXELS:
            raise ValueError(
                f"the task's images have pixels from {low:.2f} to {high:.2f} once its normalisation is undone, not "
                "from "
                "0 to 1: state mean and std of the task as they were applied, or mean 0 and std 1 for images as they "
                "are"
            )

    def _dry(self) -> list[torch.Size]:
        """Ask everyone once. Raises ValueError where one cannot answer, or answers another number of labels."""
        found = []
        for member in self.members:
            (shape,) = self.given.inputs
            images = self.given.example(2)[0].to(self.device)
            try:
                with torch.no_grad():
                    answer = member.teacher(member.fronted(images))
                    if isinstance(answer, Tensor) and not bool(answer.isfinite().all()):
                        raise ValueError(
                            f"teacher {member.name!r} gives NaN or infinity: look for NaN in its weights"
                        )
            except RuntimeError as problem:
                raise ValueError(
                    f"teacher {member.name!r} does not take images of {shape}, brought to "
                    f"{member.teacher.signature.inputs[0]}: {problem}"
                ) from problem
            labels = len(member.space)
            if not isinstance(answer, Tensor) or answer.dim() < 2 or answer.shape[1] != labels:
                what = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
                raise ValueError(
                    f"teacher {member.name!r} has {labels} labels ({', '.join(member.space)}) but answers 2 images "
                    f"with {what}: the second number is that of its labels"
                )
            found.append(answer.shape)
        return found

    def _of_one_sort(self) -> None:
        """Raises ValueError where some answer once an image and others once a pixel, or on grids that differ."""
        grids = {m.name: tuple(shape[2:]) for m, shape in zip(self.members, self.shapes, strict=True)}
        if len(set(grids.values())) > 1:
            said = ", ".join(
                f"{name} {'x'.join(map(str, grid)) + ' pixels' if grid else 'the whole image'}"
                for name, grid in grids.items()
            )
            raise ValueError(
                f"the teachers answer on different grids: {said}. One student answers on one: give such teachers a "
                "student, and a loss, of their own, or their tasks the same size"
            )


def _described(teachers: Sequence[Teacher], given: Signature) -> None:
    """Raises ValueError where the scale of some teachers' images is known and that of others is not."""
    silent = [teacher.name for teacher in teachers if teacher.signature.mean is None]
    told = [teacher.name for teacher in teachers if teacher.signature.mean is not None]
    images = all(len(teacher.signature.inputs[0]) == 3 for teacher in teachers)
    if images and silent and (told or given.mean is not None):
        raise ValueError(
            f"how {', '.join(silent)} had its images normalised is not stated, while it is of "
            f"{', '.join(told) or 'the task'}: state mean and std, or pass identity explicitly (mean 0, std 1)"
        )


def fronting(given: Signature, teacher: Teacher) -> Adapt | None:
    """What brings the task's images to a teacher; None where nothing needs to be done.

    Raises ValueError where one cannot be made of the other.
    """
    wanted = teacher.signature
    if len(given.inputs) != 1 or len(wanted.inputs) != 1:
        raise ValueError(
            f"teacher {teacher.name!r} takes {wanted.inputs}, the task gives {given.inputs}: one input each is needed"
        )
    if (given.inputs, given.mean, given.std) == (wanted.inputs, wanted.mean, wanted.std):
        return None
    try:
        return Adapt(given, wanted).eval()
    except ValueError as problem:
        raise ValueError(f"teacher {teacher.name!r}: {problem}") from problem
