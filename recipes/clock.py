"""Where the seconds of a run go: every moment belongs to one name, so the shares add up to the whole."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

WORK = ("data", "teachers", "stages")
"""what a run is for"""
OWN = ("runner", "saving", "tracking")
"""what the runner and the tracker take for themselves; the rest measures, reports and packs the student"""


class Clock:
    """An exclusive stopwatch: inside `on("saving")` the time of whoever is around stands still."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._on = ["runner"]
        self._since = time.perf_counter()

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Count the time of this block under `name`."""
        self._tick()
        self._on.append(name)
        try:
            yield
        finally:
            self._tick()
            self._on.pop()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.spent[self._on[-1]] += now - self._since
        self._since = now

    def seconds(self) -> dict[str, float]:
        """Seconds by name so far, most first."""
        self._tick()
        return {
            name: round(spent, 4) for name, spent in sorted(self.spent.items(), key=lambda pair: -pair[1])
        }

    def share(self, *names: str) -> float:
        """The share of all time so far, in [0, 1], that was spent under these names."""
        self._tick()
        total = sum(self.spent.values())
        return sum(self.spent[name] for name in names) / total if total else 0.0
