"""An empty MLflow store, made once for all tests of this folder."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from reports.track import MLflow


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was made and never used: making one takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    tracking = MLflow(path.parent / "run", f"sqlite:///{path}")
    tracking.begin("run")
    assert tracking.close(120) == 0
    with sqlite3.connect(path) as database:
        for table in ("tags", "params", "metrics", "latest_metrics", "inputs", "runs", "experiment_tags"):
            database.execute(f"DELETE FROM {table}")
        database.execute("DELETE FROM experiments WHERE experiment_id > 0")
    return path
