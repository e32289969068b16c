"""DFAD: the moves of both players, what must not move, what comes back, and that it teaches."""

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress import DFAD, Prune, Session, State
from compress.adversaries import Generator
from compress.average import Average
from compress.dfad import PRESETS, Game
from compress.losses import discrepancy
from compress.match import shared_blocks
from compress.session import Diverged, Sees
from teachers.networks import DigitsCNN, ResNet
from teachers.signature import Signature
from teachers.tasks import Toy
from teachers.teacher import Teacher

SMALL = DigitsCNN(classes=3, widths=(8, 8, 8))
QUICK: dict[str, Any] = {"student": SMALL, "epochs": 4, "rounds": 3, "batch": 16, "latent": 8, "width": 4}


def bench(**more: Any) -> Session:
    """A session that has no data to give, seeded."""
    torch.manual_seed(0)
    return Session(sees=Sees.NOTHING, **more)


def play(stage: DFAD, teacher: Teacher, student: nn.Module | None = None, **more: Any) -> nn.Module:
    made = stage(State((teacher,), student), bench(**more)).student
    assert made is not None
    return made


def game_of(teacher: Teacher, **fields: Any) -> Game:
    session = bench()
    stage = DFAD(**{**QUICK, **fields})
    assert stage.student is not None
    return Game(stage, teacher, stage.student.build(), session)


@pytest.fixture
def images() -> Signature:
    return Signature(((1, 8, 8),), ("a", "b", "c"), (0.5,), (0.25,))


# -- the moves ----------------------------------------------------------------------------------------------


def by_hand(teacher: Teacher, rounds: int, log: bool) -> tuple[nn.Module, Generator]:
    """The published loop, written out: five steps down on fresh images, one step up."""
    torch.manual_seed(0)
    student, dice = SMALL.build().double(), torch.Generator().manual_seed(0)
    generator = Generator(teacher.signature, 8, 4).double()
    down = torch.optim.SGD(student.parameters(), 0.05, 0.9, weight_decay=5e-4)
    up = torch.optim.Adam(generator.parameters(), 1e-3)
    student.train()
    for _ in range(rounds):
        for _ in range(5):
            x = generator(torch.randn(16, 8, generator=dice).double()).detach()
            loss = (student(x) - teacher(x)).abs().mean()
            down.zero_grad()
            loss.backward()
            down.step()
        x = generator(torch.randn(16, 8, generator=dice).double())
        gap = (student(x) - teacher(x)).abs().mean()
        up.zero_grad()
        (-torch.log(gap + 1) if log else -gap).backward()
        up.step()
    return student, generator


@pytest.mark.parametrize("form", ["plain", "log"])
def test_the_official_preset_is_the_published_loop(form: Any, teacher: Teacher) -> None:
    # Biases before a norm have no gradient but rounding, which Adam would blow up: hence float64.
    fine = Teacher("fine", copy.deepcopy(teacher.module), teacher.signature)
    game = game_of(fine, preset="official", ascent=form)
    for part in (fine.module, game.student, game.generator):
        part.double()
    draw = game._latents
    game._latents = lambda count=None: draw(count).double()  # type: ignore[method-assign]
    for _ in range(2):
        game.teach()
        game.seek()
    student, generator = by_hand(fine, 2, log=form == "log")
    for mine, its in ((game.student, student), (game.generator, generator)):
        for (name, a), b in zip(mine.state_dict().items(), its.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=name)


def test_one_player_goes_up_the_other_down(teacher: Teacher) -> None:
    game = game_of(teacher, preset="official", batch=64)
    z = torch.randn(64, 8, generator=torch.Generator().manual_seed(5))
    game._latents = lambda count=None: z  # type: ignore[method-assign]

    def gap() -> float:
        with torch.no_grad():
            x = game.generator(z)
            return discrepancy(game.student(x), teacher(x)).item()

    start = gap()
    for _ in range(3):
        game.seek()
    assert gap() > start
    start = gap()
    game.teach()
    assert gap() < start


