"""The front: what it does to images is what preprocessing a probe does, and it outlives us like any other layer."""

from pathlib import Path

import pytest
import torch
from torch import nn

from compress.probe import Preprocess
from students import compact
from students.adapt import Adapt
from teachers.signature import Signature

GREY = Signature(((1, 8, 8),), ("a", "b"), (0.3,), (0.4,))
COLOUR = Signature(((3, 12, 10),), ("a", "b", "c"), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
PLAIN = Signature(((3, 8, 8),), ("a", "b"))


@pytest.mark.parametrize("given", [GREY, COLOUR, PLAIN])
@pytest.mark.parametrize("wanted", [GREY, COLOUR, PLAIN])
def test_it_does_as_preprocessing_does(given: Signature, wanted: Signature) -> None:
    images = torch.rand(2, *given.inputs[0])
    entered = Preprocess.of(given)(images)
    torch.testing.assert_close(
        Adapt(given, wanted)(entered), Preprocess.of(wanted)(images), atol=1e-5, rtol=1e-5
    )


def test_it_is_saved_with_the_network_behind_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        Adapt(COLOUR, GREY), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    ).eval()
    compact.put_away(network, tmp_path)
    again = compact.take_out(tmp_path)
    (images,) = COLOUR.example(3)
    assert torch.equal(network(images), again(images))


def test_what_cannot_be_brought_over() -> None:
    row = Signature(((7,),), ("a", "b"))
    with pytest.raises(
        ValueError, match=r"inputs of \(\(7,\),\) cannot be made inputs of .*only grey and colour"
    ):
        Adapt(row, GREY)
    with pytest.raises(ValueError, match="only grey and colour"):
        Adapt(GREY, Signature(((4, 8, 8),), ("a", "b")))
