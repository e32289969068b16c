"""What a run leaves behind: a Record after every stage, and a tracker that is told as it goes.

This is the one file that imports mlflow, and only once an `MLflow` tracker has something to say.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from reports.deliver import Courier
from reports.mirror import Event, Mirror, Told
from reports.record import Record

__all__ = ["MLflow", "Record", "Role", "Silent", "Status", "Tracker", "flatten", "tracker"]

Status = Literal["FINISHED", "FAILED", "KILLED"]
Role = Literal["input", "output"]


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
    ) -> None:
        """Open a run, or take it up again where it was begun before."""

    def metrics(
        self, run: str, values: Mapping[str, float], step: int = 0, *, model: str | None = None
    ) -> None:
        """Numbers at a step; the same ones told again, as after a resume, count once."""

    def artifact(self, run: str, path: Path, folder: str = "") -> None:
        """A file, or a folder with all that is in it, kept under `folder`."""

    def text(self, run: str, text: str, name: str) -> None:
        """Text, kept as a file of that name."""

    def model(
        self,
        run: str,
        name: str,
        role: Role,
        *,
        step: int = 0,
        params: Mapping[str, object] = ...,
        files: Path | None = None,
    ) -> None:
        """A model that the run took (a teacher) or made (a student), with the folder of its files if any."""

    def end(self, run: str, status: Status = "FINISHED") -> None:
        """Close a run."""

    def close(self) -> int:
        """Say what is still unsaid and let go; how many events could not be sent."""


class Silent:
    """A tracker that keeps nothing."""

    where = ""

    def begin(self, run: str, **_: Any) -> None:
        """Nothing."""

    def metrics(
        self, run: str, values: Mapping[str, float], step: int = 0, *, model: str | None = None
    ) -> None:
        """Nothing."""

    def artifact(self, run: str, path: Path, folder: str = "") -> None:
        """Nothing."""

    def text(self, run: str, text: str, name: str) -> None:
        """Nothing."""

    def model(self, run: str, name: str, role: Role, **_: Any) -> None:
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
    if tracking == "off":
        return Silent()
    return MLflow(folder, tracking or f"sqlite:///{runs.resolve()}/mlflow.db", warn=warn)


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
            self._mirror, _Store(uri, experiment, timeout, self._mirror), warn or _say, every
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
    ) -> None:
        """Open a run, or take it up again where it was begun before; params and tags then stay."""
        if self._mirror.begun(run):
            self._write({"do": "resume", "run": run})
            return
        if parent is not None:
            self._known(parent)
        about = {"name": name or run, "parent": parent, "tags": dict(tags or {})}
        texts = {key: str(value) for key, value in (params or {}).items()}
        self._write({"do": "begin", "run": run, **about, "params": texts})
        self._courier.hurry()

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

    def model(
        self,
        run: str,
        name: str,
        role: Role,
        *,
        step: int = 0,
        params: Mapping[str, object] | None = None,
        files: Path | None = None,
    ) -> None:
        """A LoggedModel that the run took (role "input") or made ("output"), with its files if any."""
        self._known(run)
        texts = {key: str(value) for key, value in (params or {}).items()}
        path = str(files.resolve()) if files else None
        about = {"name": name, "role": role, "step": step, "params": texts, "path": path}
        self._once({"do": "model", "run": run, **about})

    def end(self, run: str, status: Status = "FINISHED") -> None:
        """Close a run: FINISHED, FAILED (an error) or KILLED (asked to stop; a resume takes it up again)."""
        self._known(run)
        self._write({"do": "end", "run": run, "status": status})
        self._courier.hurry()

    def reconcile(self, patience: float = 30.0) -> int:
        """Try now to send all that is missing, for at most `patience` seconds; how many events still wait."""
        return self._courier.deliver(patience)

    def close(self, patience: float = 30.0) -> int:
        """Reconcile, end the thread, and say so if events still wait for the next resume; their number."""
        return self._courier.close(patience)

    def _known(self, run: str) -> None:
        if not self._mirror.begun(run):
            raise ValueError(f"run '{run}' was not begun: call begin('{run}') first")

    def _write(self, event: Event) -> None:
        self._mirror.append({"at": time.time_ns() // 1_000_000, **event})

    def _once(self, event: Event) -> None:
        if not self._mirror.has(event):
            self._write(event)


class _Store:
    """The store's side: turns events into calls of MlflowClient. Used by the courier's thread alone.

    Every call may be made twice: points are keyed by time and step, and runs and models carry a tag by which
    they are found again where an answer was lost on its way.
    """

    refusals: tuple[str, ...] = (
        "BAD_REQUEST",
        "ENDPOINT_NOT_FOUND",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "NOT_IMPLEMENTED",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
    )

    def __init__(self, uri: str, experiment: str, timeout: float, mirror: Mirror) -> None:
        self.uri = uri
        self.told = mirror.told(uri)
        self.doubt = 0  # events before this one may have been carried out though no answer came
        self._experiment = experiment
        self._timeout = timeout
        self._mirror = mirror
        self._client: Any = None
        self._entities: Any = None

    def refused(self, problem: Exception) -> bool:
        """Whether the store understood and said no: trying again would not help."""
        code = getattr(problem, "error_code", None)
        return code in self.refusals or isinstance(problem, KeyError | FileNotFoundError)

    def save(self) -> None:
        """Keep the ids and the count on disk."""
        self._mirror.save(self.uri, self.told)

    @contextmanager
    def calls(self) -> Iterator[None]:
        """A connection with short patience. The variables are set for the time of our calls only."""
        ours = {
            "MLFLOW_HTTP_REQUEST_TIMEOUT": str(math.ceil(self._timeout)),
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
            "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        added = {name: value for name, value in ours.items() if name not in os.environ}
        os.environ.update(added)
        try:
            if self._client is None:
                self._connect()
            yield
        finally:
            for name in added:
                os.environ.pop(name, None)

    def _connect(self) -> None:
        import logging

        import mlflow.entities
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        # They tell at length how a new database is made, and what goes wrong comes as an exception besides.
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        artifacts = None
        if self.uri.startswith("sqlite:///"):
            database = Path(self.uri.removeprefix("sqlite:///")).resolve()
            database.parent.mkdir(parents=True, exist_ok=True)
            # Otherwise mlflow would make a folder wherever the process happens to stand.
            artifacts = (database.parent / f"{database.stem}-artifacts" / self._experiment).as_uri()
        client = MlflowClient(tracking_uri=self.uri)
        found = client.get_experiment_by_name(self._experiment)
        if found is not None and found.lifecycle_stage != "active":
            raise RuntimeError(f"its experiment '{self._experiment}' was deleted there: restore or purge it")
        number = found.experiment_id if found else client.create_experiment(self._experiment, artifacts)
        try:
            for run in list(self.told.runs.values())[:1]:
                client.get_run(run)
        except MlflowException as problem:
            if problem.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self.told = Told()  # the store was emptied: everything is told anew
        self.told.experiment = number
        self._client, self._entities = client, mlflow.entities

    def carry_out(self, events: list[Event]) -> None:
        """One event, or several metrics events of one run, in order."""
        first = events[0]
        if first["do"] == "metrics":
            self._metrics(first["run"], events)
        else:
            getattr(self, f"_{first['do']}")(first)

    def _doubtful(self) -> bool:
        return self.told.events < self.doubt

    def _id(self, run: str) -> str:
        return self.told.runs[run]

    def _begin(self, event: Event) -> None:
        key = f"{self._mirror.key}/{event['run']}"
        run = self.told.runs.get(event["run"])
        if run is None and self._doubtful():
            found = self._client.search_runs(
                [self.told.experiment], f"tags.decoct_key = '{key}'", max_results=1
            )
            run = found[0].info.run_id if found else None
        if run is None:
            parent = {"mlflow.parentRunId": self._id(event["parent"])} if event["parent"] else {}
            made = self._client.create_run(
                self.told.experiment,
                start_time=event["at"],
                run_name=event["name"],
                tags={"decoct_key": key, **parent, **event["tags"]},
            )
            run = made.info.run_id
        self.told.runs[event["run"]] = run
        params = [self._entities.Param(name, value) for name, value in event["params"].items()]
        for start in range(0, len(params), 100):
            self._client.log_batch(run, params=params[start : start + 100])

    def _resume(self, event: Event) -> None:
        self._client.update_run(self._id(event["run"]), status="RUNNING")

    def _end(self, event: Event) -> None:
        self._client.set_terminated(self._id(event["run"]), event["status"], end_time=event["at"])

    def _metrics(self, key: str, events: list[Event]) -> None:
        run = self._id(key)
        points = [
            self._entities.Metric(
                name,
                value,
                event["at"],
                event["step"],
                model_id=self.told.models[f"{key}/{event['model']}"] if event["model"] else None,
            )
            for event in events
            for name, value in event["values"].items()
        ]
        if self._doubtful():  # not every store leaves out a point it already has
            known = {
                (name, point.timestamp, point.step)
                for name in {point.key for point in points}
                for point in self._client.get_metric_history(run, name)
            }
            points = [point for point in points if (point.key, point.timestamp, point.step) not in known]
        for start in range(0, len(points), 1000):
            self._client.log_batch(run, metrics=points[start : start + 1000])

    def _artifact(self, event: Event) -> None:
        path = Path(event["path"])
        if not path.exists():
            raise FileNotFoundError(f"{path} is gone")
        send = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        send(self._id(event["run"]), str(path), event["folder"] or None)

    def _text(self, event: Event) -> None:
        self._client.log_text(self._id(event["run"]), event["text"], event["name"])

    def _model(self, event: Event) -> None:
        run, name = self._id(event["run"]), f"{event['run']}/{event['name']}"
        key, made = f"{self._mirror.key}/{name}", event["role"] == "output"
        model = self.told.models.get(name)
        if model is None and self._doubtful():
            found = self._client.search_logged_models([self.told.experiment], f"tags.decoct_key = '{key}'")
            model = found[0].model_id if found else None
        if model is None and not made:
            # Two runs may take one and the same model.
            model = next(
                (id for name, id in self.told.models.items() if name.endswith(f"/{event['name']}")), None
            )
        if model is None:
            plain = "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in event["name"])
            model = self._client.create_logged_model(
                self.told.experiment,
                name=plain,
                source_run_id=run if made else None,
                tags={"decoct_key": key},
                params=event["params"],
                model_type="student" if made else "teacher",
            ).model_id
        self.told.models[name] = model
        if event["path"] and Path(event["path"]).exists():
            self._client.log_model_artifacts(model, event["path"])
        self._client.finalize_logged_model(model, "READY")
        entities, now = self._entities, self._client.get_run(run)
        if made and model not in {out.model_id for out in now.outputs.model_outputs}:
            self._client.log_outputs(run, [entities.LoggedModelOutput(model, event["step"])])
        if not made and model not in {taken.model_id for taken in now.inputs.model_inputs}:
            self._client.log_inputs(run, models=[entities.LoggedModelInput(model)])


def _say(line: str) -> None:
    print(line, file=sys.stderr)