def test_gradients_stay_where_they_belong(
    teacher: Teacher, fingerprint: Callable[[nn.Module], dict[str, Any]]
) -> None:
    game = game_of(teacher)
    intact = fingerprint(teacher.module)
    before = copy.deepcopy(game.student.state_dict())
    game.seek()
    assert fingerprint(teacher.module) == intact
    assert all(p.grad is None and p.requires_grad for p in game.student.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in game.student.state_dict().items())
    frozen = copy.deepcopy(game.generator.state_dict())
    game.teach()
    assert fingerprint(teacher.module) == intact
    drawn = {
        n: t for n, t in game.generator.state_dict().items() if "running" not in n and "tracked" not in n
    }
    assert all(torch.equal(frozen[name], tensor) for name, tensor in drawn.items())


@pytest.mark.parametrize(("mode", "moves"), [("train", True), ("frozen", False), ("eval", False)])
def test_the_students_norms_while_the_generator_learns(mode: Any, moves: bool, teacher: Teacher) -> None:
    game = game_of(teacher, student_mode=mode)
    game.choice.steps = 1000  # past the first steps, in which eval would still be frozen
    before = {n: t.clone() for n, t in game.student.state_dict().items()}
    game.seek()
    changed = {n for n, t in game.student.state_dict().items() if not torch.equal(before[n], t)}
    assert bool(changed) == moves
    assert all("running" in name or "tracked" in name for name in changed)
    assert all(m.momentum == 0.1 for m in game.student.modules() if isinstance(m, nn.BatchNorm2d))


