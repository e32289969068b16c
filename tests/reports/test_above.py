"""A run under one that another tracker told: a sweep's trials, told by whoever does them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reports.mirror import Mirror
from reports.store import Store
from reports.track import MLflow, Silent

PARENT = "mlflow.parentRunId"


class Client:
    """Stands in for MLflow's: runs with their tags."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, str]] = {}

    def create_run(self, experiment: str, *, start_time: int, run_name: str, tags: dict[str, str]) -> Any:
        self.runs[run_name] = dict(tags)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_name))

    def search_runs(self, experiments: list[str], words: str, max_results: int) -> list[Any]:
        key = words.split("'")[1]
        found = [run for run, tags in self.runs.items() if tags["decoct_key"] == key]
        return [SimpleNamespace(info=SimpleNamespace(run_id=run)) for run in found]

    def get_run(self, run: str) -> Any:
        return SimpleNamespace(data=SimpleNamespace(tags=self.runs[run]))

    def set_tag(self, run: str, name: str, value: str) -> None:
        self.runs[run][name] = value

    def update_run(self, run: str, status: str) -> None:
        self.runs[run]["status"] = status


def test_it_waits_for_the_one_above_and_stays_where_it_is(tmp_path: Path) -> None:
    client = Client()
    upper, lower = (
        Store("sqlite:///x.db", "decoct", 1, Mirror(tmp_path / name)) for name in ("sweep", "run")
    )
    for store in (upper, lower):
        store._client, store._entities, store.told.experiment = client, SimpleNamespace(), "1"
    about = {"at": 0, "parent": None, "tags": {}, "params": {}}
    key = f"{upper._mirror.key}/trial-000"
    begin = {**about, "do": "begin", "run": "run", "name": "mine", "above": key}
    with pytest.raises(LookupError, match="the run above 'run' is not there yet") as waits:
        lower.carry_out([begin])
    assert not lower.refused(waits.value), "it is tried again"
    assert client.runs == {}
    upper.carry_out([{**about, "do": "begin", "run": "trial-000", "name": "trial 0"}])
    lower.carry_out([begin])
    assert client.runs["mine"][PARENT] == "trial 0"
    # Taken up by another sweep it stays where it is; one that lay nowhere is laid under.
    upper.carry_out([{**about, "do": "begin", "run": "trial-001", "name": "trial 1"}])
    lower.carry_out([{"do": "resume", "run": "run", "above": f"{upper._mirror.key}/trial-001"}])
    assert client.runs["mine"] == {
        "decoct_key": f"{lower._mirror.key}/run",
        PARENT: "trial 0",
        "status": "RUNNING",
    }
    del client.runs["mine"][PARENT]
    lower.carry_out([{"do": "resume", "run": "run", "above": f"{upper._mirror.key}/trial-001"}])
    assert client.runs["mine"][PARENT] == "trial 1"


def test_the_key_is_known_before_any_store_was_asked(tmp_path: Path) -> None:
    said: list[str] = []
    tracking = MLflow(tmp_path, "http://127.0.0.1:1", warn=said.append, every=1000)
    assert tracking.key("trial-000") == f"{Mirror(tmp_path).key}/trial-000"
    assert Silent().key("trial-000") is None
    tracking.begin("run", above="abc/trial-000")
    assert '"above": "abc/trial-000"' in (tmp_path / "tracking.jsonl").read_text()
    tracking.begin("run", above="abc/trial-000")
    assert [event["do"] for event in Mirror(tmp_path).events] == ["begin", "resume"]
    tracking.close(0.1)
