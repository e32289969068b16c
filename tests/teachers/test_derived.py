"""Derived tasks: the same images in the same splits, other labels, drawn by a seed; and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from teachers.task import Split, Task
from teachers.tasks import BreastCancer, Canvas, Digits, Few, Grouped, Levels, Rotated, Shuffled, Toy
from teachers.tasks.derived import Derived

BASE = Toy(samples=120, classes=4, size=6, batch=16)
GROUPS = {"low": ("pattern 0", "pattern 1"), "high": ("pattern 3",)}


def whole(task: Task, split: Split = Split.TEST) -> tuple[Tensor, Tensor]:
    batches = list(task.open(None).batches(split, torch.device("cpu")))
    targets = [batch.target for batch in batches if batch.target is not None]
    return torch.cat([batch.inputs[0] for batch in batches]), torch.cat(targets)


@pytest.mark.parametrize(
    "task",
    [
        Few(of=BASE, per_class=10), Canvas(of=BASE, size=(9, 8)), Grouped(of=BASE, groups=GROUPS), Rotated(of=BASE),
        Shuffled(of=BASE), Levels(of=BASE, levels=4), Rotated(of=Few(of=Grouped(of=BASE, groups=GROUPS), per_class=9)),
    ],
    ids=lambda task: type(task).__name__,
)  # fmt: skip
def test_what_it_says_is_what_it_gives(task: Task) -> None:
    signature, splits = task.signature(), task.open(None)
    seen = []
    for split in Split:
        images, labels = whole(task, split)
        assert images.shape[1:] == signature.inputs[0]
        assert len(images) == splits.samples(split) > 0
        assert 0 <= int(labels.min()) <= int(labels.max()) < signature.classes
        seen.append({image.numpy().tobytes() for image in images})
    assert not seen[0] & seen[1]
    again = whole(task)
    assert all(torch.equal(one, other) for one, other in zip(again, whole(task), strict=True))


def test_few_are_so_many_of_every_class_and_all_of_test() -> None:
    task = Few(of=BASE, per_class=10)
    (train, test), (all_train, all_test) = task.read(None), BASE.read(None)
    assert train.labels.bincount().tolist() == [10] * 4
    known = {image.numpy().tobytes(): int(label) for image, label in zip(*all_train, strict=True)}
    assert all(known[image.numpy().tobytes()] == label for image, label in zip(*train, strict=True))
    assert torch.equal(test.images, all_test.images)
    assert not torch.equal(train.images, Few(of=BASE, per_class=10, seed=1).read(None)[0].images)


def test_canvas_pads_and_repeats() -> None:
    task = Canvas(of=BASE, size=(9, 8))
    images, _ = task.read(None)[1]
    plain, _ = BASE.read(None)[1]
    assert images.shape[1:] == (3, 9, 8)
    for channel in range(3):
        assert torch.equal(images[:, channel, 1:7, 1:7], plain[:, 0])
    assert int(images.long().sum()) == 3 * int(plain.long().sum())
    assert task.signature().mean == (0.5,) * 3
    assert task.signature().std == (0.35,) * 3


def test_groups() -> None:
    task = Grouped(of=BASE, groups=GROUPS)
    images, labels = task.read(None)[1]
    plain, old = BASE.read(None)[1]
    keep = old != 2
    assert torch.equal(images, plain[keep])
    assert torch.equal(labels, (old[keep] == 3).long())
    assert task.labels == ("low", "high")
    assert task.chance == 0.5


def test_rotations() -> None:
    task = Rotated(of=Toy(samples=120, classes=4, size=6, batch=16, flip=True))
    images, labels = task.read(None)[1]
    plain, _ = BASE.read(None)[1]
    for image, label, old in zip(images, labels.tolist(), plain, strict=True):
        assert np.array_equal(np.rot90(old[0].numpy(), label), image[0].numpy())
    assert labels.bincount().tolist() == [30] * 4
    assert not task.flip


def test_shuffled_labels_say_nothing_of_the_image() -> None:
    images, labels = Shuffled(of=BASE).read(None)[0]
    plain, old = BASE.read(None)[0]
    assert torch.equal(images, plain)
    assert labels.bincount().tolist() == [30] * 4
    assert 0.1 < float((labels == old).double().mean()) < 0.4


def test_levels_are_alike_often_and_rise_with_brightness() -> None:
    task = Levels(of=BASE, levels=4)
    images, labels = whole(task, Split.TRAIN)
    assert labels.shape == (len(images), 6, 6)
    share = labels.flatten().bincount().double() / labels.numel()
    assert float((share - 0.25).abs().max()) < 0.03
    order = images[:, 0].flatten().argsort()
    assert bool((labels.flatten()[order].diff() >= 0).all())
    outputs = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    assert task.score(task.predict(outputs), labels) == 1
    assert task.chance == 0.25


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Rotated(of=BreastCancer()), "Rotated is made of images with one label each, not of BreastCancer"),
        (lambda: Levels(of=BreastCancer()), "Levels is made of images with one label each, not of BreastCancer"),
        (lambda: Rotated(of=Canvas(of=BASE, size=(8, 9))), "Rotated turns square images, not ones of 8x9"),
        (lambda: Canvas(of=BASE, size=(5, 8)), r"a Canvas of 3 channels and 5x8 does not hold images of \(1, 6, 6\)"),
        (lambda: Canvas(of=BASE, size=(8, 8), channels=2), "a Canvas of 2 channels"),
        (lambda: Grouped(of=BASE, groups={"a": ("pattern 0",), "b": ("seven",)}), "Grouped names seven, and"),
        (lambda: Grouped(of=Digits(), groups={"a": ("1", "2"), "b": ("2",)}), "into one group at most"),
        (lambda: Grouped(of=Digits(), groups={"a": ("1", "2"), "b": ()}), "none of the groups is empty"),
    ],
)  # fmt: skip
def test_what_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_the_root_decides_batches_and_val() -> None:
    task = Shuffled(of=Grouped(of=Toy(samples=120, classes=4, batch=8, val=0.5), groups=GROUPS))
    assert isinstance(task, Derived)
    splits = task.open(None)
    assert splits.samples(Split.VAL) + splits.samples(Split.TRAIN) == 90
    assert 44 <= splits.samples(Split.VAL) <= 46
    (images,) = next(iter(splits.batches(Split.TRAIN, torch.device("cpu"), torch.Generator()))).inputs
    assert len(images) == 8
