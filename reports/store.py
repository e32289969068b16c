"""What an MLflow store was told of a mirror's events, and how (`registry` and `shelf` import mlflow, too)."""

from __future__ import annotations

import fcntl
import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reports.mirror import Event, Mirror, Told
from reports.patience import hush, patience
from reports.registry import servable

ABOUT = """\
Networks made small by decoct. One run is one recipe with one seed: a teacher goes
in, stages are done to it one after another, a student comes out. The runs below a run are its teacher (0) and its
stages (1, 2, ...).

| column | meaning |
| --- | --- |
| `score/accuracy` | a share from 0 to 1 on val, which is held out, and by which one may choose |
| `score/accuracy_test` | the same on test, which is read once, at the end |
| `change/..._points` | student minus teacher, in points of 100 |
| `left/macs_percent`, `left/bytes_percent`, ... | what is left of the teacher's cost |
| `cost/macs`, `cost/flops` | multiply-accumulates of one input as executed; FLOPs are twice that |
| `cost/params`, `cost/bytes` | parameters; bytes of the weights as a file |
| `cost/latency_ms_p50_b1`, `_p95_b32` | milliseconds of a call, median or 95th percentile, at batch 1 or 32 |
| `data/train_samples` | samples that stages were handed |
| `time/seconds`, `time/total_seconds` | a stage's own time; the whole run's |

In a run's charts the x axis of `score`, `cost` and `time` counts stages, the teacher being 0. Students are the models
under Outputs, teachers those under Inputs; a student's folder holds weights and structure. `report.html` among a run's
artifacts tells all of it on one page.
"""


