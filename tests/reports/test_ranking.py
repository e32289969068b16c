"""The ranking for people: every network in the table, pictures whose coordinates and numbers are right."""

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from reports.page import write
from reports.profile import Profile
from reports.ranking import alone, columns, heat_map, intervals, rows, section, told
from reports.record import Record

NAMES = ["bee", "ant <&>", "cat", "dog"]
RANKING: dict[str, Any] = {
    "names": NAMES, "scores": [0.9, 0.5, 0.25, -0.1], "by": "DEPARA, V + 1 E", "target": "elk",
    "parts": {"V": [0.4, 0.3, 0.2, 0.1], "E": [0.5, 0.2, 0.05, -0.2]}, "low": [0.8, 0.4, 0.2, -0.3],
    "high": [1.0, 0.6, 0.3, 0.1], "first": [0.75, 0.25, 0.0, 0.0], "stability": 0.875,
    "models": ["elk", *NAMES],
    "similarity": [
        [2.0, 0.9, 0.5, 0.25, -0.1], [0.9, 2.0, 0.8, 0.1, 0.0], [0.5, 0.8, 2.0, 0.1, 0.0],
        [0.25, 0.1, 0.1, 2.0, 0.7], [-0.1, 0.0, 0.0, 0.7, 2.0],
    ],
}  # fmt: skip


def record(name: str, position: int = 0, chose: bool = False) -> dict[str, Any]:
    from reports.evaluate import ValScore

    made = Record(
        name, position, Profile(32_300, 3_690), "accuracy", ValScore(0.93, 500), 1.0, 0, "abc", chose=chose
    )
    return made.to_dict()


def test_the_table() -> None:
    heads = columns(RANKING)
    assert heads == ("", "teacher", "score", "95 %", "V", "E", "first", "val", "MACs", "params")
    first, second, *_ = rows(RANKING, {"bee": record("bee")})
    assert first == (
        "1", "bee", "0.900", "0.800 to 1.000", "0.400", "0.500", "75 %", "93.00 %", "32.3k", "3.69k",
    )  # fmt: skip
    assert second[-3:] == ("–", "–", "–")
    assert rows(RANKING, {})[3][2:4] == ("−0.100", "−0.300 to 0.100")
    plain = {
        **RANKING,
        "low": [],
        "high": [],
        "first": [],
        "stability": None,
        "parts": {},
        "target": None,
        "by": "leep",
    }
    assert columns(plain) == ("", "teacher", "score", "val", "MACs", "params")
    assert told(plain) == "By leep."
    assert intervals(plain) == ""
    assert "of which two agree on the order by 0.88" in told(RANKING)


def test_intervals_are_drawn_where_they_are() -> None:
    drawn = ElementTree.fromstring(intervals(RANKING))
    bars = [(float(bar.get("x", 0)), float(bar.get("width", 0))) for bar in drawn.iter("rect")]
    dots = [float(dot.get("cx", 0)) for dot in drawn.iter("circle")]
    left, right = min(x for x, _ in bars), max(x + width for x, width in bars)

    def value(x: float) -> float:
        return -0.3 + (x - left) / (right - left) * 1.3

    for (x, width), dot, low, high, score in zip(
        bars, dots, RANKING["low"], RANKING["high"], RANKING["scores"], strict=True
    ):
        assert value(x) == pytest.approx(low, abs=0.002)
        assert value(x + width) == pytest.approx(high, abs=0.002)
        assert value(dot) == pytest.approx(score, abs=0.002)


def test_heat_map_shows_every_two_once_each_way() -> None:
    svg = heat_map(RANKING["models"], RANKING["similarity"], "elk", "S")
    drawn = ElementTree.fromstring(svg)
    told = [title.text or "" for title in drawn.iter("title")]
    assert len(told) == 20
    assert "elk, bee: 0.900" in told
    assert "dog, elk: −0.100" in told
    fills = {t.text: float(r.get("fill-opacity", 0)) for r in drawn.iter("rect") for t in r.iter("title")}
    assert fills["elk, bee: 0.900"] == pytest.approx(1)
    assert fills["elk, dog: −0.100"] == pytest.approx(0.06)
    width, height = map(float, (drawn.get("viewBox") or "").split()[2:])
    for part in drawn.iter():
        for name, most in (("x", width), ("y", height)):
            if part.get(name):
                assert 0 <= float(part.get(name, 0)) <= most
    (target,) = [text for text in drawn.iter("text") if text.get("class") == "name"]
    assert target.text == "elk"


def test_the_order_is_that_of_the_dendrogram() -> None:
    svg = heat_map(RANKING["models"], RANKING["similarity"])
    order = re.findall(r'text-anchor="end">([a-z][^<]*)</text>', svg)
    places = {name: place for place, name in enumerate(order)}
    assert abs(places["cat"] - places["dog"]) == 1
    assert abs(places["elk"] - places["bee"]) == 1
    (path,) = re.findall(r'<path d="([^"]+)"', svg)
    assert path.count("M") == 4, "four joints for five networks"
    with pytest.raises(ValueError, match="two networks at least, not 1"):
        heat_map(["elk"], [[1.0]])


def test_many_networks_have_no_room_for_figures() -> None:
    names = [f"network-{place}" for place in range(40)]
    matrix = [[1.0 if p == q else 1 / (1 + abs(p - q)) for q in range(40)] for p in range(40)]
    svg = heat_map(names, matrix)
    assert "font-size:10px" not in svg
    ElementTree.fromstring(alone(svg))


def test_a_picture_alone_is_whole() -> None:
    svg = alone(heat_map(RANKING["models"], RANKING["similarity"]))
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    used = set(re.findall(r"var\((--\w+)\)", svg))
    assert used <= set(re.findall(r"(--\w+):", svg))


def test_the_report_of_a_ranking(tmp_path: Any) -> None:
    records = [record(name) for name in ("elk", *NAMES)]
    page = write(
        tmp_path, title="zoo", records=[*records, record("DEPARA", 1, chose=True)], ranking=RANKING
    ).read_text(encoding="utf-8")
    assert "bee is the one to start from, of 4. It came first in 75 % of the resamples." in page
    assert "ant &lt;&amp;&gt;" in page
    assert "Similarity of all models" in page
    assert "smaller" not in page
    finished = [*records, record("DEPARA", 1, chose=True), record("GAL", 2)]
    page = write(tmp_path, title="zoo", records=finished, ranking=RANKING).read_text(encoding="utf-8")
    assert "of the MACs" in page
    assert section(RANKING, {})[:6] == "<table"
