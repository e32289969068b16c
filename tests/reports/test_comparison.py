"""What people see of a comparison: lines, cells, CSV, forest, and the page in a browser."""

import csv
import io
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reports.comparison import COLUMNS, Against, Comparison, Row, cells, csv_text, lines, points, sentence
from reports.comparison_page import write
from reports.forest import Branch, forest
from reports.paired import paired, spread

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def made(recipes: int = 2, seeds: int = 3, samples: int = 400) -> Comparison:
    """Recipes of which each is a little worse than the one before."""
    generator = np.random.default_rng(0)
    hard = generator.random((recipes, seeds, samples)) * 0.3 + generator.random(samples)
    merits = {n: (hard[n] < 1.1 - 0.04 * n).astype(float) for n in range(recipes)}
    names = [f"recipe-<{n}>" for n in range(recipes)]
    pairs = []
    for n in range(1, recipes):
        both = {s: (merits[0][s], merits[n][s]) for s in range(seeds)}
        found = paired({s: (float(a.mean()), float(b.mean())) for s, (a, b) in both.items()}, both)
        pairs.append(
            Against(names[0], names[n], found, found.p, fields=(("stages.0 GAL.macs", "0.5", "0.3"),))
        )
    rows = [
        Row(
            name, tuple(range(seeds)), tuple(map(float, merits[n].mean(1))), *spread(list(merits[n].mean(1)), samples),
            {"macs": 4e6 - 1e6 * n / recipes, "params": 2e4, "bytes": 8e4 - n, "latency_ms_p50_b1": 1.25}, 0.5, 0.1,
        )
        for n, name in enumerate(names)
    ]  # fmt: skip
    runs = [
        (row.label, seed, row.scores[seed], f"runs/{row.label}/{seed}") for row in rows for seed in row.seeds
    ]
    teacher = ("teacher", 0.97, {"macs": 5e6, "bytes": 9e4, "latency_ms_p50_b1": 2.5})
    return Comparison(
        f"{recipes} recipes", "accuracy", samples, rows, pairs, runs, ["a note & more"], teacher
    )


def test_cells() -> None:
    row = made().rows[0]
    told = dict(zip(COLUMNS, cells(row), strict=True))
    assert told["MACs"] == "4M"
    assert told["latency"] == "1.25 ms"
    assert told["of teacher"] == "50 %"
    assert told["took"] == "6.0 s"
    assert told["test"] == f"{100 * row.score:.2f} %"
    node = cells(replace(row, cost={"latency_ms_p50_node": 0.0689}, share=None, minutes=None))
    assert node[4:] == ("–", "–", "–", "68.9 µs/node", "–", "–")


def test_points_have_no_minus_nothing() -> None:
    assert (points(-0.00001), points(0.0), points(0.0123), points(-0.5)) == (
        "+0.00",
        "+0.00",
        "+1.23",
        "-50.00",
    )


def test_a_tie_is_said_to_be_one() -> None:
    scores = {0: (0.9, 0.92), 1: (0.91, 0.9), 2: (0.9, 0.9)}
    pair = Against("a", "b", found := paired(scores), found.p)
    assert sentence(pair) == "b against a: no difference told: +0.33 ± 3.79 points over 3 seeds (p 0.742)"
    among = Against("a", "b", found, 1.0)
    assert sentence(among).endswith("; p 1.000 among all (Holm)")


def test_csv_reads_back() -> None:
    shown = made(3)
    first, *others = csv.DictReader(io.StringIO(csv_text(shown)))
    assert first["against"] == ""
    for row, pair in zip(others, shown.pairs, strict=True):
        assert row["against"] == "recipe-<0>"
        assert float(row["difference"]) == pair.found.value
        assert float(row["macs"]) == 4e6 - 1e6 * (int(row["recipe"][8]) / 3)
        assert pair.found.pooled is not None
        assert int(row["mcnemar_worse"]) == pair.found.pooled.worse


def test_notes_come_last() -> None:
    assert lines(made())[-1] == "a note & more"


def test_forest() -> None:
    branches = [
        Branch("one", -1.0, (-1.5, -0.5), (-1.8, -0.2), (-1.1, -0.9), True),
        Branch("<two>", 0.1, (-80.0, 80.2), None, (0.0, 0.2), False),
    ]
    tree = ET.fromstring(forest(branches, "accuracy", "first"))
    ends = [float(node.get(name, "")) for node in tree.iter("line") for name in ("x1", "x2")]
    assert min(ends) >= 190
    assert max(ends) <= 640, "an interval that leaves the picture is cut at its edge"
    assert [group.get("class") for group in tree.iter("g")] == [None, "none"]
    assert len([c for c in tree.iter("circle") if c.get("class") == "one"]) == 4
    assert forest([], "accuracy", "first") == ""


@pytest.mark.parametrize("recipes", [2, 5])
def test_the_page_is_whole_and_alone(recipes: int, tmp_path: Path) -> None:
    write(tmp_path / "page.html", shown := made(recipes))
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert re.search(r"https?:|url\(|@import|<script", html) is None
    assert "recipe-<" not in html
    assert html.count('class="pareto"') == 3
    assert html.count('class="forest"') == 1
    for told in (
        "a note &amp; more",
        "stages.0 GAL.macs",
        f"{len(shown.runs)} runs",
        "The ring is the teacher",
    ):
        assert told in html
    first = (
        f"{recipes - 1} recipes against" if recipes > 2 else "recipe-&lt;1&gt; is worse than recipe-&lt;0&gt;"
    )
    assert first in html


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed to open the page in")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """No errors, nothing wider than the screen, pictures that are drawn, at two widths."""
    sync = pytest.importorskip("playwright.sync_api")
    write(tmp_path / "page.html", made(6))
    said: list[str] = []
    with sync.sync_playwright() as work:
        browser = work.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width in (1280, 420):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda problem: said.append(str(problem)))
            page.goto((tmp_path / "page.html").as_uri())
            for hidden in page.query_selector_all("details"):
                hidden.evaluate("one => one.open = true")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            drawn = [svg.bounding_box() for svg in page.query_selector_all("svg")]
            assert len(drawn) == 4
            assert all(box and box["width"] > 200 and box["height"] > 60 for box in drawn)
            page.screenshot(path=tmp_path / f"page-{width}.png", full_page=True)
        browser.close()
    assert said == []
