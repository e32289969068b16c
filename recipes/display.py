"""Whom the runner tells what it does: what a display can be told, and one that tells nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Display(Protocol):
    """Whom the runner tells what it does; `recipes.terminal.Display` shows it to a person."""

    def stage(self, name: str, position: int, total: int) -> None:
        """A stage begins; position 0 are the teachers."""

    def epoch(self, done: int, total: int, values: Mapping[str, float]) -> None:
        """So many epochs of it are done."""

    def note(self, text: str) -> None:
        """A line to be read."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """What came out."""


class Quiet:
    """Tells nobody."""

    def stage(self, name: str, position: int, total: int) -> None:
        """Nothing."""

    def epoch(self, done: int, total: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Nothing."""


class Progress(Quiet):
    """Passes on how it goes, and nothing of what comes out: of work that is a part of something larger."""

    def __init__(self, display: Display) -> None:
        self.display = display

    def stage(self, name: str, position: int, total: int) -> None:
        """A stage begins."""
        self.display.stage(name, position, total)

    def epoch(self, done: int, total: int, values: Mapping[str, float]) -> None:
        """So many epochs of it are done."""
        self.display.epoch(done, total, values)
