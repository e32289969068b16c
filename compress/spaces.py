"""The labels of several teachers, and whether their names mean what they seem to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from teachers.labels import LabelSpace
from teachers.nearest import did_you_mean
from teachers.teacher import Teacher

Aliases = Mapping[str, Mapping[str, str]]
"""teacher -> {its label: the name it is to have}"""


def spaces_of(
    teachers: Sequence[Teacher], aliases: Aliases, taxonomy: Mapping[str, str]
) -> dict[str, LabelSpace]:
    """The labels of every teacher, aliases taken. Raises ValueError where names of teachers or labels clash."""
    names = [teacher.name for teacher in teachers]
    if not names:
        raise ValueError("there is no teacher to amalgamate: name at least one")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two teachers are called {twice[0]!r}: give each a name of its own")
    if strange := [name for name in aliases if name not in names]:
        raise ValueError(
            f"there are aliases for {strange[0]!r}, who is not a teacher{did_you_mean(strange[0], names)}; there are "
            f"{', '.join(names)}"
        )
    spaces = {
        teacher.name: LabelSpace(teacher.signature.labels, teacher.name).renamed(
            aliases.get(teacher.name, {})
        )
        for teacher in teachers
    }
    for teacher in teachers:
        if teacher.signature.kind == "softmax" and len(spaces[teacher.name]) == 1:
            raise ValueError(
                f"teacher {teacher.name!r} has one label, {spaces[teacher.name].names[0]!r}, and a softmax over it is "
                "always 1: declare it sigmoid (its task's signature)"
            )
    _of_one_kind(teachers, spaces)
    _of_one_naming(spaces)
    for below, above in taxonomy.items():
        for one in spaces.values():
            for other in spaces.values():
                if one is not other and above in one and below in other and below not in one:
                    raise ValueError(
                        f"{above!r} of {one.owner!r} contains {below!r} of {other.owner!r}: both are true of one "
                        "image, so that they cannot be two of its labels. Ask for one of them, or alias it apart"
                    )
    return spaces


def _of_one_kind(teachers: Sequence[Teacher], spaces: Mapping[str, LabelSpace]) -> None:
    kinds: dict[str, tuple[str, str]] = {}
    for teacher in teachers:
        for label in spaces[teacher.name]:
            who, kind = kinds.setdefault(label, (teacher.name, teacher.signature.kind))
            if kind != teacher.signature.kind:
                raise ValueError(
                    f"{label!r} is {kind} of {who!r} and {teacher.signature.kind} of {teacher.name!r}: the two do not "
                    f"mean the same. Call one of them otherwise: aliases={{{teacher.name!r}: {{{label!r}: '...'}}}}"
                )


def _of_one_naming(spaces: Mapping[str, LabelSpace]) -> None:
    numbers = {who for who, space in spaces.items() if all(name.isdigit() for name in space)}
    words = {who for who, space in spaces.items() if not any(name.isdigit() for name in space)}
    if numbers and words:
        one, other = min(numbers), min(words)
        example = spaces[one].names[0]
        raise ValueError(
            f"the labels of {one!r} are numbers ({', '.join(spaces[one].names[:4])}) and those of {other!r} are names "
            f"({', '.join(spaces[other].names[:4])}): whether they mean the same nobody can tell. Give the numbers "
            f"names: aliases={{{one!r}: {{{example!r}: '...'}}}}"
        )
