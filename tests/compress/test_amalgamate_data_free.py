"""AmalgamateDataFree: nothing is seen, the stack mirrors the teachers, and the labels do not go out unnoticed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from amalgamated import STUDENT, TASK, WIDTHS, P, accuracy, one, taught, two
from torch import Tensor, nn
from untouchable import Untouchable

from compress import AmalgamateDataFree, Sees, Session, State
from compress.bank import Bank
from compress.dual import Drawn, Game, Weights
from compress.graft import Grafts
from compress.panel import Panel
from compress.stack import GroupStack, activation, certainty, dark, doubt, sparsity, unevenness
from teachers.networks import DigitsCNN, LeNet5
from teachers.teacher import Teacher

CUTS = ("bn1", "bn2")
Fingerprint = Callable[[nn.Module], dict[str, Any]]
SMALL: dict[str, Any] = {
    "student": STUDENT, "cuts": CUTS, "generator_epochs": 2, "rounds": 3, "batch": 16, "latent": 8, "width": 4,
    "block_epochs": 1, "epochs": 1, "samples": 64, "bank": 64,
}  # fmt: skip


def run(stage: AmalgamateDataFree, *teachers: Teacher) -> tuple[nn.Module, Session, list[dict[str, float]]]:
    told: list[dict[str, float]] = []
    session = Session(
        splits=Untouchable(),
        sees=Sees.NOTHING,
        signature=TASK.signature(),
        report=lambda values, _: told.append(dict(values)),
    )
    torch.manual_seed(0)
    made = stage(State(teachers), session).student
    assert made is not None
    return made, session, told


def game(panel: Panel, **weights: float) -> Game:
    torch.manual_seed(0)
    grafts = Grafts(panel, STUDENT.build().eval(), CUTS, {})
    stack = GroupStack(panel.given, grafts.trunk.shapes[:-1], [True, True], 8, 4)
    plain = dict.fromkeys(
        (
            "one_hot",
            "activation",
            "entropy",
            "sparsity",
            "consistency",
            "batch_norm",
            "foreign",
            "disagreement",
        ),
        0.0,
    )
    return Game(panel, grafts, stack, Weights(**{**plain, **weights}), Session(sees=Sees.NOTHING), False, 12)


def sigmoid(teacher: Teacher) -> Teacher:
    return Teacher(teacher.name, teacher.module, replace(teacher.signature, kind="sigmoid"))


# -- the stack ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "cuts", "shape"),
    [
        (DigitsCNN(widths=(4, 6, 8)), ("bn1", "bn2"), (1, 8, 8)),
        (LeNet5(), ("conv1", "conv2", "fc1"), (1, 28, 28)),
        (DigitsCNN(widths=(4, 6, 8)), ("bn1", "bn2"), (1, 11, 6)),
    ],
    ids=["maps", "maps and a vector", "sides that do not halve"],
)  # fmt: skip
def test_groups_have_the_shapes_of_the_teachers_at_the_cuts(network: Any, cuts: Any, shape: Any) -> None:
    from students.branches import cut
    from teachers.signature import Signature

    blocks = cut(network.build(), cuts, (torch.randn(2, *shape),), "it")
    signature = Signature((shape,), tuple("0123456789"), (0.3,) * shape[0], (0.4,) * shape[0])
    stack = GroupStack(signature, blocks.shapes[:-1], [True] * len(cuts), 7, 4)
    images, features = stack(torch.randn(3, 7))
    assert images.shape == (3, *shape)
    assert {block: tuple(f.shape[1:]) for block, f in features.items()} == dict(
        enumerate(blocks.shapes[:-1], 1)
    )
    assert all(bool((f >= 0).all()) for f in features.values())
    pixels = images * 0.4 + 0.3
    assert bool((pixels >= 0).all())
    assert bool((pixels <= 1).all())
    torch.testing.assert_close(stack.pixels(images), pixels.detach())


def test_losses_by_hand() -> None:
    y = torch.tensor([[0.9, 0.2], [0.6, 0.1]])
    z = y.logit()
    h = -(torch.log(y.where(y > 0.5, 1 - y))).mean()
    torch.testing.assert_close(certainty(z), h)
    m = y.mean(0)
    torch.testing.assert_close(unevenness(z), (m * m.log() + (1 - m) * (1 - m).log()).mean())
    torch.testing.assert_close(sparsity(z), y.mean())
    assert activation(torch.tensor([[1.0, -3.0]])) == -2
    assert doubt(torch.zeros(3, 4)).item() == pytest.approx(-1)
    assert dark(z) == 0
    assert dark(torch.tensor([[-1.0, -2.0], [3.0, -1.0]])) == 0.5


def test_the_weights_are_of_the_terms_they_are_named_after() -> None:
    panel = Panel([one(), two()], TASK.signature())
    z = torch.randn(12, 8)
    for name in ("one_hot", "activation", "entropy", "consistency", "batch_norm"):
        with_one, told = game(panel, **{name: 1.0}).loss(z)
        assert name in told
        rest = sum(term.item() for key, term in told.items() if key != name)
        assert rest == 0
        with_two, _ = game(panel, **{name: 2.0}).loss(z)
        assert with_two.item() == pytest.approx(2 * with_one.item(), rel=1e-4)
        assert with_one.item() != 0


def test_ownership_asks_every_teacher_of_its_part_and_doubt_of_the_rest() -> None:
    panel = Panel([one(), two()], TASK.signature())
    at = game(panel, one_hot=1.0, foreign=0.3)
    at.owned = True
    _, told = at.loss(torch.randn(12, 8))
    assert told["foreign"] < 0
    assert at._parts(torch.arange(12.0)[:, None], 1)[0].flatten().tolist() == [1, 3, 5, 7, 9, 11]


def test_labels_that_went_out_are_noticed_and_answered() -> None:
    class Off(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = one().module

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) - 50  # type: ignore[no-any-return]

    off = Teacher("one", Off(), replace(one().signature, kind="sigmoid"))
    panel = Panel([off, sigmoid(two())], replace(TASK.signature(), labels=P[:3]))
    at = game_of(panel)
    told = at.watched(torch.randn(6, 1, 8, 8))
    assert told == {"dark": 1.0, "labels an image": 0.0}
    assert at.calm == 0.5
    assert any("no label at all: sparsity was halved" in note for note in at.session.notes)
    again = game_of(panel)
    again.load_state_dict(at.state_dict())
    assert again.calm == 0.5


def game_of(panel: Panel) -> Game:
    torch.manual_seed(0)
    student = DigitsCNN(classes=3, widths=WIDTHS).build().eval()
    grafts = Grafts.__new__(Grafts)
    grafts.panel, grafts.student = panel, student
    stack = GroupStack(panel.given, [(6, 8, 8)], [True], 8, 4)
    weights = Weights(1.0, 0.0, 1.0, 0.1, 0.0, 0.0, 0.0, 0.0)
    return Game(panel, grafts, stack, weights, Session(sees=Sees.NOTHING), False, 12)


def test_sparsity_begins_at_its_share_of_the_entropy_loss() -> None:
    panel = Panel([sigmoid(one()), sigmoid(two())], replace(TASK.signature(), kind="sigmoid"))
    at = game(panel, one_hot=1.0, entropy=5.0, sparsity=0.1)
    _, told = at.loss(at.latents())
    assert told["sparsity"].item() == pytest.approx(0.1 * abs(told["entropy"].item()), rel=0.3)


def test_what_is_drawn_is_half_of_earlier_ages_and_the_held_images_stay() -> None:
    panel = Panel([one(), two()], TASK.signature())
    at = game(panel, one_hot=1.0)
    past = Bank(32)
    past.add(torch.full((20, 1, 8, 8), 0.25), torch.zeros(20, 1), torch.Generator())
    source = Drawn(at, 4, past, streams=True)
    batches = list(source.batches())
    assert [sorted(streams) for _, streams in batches] == [[1, 2], [], [1, 2], []]
    assert torch.equal(batches[1][0], torch.full((12, 1, 8, 8), 0.25))
    for (a, _), (b, _) in zip(source.held(), source.held(), strict=True):
        assert torch.equal(a, b)


# -- the stage ---------------------------------------------------------------------------------------------


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "priors": {"batch_norm": 1.0, "owned": True, "streams": 1},
    "rival": {"alternate": True, "disagreement": 0.1},
    "branches": {"leave": "least", "start": "one"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_student_from_weights_alone(name: str, fingerprint: Fingerprint) -> None:
    teachers = (one(), two())
    same = [fingerprint(teacher.module) for teacher in teachers]
    student, session, told = run(AmalgamateDataFree(**{**SMALL, **VARIANTS[name]}), *teachers)
    assert [fingerprint(teacher.module) for teacher in teachers] == same
    assert not session.read
    assert {key.split("/")[0] for values in told for key in values} == {
        "stack",
        "block 1",
        "block 2",
        "block 3",
        "together",
    }
    generated = [key for values in told for key in values if key.endswith("(generated)")]
    assert bool(generated) == (name != "priors"), "the second stream is told by itself"
    assert any("epoch" in title for title in session.pictures)
    assert all(p.requires_grad for p in student.parameters())
    if name != "branches":
        assert repr(student) == repr(STUDENT.build().eval())


def test_an_exception_in_the_game_leaves_teachers_as_they_were(
    fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers = (one(), two())
    same = [fingerprint(teacher.module) for teacher in teachers]

    def broken(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("compress.dual.activation", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(AmalgamateDataFree(**SMALL), *teachers)
    assert [fingerprint(teacher.module) for teacher in teachers] == same


def test_labels_that_do_not_exclude_each_other() -> None:
    session = Session(
        splits=Untouchable(), sees=Sees.NOTHING, signature=replace(TASK.signature(), kind="sigmoid"),
    )  # fmt: skip
    made = AmalgamateDataFree(**SMALL)(State((sigmoid(one()), sigmoid(two()))), session)
    assert made.amalgamation is not None
    assert made.amalgamation.merge == "per_task"
    assert made.amalgamation.calibration is None


def test_it_learns_something_from_weights_alone() -> None:
    teachers = (taught("one", (0, 1, 2), epochs=10), taught("two", (3, 4), epochs=10))
    more = {
        "generator_epochs": 6, "rounds": 20, "batch": 32, "batch_norm": 1.0, "epochs": 5, "block_epochs": 1,
        "samples": 512, "bank": 1024, "width": 8,
    }  # fmt: skip
    stage = AmalgamateDataFree(**{**SMALL, **more})
    student, _, _ = run(stage, *teachers)
    assert accuracy(student) > 0.35, "chance is 0.2"
