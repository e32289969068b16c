"""What a run leaves behind: a Record after every stage, and a tracker that is told as it goes.

mlflow is imported below `reports.store` alone, and only once an `MLflow` tracker has something to say.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from reports.deliver import Courier
from reports.mirror import Event, Mirror
from reports.record import Record
from reports.store import Store

__all__ = ["NOTE", "MLflow", "Record", "Role", "Silent", "Status", "Tracker", "flatten", "tracker"]

Status = Literal["FINISHED", "FAILED", "KILLED"]
Role = Literal["input", "output"]
NOTE = "mlflow.note.content"
"""the tag that MLflow shows as a run's description"""


class Tracker(Protocol):
    """Who is told how it goes. `run` is the caller's own key: "run" for all of it, "01-gal" for a stage."""

    @property
    def where(self) -> str:
        """How to look at what was kept: an address or a command; empty where nothing is kept."""

    def begin(
        self,
        run: str,
        *,
        name: str | None = None,
        parent: str | None = None,
        params: Mapping[str, object] = ...,
        tags: Mapping[str, str] = ...,
        above: str | None = None,
    ) -> None:
        """Open a run, or take it up again where it was begun before."""

    def key(self, run: str) -> str | None:
        """By what another tracker lays a run of its own under this one (`above`); None where nothing is kept."""

    def metrics(
        self, run: str, values: Mapping[str, float], step: int = 0, *, model: str | None = None
    ) -> None:
        """Numbers at a step; the same ones told again, as after a resume, count once."""

    def artifact(self, run: str, path: Path, folder: str = "") -> None:
        """A file, or a folder with all that is in it, kept under `folder`."""

    def text(self, run: str, text: str, name: str) -> None:
        """Text, kept as a file of that name."""

    def tags(self, run: str, values: Mapping[str, str]) -> None:
        """Words to find a run by; one of the same name is replaced. `NOTE` is its description, in markdown."""

    def data(self, run: str, name: str, context: str, about: Mapping[str, object]) -> None:
        """Data that the run read: what they are called, who read them for what, and how many."""

    def model(
        self,
        run: str,
        name: str,
        role: Role,
        *,
        step: int = 0,
        params: Mapping[str, object] = ...,
        title: str | None = None,
        note: str | None = None,
        files: Path | None = None,
    ) -> None:
        """A model that the run took (a teacher) or made (a student), with the folder of its files if any.

        One `name` is one model, whichever runs tell of it; `title` is what a reader sees, `note` its description.
        """

    def register(
        self,
        run: str,
        name: str,
        folder: Path,
        *,
        step: int = 0,
        values: Mapping[str, float] = ...,
        tags: Mapping[str, str] = ...,
        note: str = "",
    ) -> None:
        """A compact student, as a version of the registered model `name` that can be served, with its numbers."""

    def end(self, run: str, status: Status = "FINISHED") -> None:
        """Close a run."""

    def close(self) -> int:
        """Say what is still unsaid and let go; how many events could not be sent."""


class Silent:
    """A tracker that keeps nothing."""

    where = ""

    def begin(self, run: str, **_: Any) -> None:
        """Nothing."""

    def key(self, run: str) -> str | None:
        """Nothing is kept."""
        return None

    def metrics(
        self, run: str, values: Mapping[str, float], step: int = 0, *, model: str | None = None
    ) -> None:
        """Nothing."""

    def artifact(self, run: str, path: Path, folder: str = "") -> None:
        """Nothing."""

    def text(self, run: str, text: str, name: str) -> None:
        """Nothing."""

    def tags(self, run: str, values: Mapping[str, str]) -> None:
        """Nothing."""

    def data(self, run: str, name: str, context: str, about: Mapping[str, object]) -> None:
        """Nothing."""

    def model(self, run: str, name: str, role: Role, **_: Any) -> None:
        """Nothing."""

    def register(self, run: str, name: str, folder: Path, **_: Any) -> None:
        """Nothing."""

    def end(self, run: str, status: Status = "FINISHED") -> None:
        """Nothing."""

    def close(self) -> int:
        """Nothing waits."""
        return 0


