"""Segmentation: what is read, how it is cut, and how it is judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reports.evaluate import ValScore, evaluate
from teachers.networks import DeepLab
from teachers.task import Split
from teachers.tasks import CamVid, SegmentationFolder, Shapes
from teachers.tasks.pixels import IGNORED, VOID, Masks, PixelSplits
from teachers.tasks.segmentation import mean_iou
from teachers.train import Train, accuracy

CPU = torch.device("cpu")


def slow_iou(predictions: torch.Tensor, targets: torch.Tensor, classes: int) -> float:
    """The definition, class by class with sets of pixels."""
    found = []
    places = [i for i, t in enumerate(targets.flatten().tolist()) if t != IGNORED]
    said, true = predictions.flatten().tolist(), targets.flatten().tolist()
    for label in range(classes):
        mine = {i for i in places if said[i] == label}
        its = {i for i in places if true[i] == label}
        if mine | its:
            found.append(len(mine & its) / len(mine | its))
    return sum(found) / len(found) if found else 0.0


@given(st.integers(1, 5), st.integers(0, 2**20), st.floats(0, 1))
def test_mean_iou_equals_its_slow_twin(classes: int, seed: int, void: float) -> None:
    dice = torch.Generator().manual_seed(seed)
    predictions, targets = torch.randint(0, classes, (2, 2, 4, 3), generator=dice)
    targets[torch.rand(targets.shape, generator=dice) < void] = IGNORED
    assert mean_iou(predictions, targets, classes) == pytest.approx(slow_iou(predictions, targets, classes))


def test_a_class_that_is_only_predicted_counts_as_nothing_right() -> None:
    assert mean_iou(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, 1]), 4) == pytest.approx(
        (1 + 0.5 + 0) / 3
    )


def test_naming_one_class_everywhere_is_chance_at_most() -> None:
    task = Shapes(samples=20)
    for batch in task.open(None).batches(Split.TEST, CPU):
        assert batch.target is not None
        for label in range(3):
            assert task.score(torch.full_like(batch.target, label), batch.target) <= task.chance


def numbered(n: int = 6, size: int = 8, crop: tuple[int, int] | None = (5, 4)) -> PixelSplits:
    """Images whose every pixel says where it is, in label and in colour."""
    place = torch.arange(size * size).view(size, size)
    labels = place.to(torch.uint8).expand(n, size, size).clone()
    images = labels[..., None].expand(n, size, size, 3).clone()
    labels[:, 0, 0] = VOID
    part = Masks(images, labels)
    return PixelSplits(
        dict.fromkeys(Split, part), mean=(0.0,) * 3, std=(1 / 255,) * 3, batch=4, evaluation=4, crop=crop, flip=True
    )  # fmt: skip


def test_labels_go_where_their_pixels_go() -> None:
    seen = set()
    splits = numbered()
    dice = torch.Generator().manual_seed(0)
    for _ in range(20):
        (batch,) = splits.batches(Split.TRAIN, CPU, dice)  # the ragged end is dropped
        (images,) = batch.inputs
        assert images.shape == (4, 3, 5, 4)
        assert batch.target is not None
        kept = batch.target != IGNORED
        assert torch.equal(images[:, 1].round().long()[kept], batch.target[kept])
        seen |= {(tuple(row[0, :2].tolist())) for row in batch.target}
    assert any(b - a == 1 for a, b in seen)
    assert any(b - a == -1 for a, b in seen)  # mirrored


def test_whole_images_in_order_and_void_is_ignored() -> None:
    splits = numbered()
    batches = list(splits.batches(Split.TEST, CPU))
    assert [len(batch) for batch in batches] == [4, 2]
    assert splits.steps(Split.TEST) == 2
    assert splits.steps(Split.TRAIN) == 1
    for batch in batches:
        assert batch.target is not None
        assert batch.inputs[0].shape[2:] == (8, 8)
        assert batch.inputs[0].is_contiguous(memory_format=torch.channels_last)
        assert (batch.target == IGNORED).sum() == len(batch)
        assert batch.target.max() == 63


def street(root: Path, splits: tuple[str, ...] = ("train", "test"), n: int = 4, labels: int = 3) -> None:
    dice = np.random.default_rng(0)
    for split in splits:
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for i in range(n):
            pixels = dice.integers(0, 255, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f"{i}.jpg")
            values = dice.integers(0, labels, (12, 16), dtype=np.uint8)
            Image.fromarray(values).save(root / f"{split}annot" / f"{i}.png")


FOLDER = SegmentationFolder(path="street", size=(12, 16), classes=("a", "b"), void=(2,))


def test_folders_are_read(tmp_path: Path) -> None:
    street(tmp_path / "street")
    splits = FOLDER.open(tmp_path)
    assert [splits.samples(split) for split in Split] == [3, 1, 4]
    (batch,) = splits.batches(Split.TEST, CPU)
    assert batch.target is not None
    values = np.asarray(Image.open(tmp_path / "street" / "testannot" / "2.png")).astype(int)
    assert torch.equal(batch.target[2], torch.from_numpy(np.where(values == 2, IGNORED, values)))
    street(tmp_path / "own", ("train", "val", "test"))
    own = SegmentationFolder(path="own", size=(6, 8), classes=("a", "b", "c")).open(tmp_path)
    assert [own.samples(split) for split in Split] == [4, 4, 4]
    (small,) = own.batches(Split.VAL, CPU)
    assert small.target is not None
    assert small.target.shape == (4, 6, 8)
    assert set(small.target.unique().tolist()) <= {0, 1, 2}  # the nearest label, never a blend


def test_palettes_are_numbers(tmp_path: Path) -> None:
    street(tmp_path / "street", labels=2)
    for file in (tmp_path / "street" / "testannot").iterdir():
        image = Image.open(file).copy()
        image.putpalette([255, 0, 0, 0, 255, 0])
        image.save(file)
        assert Image.open(file).mode == "P"
    (batch,) = FOLDER.open(tmp_path).batches(Split.TEST, CPU)
    assert batch.target is not None
    assert set(batch.target.unique().tolist()) == {0, 1}


def test_folders_that_are_wrong_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none is set"):
        FOLDER.open(None)
    with pytest.raises(ValueError, match="street/train is not there: put images at"):
        FOLDER.open(tmp_path)
    street(tmp_path / "street", labels=5)
    with pytest.raises(
        ValueError, match=r"hold 3, 4, which are neither one of 2 classes \(0 to 1\) nor void \(2\)"
    ):
        FOLDER.open(tmp_path)
    (tmp_path / "street" / "train" / "0.jpg").unlink()
    with pytest.raises(ValueError, match="alone: 0"):
        FOLDER.open(tmp_path)
    with pytest.raises(ValueError, match="windows of 300x128 out of images of 240x320"):
        CamVid(crop=(300, 128))
    with pytest.raises(ValueError, match="3 channels: mean and std need 3"):
        Shapes(mean=(0.5,), std=(0.5,))


def test_coloured_labels_are_refused(tmp_path: Path) -> None:
    street(tmp_path / "street", labels=2)
    file = tmp_path / "street" / "trainannot" / "1.png"
    Image.open(file).convert("RGB").save(file)
    with pytest.raises(ValueError, match="one channel or with a palette, not RGB"):
        FOLDER.open(tmp_path)


def test_camvid_as_it_is_laid_out() -> None:
    task = CamVid()
    assert task.signature().inputs == ((3, 240, 320),)
    assert task.signature().classes == 11
    assert task.void == (11,)
    assert task.metric == "mIoU"


def test_a_small_deeplab_learns_shapes() -> None:
    torch.manual_seed(0)
    task = Shapes(samples=160, batch=16)
    splits = task.open(None)
    network = DeepLab(classes=3, widths=(8, 16, 16, 16), blocks=1, head=16, rates=(1, 2)).build()

    def val() -> float:
        return evaluate(
            network, splits.batches(Split.VAL, CPU), task.predict, task.score, kind=ValScore
        ).value

    before = val()
    told: list[float] = []
    Train(epochs=8, lr=0.1, warmup=1)(
        network, splits, device=CPU, autocast=lambda: torch.autocast("cpu", enabled=False),
        epochs=lambda total, **_: iter(range(total)), log=lambda values, _: told.append(values["accuracy"]),
    )  # fmt: skip
    assert val() > max(0.6, before + 0.2)
    assert (
        told[-1]
        == accuracy(network, splits, Split.VAL, CPU, lambda: torch.autocast("cpu", enabled=False))
        > 0.9
    )


def test_void_pixels_are_no_mistakes() -> None:
    part = Masks(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.full((2, 4, 4), VOID, dtype=torch.uint8))
    part.labels[:, 0] = 0
    splits = PixelSplits(dict.fromkeys(Split, part), mean=(0.0,) * 3, std=(1.0,) * 3, batch=2, evaluation=2)

    class Zero(torch.nn.Module):
        """Says 0 everywhere."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0])], 1)

    assert accuracy(Zero(), splits, Split.TEST, CPU, lambda: torch.autocast("cpu", enabled=False)) == 1.0
