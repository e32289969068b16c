"""Which points no other dominates, and that the picture can be read: names apart, everything inside."""

import itertools
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.pareto import Spot, frontier, pareto, pictures

points = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=12)


@given(points)
@settings(max_examples=60, deadline=None)
def test_frontier(pairs: list[tuple[int, int]]) -> None:
    """Slow twin: the best score for at most that cost, and no cheaper one as good."""
    for (cost, score), best in zip(pairs, frontier(pairs), strict=True):
        reachable = max(s for c, s in pairs if c <= cost)
        cheapest = min(c for c, s in pairs if s >= score)
        assert best == (score == reachable and cost == cheapest)


def boxes(svg: str) -> list[tuple[str, float, float, float]]:
    """Name, left, right and height of every name in the picture."""
    return [
        (node.text or "", float(node.get("x", "")), float(node.get("x", "")) + float(node.get("textLength", "")),
         float(node.get("y", "")))
        for node in ET.fromstring(svg).iter("text")
        if node.get("textLength")
    ]  # fmt: skip


@given(st.lists(st.tuples(st.floats(1e3, 1e6), st.floats(0.5, 1)), min_size=2, max_size=14))
@settings(max_examples=30, deadline=None)
def test_names_do_not_overlap(pairs: list[tuple[float, float]]) -> None:
    spots = [
        Spot(f"recipe-{n}", score, cost, score - 0.02, score + 0.02) for n, (cost, score) in enumerate(pairs)
    ]
    svg = pareto(spots, "MACs", "accuracy")
    assert len(re.findall("<circle", svg)) == len(pairs)
    for (_, left, right, down), (_, other_left, other_right, other_down) in itertools.combinations(
        boxes(svg), 2
    ):
        assert right <= other_left or other_right <= left or abs(down - other_down) >= 12.9
    for _, left, right, down in boxes(svg):
        assert left >= 0
        assert right <= 520
        assert 0 < down < 300


def test_twins_are_both_named() -> None:
    svg = pareto(
        [Spot("one", 0.9, 100.0), Spot("two", 0.9, 100.0), Spot("three", 0.9, 100.0)], "MACs", "accuracy"
    )
    assert {name for name, *_ in boxes(svg)} == {"one", "two", "three"}


def test_dominated_is_paler_and_the_teacher_a_ring() -> None:
    spots = [
        Spot("teacher", 0.93, 1000.0, kind="teacher"), Spot("good", 0.92, 400.0, 0.9, 0.94), Spot("<bad>", 0.8, 500.0)
    ]  # fmt: skip
    svg = pareto(spots, "MACs", "accuracy")
    tree = ET.fromstring(svg)
    told = {
        (group.find("title").text or "").partition(":")[0]: group.get("class")  # type: ignore[union-attr]
        for group in tree.iter("g")
    }
    assert told == {"teacher": None, "good": None, "<bad>": "pale"}
    assert svg.count('class="ring"') == 1
    assert svg.count('class="whisker"') == 1
    (line,) = tree.iter("polyline")
    # From the first of the frontier to the right, then up, and on to the edge.
    corners = [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
    assert [x for x, _ in corners] == sorted(x for x, _ in corners)
    assert corners[0][1] == corners[1][1] > corners[2][1] == corners[3][1]


def test_many_points_name_the_frontier_alone() -> None:
    spots = [Spot(f"r{n}", 0.5 + n / 100, 100.0 + n) for n in range(10)]
    spots += [Spot(f"d{n}", 0.4, 200.0 + n) for n in range(10)]
    assert {name for name, *_ in boxes(pareto(spots, "MACs", "accuracy"))} == {f"r{n}" for n in range(10)}


def test_what_was_not_measured_is_left_out() -> None:
    spots = [Spot("a", 0.9, None), Spot("b", 0.8, 10.0)]
    assert pareto(spots, "MACs", "accuracy") == ""
    assert pictures([("MACs", "count", spots)], "accuracy") == ""
    both = pictures([("MACs", "count", [*spots, Spot("c", 0.7, 5.0)]), ("file", "bytes", spots)], "accuracy")
    assert both.count("<svg") == 1


@pytest.mark.parametrize("most", [15.0, 5e2, 1e9])
def test_the_axis_has_marks(most: float) -> None:
    svg = pareto([Spot("a", 0.9, 10.0), Spot("b", 1.0, most)], "latency", "accuracy")
    marks = [node for node in ET.fromstring(svg).iter("text") if node.get("y") == "278.0"]
    assert 2 <= len(marks) <= 12