def tracker(
    tracking: str | None, folder: Path, runs: Path, warn: Callable[[str], None] | None = None
) -> Tracker:
    """The tracker an address asks for: "off" is Silent, None a sqlite file in `runs`, else a store's URI.

    `folder` is the run's own: ids and the local mirror are kept there.
    """
    uri = address(tracking, runs)
    return Silent() if uri is None else MLflow(folder, uri, warn=warn)


def address(tracking: str | None, runs: Path) -> str | None:
    """The store that an address means: None of ours is a sqlite file in `runs`, "off" is no store."""
    return None if tracking == "off" else tracking or f"sqlite:///{runs.resolve()}/mlflow.db"


def flatten(data: object, prefix: str = "") -> dict[str, str]:
    """Nested plain data as dotted names: {"stages": [{"epochs": 3}]} becomes {"stages.0.epochs": "3"}.

    Of a key, only what MLflow takes in a name is left.
    """
    items: list[tuple[str, object]]
    if isinstance(data, Mapping) and data:
        items = [(re.sub(r"[^\w\-. :/]", "", str(key), flags=re.ASCII), value) for key, value in data.items()]
    elif isinstance(data, list | tuple) and data:
        items = [(str(place), value) for place, value in enumerate(data)]
    else:
        return {prefix: str(data)}
    return {
        name: text
        for key, value in items
        for name, text in flatten(value, f"{prefix}.{key}" if prefix else key).items()
    }


