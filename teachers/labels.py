"""Labels by name: what networks answer, how their answers overlap, and where each stands among those of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from teachers.nearest import did_you_mean


@dataclass(frozen=True)
class LabelSpace:
    """The labels that one network answers, each once, in the order of its outputs.

    Raises ValueError for no label at all, one that is no text or an empty one, and one that is there twice.
    """

    names: tuple[str, ...]
    owner: str = "the task"
    """whose they are, for messages"""

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError(f"{self.owner} has no label: name one for each of its outputs")
        for name in self.names:
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"{self.owner} has the label {name!r}: a label is a text that is not empty")
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise ValueError(
                f"{self.owner} has the label {twice[0]!r} twice among its {len(self.names)}: each output needs a name "
                "of its own"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def renamed(self, aliases: Mapping[str, str]) -> Self:
        """The same outputs under other names, {"auto": "automobile"}.

        Raises ValueError for an alias of a label that is not there, and where two labels become one.
        """
        for name in aliases:
            if name not in self.names:
                raise ValueError(
                    f"{self.owner} has no label {name!r} to call {aliases[name]!r}{did_you_mean(name, self.names)}; it "
                    f"has {', '.join(self.names)}"
                )
        made = tuple(aliases.get(name, name) for name in self.names)
        for name in made:
            both = [old for old, new in zip(self.names, made, strict=True) if new == name]
            if len(both) > 1:
                raise ValueError(
                    f"the aliases of {self.owner} collide: {' and '.join(map(repr, both))} would both be called "
                    f"{name!r}"
                )
        return type(self)(made, self.owner)

    def union(self, *others: LabelSpace) -> Self:
        """All labels of all of them, ordered by name: who is asked first does not matter."""
        spaces: tuple[LabelSpace, ...] = (self, *others)
        return type(self)(tuple(sorted({name for space in spaces for name in space})))

    def subset(self, names: Sequence[str]) -> Self:
        """These labels, in this order. Raises ValueError for one that is not there."""
        made = type(self)(tuple(names))
        made.index_map(self)
        return made

    def index_map(self, other: LabelSpace) -> tuple[int, ...]:
        """Where each label of this space stands in another. Raises ValueError for labels that it does not have."""
        places = {name: place for place, name in enumerate(other.names)}
        if missing := [name for name in self.names if name not in places]:
            raise ValueError(
                f"{', '.join(map(repr, missing))} {'is' if len(missing) == 1 else 'are'} not among the labels of "
                f"{other.owner} ({', '.join(other.names)}){did_you_mean(missing[0], other.names)}"
            )
        return tuple(places[name] for name in self.names)


def owners(spaces: Sequence[LabelSpace]) -> dict[str, tuple[str, ...]]:
    """Label -> who has it, labels ordered by name."""
    return {
        name: tuple(space.owner for space in spaces if name in space)
        for name in sorted({name for space in spaces for name in space})
    }


def components(spaces: Sequence[LabelSpace]) -> tuple[tuple[int, ...], ...]:
    """The connected parts of the graph whose nodes are spaces and labels: places of the spaces, rising.

    Spaces that share a label, or share one with a third that shares one, are of one part.
    """
    parts: list[set[int]] = []
    for place, space in enumerate(spaces):
        touched = [part for part in parts if any(set(spaces[other]) & set(space) for other in part)]
        parts = [part for part in parts if part not in touched]
        parts.append({place}.union(*touched))
    return tuple(sorted(tuple(sorted(part)) for part in parts))


def relation(one: LabelSpace, other: LabelSpace) -> str:
    """disjoint, identical, overlapping, or which contains the other."""
    mine, theirs = set(one), set(other)
    if mine == theirs:
        return "identical"
    if not mine & theirs:
        return "disjoint"
    if mine < theirs or theirs < mine:
        return f"contained in {other.owner if mine < theirs else one.owner}"
    return "overlapping"