class Store:
    """Turns events into calls of MlflowClient. Used by the courier's thread alone.

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

    def busy(self, problem: Exception) -> bool:
        """Whether others kept a local file locked, or made what we were about to make: trying again soon helps."""
        said = str(problem)
        return self.uri.startswith("sqlite:") and any(
            word in said for word in ("database is locked", "database table is locked", "already exists")
        )

    def save(self) -> None:
        """Keep the ids and the count on disk."""
        self._mirror.save(self.uri, self.told)

    @contextmanager
    def calls(self) -> Iterator[None]:
        """A connection with short patience."""
        with patience(self._timeout):
            if self._client is None:
                with self._first():
                    self._connect()
            yield

    @contextmanager
    def _first(self) -> Iterator[None]:
        """Of those who would make one and the same local database, one after another: its tables are made in many
        steps, which mlflow does not guard against each other, and two at once leave a broken file.
        """
        if not self.uri.startswith("sqlite:///"):
            yield
            return
        database = Path(self.uri.removeprefix("sqlite:///")).resolve()
        database.parent.mkdir(parents=True, exist_ok=True)
        with open(database.with_name(f".{database.name}.lock"), "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go of when the file is closed
            yield

    def _connect(self) -> None:
        import mlflow.entities
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        hush()
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
        try:
            number = found.experiment_id if found else client.create_experiment(self._experiment, artifacts)
        except MlflowException as problem:
            if problem.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(self._experiment)  # somebody else was as quick
            number = found.experiment_id
        if found is None or "mlflow.note.content" not in found.tags:
            client.set_experiment_tag(number, "mlflow.note.content", ABOUT)
            client.set_experiment_tag(number, "mlflow.experimentKind", "custom_model_development")
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
            above = self._id(event["parent"]) if event["parent"] else self._above(event)
            parent = {"mlflow.parentRunId": above} if above else {}
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

    def _above(self, event: Event) -> str | None:
        """The id of a run that another tracker told, which this one lies under."""
        if not (key := event.get("above")):
            return None
        found = self._client.search_runs([self.told.experiment], f"tags.decoct_key = '{key}'", max_results=1)
        if not found:
            raise LookupError(f"the run above {event['run']!r} is not there yet")
        return str(found[0].info.run_id)

    def _resume(self, event: Event) -> None:
        run = self._id(event["run"])
        if (above := self._above(event)) and "mlflow.parentRunId" not in self._client.get_run(run).data.tags:
            self._client.set_tag(run, "mlflow.parentRunId", above)
        self._client.update_run(run, status="RUNNING")

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

    def _tags(self, event: Event) -> None:
        tags = [self._entities.RunTag(key, value) for key, value in event["tags"].items()]
        self._client.log_batch(self._id(event["run"]), tags=tags)

    def _data(self, event: Event) -> None:
        entities, name = self._entities, event["name"]
        about = json.dumps(event["about"], sort_keys=True)
        # Two runs on the same data are found by their digest.
        digest = hashlib.sha256(f"{name} {about}".encode()).hexdigest()[:8]
        source = json.dumps({"task": name})
        known = entities.Dataset(name, digest, "code", source, profile=about)
        context = [entities.InputTag("mlflow.data.context", event["context"])]
        self._client.log_inputs(self._id(event["run"]), [entities.DatasetInput(known, context)])

    def _text(self, event: Event) -> None:
        self._client.log_text(self._id(event["run"]), event["text"], event["name"])

    def _model(self, event: Event) -> None:
        run, name = self._id(event["run"]), f"{event['run']}/{event['name']}"
        key, made = f"{self._mirror.key}/{name}", event["role"] == "output"
        model = self.told.models.get(name)
        if model is None and self._doubtful():
            found = self._client.search_logged_models([self.told.experiment], f"tags.decoct_key = '{key}'")
            model = found[0].model_id if found else None
        if model is None:
            # Two runs may take one and the same model, and what a stage made is the whole run's, too.
            model = next(
                (id for name, id in self.told.models.items() if name.endswith(f"/{event['name']}")), None
            )
        if model is None:
            title, note = event.get("title") or event["name"], event.get("note")
            plain = "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in title)
            model = self._client.create_logged_model(
                self.told.experiment,
                name=plain,
                source_run_id=run if made else None,
                tags={"decoct_key": key, **({"mlflow.note.content": note} if note else {})},
                params=event["params"],
                model_type="student" if made else "teacher",
            ).model_id
        self.told.models[name] = model
        if event["path"] and Path(event["path"]).exists():
            self._client.log_model_artifacts(model, event["path"])
        self._client.finalize_logged_model(model, "READY")
        if made:
            self._output(run, model, event["step"])
        elif model not in {taken.model_id for taken in self._client.get_run(run).inputs.model_inputs}:
            self._client.log_inputs(run, models=[self._entities.LoggedModelInput(model)])

    def _output(self, run: str, model: str, step: int) -> None:
        if model not in {out.model_id for out in self._client.get_run(run).outputs.model_outputs}:
            self._client.log_outputs(run, [self._entities.LoggedModelOutput(model, step)])

    def _register(self, event: Event) -> None:
        run, name, key = self._id(event["run"]), event["name"], f"{self._mirror.key}/{event['run']}"
        signature = json.loads((Path(event["path"]) / "card.json").read_text(encoding="utf-8"))["signature"]
        # Made of what was told: told twice, it is one version; another student is another.
        key = f"{key}/{event['tags'].get('decoct.fingerprint', event['at'])}"
        known = self._client.search_registered_models(f"name = '{name}'")
        if not known:
            self._client.create_registered_model(name)
        versions = self._client.search_model_versions(f"name = '{name}'")
        same = [version.version for version in versions if version.tags.get("decoct_key") == key]
        if same:
            self.told.versions[name] = str(same[0])
            return
        found = self._client.search_logged_models([self.told.experiment], f"tags.decoct_key = '{key}'")
        made = (
            found[0]
            if found
            else self._client.create_logged_model(
                self.told.experiment,
                name="student",
                source_run_id=run,
                tags={"decoct_key": key},
                model_type="student",
            )
        )
        model = made.model_id
        with tempfile.TemporaryDirectory(prefix="decoct-model-") as folder:
            servable(Path(folder) / "model", Path(event["path"]), signature, run, model)
            self._client.log_model_artifacts(model, str(Path(folder) / "model"))
        self._client.finalize_logged_model(model, "READY")
        points = [
            self._entities.Metric(metric, value, event["at"], event["step"], model_id=model)
            for metric, value in event["values"].items()
        ]
        self._client.log_batch(run, metrics=points)
        self._output(run, model, event["step"])
        # By its place: an address of the form models:/id is looked up in whatever store the process has set.
        tags = {**event["tags"], "decoct_key": key, "decoct.model_id": model}
        version = self._client.create_model_version(
            name, made.artifact_location, run, tags=tags, description=event["note"], model_id=model
        )
        self.told.versions[name] = str(version.version)
