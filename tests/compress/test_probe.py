"""The probe: what is refused, how it becomes a network's input, and how maps come back."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor

from compress.probe import Preprocess, Probe, drawn
from compress.session import Sees, Session
from teachers.signature import Signature
from teachers.task import Split
from teachers.tasks import Toy


def images(n: int = 5, *shape: int) -> Tensor:
    return torch.rand((n, *(shape or (3, 8, 8))), generator=torch.Generator().manual_seed(n))


def broken(how: str) -> Tensor:
    made = images()
    if how == "nan":
        made[2, 0, 0, 0] = float("nan")
    elif how == "constant":
        made[3] = 0.25
    elif how == "duplicate":
        made[4] = made[1]
    elif how == "bytes":
        made = (255 * made).to(torch.uint8)
    return made[:1] if how == "one" else made


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("one", "a probe of 1 has 0 edges, whose order says nothing: take 3 images at least"),
        ("constant", r"1 of the 5 images of the probe are constant.*the first is number 3\): leave them out"),
        ("duplicate", "1 of the 5 images of the probe are there twice or more.*keep one of each"),
        ("nan", "1 of the 5 images of the probe hold NaN or infinity"),
        ("bytes", "a probe is a tensor of floats.*uint8.*divide bytes by 255"),
    ],
)
def test_what_is_no_probe(how: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Probe(broken(how))


def test_the_hash_is_of_images_and_order() -> None:
    one = images()
    assert Probe(one).hash == Probe(one.clone()).hash
    assert Probe(one).hash != Probe(one.flip(0)).hash
    assert Probe(one).hash != Probe(one + 1e-6).hash


@given(
    channels=some.sampled_from([(3, 3), (1, 3), (3, 1), (1, 1)]),
    sides=some.tuples(some.integers(4, 12), some.integers(4, 12), some.integers(4, 12), some.integers(4, 12)),
    bgr=some.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_there_and_back(channels: tuple[int, int], sides: tuple[int, ...], bgr: bool) -> None:
    """Shapes fit, and a map that says the same everywhere still does: nothing is lost on the way but scale."""
    ours, theirs = (channels[0], *sides[:2]), (channels[1], *sides[2:])
    ready = Preprocess(theirs, (0.5,) * channels[1], (0.25,) * channels[1], bgr=bgr and channels[1] == 3)
    assert ready(images(3, *ours)).shape == (3, *theirs)
    back = ready.back(torch.ones(3, *theirs), ours)
    assert back.shape == (3, *ours)
    want = {(3, 3): 1.0, (1, 1): 1.0, (1, 3): 3.0, (3, 1): 1 / 3}[channels]
    torch.testing.assert_close(back, torch.full_like(back, want))


def test_steps_of_the_way() -> None:
    grey = images(2, 1, 8, 8)
    ready = Preprocess((3, 8, 8), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), bgr=True)
    for place, (mean, std) in enumerate(((0.3, 0.7), (0.2, 0.6), (0.1, 0.5))):
        torch.testing.assert_close(ready(grey)[:, place], (grey[:, 0] - mean) / std)
    colour = images(2)
    luma = 0.299 * colour[:, 0] + 0.587 * colour[:, 1] + 0.114 * colour[:, 2]
    torch.testing.assert_close(Preprocess((1, 8, 8))(colour)[:, 0], luma)


def test_what_was_cut_off_comes_back_as_zero() -> None:
    ready = Preprocess((3, 6, 6), resize=(8, 8))
    shown = images(2)
    torch.testing.assert_close(ready(shown), shown[:, :, 1:7, 1:7])
    back = ready.back(torch.ones(2, 3, 6, 6), (3, 8, 8))
    assert back.sum() == 2 * 3 * 36
    assert back[:, :, 1:7, 1:7].min() == 1
    with pytest.raises(ValueError, match=r"6x6 cannot be cut out of \(4, 8\)"):
        Preprocess((3, 6, 6), resize=(4, 8))(shown)


def test_maps_that_get_smaller() -> None:
    """Averaged on the way back, or, as the authors have it, sampled: then pixels between are left out."""
    spot = torch.zeros(1, 1, 16, 16)
    spot[0, 0, 0, 0] = 1
    assert Preprocess((1, 16, 16)).back(spot, (1, 4, 4)).sum() > 0
    assert Preprocess((1, 16, 16), antialias=False).back(spot, (1, 4, 4)).sum() == 0


@pytest.mark.parametrize(
    ("shape", "given", "said"),
    [
        ((4, 8, 8), (3, 8, 8), "takes images of 4 channels: grey becomes colour"),
        ((7,), (5,), r"holds \(5,\) numbers each, the network takes \(7,\)"),
    ],
)
def test_what_cannot_be_brought_over(shape: Any, given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Preprocess(shape)(images(3, *given))


def test_several_inputs() -> None:
    with pytest.raises(ValueError, match="takes 2 inputs"):
        Preprocess.of(Signature(((3,), (2, 9)), ("a", "b")))


# -- from a session ---------------------------------------------------------------------------------------


def test_drawn_does_not_depend_on_batches() -> None:
    found = []
    for evaluation in (7, 40):
        session = Session.bare(Toy(samples=240, val=0.2, evaluation=evaluation), sees=Sees.INPUTS, seed=3)
        probe, labels = drawn(session, 20)
        assert labels is None
        assert session.read == {"val": 48}
        found.append(probe)
    assert len(found[0]) == 20
    assert found[0].hash == found[1].hash
    whole = found[0].images * 255
    assert torch.equal(whole, whole.round()), "pixels as they were, not normalised"
    assert found[0].images.min() >= 0
    assert found[0].images.max() <= 1
    other = Session.bare(Toy(samples=240, val=0.2), sees=Sees.INPUTS, seed=4)
    assert drawn(other, 20)[0].hash != found[0].hash


def test_drawn_with_labels() -> None:
    task = Toy(samples=240, val=0.2)
    probe, labels = drawn(Session.bare(task), 100, per_class=4)
    assert labels is not None
    assert labels.bincount().tolist() == [4, 4, 4]
    known = {}
    for batch in task.open(None).batches(Split.VAL, torch.device("cpu")):
        assert batch.target is not None
        for image, label in zip(batch.inputs[0], batch.target.tolist(), strict=True):
            known[(image * 0.35 + 0.5).mul(255).round().to(torch.uint8).numpy().tobytes()] = label
    for image, label in zip(probe.images, labels.tolist(), strict=True):
        assert known[image.mul(255).round().to(torch.uint8).numpy().tobytes()] == label


def test_drawn_passes_duplicates_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from teachers.tasks import splits

    def doubled(images: Tensor, rows: Tensor) -> Tensor:
        made = images[rows].clone()
        made[1::2] = made[::2][: len(made[1::2])]
        return made

    monkeypatch.setattr(splits, "_take", doubled)
    session = Session.bare(Toy(samples=240, val=0.2), sees=Sees.INPUTS)
    probe, _ = drawn(session, 100)
    assert len(probe) == 24
    assert session.notes == ["24 inputs of val are constant or were met before, and were passed over"]
