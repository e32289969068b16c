"""The student that is chosen without labels."""

import pytest
import torch
from torch import Tensor, nn

from compress.bank import Bank
from compress.choice import Choice
from compress.session import Session


class Off(nn.Module):
    """Answers as the teacher does, and so much more."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) + self.more


@pytest.mark.parametrize(
    ("gaps", "chosen"),
    [
        ([0.1, 0.1, 4.0, 3.0], 3),  # what the first half had is not compared with
        ([3.0, 3.0, 1.0, 4.0], 2),
        ([3.0, 3.0, 1.0, 0.5], 3),
    ],
)
def test_it_is_of_the_second_half_and_the_nearest_there(gaps: list[float], chosen: int) -> None:
    held, student = Bank(16), Off()
    images = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    held.add(images, images, torch.Generator())
    choice = Choice(student, 0.0)
    for epoch, gap in enumerate(gaps):
        student.more.data.fill_(gap)
        choice.judge(student, held, Session(), epoch, len(gaps))
    assert choice.epoch == chosen
    assert choice.best["more"].item() == gaps[chosen]
