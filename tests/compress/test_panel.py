"""What teachers cannot be asked: one clear message, that names teacher, label, layer and shapes."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from amalgamated import STUDENT, TASK, P, one, over, two
from torch import Tensor, nn

from compress import Amalgamate, AmalgamateDataFree, Branching, CommonFeature, LayerWise, Sees, Session, State
from compress.course import Loaded
from compress.layer_wise import foldable
from compress.listening import places
from compress.method import calibrated
from compress.panel import Panel
from teachers.networks import DigitsCNN, LeNet5, ResNet
from teachers.signature import Signature
from teachers.tasks import Unseen
from teachers.teacher import Teacher

GREY = TASK.signature()


def net(labels: int, shape: tuple[int, ...] = (1, 8, 8), grid: bool = False) -> nn.Module:
    torch.manual_seed(0)
    if grid:
        return nn.Sequential(nn.Conv2d(shape[0], labels, 1))
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), labels))


def teacher(name: str, labels: str, module: nn.Module | None = None, **more: Any) -> Teacher:
    made = replace(GREY, labels=tuple(labels), **more)
    return Teacher(name, module or net(len(labels), made.inputs[0]), made)


def ask(*teachers: Teacher, labels: str | None = None, **more: Any) -> Panel:
    return Panel(teachers, replace(GREY, labels=tuple(labels)) if labels is not None else None, **more)


class Hidden(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x.flatten(1)[:, :3] * 2


class Quantised(nn.Module):
    """Writes over its input, as kernels for whole numbers do."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.mul_(8).round_().div_(8)
        return x.flatten(1)[:, :3] * 2


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)) / 0


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "no teacher": (ask, "no teacher to amalgamate"),
    "two of a name": (lambda: ask(teacher("a", "xy"), teacher("a", "zw")), "two teachers are called 'a'"),
    "labels and width": (
        lambda: ask(teacher("a", "xyz", net(4)), teacher("b", "vw")), r"'a' has 3 labels \(x, y, z\) but .* \(2, 4\)",
    ),
    "a label twice": (lambda: ask(teacher("a", "xx", net(2))), "a has the label 'x' twice"),
    "an empty label": (lambda: ask(Teacher("a", net(2), replace(GREY, labels=("x", " ")))), "a has the label ' '"),
    "colliding aliases": (
        lambda: ask(teacher("a", "xy"), aliases={"a": {"x": "y"}}), "collide: 'x' and 'y' would both be called 'y'",
    ),
    "alias of nobody": (lambda: ask(teacher("a", "xy"), aliases={"b": {}}), "aliases for 'b', who is not a teacher"),
    "two kinds": (
        lambda: ask(teacher("a", "xy"), teacher("b", "yz", kind="sigmoid")),
        r"'y' is softmax of 'a' and sigmoid of 'b'.*aliases=\{'b': \{'y'",
    ),
    "numbers and names": (
        lambda: ask(teacher("a", "012"), teacher("b", "xy")),
        r"labels of 'a' are numbers \(0, 1, 2\) and those of 'b' are names .*aliases=\{'a': \{'0'",
    ),
    "a taxonomy": (
        lambda: ask(teacher("a", "xy"), teacher("b", "zw"), taxonomy={"z": "x"}),
        "'x' of 'a' contains 'z' of 'b'",
    ),
    "an unknown label": (lambda: ask(teacher("a", "xy"), labels="xq"), "no teacher knows 'q'.*they know x, y"),
    "no scale": (
        lambda: ask(teacher("a", "xy"), teacher("b", "zw", mean=None, std=None)),
        r"how b had its images normalised is not stated.*mean 0, std 1",
    ),
    "a size that cannot be had": (
        lambda: ask(teacher("a", "xy"), teacher("b", "zw", inputs=((2, 8, 8),)), labels="xyzw"),
        r"teacher 'b': inputs of \(\(1, 8, 8\),\) cannot be made inputs of \(\(2, 8, 8\),\)",
    ),
    "an answer that is no number": (lambda: ask(teacher("a", "xy", Broken())), "'a' gives NaN or infinity"),
    "one label": (lambda: ask(teacher("a", "x", net(1))), "has one label, 'x'.*declare it sigmoid"),
    "images and pixels": (
        lambda: ask(teacher("a", "xy"), teacher("b", "zw", net(2, grid=True))),
        "answer on different grids: a the whole image, b 8x8 pixels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_who_cannot_be_asked(case: str) -> None:
    make, said = CASES[case]
    with pytest.raises(ValueError, match=said):
        make()


def test_who_has_nothing_to_say_is_told_and_not_asked() -> None:
    panel = ask(teacher("a", "xy"), teacher("b", "zw"), labels="yx")
    assert panel.names == ("a",)
    assert panel.notes == ["b answers none of the labels asked for, and is not asked"]


def test_teachers_are_asked_in_their_own_size_and_scale() -> None:
    torch.manual_seed(0)
    colour = Signature(((3, 16, 12),), ("z", "w"), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    other = Teacher("b", net(2, (3, 16, 12)), colour)
    panel = ask(teacher("a", "xy"), other, labels="xyzw")
    pixels = torch.rand(4, 1, 8, 8)
    mean, std = GREY.mean, GREY.std
    assert mean is not None
    assert std is not None
    answers = panel.ask((pixels - mean[0]) / std[0])
    large = nn.functional.interpolate(pixels, (16, 12), mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
    wanted = other(torch.stack([(large[:, c] - colour.mean[c]) / colour.std[c] for c in range(3)], 1))  # type: ignore[index]
    torch.testing.assert_close(answers[1], wanted, atol=1e-4, rtol=1e-4)
    plan = panel.plan()
    assert plan[0] == "4 labels asked of 2 teachers: a 2 of 2 (softmax), b 2 of 2 (softmax)"
    assert "z: b" in plan
    assert "a and b: disjoint" in plan
    assert "b is shown the images brought to 3x16x12, its scale" in plan


def run(stage: Any, *teachers: Teacher, task: Any = TASK, **more: Any) -> State:
    return stage(State(tuple(teachers)), Session.bare(task, sees=stage.sees, **more))  # type: ignore[no-any-return]


COLOUR = replace(TASK, mean=(0.5,) * 3, std=(0.3,) * 3)
OTHER = DigitsCNN(classes=5, widths=(6, 9, 10))
HIDDEN = Teacher("z", Hidden(), replace(GREY, labels=P[:3]))
QUANTISED = Teacher("q", Quantised(), replace(GREY, labels=P[:3]))
SMALL = {"cuts": ("bn1", "bn2"), "generator_epochs": 1, "rounds": 2, "batch": 8, "latent": 4, "width": 4}


def tall() -> Teacher:
    """Patterns 3 and 4 in images of 18x8: halved twice they are no pixels of 8x8."""
    return Teacher("tall", two().module, replace(two().signature, inputs=((1, 18, 8),)))


def do(*others: Teacher, task: Any = TASK, **fields: Any) -> State:
    """The stage with these fields, on teachers of two parts that share nothing."""
    return run(Amalgamate(**{"student": STUDENT, **fields}), one(), *(others or (two(),)), task=task)


STAGES: dict[str, tuple[Callable[[], Any], str]] = {
    "width of the head": (lambda: do(student=DigitsCNN(classes=4)), "4 outputs, and 5 labels are asked for"),
    "size of the student": (lambda: do(task=COLOUR), r"student does not take the task's images, \(3, 8, 8\)"),
    "no student": (lambda: do(student=None), "MergedTargets teaches a student, and there is none"),
    "no such tap": (lambda: do(method=CommonFeature(tap="bn9")), "the student has no layer 'bn9'; did you mean"),
    "no such tap of a teacher": (
        lambda: do(method=CommonFeature(teacher_taps={"two": "x"})), "teacher 'two' has no layer 'x'.*there are conv1",
    ),
    "taps of a stranger": (lambda: do(method=CommonFeature(teacher_taps={"x": ""})), "name 'x', who is not asked"),
    "a layer that is not there": (lambda: do(method=LayerWise(taps=("bn1", "y"))), "the student has no layer 'y'"),
    "a layer that does not fold": (
        lambda: foldable(ResNet().build(), "layer1"), "adapter behind 'layer1', a Sequential, cannot be folded",
    ),
    "other taps": (
        lambda: do(method=LayerWise(taps=("bn1",), teacher_taps={"one": ("bn1", "x")})),
        r"heard at 1 layers \(bn1\), teacher 'one' at 2 \(bn1, x\)",
    ),
    "blocks of other shapes": (
        lambda: do(student=OTHER, method=Branching(cuts=("bn1", "bn2"))),
        r"same shapes at all 2 cuts.*student: 6x8x8 \| 9x4x4\n  one: 6x8x8 \| 8x4x4",
    ),
    "blocks of other sizes": (
        lambda: do(tall(), method=Branching(cuts=("bn1", "bn2"))),
        r"same shapes at all 2 cuts.*one: 6x8x8 \| 8x4x4\n  tall: 6x18x8 \| 8x9x4.*name other cuts",
    ),
    "blocks of other sizes, without data": (
        lambda: run(AmalgamateDataFree(student=STUDENT, **SMALL), one(), tall()),
        r"same shapes at all 2 cuts.*one: 6x8x8 \| 8x4x4\n  tall: 6x18x8 \| 8x9x4",
    ),
    "unequal numbers of blocks": (
        lambda: do(method=Branching(cuts=("bn1", "bn2"), teacher_cuts={"two": ("bn1",)})),
        r"one: 6x8x8 \| 8x4x4 \(3 blocks\)\n  two: 6x8x8 \(2 blocks\)",
    ),
    "two tasks of one name": (lambda: do(one()), "two teachers are called 'one': give each a name of its own"),
    "a student of another size": (
        lambda: do(student=LeNet5(classes=5)), r"student does not take the task's images, \(1, 8, 8\)",
    ),
    "a prior of teachers that share": (lambda: do(over(), prior={"one": 0.5, "over": 0.5}), "some share labels"),
    "raw answers of parts": (lambda: do(calibrate="raw", merge="ce"), r"one \| two"),
    "one batch": (lambda: do(task=replace(TASK, batch=360)), "at least 2 batches, and train has 1"),
    "one sample a batch": (lambda: do(task=replace(TASK, batch=1)), "a batch of 1 has no statistics"),
    "no way to the image": (
        lambda: run(AmalgamateDataFree(student=STUDENT, **SMALL), one(), two(), HIDDEN),
        "teacher 'z' passes no gradient to its input",
    ),
    "an input that takes no gradient": (
        lambda: run(AmalgamateDataFree(student=STUDENT, **SMALL), one(), two(), QUANTISED),
        r"teacher 'q' does not take gradients to inputs of \(1, 8, 8\)",
    ),
    "nothing to draw by": (
        lambda: AmalgamateDataFree(student=STUDENT, cuts=("bn1",), one_hot=0, entropy=0), "nothing to draw images by",
    ),
    "a reward without a rival": (
        lambda: AmalgamateDataFree(student=STUDENT, cuts=("bn1",), disagreement=1), "set alternate to true",
    ),
    "a collapsing space": (lambda: CommonFeature(reconstruction=0), "everything is the same: set reconstruction"),
    "start with a stranger": (lambda: do(method=Branching(cuts=("bn1",), start="x")), "start names 'x', who"),
}  # fmt: skip


@pytest.mark.parametrize("case", STAGES)
def test_what_a_stage_refuses(case: str) -> None:
    make, said = STAGES[case]

    with pytest.raises(ValueError) as problem:  # noqa: PT011 - the message is matched over several lines
        make()
    assert re.search(said, str(problem.value), re.DOTALL), problem.value


def test_pixels_that_are_none() -> None:
    class Bright(Loaded):
        def batches(self) -> Any:
            yield torch.full((4, 1, 8, 8), 9.0), {}

    session = Session.bare(TASK, sees=Sees.INPUTS)
    panel = Panel([one(), two()], GREY)
    with pytest.raises(
        ValueError, match=r"pixels from 3.65 to 3.65 once its normalisation is undone, not from 0 to 1"
    ):
        calibrated(panel, Bright(session), session, "class", 10, None, 100, strict=False)


def test_a_dead_output_and_one_that_is_not_finite() -> None:
    class Odd(nn.Module):
        def __init__(self, late: bool) -> None:
            super().__init__()
            self.inner, self.late = one().module, late

        def forward(self, x: Tensor) -> Tensor:
            z = self.inner(x)
            first = (
                torch.where(x.mean() < 9, torch.nan, z[:, 0]) if self.late and len(x) > 2 else z.mean(1) * 0
            )
            rest = z[:, 1:2]
            return torch.stack([first, rest[:, 0], -rest[:, 0]], 1)

    def odd(late: bool) -> Teacher:
        return Teacher("odd", Odd(late), one().signature)

    with pytest.raises(
        ValueError, match="'odd' answers 'pattern 0' with the same number for all 352 samples"
    ):
        run(Amalgamate(student=STUDENT), odd(False), two())
    with pytest.raises(
        ValueError, match="'odd' gives 352 outputs that are not finite, for 'pattern 0' first"
    ):
        run(Amalgamate(student=STUDENT), odd(True), two())


def test_teachers_that_mean_different_things_by_a_name() -> None:
    """'pattern 2' of the one is pattern 4 of the other: told, and refused under strict."""
    wrong = Teacher("wrong", over().module, replace(over().signature, labels=(P[4], P[3], P[2])))
    stage = Amalgamate(student=STUDENT, epochs=1)
    session = Session.bare(TASK, sees=Sees.INPUTS)
    stage(State((one(), wrong)), session)
    assert any("agree on 'pattern 2' in" in note and "alias it apart" in note for note in session.notes)
    with pytest.raises(ValueError, match="one and wrong agree on 'pattern 2' in"):
        run(replace(stage, strict=True), one(), wrong)


def test_one_thing_under_two_names_is_told() -> None:
    same = Teacher("same", one().module, replace(one().signature, labels=("x", "y", "z")))
    session = Session.bare(TASK, sees=Sees.INPUTS)
    task = replace(TASK.signature(), labels=(*P[:3], "x", "y"))
    session.signature = task
    Amalgamate(student=STUDENT, epochs=1)(State((one(), same)), session)
    assert any("'pattern 0' of one and 'x' of same come together" in note for note in session.notes)


def test_customising_labels_that_do_not_exclude_each_other_is_plain_restriction() -> None:
    panel = ask(teacher("a", "xyz", kind="sigmoid"), teacher("b", "zw", kind="sigmoid"), labels="wx")
    answers = panel.ask(torch.randn(3, 1, 8, 8))
    first, second = panel.pieces(answers)
    assert torch.equal(first, answers[0][:, :1])
    assert torch.equal(second, answers[1][:, 1:])
    assert [m.index for m in panel.members] == [(1,), (0,)]


def test_a_tap_that_is_no_tensor() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.linear = Both(), nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.both(x)[0].flatten(1))  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match=r"'both' of the student gives a tuple, .* one of linear"):
        places(Pair(), ["both"], (torch.randn(2, 1, 8, 8),), "the student")


def test_a_tap_that_is_overwritten() -> None:
    class Inplace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.linear = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Linear(144, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.act(self.conv(x)).flatten(1))  # type: ignore[no-any-return]

    stage = Amalgamate(method=CommonFeature(tap="conv"))
    with pytest.raises(
        ValueError, match=r"'conv' of the student gives is overwritten in place .* one of conv, linear"
    ):
        stage(State((one(), two()), Inplace()), Session.bare(TASK, sees=Sees.INPUTS))


def test_labels_that_nobody_knows() -> None:
    with pytest.raises(ValueError, match="no teacher knows '0', '1'"):
        run(Amalgamate(student=DigitsCNN()), one(), task=Unseen(shape=(1, 8, 8), classes=2))
