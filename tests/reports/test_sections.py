"""The report's sections against obvious twins, and all of a report in a real browser."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from browser import chromium
from test_report import Balance, records

from reports import confusion, falls, pictures, reads
from reports.page import write

LEDGER: dict[str, Any] = {
    "reads": [
        {"who": "teacher net", "why": "learns", "source": "teachers.tasks.Digits", "split": "train", "labels": True,
         "samples": 15_360, "distinct": 1293, "of": 1293},
        {"who": "1 GAL", "why": "learns", "source": "generated", "split": "generated", "labels": False,
         "samples": 640, "distinct": 64, "of": 64},
        {"who": "runner", "why": "scores 1 GAL", "source": "mine.Task", "split": "val", "labels": True,
         "samples": 288, "distinct": None, "of": 144},
        {"who": "runner", "why": "a graph", "source": "mine.Task", "split": "test", "labels": True, "samples": 90,
         "distinct": 90, "of": 30},
    ],
    "feeds": [{"who": "1 GAL", "sees": "nothing", "open": False}],
    "closed": True,
    "proof": "No stage & nobody",
}  # fmt: skip
SENSITIVITY = {
    "teacher": "net", "share": 0.5, "samples": 144, "score": 0.98, "left": 2,
    "layers": {"conv1": 0.5, "layer1.0.conv2": 0.99, "conv3": 0.98},
}  # fmt: skip


def text_of(html: str) -> str:
    return " ".join(Balance(f"<div>{html}</div>").text.split())


# -- what is taken for what -------------------------------------------------------------------------------

answers = st.lists(st.tuples(*[st.integers(0, 4)] * 2, st.integers(-1, 4)), min_size=1, max_size=40)


@settings(max_examples=30, deadline=None)
@given(answers)
def test_tables_and_losses_equal_a_loop(rows: list[tuple[int, int, int]]) -> None:
    teacher, student, truth = (np.array(column) for column in zip(*rows, strict=True))
    before, after = (confusion.table(truth, said, 5) for said in (teacher, student))
    for said, found in ((teacher, before), (student, after)):
        for true in range(5):
            for other in range(5):
                assert found[true, other] == sum(
                    t == true and s == other for t, s in zip(truth, said, strict=True)
                )
    for one in confusion.losses(before, after, [str(n) for n in range(5)]):
        mine = [(t, s) for t, s, true in rows if str(true) == one.label]
        assert one.samples == len(mine)
        assert one.before == pytest.approx(sum(str(t) == one.label for t, _ in mine) / len(mine))
        assert one.after == pytest.approx(sum(str(s) == one.label for _, s in mine) / len(mine))
        wrong = [s for _, s in mine if str(s) != one.label]
        assert one.times == max((wrong.count(s) for s in wrong), default=0)
    order = [one.after - one.before for one in confusion.losses(before, after, list("abcde"))]
    assert order == sorted(order)


def test_classes_that_lost_most_come_first() -> None:
    truth = torch.tensor([0] * 10 + [1] * 10 + [-1])
    student = truth.clone()
    student[:3], student[-1] = 1, 0
    html = confusion.section(
        {"targets": truth, "teacher": truth.clamp_min(0), "student": student}, ["<cat>", "dog"]
    )
    text = text_of(html)
    assert (
        "20 samples of test: the teacher is right on 20, the student on 17. 3 times the teacher had right"
        in text
    )
    assert "<cat> 10 100.0 % 70.0 % −30.0 points dog (3)" in text
    assert "&lt;cat&gt; taken for dog: 3 of 10" in html
    assert text.count("dog 10") == 0, "it lost nothing"
    same = text_of(confusion.section({"targets": truth, "teacher": student, "student": student}, ["a", "b"]))
    assert "No class lost." in same


def test_many_classes_are_put_together() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 100, 2000)
    student = np.where(truth == 41, 42, truth)
    names = [f"class {n}" for n in range(100)]
    html = confusion.section({"targets": truth, "teacher": truth, "student": student}, names)
    assert html.count("<rect") == 2 * confusion.MOST**2
    assert "others" in html
    assert f"class 41 taken for class 42: {int((truth == 41).sum())}" in html


def test_what_cannot_be_compared_is_left_out() -> None:
    one = torch.tensor([0, 1])
    assert confusion.section({"targets": one, "student": one}, ["a", "b"]) == ""
    assert confusion.section({"targets": one, "student": one, "teacher": one + 5}, ["a", "b"]) == ""
    assert confusion.section({"targets": one, "student": one, "teacher": one}, ["a"]) == ""
    assert confusion.section({"targets": one - 2, "student": one, "teacher": one}, ["a", "b"]) == ""


# -- stages, layers, data ---------------------------------------------------------------------------------


def test_a_waterfall_tells_what_every_stage_did() -> None:
    text = text_of(falls.waterfall(records()))
    assert "GAL 80.00 % −13.00 <Finetune> 92.50 % +12.50" in text
    assert "teacher 40.6M GAL 20.3M −50.0 % <Finetune> 20.3M" in text
    assert "file" not in text, "it was not measured after every stage"
    html = falls.waterfall(records())
    assert html.count('<b class="lost"') == 1
    assert html.count('<b class="won"') == 2
    assert falls.waterfall(records()[:1]) == ""
    assert falls.waterfall([{**record, "val": None} for record in records()]).count("<h3>") == 1


def test_sensitivity_tells_points_and_what_was_left_out() -> None:
    html = falls.sensitivity(SENSITIVITY)
    text = text_of(html)
    assert "conv1 −48.0" in text
    assert "layer1.0.conv2 +1.0" in text
    assert "conv3 0.0" in text
    assert "2 small layers were not looked at" in text
    assert [float(w) for w in re.findall(r'lost" style="width:([\d.]+)%', html)] == [100.0, 0.0, 0.0]


def test_the_ledger_as_a_table() -> None:
    text = text_of(reads.section(LEDGER))
    assert "teacher net learns Digits train with 15,360 1,293 of 1,293" in text
    assert "1 GAL learns generated generated without 640 64 of 64" in text
    assert "1 GAL sees nothing feed closed" in text
    assert "288 at most 144" in text
    assert "90 90 Counted" not in text.replace(" 1 GAL", ""), "the graph's row is not the last"
    assert "No stage & nobody" in text
    assert reads.told(LEDGER) == "no sample of the task"
    open_ = {**LEDGER["reads"][0], "who": "1 GAL"}
    assert reads.told({**LEDGER, "reads": [open_]}) == "train with labels"
    assert reads.told({**LEDGER, "reads": [{**open_, "labels": False}]}) == "train without labels"


# -- in a browser -----------------------------------------------------------------------------------------


def full(folder: Path, layers: int = 60) -> Path:
    """A report with all there is, large."""
    stages = [{**record, "position": place} for place, record in enumerate(records())]
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, 10_000)
    said = [np.where(rng.random(10_000) < share, rng.integers(0, 10, 10_000), truth) for share in (0.05, 0.1)]
    curve = [(step, float(value)) for step, value in enumerate(rng.random(3000))]
    image = rng.integers(0, 256, (3, 8, 8)).tolist()
    return write(
        folder, title="a-rather-long-name-of-a-recipe-resnet56-gal-kse-finetune", records=stages,
        curves={f"{n:02d}-stage": dict.fromkeys(("loss", "agreement", "alive"), curve) for n in range(4)},
        widths={f"layer{n // 20}.{n}.conv1.a_long_name": (64, n) for n in range(layers)},
        pictures={"02 Images": pictures.grid([("first epoch", [image] * 20)], "what it drew")},
        notes=["layer1.0.conv2 is locked: " + "x" * 200], environment={"commit": "49fe9ab", "hash": "f" * 64},
        page="recipes.Recipe:\n  " + "y" * 300, ledger=LEDGER, sensitivity=SENSITIVITY,
        decisions={"targets": truth, "teacher": said[0], "student": said[1]}, labels=[f"label {n}" for n in range(10)],
    )  # fmt: skip


def test_a_report_is_written_within_seconds(tmp_path: Path) -> None:
    started = time.perf_counter()
    path = full(tmp_path, layers=300)
    assert time.perf_counter() - started < 5
    assert path.stat().st_size < 3_000_000


def test_a_report_in_a_browser(tmp_path: Path) -> None:
    """No error, nothing wider than the window, and every picture there, wide and narrow, light and dark."""
    path = full(tmp_path)
    with chromium() as browser:
        for width, scheme in ((1280, "light"), (420, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            said: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda problem, said=said: said.append(str(problem)))
            page.on("request", lambda asked, said=said: said.append(asked.url))
            page.goto(path.as_uri())
            page.screenshot(path=str(tmp_path / f"report-{width}-{scheme}.png"), full_page=True)
            assert [line for line in said if not line.startswith(("file:", "data:"))] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator("section").count() == 10
            boxes = page.evaluate(
                "[...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect())"
                ".map(r => [r.width, r.height])"
            )
            assert len(boxes) >= 16
            assert all(across > 100 and down > 30 for across, down in boxes)
            drawn = page.evaluate(
                """async () => {
                    const link = document.querySelector('image').getAttribute('href');
                    const image = new Image(); image.src = link; await image.decode();
                    return image.naturalWidth }"""
            )
            assert drawn == 20 * 9, "the page's own rules hide its pictures"
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (dark == "rgb(246, 247, 247)") == (scheme == "light")
            page.close()
