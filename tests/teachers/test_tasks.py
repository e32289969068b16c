"""Tasks: splits that stay apart, augmentation that keeps the label, data that is missing or damaged."""

import os
import pickle
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

import teachers.tasks.decode as decode
from teachers.task import Batch, Split, Splits, Task
from teachers.tasks import (
    CIFAR10,
    CIFAR100,
    MNIST,
    Digits,
    FashionMNIST,
    ImageFolder,
    Toy,
    Unseen,
)
from teachers.tasks.splits import MemorySplits, Samples, crop_and_flip, stratified

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def marked(samples: int = 100, classes: int = 4, **more: object) -> MemorySplits:
    """Splits whose images carry their own number: train 0, 1, ..., test from 200 on; no normalisation."""
    images = torch.arange(samples, dtype=torch.uint8)[:, None, None, None].expand(samples, 1, 4, 4)
    labels = torch.arange(samples) % classes
    test = Samples(images[:20] + 200, labels[:20])
    return MemorySplits(Samples(images, labels), test, mean=(0.0,), std=(1 / 255,), **more)  # type: ignore[arg-type]


def numbers(splits: Splits, split: Split, shuffled: torch.Generator | None = None) -> list[int]:
    return [
        int(n) for batch in splits.batches(split, CPU, shuffled) for n in batch.inputs[0][:, 0, 2, 2].round()
    ]


def everything(batches: object) -> tuple[torch.Tensor, torch.Tensor]:
    rows: list[Batch] = list(batches)  # type: ignore[call-overload]
    return torch.cat([b.inputs[0] for b in rows]), torch.cat([b.target for b in rows if b.target is not None])


# -- splits ----------------------------------------


def test_splits_are_disjoint_complete_and_stable() -> None:
    splits = marked(val=0.2, seed=3)
    train, val, test = (set(numbers(splits, split)) for split in Split)
    assert not train & val
    assert train | val == set(range(100))
    assert test == set(range(200, 220))
    assert (splits.samples(Split.TRAIN), splits.samples(Split.VAL), splits.samples(Split.TEST)) == (
        80,
        20,
        20,
    )
    assert numbers(marked(val=0.2, seed=3), Split.VAL) == numbers(splits, Split.VAL)
    assert numbers(marked(val=0.2, seed=4), Split.VAL) != numbers(splits, Split.VAL)


@settings(deadline=None, max_examples=50)
@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_every_class_is_held_out_in_proportion(counts: list[int], share: float, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator(seed))]
    rest, held = stratified(labels, share, seed)
    assert sorted([*rest.tolist(), *held.tolist()]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        taken = int((labels[held] == label).sum())
        assert 1 <= taken <= count - 1
        assert abs(taken - share * count) <= 1


def test_a_class_with_one_sample_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="class 7 has one sample"):
        stratified(torch.tensor([1, 1, 7]), 0.5, 0)


def test_shuffled_train_drops_the_ragged_end_and_nothing_else_does() -> None:
    splits = marked(val=0.2, batch=32, evaluation=16)  # 80 = 2 * 32 + 16 train, 20 = 16 + 4 val
    assert [len(b) for b in splits.batches(Split.TRAIN, CPU, generator())] == [32, 32]
    assert [len(b) for b in splits.batches(Split.TRAIN, CPU)] == [32, 32, 16]
    assert [len(b) for b in splits.batches(Split.VAL, CPU)] == [16, 4]
    assert (splits.steps(Split.TRAIN), splits.steps(Split.VAL), splits.steps(Split.TEST)) == (2, 2, 2)
    small = marked(val=0.2, batch=500)
    assert [len(b) for b in small.batches(Split.TRAIN, CPU, generator())] == [80]
    assert small.steps(Split.TRAIN) == 1


def test_shuffling_comes_from_the_generator_alone() -> None:
    splits = marked(val=0.2, batch=16)
    first = numbers(splits, Split.TRAIN, generator(1))
    torch.rand(5)
    assert numbers(splits, Split.TRAIN, generator(1)) == first
    assert numbers(splits, Split.TRAIN, generator(2)) != first
    assert sorted(first) == numbers(splits, Split.TRAIN)


def test_a_plain_pass_touches_no_random_state_and_repeats() -> None:
    splits = Toy(samples=60, crop=1, flip=True).open(None)
    before = torch.get_rng_state()
    for split in Split:
        once, again = everything(splits.batches(split, CPU)), everything(splits.batches(split, CPU))
        assert torch.equal(once[0], again[0])
        assert torch.equal(once[1], again[1])
    assert torch.equal(torch.get_rng_state(), before)


# -- augmentation and normalisation ----------------------------------------


