"""Methods on outputs with a class for every pixel: soft targets, DFAD at a size of its own, banks that fit."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress import DFAD, GAL, Finetune, Generate, Prune, Recalibrate, Sees, Session, State
from compress.album import Album
from compress.dfad import Game
from compress.losses import soft_targets
from reports.evaluate import TestScore, evaluate
from teachers.networks import DeepLab
from teachers.signature import Signature
from teachers.task import Split
from teachers.tasks import Shapes
from teachers.teacher import Teacher
from teachers.train import Train

TASK = Shapes(samples=160, batch=16)
SMALL = DeepLab(classes=3, widths=(8, 16, 16, 16), blocks=1, head=16, rates=(1, 2))


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    torch.manual_seed(0)
    bench = Session.bare(TASK)
    module = Train(epochs=12, lr=0.1, warmup=1)(
        SMALL.build(), TASK.open(None), device=bench.device, autocast=bench.autocast, epochs=bench.epochs, log=bench.log
    )  # fmt: skip
    return Teacher("shapes", module, TASK.signature())


def miou(network: nn.Module) -> float:
    batches = TASK.open(None).batches(Split.TEST, torch.device("cpu"))
    return evaluate(network, batches, TASK.predict, TASK.score, kind=TestScore).value


def do(stage: Any, state: State) -> State:
    torch.manual_seed(0)
    made: State = stage(
        state,
        Session.bare(TASK, sees=stage.sees) if stage.sees is not Sees.NOTHING else Session(sees=stage.sees),
    )
    return made


def test_soft_targets_of_pixels_are_the_mean_over_pixels() -> None:
    student, teacher = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    rows = [t.permute(0, 2, 3, 1).reshape(-1, 4) for t in (student, teacher)]
    torch.testing.assert_close(soft_targets(student, teacher), soft_targets(*rows))


def test_a_cut_student_learns_from_soft_targets(teacher: Teacher) -> None:
    state = do(Prune(macs=0.6, round_to=4), State((teacher,)))
    assert state.student is not None
    before = miou(state.student)
    after = do(Finetune(epochs=6, lr=0.05), do(Recalibrate(batches=4), state)).student
    assert after is not None
    assert miou(after) > max(before, 0.75 * miou(teacher.module))


def test_labels_of_pixels_are_learned_from(teacher: Teacher) -> None:
    told: list[float] = []
    stage = Finetune(epochs=2, lr=0.01, soft_targets=0, labels=1)
    session = Session.bare(TASK, report=lambda values, _: told.append(values["train_accuracy"]))
    stage(State((teacher,)), session)
    assert 0.8 < told[-1] <= 1


def test_dfad_draws_at_a_size_of_its_own(teacher: Teacher) -> None:
    stage = DFAD(student=SMALL, size=(16, 24), epochs=1, rounds=1, batch=4, latent=8, width=4)
    game = Game(stage, teacher, SMALL.build(), Session(sees=Sees.NOTHING))
    game.seek()
    assert game.lesson is not None
    images, answers = game.lesson
    assert images.shape == (4, 3, 16, 24)
    assert answers.shape == (4, 3, 16, 24)
    assert game.ascent == "log"


def test_generated_images_have_the_size_that_is_asked_for(teacher: Teacher) -> None:
    state = do(
        Generate(images=8, size=(16, 16), epochs=4, rounds=10, batch=8, latent=8, width=4, balance=5.0),
        State((teacher,)),
    )
    assert state.generated is not None
    assert state.generated.shape == (8, 3, 16, 16)


def test_a_size_for_a_network_that_takes_one_only() -> None:
    signature = Signature(((1, 8, 8),), ("a", "b"), (0.5,), (0.5,))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(ValueError, match=r"does not take gradients to inputs of \(1, 16, 16\)"):
        do(DFAD(size=(16, 16), epochs=1), State((Teacher("flat", flat, signature),)))
    rows = Teacher("rows", nn.Linear(5, 2), Signature(((5,),), ("a", "b")))
    with pytest.raises(ValueError, match=r"size is of images, but the teacher takes \(5,\): leave it out"):
        do(DFAD(size=(16, 16), epochs=1), State((rows,)))


def test_gal_says_that_it_does_not_play_on_pixels(teacher: Teacher) -> None:
    with pytest.raises(
        ValueError, match=r"one row of logits a sample, and 'shapes' gives \(2, 3, 32, 32\) for 2"
    ):
        do(GAL(macs=0.5, epochs=1), State((teacher,)))


class Wide(nn.Module):
    """Many classes a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Conv2d(3, 500, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (n, 3, h, w) -> (n, 500, h, w)."""
        answers: Tensor = self.answer(x)
        return answers


def test_banks_of_dense_answers_fit_into_memory() -> None:
    signature = Signature(((3, 64, 64),), tuple(str(i) for i in range(500)), (0.5,) * 3, (0.5,) * 3)
    stage = DFAD(epochs=1, rounds=1, batch=2, latent=8, width=4)
    game = Game(stage, Teacher("wide", Wide(), signature), Wide(), Session(sees=Sees.NOTHING))
    sample = 2 * 3 * 64 * 64 + 4 * 500 * 64 * 64
    for bank in (game.past, game.held):
        assert bank.capacity * sample <= 2**30 < (bank.capacity + 1) * sample
    assert DFAD().bank == 8192


def test_shapes_are_taught_without_a_shape(teacher: Teacher) -> None:
    """No image is seen; the student ends far above where a fresh one, or one that names the ground, would."""
    stage = DFAD(
        student=SMALL,
        epochs=10,
        rounds=15,
        batch=16,
        latent=32,
        width=16,
        lr=0.1,
    )
    student = do(stage, State((teacher,))).student
    assert student is not None
    assert miou(student) > max(0.6 * miou(teacher.module), TASK.chance + 0.1)


def test_images_of_pixels_are_shown_by_how_much_of_a_class_they_hold() -> None:
    pixels = torch.arange(12).reshape(12, 1, 1, 1).expand(12, 1, 4, 4) / 255
    answers = torch.zeros(12, 2, 4, 4)
    answers[:, 0] = 5  # the ground is the decision in every pixel, ...
    answers[7, 1, :2] = 9  # ... but for half of this image
    album = Album()
    album.put(3, pixels, answers)
    page = album.pages["4"]
    assert page.shape == (2, 8, 1, 4, 4)
    assert page[1, 0, 0, 0, 0] == 7
    assert 7 not in page[0, :, 0, 0, 0].tolist()
