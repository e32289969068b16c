"""Reading finished runs back from an MLflow store (who imports mlflow: `reports.store`, `registry`, and this file)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from concurrent.futures import TimeoutError as Late
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from reports.patience import hush, patience

_AT_ONCE = 16  # artifacts on their way
_TEST = re.compile(r"score/(.+)_test")


@dataclass(frozen=True)
class Kept:
    """A finished run as the store tells of it; `files` are those of its artifacts that could be had, by name."""

    id: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    ended: float
    files: Mapping[str, Path]

    @property
    def metric(self) -> str | None:
        """What test was scored by; None where it was not."""
        return next((found[1] for name in self.metrics if (found := _TEST.fullmatch(name))), None)


class Shelf:
    """A store's runs, read with short patience.

    uri       of the store: sqlite:///path, http://host:port, or whatever else mlflow takes
    patience  seconds a server has for one answer

    lost      why artifacts could not be fetched, a line each

    Raises ValueError for an address that is none, and OSError where the store cannot be reached, or says no.
    """

    def __init__(self, uri: str, *, patience: float = 5.0) -> None:
        scheme = urlsplit(uri).scheme
        if not scheme and uri != "databricks":
            raise ValueError(
                f"{uri!r} is no tracking address: give sqlite:///path/to/mlflow.db or http://host:port"
            )
        if scheme == "sqlite" and not (database := Path(uri.partition("///")[2])).is_file():
            # mlflow would make one, and then find nothing in it.
            raise FileNotFoundError(
                f"there is no store {database}: name it with --tracking, or the folder with --runs"
            )
        self.uri, self._patience = uri, patience
        self.lost: list[str] = []
        with self._calls():
            from mlflow.tracking import MlflowClient

            hush()
            self._client: Any = MlflowClient(tracking_uri=uri)

    def experiments(self) -> list[str]:
        """The names of all there are."""
        with self._calls():
            return [found.name for found in self._client.search_experiments()]

    def runs(self, experiment: str) -> list[Kept]:
        """Finished runs of recipes (not of their stages), the latest first, without files.

        Raises KeyError where there is no such experiment.
        """
        with self._calls():
            found = self._client.get_experiment_by_name(experiment)
            if found is None:
                raise KeyError(experiment)
            words = "attributes.status = 'FINISHED' and tags.`decoct.hash` != ''"
            runs, token = list[Any](), None
            while True:
                page = self._client.search_runs(
                    [found.experiment_id], words, max_results=1000, page_token=token
                )
                runs += page
                token = page.token
                if not token:
                    break
        self._where = {run.info.run_id: run.info.artifact_uri for run in runs}
        kept = [
            Kept(run.info.run_id, run.data.params, run.data.metrics, (run.info.end_time or 0) / 1000, {})
            for run in runs
        ]
        return sorted(kept, key=lambda run: -run.ended)

    def fetch(
        self, wanted: Mapping[str, Sequence[str]], into: Path, *, patience: float = 20.0
    ) -> dict[str, dict[str, Path]]:
        """The artifacts wanted of every run that can be had within `patience` seconds, by run and name.

        Those of a local store are not copied. What is not there is left out; of what a server did not give, or not in
        time, `lost` says why.
        """
        found: dict[str, dict[str, Path]] = {run: {} for run in wanted}
        far: list[tuple[str, str]] = []
        for run, names in wanted.items():
            home = _folder(self._where[run])
            for name in names:
                if home is None:
                    far.append((run, name))
                elif (home / name).is_file():
                    found[run][name] = home / name
        if not far:
            return found
        with self._calls():
            pool = ThreadPoolExecutor(_AT_ONCE)
            jobs = {pool.submit(self._fetch, run, name, into): (run, name) for run, name in far}
            try:
                for job in as_completed(jobs, timeout=patience):
                    run, name = jobs[job]
                    if (path := job.result()) is not None:
                        found[run][name] = path
            except Late:
                late = sum(not job.done() for job in jobs)
                self.lost += [f"the store did not send it within {patience:g} s"] * late
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        return found

    def _fetch(self, run: str, name: str, into: Path) -> Path | None:
        home = into / run
        home.mkdir(parents=True, exist_ok=True)
        try:
            return Path(self._client.download_artifacts(run, name, str(home)))
        except Exception as problem:  # mlflow raises anything for a file that is not there
            self.lost.append((str(problem).strip().splitlines() or [type(problem).__name__])[0][:200])
            return None

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """Short patience for the time of our calls only, and one kind of error for whatever goes wrong in them."""
        began = time.monotonic()
        try:
            with patience(self._patience, retries=0):
                yield
        except (KeyError, OSError, ImportError):
            raise
        except Exception as problem:
            said = str(problem).strip().splitlines() or [type(problem).__name__]
            raise ConnectionError(
                f"the tracking store {self.uri} cannot be read (tried for {time.monotonic() - began:.0f} s): "
                f"{said[0][:300]}. Is it running, and is this its address?"
            ) from problem


def _folder(uri: str) -> Path | None:
    """The folder of artifacts that lie on this machine; None for those that must be fetched."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path))
