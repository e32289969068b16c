"""Generate: images from weights alone, and the stages that learn from them without a look at the task."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress import DFAD, GAL, Finetune, Generate, Prune, Recalibrate, Session, State
from compress.dfad import Game
from compress.generated import Generated
from compress.losses import one_hot, statistics_gap
from compress.priors import Priors
from compress.session import Sees
from compress.stage import Stage
from compress.watch import class_entropy
from teachers.networks import DigitsCNN
from teachers.task import Split
from teachers.tasks import Toy
from teachers.teacher import Teacher

QUICK: dict[str, Any] = {
    "images": 96, "epochs": 4, "rounds": 6, "batch": 16, "latent": 8, "width": 4, "lr": 1e-2,
}  # fmt: skip


def bench(**more: Any) -> Session:
    """A session that has no data to give, seeded."""
    torch.manual_seed(0)
    return Session(sees=Sees.NOTHING, **more)


def test_it_leaves_images_that_the_teacher_finds_more_familiar_than_noise(teacher: Teacher) -> None:
    told: list[dict[str, float]] = []
    session = bench(report=lambda values, _: told.append(dict(values)))
    made = Generate(**{**QUICK, "epochs": 8})(State((teacher,)), session)
    assert made.student is None
    assert made.generated is not None
    assert made.generated.shape == (96, *teacher.signature.inputs[0])
    assert made.generated.isfinite().all()
    priors = Priors(teacher, 1.0, 0.0, 1.0)

    def lacks(images: torch.Tensor) -> float:
        with torch.no_grad(), priors.watched() as seen:
            answers = teacher(images)
        return priors(answers, seen).item()

    noise = torch.randn(made.generated.shape, generator=torch.Generator().manual_seed(1))
    assert lacks(made.generated.float()) < 0.8 * lacks(noise)
    assert told[-1]["prior"] < told[0]["prior"]
    assert not session.read
    assert any("96 images were generated from the weights of toy alone" in note for note in session.notes)
    assert any(title.startswith("Generate: generated images") for title in session.pictures)


def test_the_teacher_stays_the_same_to_the_bit(
    teacher: Teacher, fingerprint: Callable[[nn.Module], dict[str, Any]]
) -> None:
    before = fingerprint(teacher.module)
    Generate(**QUICK)(State((teacher,)), bench())
    assert fingerprint(teacher.module) == before


def test_images_come_from_the_later_generators_alone(teacher: Teacher) -> None:
    """As many of each epoch of the second half."""
    seen: list[int] = []

    class Counting(Generate):
        def _draw(self, *args: Any) -> Any:
            images, answers = super()._draw(*args)
            seen.append(len(images))
            return torch.full_like(images, float(len(seen))) + 1e-2 * images, answers

    made = Counting(**{**QUICK, "images": 30, "epochs": 5})(State((teacher,)), bench()).generated
    assert made is not None
    assert seen == [10] * 5
    ages = made.float().mean((1, 2, 3)).round().int().tolist()
    assert sorted(ages) == [3] * 10 + [4] * 10 + [5] * 10


def test_a_broken_run_resumes_to_the_bit(teacher: Teacher, tmp_path: Path) -> None:
    class Break(Exception):
        pass

    def broken(values: Any, step: int) -> None:
        if step == 2:
            raise Break

    whole = Generate(**QUICK)(State((teacher,)), bench()).generated
    with pytest.raises(Break):
        Generate(**QUICK)(State((teacher,)), bench(folder=tmp_path, report=broken))
    torch.manual_seed(7)
    again = Generate(**QUICK)(State((teacher,)), Session(sees=Sees.NOTHING, folder=tmp_path)).generated
    assert whole is not None
    assert again is not None
    assert torch.equal(whole, again)


def test_a_collapsed_generator_is_an_error(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.generate.class_entropy", lambda _: 0.2)
    monkeypatch.setattr("compress.generate.collapsed", lambda *_: True)
    with pytest.raises(ValueError, match=r"the generator collapsed: class entropy 0.20 of 1.*balance"):
        Generate(**QUICK)(State((teacher,)), bench())


def test_a_teacher_without_norms_needs_another_prior() -> None:
    plain = Teacher("plain", nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), Toy().signature())
    with pytest.raises(ValueError, match="'plain' has no batch norm with running statistics"):
        Generate(**QUICK)(State((plain,)), bench())
    made = Generate(**QUICK, batch_norm=0)(State((plain,)), bench())
    assert made.generated is not None
    with torch.no_grad():
        assert class_entropy(plain(made.generated.float())) > 0.5


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"batch_norm": 0, "balance": 0}, "Generate has nothing to go by"),
        ({"images": 0}, "greater than or equal to 1"),
        ({"epochs": 1}, "greater than or equal to 2"),
        ({"one_hot": -1}, "greater than or equal to 0"),
    ],
)
def test_fields_are_checked(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Generate(**fields)


# -- priors -------------------------------------------------------------------------------------------------


def test_the_priors_are_their_weighted_sum(teacher: Teacher) -> None:
    images = torch.randn(16, *teacher.signature.inputs[0], generator=torch.Generator().manual_seed(2))
    norms = [m for m in teacher.module.modules() if isinstance(m, nn.BatchNorm2d)]
    both = Priors(teacher, 2.0, 3.0, 0.0)
    with torch.no_grad(), both.watched() as seen:
        answers = teacher(images)
    assert len(seen) == len(norms) == 3
    means: list[Any] = [norm.running_mean for norm in norms]
    variances: list[Any] = [norm.running_var for norm in norms]
    wanted = 2.0 * statistics_gap(seen, means, variances) + 3.0 * one_hot(answers)
    torch.testing.assert_close(both(answers, seen), wanted)
    assert both
    assert not Priors(teacher, 0.0, 0.0, 0.0)
    assert all(not m._forward_pre_hooks for m in teacher.module.modules())
    with Priors(teacher, 0.0, 1.0, 0.0).watched() as none:
        teacher(images)
    assert none == []


# -- stages that learn from them ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generated(teacher: Teacher) -> State:
    return Generate(**QUICK)(State((teacher,)), bench())


@pytest.mark.parametrize(
    "stage",
    [
        GAL(macs=0.5, epochs=2, generated=True),
        Recalibrate(batches=4, generated=True),
        Finetune(epochs=1, lr=0.01, generated=True),
        DFAD(epochs=2, rounds=3, batch=16, latent=8, width=4, lr=0.01, generated=True),
    ],
)
def test_they_see_nothing_and_the_ledger_says_so(stage: Stage, generated: State) -> None:
    assert stage.sees is Sees.NOTHING
    session = bench()
    student = Prune(macs=0.6)(generated, bench()).student
    made = stage(replace(generated, student=student), session)
    assert set(session.read) == {"generated"}
    assert session.read["generated"] > 0
    assert made.student is not None
    assert made.generated is generated.generated
    assert made.student is not student


@pytest.mark.parametrize(
    "stage",
    [
        GAL(generated=True),
        Recalibrate(generated=True),
        Finetune(epochs=1, generated=True),
        DFAD(generated=True),
    ],
)
def test_without_images_they_say_what_is_missing(stage: Stage, teacher: Teacher) -> None:
    with pytest.raises(ValueError, match=r"no stage before it made any: put compress\.Generate in front"):
        stage(State((teacher,)), bench())


def test_generated_images_have_no_labels() -> None:
    with pytest.raises(ValueError, match="no labels for generated images"):
        Finetune(epochs=1, generated=True, labels=1.0)


def test_dfad_begins_with_them_in_its_bank(generated: State, teacher: Teacher) -> None:
    assert generated.generated is not None
    student = DigitsCNN(classes=3, widths=(8, 8, 8)).build()
    game = Game(DFAD(batch=16, latent=8, width=4), teacher, student, bench())
    game.recall(generated.generated)
    assert game.past.images is not None
    assert game.past.answers is not None
    torch.testing.assert_close(game.past.images.float(), generated.generated.float(), rtol=1e-3, atol=1e-3)
    assert torch.equal(game.past.answers, teacher(generated.generated.float()))
    game.seek()
    mine = {tuple(row) for row in game.past.images.flatten(1).tolist()}
    assert any(tuple(row) in mine for row in game._images(1)[0].half().flatten(1).tolist())


def test_dfad_needs_a_step_that_looks_back_at_them(generated: State) -> None:
    with pytest.raises(ValueError, match="bank that replay looks back at, and replay is 0"):
        DFAD(generated=True, replay=0.0)(generated, bench())


def test_recalibrated_statistics_are_those_of_the_generated_images(
    generated: State, teacher: Teacher
) -> None:
    assert generated.generated is not None
    made = Recalibrate(batches=6, generated=True)(generated, bench()).student
    assert made is not None
    first = next(m for m in made.modules() if isinstance(m, nn.BatchNorm2d))
    conv = next(m for m in teacher.module.modules() if isinstance(m, nn.Conv2d))
    # 6 batches of 96 images are 6 passes of one batch with all of them: the average is that of all.
    with torch.no_grad():
        wanted = conv(generated.generated.float()).mean((0, 2, 3))
    torch.testing.assert_close(first.running_mean, wanted, rtol=1e-4, atol=1e-4)


def test_the_images_are_handed_out_once_a_pass_and_in_whole_batches() -> None:
    images = torch.arange(70.0).view(70, 1, 1, 1).half()
    splits = Generated(images, 32)
    assert (splits.samples(Split.TRAIN), splits.steps(Split.TRAIN), splits.samples(Split.VAL)) == (70, 2, 0)
    device, dice = torch.device("cpu"), torch.Generator().manual_seed(0)
    plain = [b.inputs[0] for b in splits.batches(Split.TRAIN, device)]
    assert torch.cat(plain).flatten().tolist() == list(range(64))
    drawn = [torch.cat([b.inputs[0] for b in splits.batches(Split.TRAIN, device, dice)]) for _ in range(2)]
    assert all(len(set(some.flatten().tolist())) == 64 for some in drawn)
    assert not torch.equal(*drawn)
    assert all(
        b.target is None and b.inputs[0].dtype == torch.float32 for b in splits.batches(Split.TRAIN, device)
    )
    few = Generated(images[:5])
    assert [len(b) for b in few.batches(Split.TRAIN, device)] == [5]


def test_a_chain_recovers_what_a_cut_took(teacher: Teacher, accuracy: Any) -> None:
    """Nothing but weights and generated images: back to where labels would not have been any help."""
    state = Generate(**{**QUICK, "images": 512, "epochs": 10, "rounds": 20, "batch": 32})(
        State((teacher,)), bench()
    )
    state = Prune(macs=0.3)(state, bench())
    assert state.student is not None
    cut = accuracy(state.student)
    state = Recalibrate(batches=20, generated=True)(state, bench())
    state = Finetune(epochs=10, lr=0.02, generated=True)(state, bench())
    assert state.student is not None
    assert accuracy(state.student) >= max(0.9, cut)
