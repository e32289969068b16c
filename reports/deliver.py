"""A thread that carries events from a mirror to a store, in order, however long the store is away."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from reports.mirror import Event, Mirror, Told

PATIENT = 40
"""how often a store that others are writing to is asked again before that counts as a failure: a minute or two"""
LONGEST = 60.0
"""seconds between two tries while the store does not answer"""


class Store(Protocol):
    """Where events go."""

    uri: str
    told: Told
    doubt: int

    def calls(self) -> AbstractContextManager[None]: ...

    def carry_out(self, events: list[Event]) -> None: ...

    def refused(self, problem: Exception) -> bool: ...

    def busy(self, problem: Exception) -> bool: ...

    def save(self) -> None: ...


class Courier:
    """Delivers every few seconds; after a failure later and later; at once when asked.

    A thread, because a store that hangs must not hold up training, and because the first delivery loads a
    client that takes seconds to import. Once everything is said the thread sleeps; it dies with the process.
    """

    def __init__(self, mirror: Mirror, store: Store, warn: Callable[[str], None], every: float) -> None:
        self._mirror, self._store, self._warn, self._every = mirror, store, warn, every
        self._wake = threading.Condition()
        self._urgent = self._closed = False
        self._started = self._finished = 0
        self._away: str | None = None
        self._complained: set[str] = set()
        store.doubt = len(mirror.events)  # a process that died may have said more than it could note
        self._retry = list(store.told.refused)  # once more: what was wrong with them may have been mended
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        """Deliver now, without waiting for it."""
        with self._wake:
            self._urgent = True
            self._wake.notify_all()

    def deliver(self, patience: float) -> int:
        """Deliver now and wait for the end of it, at most `patience` seconds; how many events still wait."""
        with self._wake:
            goal = self._started + 1
            self._urgent = True
            self._wake.notify_all()
            if not self._closed:
                self._wake.wait_for(lambda: self._finished >= goal, timeout=patience)
        return self.waiting

    @property
    def told(self) -> Told:
        """What the store knows."""
        return self._store.told

    @property
    def waiting(self) -> int:
        """Events that the store has not taken yet."""
        return len(self._mirror.events) - self._store.told.events

    def close(self, patience: float) -> int:
        """Deliver, stop, and say what is left for next time."""
        if self._closed:
            return self.waiting
        left = self.deliver(patience)
        with self._wake:
            self._closed = self._urgent = True
            self._wake.notify_all()
        if left:
            self._warn(
                f"{left} tracking events have not reached {self._store.uri}; they are in {self._mirror.path} "
                "and are sent when this run is resumed"
            )
        else:
            self._thread.join(timeout=patience)
        return left

    def _work(self) -> None:
        pause = self._every
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._urgent, timeout=pause)
                if self._closed:
                    return
                self._urgent = False
                self._started += 1
            failed = self._attempt()
            pause = min(LONGEST, 2 * pause) if failed else self._every
            with self._wake:
                self._finished += 1
                self._wake.notify_all()

    def _attempt(self) -> bool:
        """Deliver all there is; whether the store failed to answer."""
        if not self._mirror.events or not (self.waiting or self._retry):
            return False
        sent, waits = self._store.told.events, 0
        try:
            while True:
                try:
                    with self._store.calls():
                        self._again()
                        for events in self._groups():
                            self._hand_over(events)
                    break
                except Exception as problem:
                    # Others write to the same file at this moment: soon it is our turn, and nobody need be told.
                    if not self._store.busy(problem) or waits == PATIENT:
                        raise
                    self._store.doubt = len(self._mirror.events)
                    waits += 1
                    time.sleep(random.uniform(0.02, 0.1) * waits)
        # Whatever a client of many libraries raises when its server is away, the run goes on and says so.
        except Exception as problem:
            self._store.doubt = len(self._mirror.events)
            if self._away is None:
                file = self._store.uri.startswith("sqlite:")
                hint = (
                    ". A damaged file is best moved away: a new one is then told everything" if file else ""
                )
                self._warn(
                    f"the tracker at {self._store.uri} does not take what it is told "
                    f"({type(problem).__name__}: {_line(problem)}); the run goes on, events wait in "
                    f"{self._mirror.path} and are sent when it answers{hint}"
                )
            self._away = str(problem)
            return True
        if self._away is not None:
            self._away = None
            self._warn(f"{self._store.uri} answers again: {self._store.told.events - sent} events sent")
        return False

    def _again(self) -> None:
        told = self._store.told
        while self._retry:
            place = self._retry[0]
            if place in told.refused:
                told.refused.remove(place)
                self._one(self._mirror.events[place], place)
                self._store.save()
            self._retry.pop(0)

    def _groups(self) -> Iterator[list[Event]]:
        """What is unsaid: metrics of one run that follow each other go together, up to 1000 numbers."""
        while True:
            start = self._store.told.events
            group: list[Event] = []
            numbers = 0
            for event in self._mirror.events[start:]:
                numbers += len(event.get("values", ()))
                alike = event["do"] == "metrics" and (not group or event["run"] == group[0]["run"])
                if group and (not alike or group[0]["do"] != "metrics" or numbers > 1000):
                    break
                group.append(event)
            if not group:
                return
            yield group

    def _hand_over(self, events: list[Event]) -> None:
        told = self._store.told
        try:
            self._store.carry_out(events)
        except Exception as problem:
            if not self._store.refused(problem):
                raise
            for place, event in enumerate(
                events, start=told.events
            ):  # one by one, to lose no more than needed
                self._one(event, place)
        told.events += len(events)
        self._store.save()

    def _one(self, event: Event, place: int) -> None:
        try:
            self._store.carry_out([event])
        except Exception as problem:
            if not self._store.refused(problem):
                raise
            self._store.told.refused.append(place)
            # A run that was deleted on the server refuses everything: one line is enough.
            about = f"{event['run']}/{event['do']}"
            if about not in self._complained:
                self._complained.add(about)
                why = _line(problem) if not isinstance(problem, KeyError) else f"it does not know {problem}"
                self._warn(
                    f"{self._store.uri} refused '{event['do']}' of run '{event['run']}': {why}; "
                    f"it stays in {self._mirror.path}"
                )


def _line(problem: Exception) -> str:
    return next(iter(str(problem).strip().splitlines()), "")[:200]