@settings(deadline=None, max_examples=40)
@given(data=st.data(), n=st.integers(1, 5), padding=st.integers(0, 4), channels=st.sampled_from([1, 3]))
def test_crop_and_flip_equals_its_slow_twin(data: st.DataObject, n: int, padding: int, channels: int) -> None:
    height, width, seed = (data.draw(st.integers(*span)) for span in ((1, 7), (1, 7), (0, 999)))
    images = torch.randint(0, 256, (n, height, width, channels), dtype=torch.uint8, generator=generator(seed))
    down, right = torch.randint(0, 2 * padding + 1, (2, n), generator=generator(seed))
    mirror = torch.rand(n, generator=generator(seed)) < 0.5
    fast = crop_and_flip(images, padding, down, right, mirror)
    for image, result, y, x, turned in zip(images, fast, down.tolist(), right.tolist(), mirror, strict=True):
        for row in range(height):
            for column in range(width):
                source = (row + y - padding, (width - 1 - column if turned else column) + x - padding)
                inside = 0 <= source[0] < height and 0 <= source[1] < width
                expected = image[source] if inside else torch.zeros(channels, dtype=torch.uint8)
                assert torch.equal(result[row, column], expected)


def test_augmentation_keeps_each_label_with_its_image_and_repeats() -> None:
    splits = marked(val=0.2, batch=16, crop=1, flip=True)
    images, labels = everything(splits.batches(Split.TRAIN, CPU, generator(5)))
    assert torch.equal(
        images[:, 0, 2, 2].round().long() % 4, labels
    )  # the middle never leaves a window of one pixel
    again, _ = everything(splits.batches(Split.TRAIN, CPU, generator(5)))
    other, _ = everything(splits.batches(Split.TRAIN, CPU, generator(6)))
    assert torch.equal(images, again)
    assert not torch.equal(images, other)
    black = (images == 0).flatten(1).any(dim=1).float().mean()
    assert black > 0.5  # 8 of 9 windows reach outside


def test_flip_mirrors_about_half_of_the_images() -> None:
    ramp = torch.arange(4, dtype=torch.uint8).expand(400, 1, 4, 4)
    samples = Samples(ramp, torch.arange(400) % 2)
    splits = MemorySplits(samples, samples, mean=(0.0,), std=(1 / 255,), flip=True)
    images, _ = everything(splits.batches(Split.TRAIN, CPU, generator()))
    turned = images[:, 0, 0, 0].round() == 3
    assert 0.4 < turned.float().mean() < 0.6
    assert_close(images[turned], ramp[: int(turned.sum())].flip(3).float())
    assert_close(images[~turned], ramp[: int((~turned).sum())].float())


def test_images_are_normalised_per_channel_and_channels_last() -> None:
    mean, std = (0.2, 0.5, 0.7), (0.1, 0.2, 0.4)
    raw = torch.randint(0, 256, (12, 3, 5, 6), dtype=torch.uint8, generator=generator())
    samples = Samples(raw, torch.arange(12) % 2)
    splits = MemorySplits(samples, samples, mean=mean, std=std)
    images, labels = everything(splits.batches(Split.TEST, CPU))
    expected = (raw / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert_close(images, expected)
    (batch,) = splits.batches(Split.TEST, CPU)
    assert batch.inputs[0].is_contiguous(memory_format=torch.channels_last)
    assert batch.inputs[0].dtype == torch.float32
    assert torch.equal(labels, samples.labels)


def test_a_wrong_number_of_channels_is_said_where_it_comes_in() -> None:
    with pytest.raises(ValueError, match="mean and std need 3 numbers each, not 3 and 1"):
        CIFAR10(std=(1.0,))
    samples = Samples(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.arange(4) % 2)
    with pytest.raises(ValueError, match="images of 3 channels"):
        MemorySplits(samples, samples, mean=(0.0,), std=(1.0,))


# -- tasks ----------------------------------------

FOLDER = ImageFolder("pets", (8, 8), ("cat", "dog"))


@pytest.mark.parametrize(
    ("task", "shape", "classes"),
    [
        (Digits(), (1, 8, 8), 10),
        (MNIST(), (1, 28, 28), 10),
        (FashionMNIST(), (1, 28, 28), 10),
        (CIFAR10(), (3, 32, 32), 10),
        (CIFAR100(), (3, 32, 32), 100),
        (FOLDER, (3, 8, 8), 2),
        (Toy(), (1, 8, 8), 3),
        (Unseen((3, 16, 24), 7, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)), (3, 16, 24), 7),
    ],
)
def test_signatures_need_no_data(task: Task, shape: tuple[int, ...], classes: int) -> None:
    signature = task.signature()
    assert signature.inputs == (shape,)
    assert signature.classes == len(set(signature.labels)) == classes
    assert signature.mean is not None
    assert len(signature.mean) == shape[0]
    assert task.chance == pytest.approx(1 / classes)


