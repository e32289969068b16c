"""A tracker's diary: every event as a line on disk first, and how far each store has been told.

`tracking.jsonl` holds the events, oldest first; `tracking.json` holds, for every store's address, the ids it
gave out and how many events it has. A line is written before anything is sent, so what a store missed can be
told later, by another process too.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reports.files import write_text

Event = Mapping[str, Any]


@dataclass
class Told:
    """What one store knows: its ids for our runs and models, and how many events it has taken."""

    experiment: str | None = None
    runs: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    events: int = 0
    refused: list[int] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    """registered models of ours: name -> version"""


class Mirror:
    """The diary in a folder. `append` is safe to call while another thread reads `events`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / "tracking.jsonl"
        self.events: list[Event] = []
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str, int], float] = {}
        self._stores: dict[str, Any] = {}
        self.key = uuid.uuid4().hex
        self._read()

    def _read(self) -> None:
        ids = self.folder / "tracking.json"
        if ids.exists():
            try:
                kept = json.loads(ids.read_text(encoding="utf-8"))
                self.key, self._stores = kept["key"], kept["stores"]
            except (ValueError, KeyError, TypeError) as problem:
                raise ValueError(
                    f"{ids} is damaged ({problem}): delete it, and the run is told anew to every store"
                ) from problem
        if self.path.exists():
            text = self.path.read_bytes()
            whole = text.rfind(b"\n") + 1
            if whole < len(text):  # a line that was being written when the process died
                os.truncate(self.path, whole)
            for number, line in enumerate(text[:whole].splitlines(), start=1):
                try:
                    event = json.loads(line)
                except ValueError as problem:
                    raise ValueError(
                        f"{self.path}, line {number}, is not JSON ({problem}): remove it"
                    ) from problem
                self._remember(event)
        self._save()

    def told(self, store: str) -> Told:
        """What the store at this address knows so far."""
        return Told(**self._stores.get(store, {}))

    def save(self, store: str, told: Told) -> None:
        """Keep, atomically, what the store at this address knows."""
        self._stores[store] = vars(told)
        self._save()

    def _save(self) -> None:
        text = json.dumps({"key": self.key, "stores": self._stores}, indent=2)
        write_text(self.folder / "tracking.json", text + "\n")

    def append(self, event: Event) -> None:
        """Write an event down. Raises OSError, with the diary as it was, where the disk is full."""
        line = (json.dumps(event, allow_nan=False) + "\n").encode()
        with self._lock:
            size = self.path.stat().st_size if self.path.exists() else 0
            try:
                with open(self.path, "ab") as file:
                    file.write(line)
            except OSError:
                if self.path.exists():
                    os.truncate(self.path, size)
                raise
            self._remember(event)

    def _remember(self, event: Event) -> None:
        self.events.append(event)
        if event["do"] == "metrics":
            for name, value in event["values"].items():
                self._seen[event["run"], name, event["step"]] = value

    def fresh(self, run: str, values: Mapping[str, float], step: int) -> dict[str, float]:
        """The values that were not written down before: a resumed epoch says the same things again."""
        return {name: value for name, value in values.items() if self._seen.get((run, name, step)) != value}

    def begun(self, run: str) -> bool:
        """Whether this run was begun before, by this process or an earlier one."""
        return any(event["do"] == "begin" and event["run"] == run for event in tuple(self.events))

    def has(self, event: Event) -> bool:
        """Whether the same was written down before, whenever that was."""
        plain = {name: value for name, value in event.items() if name != "at"}
        known = tuple(self.events)
        return any({name: value for name, value in old.items() if name != "at"} == plain for old in known)
