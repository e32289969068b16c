"""Pictures as SVG: well-formed, every cell there, names escaped."""

import base64
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from reports.pictures import grid, kernels, strips


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


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_holds_every_pixel(channels: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, channels, 4, 5))
    svg = grid([("a<b", images[:2].tolist()), ("last", images[2:].tolist())], "said & done")
    tree = ElementTree.fromstring(svg)
    assert [node.text for node in tree.iter() if node.tag == "text"] == ["said & done", "a<b", "last"]
    (picture,) = [node.attrib["href"] for node in tree.iter() if node.tag == "image"]
    data = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(data)) as file:
        pixels = np.asarray(file).reshape(2 * 5, 2 * 6, channels)
    for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0)]):
        cut = pixels[row * 5 : row * 5 + 4, column * 6 : column * 6 + 5]
        np.testing.assert_array_equal(cut, images[place].transpose(1, 2, 0))
    assert not pixels[5:9, 6:].any()  # no second image in the second row


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="an image"):
        grid([], "")
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        grid([("two", [[[[0]], [[0]]]])], "")
    with pytest.raises(ValueError, match="a layer"):
        strips([], "")
    with pytest.raises(ValueError, match="a channel"):
        kernels([], "")
