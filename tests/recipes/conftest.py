"""A workshop for the tests of runs, and a way to leave out what other tests prove."""

from pathlib import Path
from typing import Any

import pytest

from recipes import measure
from recipes.recipe import Workshop
from students import compact
from students.files import write_json


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """One workshop a module, in which every teacher is trained once."""
    return Workshop(runs=tmp_path_factory.mktemp("runs"), device="cpu", tracking="off")


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the compact student to its own tests (proving one takes seconds), and time in a hurry."""

    def save(student: Any, folder: Path, signature: Any, *, card: Any, **_: Any) -> None:
        write_json(folder / "card.json", card)

    monkeypatch.setattr(compact, "save", save)
    monkeypatch.setattr(measure, "SECONDS", 0.01)