class MLflow:
    """Tells an MLflow store, from a thread of its own, what is first written to a mirror in the run folder.

    folder      of the run; another MLflow over the same folder continues its runs and sends what is missing
    uri         of the store: sqlite:///path, http://host:port, or whatever else mlflow takes
    experiment  that the runs belong to
    warn        says a line to the user; standard error if None
    every       seconds between two deliveries
    timeout     seconds the store has for one answer; one retry (MLFLOW_HTTP_REQUEST_TIMEOUT and
                MLFLOW_HTTP_REQUEST_MAX_RETRIES win where they are set)

    No call waits for the store and no failure of it raises: the user is told once, and delivery is tried
    again every so often, at `reconcile`, at `close`, and by the next process that opens the folder. Raises
    ValueError for an address that is none, a value that is not finite or a run that was not begun; OSError
    for a full disk.
    """

    def __init__(
        self,
        folder: Path,
        uri: str,
        *,
        experiment: str = "decoct",
        warn: Callable[[str], None] | None = None,
        every: float = 5.0,
        timeout: float = 10.0,
    ) -> None:
        if not urlsplit(uri).scheme and uri != "databricks":
            raise ValueError(
                f"{uri!r} is no tracking address: give sqlite:///path/to/mlflow.db, http://host:port, or off"
            )

        self.uri = uri
        self._mirror = Mirror(folder)
        self._courier = Courier(
            self._mirror, Store(uri, experiment, timeout, self._mirror), warn or _say, every
        )

    @property
    def where(self) -> str:
        """How to look at it: the server's address, or the command that serves the local store."""
        served = self.uri.startswith("http")
        return self.uri if served else f"mlflow ui --backend-store-uri {shlex.quote(self.uri)}"

    def begin(
        self,
        run: str,
        *,
        name: str | None = None,
        parent: str | None = None,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
        above: str | None = None,
    ) -> None:
        """Open a run, or take it up again where it was begun before; params and tags then stay.

        parent  the caller's run that it lies under
        above   or one that another tracker over the same store told, by that one's `key`: a sweep's trial has runs
                that other processes tell. Its events come first; until they have, this one waits as for a store
                that is away. A run that lies under another already stays there.
        """
        if self._mirror.begun(run):
            self._write({"do": "resume", "run": run, **({"above": above} if above else {})})
            return
        if parent is not None:
            self._known(parent)
        about: dict[str, object] = {"name": name or run, "parent": parent, "tags": dict(tags or {})}
        about |= {"above": above} if above else {}
        texts = {key: str(value) for key, value in (params or {}).items()}
        self._write({"do": "begin", "run": run, **about, "params": texts})
        self._courier.hurry()

    def key(self, run: str) -> str | None:
        """By what another tracker over the same store lays a run under this one; known before any store is."""
        return f"{self._mirror.key}/{run}"

    def metrics(
        self, run: str, values: Mapping[str, float], step: int = 0, *, model: str | None = None
    ) -> None:
        """Numbers at a step; the same ones told again, as after a resume, count once."""
        self._known(run)
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        if bad:
            raise ValueError(f"run '{run}', step {step}: {bad} cannot be tracked, only finite numbers can")
        fresh = self._mirror.fresh(run, values, step)
        if fresh:
            numbers = {name: float(value) for name, value in fresh.items()}
            self._write({"do": "metrics", "run": run, "step": step, "values": numbers, "model": model})

    def artifact(self, run: str, path: Path, folder: str = "") -> None:
        """A file, or a folder with all that is in it; a file of this name sent before is replaced."""
        self._known(run)
        self._write({"do": "artifact", "run": run, "path": str(path.resolve()), "folder": folder})

    def text(self, run: str, text: str, name: str) -> None:
        """Text, kept as a file of that name."""
        self._known(run)
        self._once({"do": "text", "run": run, "text": text, "name": name})

    def tags(self, run: str, values: Mapping[str, str]) -> None:
        """Words to find a run by; one of the same name is replaced. `NOTE` is its description, in markdown."""
        self._known(run)
        self._once({"do": "tags", "run": run, "tags": {key: str(value) for key, value in values.items()}})

    def data(self, run: str, name: str, context: str, about: Mapping[str, object]) -> None:
        """A data set among the run's inputs: what it is called, who read it for what, and how many."""
        self._known(run)
        plain = {key: str(value) for key, value in about.items()}
        self._once({"do": "data", "run": run, "name": name, "context": context, "about": plain})

    def model(
        self,
        run: str,
        name: str,
        role: Role,
        *,
        step: int = 0,
        params: Mapping[str, object] | None = None,
        title: str | None = None,
        note: str | None = None,
        files: Path | None = None,
    ) -> None:
        """A LoggedModel that the run took (role "input") or made ("output"), with its files if any."""
        self._known(run)
        texts = {key: str(value) for key, value in (params or {}).items()}
        path = str(files.resolve()) if files else None
        about = {"name": name, "role": role, "step": step, "params": texts, "path": path}
        about |= {key: text for key, text in (("title", title), ("note", note)) if text}
        self._once({"do": "model", "run": run, **about})

    def register(
        self,
        run: str,
        name: str,
        folder: Path,
        *,
        step: int = 0,
        values: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        note: str = "",
    ) -> None:
        """A compact student as a version of the registered model `name`, which mlflow can serve.

        values  its numbers, tied to it; tags  of the version: where it comes from; note  its description
        """
        self._known(run)
        about = {"name": name, "path": str(folder.resolve()), "step": step, "note": note}
        self._once(
            {"do": "register", "run": run, **about, "values": dict(values or {}), "tags": dict(tags or {})}
        )

    @property
    def registered(self) -> dict[str, str]:
        """Models that the store has registered of this run: name -> version."""
        return dict(self._courier.told.versions)

    def end(self, run: str, status: Status = "FINISHED") -> None:
        """Close a run: FINISHED, FAILED (an error) or KILLED (asked to stop; a resume takes it up again)."""
        self._known(run)
        self._write({"do": "end", "run": run, "status": status})
        self._courier.hurry()

    def reconcile(self, patience: float = 30.0) -> int:
        """Try now to send all that is missing, for at most `patience` seconds; how many events still wait."""
        return self._courier.deliver(patience)

    def close(self, patience: float = 30.0) -> int:
        """Reconcile, end the thread, and say so if events still wait for the next resume; their number.

        A model that is still to be registered has four times as long: whole files go over.
        """
        waiting = self._mirror.events[self._courier.told.events :]
        return self._courier.close(patience * (4 if any(e["do"] == "register" for e in waiting) else 1))

    def _known(self, run: str) -> None:
        if not self._mirror.begun(run):
            raise ValueError(f"run '{run}' was not begun: call begin('{run}') first")

    def _write(self, event: Event) -> None:
        self._mirror.append({"at": time.time_ns() // 1_000_000, **event})

    def _once(self, event: Event) -> None:
        if not self._mirror.has(event):
            self._write(event)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