def test_frozen_norms_give_the_same_images_a_push_as_trained_ones(teacher: Teacher) -> None:
    games = [game_of(teacher, student_mode=mode, preset="official") for mode in ("train", "frozen")]
    for game in games:
        game.seek()
    for a, b in zip(games[0].generator.parameters(), games[1].generator.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_round_of_shared_images_asks_the_teacher_once(teacher: Teacher) -> None:
    asked: list[int] = []
    hook = teacher.module.register_forward_hook(lambda _, args, __: asked.append(len(args[0])))
    try:
        for batches, times in (("shared", 1), ("fresh", 6)):
            game = game_of(teacher, batches=batches, replay=0.0, student_steps=5)
            asked.clear()
            game.seek()
            game.teach()
            assert len(asked) == times
    finally:
        hook.remove()


def test_replay_takes_its_share_of_the_steps(teacher: Teacher) -> None:
    game = game_of(teacher, replay=0.5, student_steps=6)
    for _ in range(3):
        game.seek()
    drawn: list[int] = []
    draw = game.past.draw
    game.past.draw = lambda n, g: (drawn.append(n), draw(n, g))[1]  # type: ignore[method-assign, func-returns-value]
    game.teach()
    assert drawn == [16, 16, 16]


def test_waiting_for_a_student_that_is_lost(teacher: Teacher) -> None:
    game = game_of(teacher, enough=1e-6)
    game.seek()  # nothing is known of the ratio yet
    before = [p.clone() for p in game.generator.parameters()]
    game.seek()
    assert all(torch.equal(a, b) for a, b in zip(before, game.generator.parameters(), strict=True))
    assert game.lesson is not None
    assert not game.lesson[0].requires_grad


@pytest.mark.parametrize("prior", ["batch_norm", "one_hot", "balance"])
def test_warming_up_lowers_the_prior(prior: str, teacher: Teacher) -> None:
    told: list[float] = []
    stage = DFAD(**{**QUICK, "warmup": 4, "rounds": 20, "epochs": 1, prior: 1.0})
    play(stage, teacher, report=lambda values, _: told.append(values.get("prior", math.nan)))
    assert told[3] < told[0]


def test_features_of_blocks_are_matched(trained: Any) -> None:
    torch.manual_seed(0)
    signature = Signature(((3, 32, 32),), tuple("0123456789"), (0.5,) * 3, (0.25,) * 3)
    teacher = Teacher("resnet", ResNet(depth=32).build(), signature)  # type: ignore[arg-type]
    student = ResNet(depth=20).build()
    # Rows of other lengths are compared at their ends alone: the third of five blocks is not the third of three.
    assert shared_blocks(teacher, student, signature) == ("layer1", "layer2", "layer3")
    assert "layer3.2" in shared_blocks(teacher, ResNet(depth=32).build(), signature)
    session = bench()
    game = Game(DFAD(batch=8, latent=8, width=4, features=10.0, lr=0.01), teacher, student, session)
    game.seek()
    assert game.lesson is not None
    x = game.lesson[0]

    def distance() -> float:
        with torch.no_grad():
            given, wanted = [], []
            with game._matched(x) as pairs:
                game.student.train()(x)
            given, wanted = zip(*pairs, strict=True)
            return sum(
                float((a - b).square().sum() / b.square().sum()) for a, b in zip(given, wanted, strict=True)
            )

    start = distance()
    asked: list[int] = []
    hook = teacher.module.register_forward_hook(lambda _, args, __: asked.append(len(args[0])))
    for _ in range(3):
        game.teach()
    hook.remove()
    assert not asked  # what its blocks gave for these images is known from the generator's step
    assert distance() < start
    with game._matched(x.clone()) as pairs:  # other images: it is asked
        game.student(x)
    for (_, a), (_, b) in zip(pairs, zip(game.blocks, game.felt.values(), strict=True), strict=True):
        torch.testing.assert_close(a, b)


# -- choosing -----------------------------------------------------------------------------------------------


def test_what_is_returned_is_the_student_that_was_judged_best(teacher: Teacher) -> None:
    told: list[Mapping[str, float]] = []
    session = bench(report=lambda values, _: told.append(dict(values)))
    made = DFAD(**{**QUICK, "epochs": 8})(State((teacher,)), session).student
    assert made is not None
    smooth, seen = math.nan, []
    for values in told:
        ratio = values["held_ratio"]
        smooth = ratio if len(seen) <= 4 else 0.5 * smooth + 0.5 * ratio
        seen.append(smooth)
    best = min(range(4, 8), key=lambda epoch: (seen[epoch], -epoch))
    (note,) = [line for line in session.notes if "chosen" in line]
    assert note.startswith(
        f"chosen without labels: epoch {best + 1}, relative gap {told[best]['held_ratio']:.3f}"
    )
    assert not made.training


def test_it_stops_where_nothing_is_gained_any_more(teacher: Teacher) -> None:
    told: list[int] = []
    session = bench(report=lambda _, epoch: told.append(epoch))
    # With rates this small the gap stays where it is.
    stage = DFAD(**{**QUICK, "epochs": 20}, lr=1e-9, generator_lr=1e-9, weight_decay=0.0, patience=2)
    assert stage(State((teacher,)), session).student is not None
    assert 10 < len(told) < 20
    assert f"stopped after epoch {len(told)}: no gain in the last 2" in session.notes
    patient: list[int] = []
    more = bench(report=lambda _, epoch: patient.append(epoch))
    DFAD(**{**QUICK, "epochs": 6}, patience=1, lr=0.1)(State((teacher,)), more)
    assert len(patient) >= 4  # never in the first half


def test_looking_leaves_the_students_random_numbers_and_norms_alone(teacher: Teacher) -> None:
    game = game_of(teacher)
    game.seek()
    game.held.add(*game.lesson, game.session.generator)  # type: ignore[misc]
    before, dice = copy.deepcopy(game.student.state_dict()), game.session.generator.get_state()
    game.choice.judge(game.student, game.held, game.session, 0, 4)
    assert all(torch.equal(before[n], t) for n, t in game.student.state_dict().items())
    assert torch.equal(dice, game.session.generator.get_state())


def test_the_running_average_is_what_is_returned(teacher: Teacher) -> None:
    game = game_of(teacher, average=0.9)
    weights: list[Tensor] = []
    for _ in range(2):
        game.seek()
        game.teach()
    weights = [p.clone() for p in game.student.parameters()]
    assert game.choice.mean is not None
    mean = list(game.choice.mean.network.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(weights, mean, strict=True) if a.numel() > 8)
    game.look(3)
    assert all(torch.equal(a, b) for a, b in zip(game.chosen().parameters(), mean, strict=True))


def test_the_generators_average_draws_every_other_step(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = game_of(teacher, generator_average=0.5, batches="shared", replay=0, student_steps=5)
    assert game.slow is not None
    before = copy.deepcopy(game.generator.state_dict())
    game.seek()
    game.seek()
    # After one step and two: d is 1 / 11 and 2 / 12 at most, so early on it is nearly the generator itself.
    weight = "head.weight"
    assert not torch.equal(game.generator.state_dict()[weight], before[weight])
    assert game.slow.steps == 2
    drawn: list[nn.Module] = []
    for network in (game.generator, game.slow.network):
        network.register_forward_hook(lambda module, *_: drawn.append(module))
    game.teach()
    assert drawn == [game.slow.network] * 2  # steps 1 and 3 of 0 to 4
    assert game_of(teacher).slow is None


def test_a_running_average_follows_its_formula() -> None:
    networks = [nn.BatchNorm1d(2) for _ in range(3)]
    for number, network in enumerate(networks):
        nn.init.constant_(network.weight, float(number))
        network.num_batches_tracked.fill_(number)  # type: ignore[union-attr]
    mean = Average(networks[0], 0.15)
    mean.follow(networks[1])
    torch.testing.assert_close(mean.network.weight, torch.full((2,), 10 / 11))
    mean.follow(networks[2])
    torch.testing.assert_close(mean.network.weight, torch.full((2,), 0.15 * 10 / 11 + 0.85 * 2))
    assert mean.network.num_batches_tracked == 2
    again = Average(networks[0], 0.15)
    again.load_state_dict(mean.state_dict())
    assert torch.equal(again.network.weight, mean.network.weight)
    assert again.steps == 2


def test_albums_show_every_class(teacher: Teacher) -> None:
    session = bench()
    DFAD(**{**QUICK, "balance": 1.0})(State((teacher,)), session)
    assert [title.rpartition(" ")[2] for title in session.pictures] == ["1", "3", "4"]
    svg = next(iter(session.pictures.values()))
    for label in teacher.signature.labels:
        assert f">{label}</text>" in svg


# -- guards -------------------------------------------------------------------------------------------------


def test_a_collapsed_generator_is_revived(teacher: Teacher) -> None:
    game = game_of(teacher)
    game.seek()
    with torch.no_grad():
        for parameter in game.generator.parameters():
            parameter.zero_()
    told = game.look(0)
    assert told["variety"] < 1e-2
    assert game.generator.lift.weight.abs().max() > 0
    assert not game.tease.state
    assert any("the generator collapsed" in line for line in game.session.notes)


def test_a_step_that_is_not_finite_is_not_taken(teacher: Teacher) -> None:
    game = game_of(teacher, replay=0.0)
    game.begin()
    game.seek()
    before = [p.clone() for p in game.student.parameters()]
    good = game.lesson
    assert good is not None
    game.lesson = (good[0], torch.full_like(good[1], torch.nan))
    game.options = game.options.__class__(**{**vars(game.options), "student_steps": 2})
    game.teach()
    assert all(torch.equal(a, b) for a, b in zip(before, game.student.parameters(), strict=True))
    assert game.guard.misses == 2
    game.lesson = good
    game.teach()
    assert game.guard.misses == 0
    assert not any(torch.equal(a, b) for a, b in zip(before, game.student.parameters(), strict=True))


def test_three_in_a_row_bring_the_last_good_state_back_with_half_the_rate(teacher: Teacher) -> None:
    game = game_of(teacher, replay=0.0, student_steps=3, schedule="constant")
    game.begin()
    before = copy.deepcopy(game.student.state_dict())
    with torch.no_grad():
        next(game.student.parameters()).fill_(torch.nan)
    game.seek()  # the first that is not finite
    game.guard.misses = 0
    game.lesson = (torch.randn(16, 1, 8, 8), torch.zeros(16, 3))
    game.teach()
    assert all(torch.equal(before[n], t) for n, t in game.student.state_dict().items())
    assert any("went back to the start of the epoch, with 0.5 times" in line for line in game.session.notes)
    game.seek()
    assert game.tease.param_groups[0]["lr"] == 0.5e-3
    assert all(p.isfinite().all() for p in game.generator.parameters())


def test_what_cannot_be_rescued_is_told(teacher: Teacher) -> None:
    with pytest.raises(Diverged, match="losses in a row were not finite, 6 times over"):
        play(DFAD(**{**QUICK, "lr": 1e30, "rounds": 40, "preset": "official"}), teacher)


def test_the_teacher_stays_to_the_bit(
    teacher: Teacher, fingerprint: Callable[[nn.Module], dict[str, Any]]
) -> None:
    before = fingerprint(teacher.module)
    play(DFAD(**QUICK, batch_norm=1.0, one_hot=0.1, balance=1.0, warmup=1), teacher)
    assert fingerprint(teacher.module) == before


# -- being stopped ------------------------------------------------------------------------------------------


class Cut(Exception):
    """Stops a run."""


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"preset": "official"},
        {"preset": "zskt", "average": 0.9, "generator_average": 0.9},
        {"batch_norm": 1.0, "warmup": 2, "bank": 20},
    ],
    ids=["default", "official", "zskt with averages", "with a warm-up"],
)
def test_cut_and_resumed_equals_unbroken(fields: dict[str, Any], teacher: Teacher, tmp_path: Path) -> None:
    stage = DFAD(**{**QUICK, **fields})
    whole = play(stage, teacher).state_dict()
    for after in range(4 + stage.warmup):
        times: list[int] = []

        def report(_: Mapping[str, float], __: int, after: int = after, times: list[int] = times) -> None:
            times.append(1)
            if len(times) == after + 1:
                raise Cut

        folder = tmp_path / str(after)
        folder.mkdir()
        with pytest.raises(Cut):
            play(stage, teacher, folder=folder, report=report)
        resumed = play(stage, teacher, folder=folder).state_dict()
        for name, tensor in whole.items():
            assert torch.equal(resumed[name], tensor), f"{name}, cut after {after + 1} reports"


