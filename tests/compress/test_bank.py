"""The reservoir of generated images: what it holds, how likely, and that it comes back to the bit."""

import pytest
import torch

from compress.bank import Bank


def offer(bank: Bank, numbers: range, generator: torch.Generator) -> None:
    """Samples that carry their number in the image and, negated, in the answer."""
    values = torch.tensor([float(n) for n in numbers])
    bank.add(values.view(-1, 1, 1, 1), -values.view(-1, 1), generator)


def held(bank: Bank) -> list[int]:
    return [int(value) for images, _ in bank.all() for value in images.flatten().tolist()]


def test_it_holds_everything_until_it_is_full_then_as_much() -> None:
    bank, dice = Bank(10), torch.Generator().manual_seed(0)
    offer(bank, range(4), dice)
    assert held(bank) == [0, 1, 2, 3]
    offer(bank, range(4, 30), dice)
    assert len(bank) == 10
    assert bank.seen == 30
    assert len(set(held(bank))) == 10


def test_every_sample_is_held_with_the_same_chance() -> None:
    counts = torch.zeros(24)
    dice = torch.Generator().manual_seed(0)
    for _ in range(1500):
        bank = Bank(6)
        for start in (0, 5, 12):  # 5, 7 and 12 samples at a time, over the edge of the bank in the second
            offer(bank, range(start, {0: 5, 5: 12, 12: 24}[start]), dice)
        counts[held(bank)] += 1
    # Each count is binomial around 1500 / 4 with a deviation of 17: five of them.
    assert (counts - 375).abs().max() < 85


def test_answers_stay_with_their_images() -> None:
    bank, dice = Bank(8), torch.Generator().manual_seed(1)
    offer(bank, range(50), dice)
    images, answers = bank.draw(100, dice)
    assert torch.equal(images.view(100), -answers.view(100))
    assert set(images.flatten().int().tolist()) <= set(held(bank))
    for images, answers in bank.all(batch=3):
        assert torch.equal(images.view(-1), -answers.view(-1))


def test_it_comes_back_to_the_bit() -> None:
    bank, dice = Bank(8), torch.Generator().manual_seed(1)
    offer(bank, range(20), dice)
    twin, state = Bank(8), dice.get_state()
    twin.load_state_dict(bank.state_dict())
    offer(bank, range(20, 60), dice)
    offer(twin, range(20, 60), torch.Generator().set_state(state))
    assert held(twin) == held(bank)
    empty = Bank(3)
    empty.load_state_dict(Bank(3).state_dict())
    assert len(empty) == 0
    assert empty.all() == []


def test_a_bank_without_room() -> None:
    with pytest.raises(ValueError, match="at least one sample, not 0"):
        Bank(0)