def test_what_is_unseen_has_no_sample_and_says_so() -> None:
    task = Unseen((1, 8, 8), 2, labels=("cat", "dog"))
    assert task.signature().labels == ("cat", "dog")
    assert (task.signature().mean, task.signature().std) == (None, None)
    splits = task.open(None)
    for split in Split:
        assert splits.samples(split) == 0
        for ask in (
            lambda split=split: splits.steps(split),
            lambda split=split: next(splits.batches(split, CPU)),
        ):
            with pytest.raises(ValueError, match=f"there is no {split.value} data: the task is Unseen"):
                ask()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mean": (0.5,)}, "mean and std together"),
        ({"mean": (0.5, 0.5), "std": (0.5, 0.5)}, "1 channels: mean needs as many numbers, not 2"),
        ({"labels": ("cat",)}, "2 classes, but 1 labels"),
    ],
)
def test_an_unseen_task_is_checked(fields: dict[str, tuple[object, ...]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Unseen((1, 8, 8), 2, **fields)  # type: ignore[arg-type]


def test_answers_are_the_largest_output_and_scored_by_their_share() -> None:
    outputs = torch.tensor([[0.1, 0.9], [2.0, -1.0], [0.0, 3.0], [1.0, 0.0]])
    predictions = Toy(2).predict(outputs)
    assert predictions.tolist() == [1, 0, 1, 0]
    assert Toy(2).score(predictions, torch.tensor([1, 0, 1, 1])) == 0.75


def test_digits_are_all_there_and_normalised() -> None:
    splits = Digits().open(None)
    assert sum(splits.samples(split) for split in Split) == 1797
    images, _ = everything(splits.batches(Split.TRAIN, CPU))
    assert abs(float(images.mean())) < 0.01
    assert abs(float(images.std()) - 1) < 0.01
    other, _ = everything(Digits(split_seed=9).open(None).batches(Split.TEST, CPU))
    test, _ = everything(splits.batches(Split.TEST, CPU))
    assert torch.equal(test, other)  # another val, the same test


def test_toy_classes_are_told_apart_by_their_patterns() -> None:
    task = Toy(classes=4, samples=80, mean=(0.5, 0.5), std=(0.3, 0.3), seed=2)
    splits = task.open(None)
    images, labels = everything(splits.batches(Split.TRAIN, CPU))
    centres = torch.stack([images[labels == label].mean(dim=0) for label in range(4)])
    asked, truth = everything(splits.batches(Split.TEST, CPU))
    nearest = torch.cdist(asked.flatten(1), centres.flatten(1)).argmin(dim=1)
    assert task.score(nearest, truth) > 0.95
    again, _ = everything(task.open(None).batches(Split.TRAIN, CPU))
    assert torch.equal(images, again)
    with pytest.raises(ValueError, match="it needs two of each, 8"):
        Toy(classes=4, samples=7)


# -- image folders ----------------------------------------


def paint(file: Path, shade: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    colour = shade if mode == "L" else (shade, 255 - shade, 7)
    Image.new(mode, size, colour).save(file)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for split, count in (("train", 6), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                paint(tmp_path / "pets" / split / name / f"{number}.png", 100 * label + number)
    return tmp_path


PLAIN = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}


def test_a_folder_is_read_in_the_order_of_the_page(pets: Path) -> None:
    (pets / "pets/train/cat/notes.txt").write_text("not an image, and passed over")
    task = ImageFolder("pets", (8, 8), ("dog", "cat"), **PLAIN)  # type: ignore[arg-type]
    splits = task.open(pets)
    assert [splits.samples(split) for split in Split] == [10, 2, 4]
    images, labels = everything(splits.batches(Split.TEST, CPU))
    assert labels.tolist() == [0, 0, 1, 1]
    assert images[:, 0, 0, 0].round().tolist() == [100, 101, 0, 1]
    assert images[:, 1, 0, 0].round().tolist() == [155, 154, 255, 254]
    absolute = ImageFolder(str(pets / "pets"), (8, 8), ("dog", "cat"), **PLAIN).open(None)  # type: ignore[arg-type]
    assert torch.equal(everything(absolute.batches(Split.TEST, CPU))[0], images)


def test_other_sizes_are_cut_and_scaled_and_gray_is_made(pets: Path) -> None:
    wide = Image.new("RGB", (24, 8), (0, 0, 0))
    wide.paste((250, 250, 250), (8, 0, 16, 8))  # the middle third stays, blurred at its edges
    wide.save(pets / "pets/test/cat/0.png")
    gray = ImageFolder("pets", (4, 4), ("cat", "dog"), channels=1, mean=(0.0,), std=(1 / 255,)).open(pets)
    images, _ = everything(gray.batches(Split.TEST, CPU))
    assert images.shape == (4, 1, 4, 4)
    assert_close(images[0, :, :, 1:3], torch.full((1, 4, 2), 250.0))
    assert images[0].min() > 200


def test_without_a_test_folder_a_share_is_held_out_the_same_for_every_split_seed(tmp_path: Path) -> None:
    for name, count in (("cat", 20), ("dog", 3)):
        for number in range(count):
            paint(tmp_path / "pets/train" / name / f"{number}.jpg", 3 * number)
    splits = FOLDER.open(tmp_path)
    assert [splits.samples(split) for split in Split] == [14 + 1, 2 + 1, 4 + 1]
    other = replace(FOLDER, split_seed=5).open(tmp_path)
    tests = [everything(each.batches(Split.TEST, CPU))[0] for each in (splits, other)]
    assert torch.equal(*tests)


def test_decoded_images_are_kept_until_a_file_changes(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = everything(FOLDER.open(pets).batches(Split.TRAIN, CPU))
    kept = sorted(file.name for file in (pets / "pets/.decoct-cache").iterdir())
    assert len(kept) == 2
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode", lambda *_: pytest.fail("decoded again"))
        again, _ = everything(FOLDER.open(pets).batches(Split.TRAIN, CPU))
    assert torch.equal(first, again)
    changed = pets / "pets/train/cat/0.png"
    paint(changed, 200)
    os.utime(changed, (time.time() + 5,) * 2)
    assert not torch.equal(everything(FOLDER.open(pets).batches(Split.TRAIN, CPU))[0].sum(), first.sum())
    now = sorted(file.name for file in (pets / "pets/.decoct-cache").iterdir())
    assert len(now) == 2  # the old one is gone
    assert now != kept


def test_a_damaged_or_unwritable_cache_costs_time_and_nothing_else(pets: Path) -> None:
    first, _ = everything(FOLDER.open(pets).batches(Split.TEST, CPU))
    for file in (pets / "pets/.decoct-cache").iterdir():
        file.write_bytes(b"half a file")
    assert torch.equal(everything(FOLDER.open(pets).batches(Split.TEST, CPU))[0], first)
    for file in (pets / "pets/.decoct-cache").iterdir():
        file.unlink()
    (pets / "pets/.decoct-cache").rmdir()
    (pets / "pets/.decoct-cache").write_text("a file in its place: nothing can be kept")
    assert torch.equal(everything(FOLDER.open(pets).batches(Split.TEST, CPU))[0], first)


def test_folders_that_are_wrong_are_named(tmp_path: Path, pets: Path) -> None:
    with pytest.raises(ValueError, match="none is set"):
        FOLDER.open(None)
    with pytest.raises(ValueError, match=r"nowhere/train is not there: put images at"):
        ImageFolder("nowhere", (8, 8), ("cat", "dog")).open(tmp_path)
    (tmp_path / "bare/train").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"bare/train is empty: it needs a folder for each class: cat, dog"):
        ImageFolder("bare", (8, 8), ("cat", "dog")).open(tmp_path)
    with pytest.raises(ValueError, match=r"not there: cow; not on the page: dog"):
        ImageFolder("pets", (8, 8), ("cat", "cow")).open(pets)
    with pytest.raises(ValueError, match="a class is named twice"):
        ImageFolder("pets", (8, 8), ("cat", "cat"))


def test_a_class_with_one_image_is_named(pets: Path) -> None:
    for number in range(1, 6):
        (pets / f"pets/train/dog/{number}.png").unlink()
    with pytest.raises(ValueError, match=r"pets/train needs at least 2 images .* too few: dog \(1\)"):
        FOLDER.open(pets)


def test_unreadable_files_are_named_together(pets: Path) -> None:
    (pets / "pets/train/cat/1.png").write_bytes(b"")
    whole = (pets / "pets/train/dog/2.png").read_bytes()
    (pets / "pets/train/dog/2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=r"2 of 12 images cannot be read; .*cat/1\.png .*dog/2\.png"
    ) as caught:
        FOLDER.open(pets)
    assert "\n" not in str(caught.value)
    assert not list((pets / "pets").glob(".decoct-cache/train*"))


def test_images_that_cannot_fit_into_memory_are_refused(pets: Path) -> None:
    with pytest.raises(ValueError, match="12 images of 900000x900000x3 take"):
        ImageFolder("pets", (900_000, 900_000), ("cat", "dog")).open(pets)


# -- published data sets ----------------------------------------


def idx(file: Path, values: np.ndarray) -> None:
    """Write the IDX format: magic number 0x08 (bytes) and rank, the sizes, then the values; big-endian."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes())


def published_mnist(folder: Path, home: str) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    for part, count in (("train", 20), ("t10k", 10)):
        idx(folder / home / f"{part}-images-idx3-ubyte", pixels[:count])
        idx(folder / home / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    return pixels


@pytest.mark.parametrize(
    "task", [MNIST(mean=(0.0,), std=(1 / 255,)), FashionMNIST(mean=(0.0,), std=(1 / 255,))]
)
def test_mnist_is_read_from_the_published_format(tmp_path: Path, task: MNIST) -> None:
    pixels = published_mnist(tmp_path, task.home)
    splits = task.open(tmp_path)
    assert [splits.samples(split) for split in Split] == [10, 10, 10]
    images, labels = everything(splits.batches(Split.TEST, CPU))
    assert_close(images[:, 0], torch.from_numpy(pixels[:10]).float())
    assert labels.tolist() == list(range(10))


def test_missing_and_damaged_mnist_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"MNIST is read from MNIST/raw/ in the data folder, and none is set"
    ):
        MNIST().open(None)
    published_mnist(tmp_path, MNIST.home)
    images = tmp_path / MNIST.home / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=r"MNIST in .*MNIST/raw is damaged"):
        MNIST().open(tmp_path)
    images.unlink()
    with pytest.raises(
        ValueError, match=r"not complete in .*MNIST/raw: there is no train-images-idx3-ubyte\. Unpack"
    ):
        MNIST().open(tmp_path)
    idx(images, np.zeros((20, 8, 8), dtype=np.uint8))
    with pytest.raises(
        ValueError, match=r"20 images of \(1, 8, 8\) pixels, where \(1, 28, 28\) are expected"
    ):
        MNIST().open(tmp_path)


def published_cifar(folder: Path, task: CIFAR10, patch: pytest.MonkeyPatch) -> np.ndarray:
    """A few images in the published pickles; torchvision is told not to expect the real files' MD5 sums."""
    from torchvision import datasets

    kind = getattr(datasets, type(task).__name__)
    fine = isinstance(task, CIFAR100)
    classes = len(task.labels)
    home = folder / task.home
    home.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2 * classes, 3072), dtype=np.uint8)
    for file in task.files[:-1]:
        labels = (np.arange(len(pixels)) % classes).tolist()
        part = {"data": pixels, "fine_labels" if fine else "labels": labels}
        (home / file).write_bytes(pickle.dumps(part))
    names = {"fine_label_names" if fine else "label_names": list(task.labels)}
    (home / task.files[-1]).write_bytes(pickle.dumps(names))
    patch.setattr(kind, "train_list", [[file, None] for file in task.files[:-2]])
    patch.setattr(kind, "test_list", [[task.files[-2], None]])
    patch.setattr(kind, "meta", {**kind.meta, "md5": None})
    return pixels


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_cifar_is_read_from_the_published_format(
    tmp_path: Path, kind: type[CIFAR10], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = kind(mean=(0.0,) * 3, std=(1 / 255,) * 3)
    pixels = published_cifar(tmp_path, task, monkeypatch)
    splits = task.open(tmp_path)
    images, labels = everything(splits.batches(Split.TEST, CPU))
    assert_close(images, torch.from_numpy(pixels).view(-1, 3, 32, 32).float())
    assert labels.tolist() == [*range(len(task.labels))] * 2
    parts = len(task.files) - 2
    assert splits.samples(Split.TRAIN) + splits.samples(Split.VAL) == parts * len(pixels)


def test_missing_and_altered_cifar_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"CIFAR10 is not complete in .*cifar-10-batches-py: there is no data_batch_1"
    ):
        CIFAR10().open(tmp_path)
    home = tmp_path / CIFAR100.home
    home.mkdir()
    for file in CIFAR100.files:
        (home / file).write_bytes(pickle.dumps({"data": "not what was published"}))
    with pytest.raises(
        ValueError, match=r"CIFAR100 in .*cifar-100-python is damaged .* replace train, test, meta"
    ):
        CIFAR100().open(tmp_path)


def test_importing_tasks_leaves_heavy_libraries_alone() -> None:
    heavy = "('torchvision', 'sklearn', 'PIL')"
    code = f"import sys, teachers.tasks; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