# -- it teaches ---------------------------------------------------------------------------------------------


def test_a_fresh_student_learns_without_an_image(
    teacher: Teacher, accuracy: Callable[[nn.Module], float]
) -> None:
    stage = DFAD(student=SMALL, epochs=15, rounds=15, batch=48, latent=16, width=8)
    made = play(stage, teacher)
    torch.manual_seed(0)
    assert accuracy(SMALL.build().eval()) < 0.6
    assert accuracy(made) > 0.85


def test_a_pruned_student_comes_back_without_an_image(
    teacher: Teacher, task: Toy, accuracy: Callable[[nn.Module], float]
) -> None:
    cut = Prune(macs=0.3)(State((teacher,)), Session.bare(task, sees=Sees.NOTHING)).student
    assert cut is not None
    stage = DFAD(epochs=10, rounds=15, batch=48, latent=16, width=8, lr=0.02)
    made = play(stage, teacher, cut)
    assert accuracy(made) > max(accuracy(cut) + 0.05, 0.85)
    assert made.conv1.out_channels == cut.conv1.out_channels  # type: ignore[union-attr, operator]


# -- bad input ----------------------------------------------------------------------------------------------


def flat(outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, outputs))


class Hidden(nn.Module):
    """Lets no gradient through to its input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.inner(x.detach())
        return answer


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = flat()

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        answer: Tensor = self.inner(x)
        return answer


def test_a_prior_that_the_teacher_cannot_give(images: Signature) -> None:
    with pytest.raises(ValueError, match="teacher 'flat' has no batch norm with running statistics"):
        play(DFAD(**QUICK, batch_norm=1.0), Teacher("flat", flat(), images))


def test_a_warm_up_without_a_prior(teacher: Teacher) -> None:
    with pytest.raises(ValueError, match="none has a weight: set batch_norm, one_hot or balance"):
        play(DFAD(**QUICK, warmup=1, batch_norm=0.0, balance=0.0, one_hot=0.0), teacher)


def test_a_teacher_that_hides_its_input(images: Signature) -> None:
    with pytest.raises(ValueError, match="'hidden' passes no gradient to its input"):
        play(DFAD(**QUICK), Teacher("hidden", Hidden(flat()), images))
    with pytest.raises(ValueError, match=r"'inplace' does not take gradients .*\(1, 8, 8\)"):
        play(DFAD(**QUICK), Teacher("inplace", InPlace(), images))


def test_other_outputs(teacher: Teacher) -> None:
    with pytest.raises(ValueError, match=r"different outputs, \(2, 10\) and \(2, 3\)"):
        play(DFAD(**{**QUICK, "student": DigitsCNN()}), teacher)


def test_an_unknown_range(images: Signature) -> None:
    unknown = Signature(images.inputs, images.labels)
    with pytest.raises(ValueError, match="signature has no mean and std"):
        play(DFAD(**QUICK, output="pixels"), Teacher("flat", flat(), unknown))
    made = Generator(unknown, 8, 4)
    assert made.output == "published"


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((1, 30, 30), "multiples of 4 at this size, not 30x30: set size to 28x28|32x32"),
        ((3, 100, 90), "multiples of 16 at this size, not 100x90: set size to 96x96"),
        ((12,), r"one input of \(channels, height, width\), but the teacher takes \(12,\)"),
    ],
)
def test_sizes_that_cannot_be_made(shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Generator(Signature((shape,), ("a", "b")), 8, 4)


def test_no_block_to_match(images: Signature) -> None:
    with pytest.raises(ValueError, match="there are none among no blocks at all: set features to 0"):
        play(DFAD(**QUICK, features=1.0), Teacher("flat", flat(), images))


def test_a_stage_that_sees_nothing_can_ask_for_nothing(teacher: Teacher) -> None:
    assert DFAD().sees is Sees.NOTHING
    with pytest.raises(ValueError, match="sees nothing, yet asked for train data"):
        next(bench().batches())


# -- the presets --------------------------------------------------------------------------------------------


def test_presets_and_the_fields_in_their_place() -> None:
    official = DFAD(preset="official").options()
    assert (official.replay, official.batch_norm, official.average, official.clip) == (0, 0, 0, None)
    assert official.batches == "fresh"
    assert DFAD(preset="official", replay=0.25).options() == official.__class__(
        **{**vars(official), "replay": 0.25}
    )
    assert DFAD(preset="zskt").options().distance == "kl"
    assert DFAD().options() == PRESETS["default"]


def test_the_presets_batch_norm_holds_where_there_are_norms(teacher: Teacher, images: Signature) -> None:
    assert game_of(teacher).priors.norms
    assert game_of(Teacher("flat", flat(), images)).options.batch_norm == 0
    assert not game_of(teacher, preset="official").priors


def test_dense_outputs_take_the_log_form() -> None:
    signature = Signature(((3, 16, 16),), ("a", "b"), (0.5,) * 3, (0.5,) * 3)
    dense = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
    stage = DFAD(epochs=2, rounds=2, batch=4, latent=8, width=4)
    session = bench()
    game = Game(stage, Teacher("dense", dense, signature), copy.deepcopy(dense).requires_grad_(True), session)
    assert game.ascent == "log"
    assert play(stage, Teacher("dense", dense, signature), LeNetDense()).training is False


class LeNetDense(nn.Module):
    """A dense student of another shape inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 2, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.inner(x)
        return answer
