"""The report holds the numbers and nothing from elsewhere; the table fits a terminal."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from reports import plots
from reports.evaluate import TestScore, ValScore
from reports.page import write
from reports.profile import Profile
from reports.record import Record

VOID = {"meta", "br", "line", "circle", "polyline"}


class Balance(HTMLParser):
    """Raises where tags do not close in order; gathers the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "link", "img", "iframe", "object"}
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data + " "


def records() -> list[dict[str, object]]:
    def record(stage: str, macs: int, val: float, test: float | None, ms: float, file: int | None) -> Record:
        profile = Profile(macs, macs // 100, file, ms, ms, 8 * ms, 9 * ms, 1)
        scores = ValScore(val, 500), TestScore(test, 1000) if test else None
        return Record(stage, 0, profile, "accuracy", scores[0], 75.0, 0, "abc", scores[1])

    return [
        record("teacher", 40_600_000, 0.93, 0.92, 6.0, 3 * 2**20).to_dict(),
        record("GAL", 20_300_000, 0.80, None, 4.0, None).to_dict(),
        record("<Finetune>", 20_300_000, 0.925, 0.915, 4.0, 2**20).to_dict(),
    ]


def report(folder: Path) -> str:
    path = write(
        folder, title="resnet & co", records=records(),
        curves={"01-gal": {"gap": [(0, 0.5), (1, 0.25)], "flat": [(3, 1.0)], "none": []}},
        widths={"layer1.0.conv1": (16, 8), "layer1.1.conv1": (16, 0)}, notes=["layer1.0.conv2 is locked"],
        environment={"commit": "49fe9ab", "seed": 3}, page="recipes.Recipe: {}",
    )  # fmt: skip
    assert path == folder / "report.html"
    assert [found.name for found in folder.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_report_is_whole_and_alone(tmp_path: Path) -> None:
    html = report(tmp_path)
    text = " ".join(Balance(html).text.split())
    assert re.search(r"https?:|//[a-z]|url\(|@import", html) is None
    # Nothing is loaded, but for pictures that lie in the page itself: without that, browsers show none of them.
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in html
    for told in (
        "resnet & co", "50.0 % of the MACs at −0.50 points of accuracy (test).", "91.50 %", "teacher 92.00 %",
        "2.00× smaller", "40.6M → 20.3M", "3.0 MiB → 1.0 MiB", "1.50× faster", "6 → 4 ms", "20.3M (50.0 %)",
        "<Finetune>", "1 min 15 s", "16 → 8", "16 → 0", "layer1.0.conv2 is locked", "49fe9ab", "gap", "0.25",
        "recipes.Recipe: {}",
    ):  # fmt: skip
        assert told in text, told
    assert html.count("<polyline") == 3  # two curves and the trade-off


def test_coordinates_stay_in_the_picture(tmp_path: Path) -> None:
    html = report(tmp_path)
    for box, body in re.findall(r'viewBox="0 0 (\d+ \d+)"(.*?)</svg>', html, re.S):
        width, height = map(float, box.split())
        for spot in " ".join(re.findall(r'points="([^"]+)"', body)).split():
            across, down = map(float, spot.split(","))
            assert 0 <= across <= width
            assert 0 <= down <= height


def test_a_teacher_alone(tmp_path: Path) -> None:
    path = write(tmp_path, title="only", records=records()[:1])
    assert "nothing was compressed yet" in Balance(path.read_text(encoding="utf-8")).text
    with pytest.raises(ValueError, match="at least one record"):
        write(tmp_path, title="none", records=[])


def test_the_ledger_tells_what_every_stage_saw(tmp_path: Path) -> None:
    def saw(*read: dict[str, int]) -> str:
        stages = [
            {**record, "position": place, "read": what}
            for place, (record, what) in enumerate(zip(records(), ({}, *read), strict=True))
        ]
        path = write(tmp_path, title="ledger", records=stages)
        return " ".join(Balance(path.read_text(encoding="utf-8")).text.split())

    text = saw({"train": 4500, "val": 500}, {})
    assert "What the stages saw" in text
    assert "1 GAL 4,500 train, 500 val" in text
    assert "2 <Finetune> nothing" in text
    assert "backdoor" not in text
    for nothing in (saw({}, {}), saw({"generated": 64}, {})):
        assert "No stage was handed a sample of the task" in nothing
        assert "agreement on generated images is no accuracy" in nothing
        assert "backdoor" in nothing
    assert "1 GAL 64 generated" in nothing


def test_what_was_not_scored_is_unverified(tmp_path: Path) -> None:
    unscored = [{**record, "val": None, "test": None} for record in records()]
    path = write(tmp_path, title="unseen", records=unscored)
    text = Balance(path.read_text(encoding="utf-8")).text
    assert "50.0 % of the MACs. UNVERIFIED: there was no sample of the task" in text
    assert "UNVERIFIED" not in report(tmp_path / "scored")


def test_the_table_fits_80_columns() -> None:
    console = Console(width=80, force_terminal=False)
    with console.capture() as capture:
        console.print(plots.table(records()))
    text = capture.get()
    assert "…" not in text
    assert "20.3M 50.0%" in text
    assert "92.50%" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.5, "0.5"),
        (0.00012, "1.2e-4"),
        (999, "999"),
        (1234567, "1.23M"),
        (999_999, "1000k"),
        (None, "–"),
    ],
)
def test_short(value: float | None, text: str) -> None:
    assert plots.short(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (0, "–")],
)
def test_duration(seconds: float, text: str) -> None:
    assert plots.duration(seconds) == text
