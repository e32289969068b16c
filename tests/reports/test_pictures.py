"""Pictures as SVG: well-formed, every cell there, names escaped."""

from xml.etree import ElementTree

import pytest

from reports.pictures import kernels, strips


def rects(svg: str) -> list[dict[str, str]]:
    return [node.attrib for node in ElementTree.fromstring(svg).iter() if node.tag == "rect"]


def test_strips_draw_runs_of_equal_cells_once() -> None:
    svg = strips([("a<b", [1.0, 1.0, 0.5, 0.0]), ("wide", [0.25] * 1000)], "said & done")
    cells = [r for r in rects(svg) if r["fill"] != "none"]
    assert len(cells) == 4
    assert [float(r["width"]) for r in cells] == [320.0, 160.0, 160.0, 640.0]
    assert float(cells[2]["fill-opacity"]) == 0
    assert float(cells[0]["fill-opacity"]) == 1
    assert "a&lt;b" in svg


def test_kernels_are_squares_of_grey() -> None:
    eye = [[1.0, 0.0], [0.0, -1.0]]
    svg = kernels([("3: 1 of 2", [eye, eye], [eye, eye])], "before and after")
    assert len(rects(svg)) == 16
    assert [r["fill"] for r in rects(svg)[:4]] == ["#ffffff", "#808080", "#808080", "#000000"]


def test_zeros_are_drawn_too() -> None:
    assert rects(kernels([("0", [[[0.0]]], [[[0.0]]])], ""))[0]["fill"] == "#808080"


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="a layer"):
        strips([], "")
    with pytest.raises(ValueError, match="a channel"):
        kernels([], "")
