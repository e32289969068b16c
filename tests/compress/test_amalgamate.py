"""Amalgamate: one student of several teachers, by every method, and the teachers never notice."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from amalgamated import CPU, STUDENT, TASK, WIDTHS, P, accuracy, one, over, taught, two
from torch import Tensor, nn

from compress import Amalgamate, Branching, CommonFeature, LayerWise, MergedTargets, Sees, Session, State
from compress.course import Course, Loaded
from compress.graft import Grafts
from compress.hooks import Point
from compress.layer_wise import fold, foldable, insert
from compress.listening import heard
from compress.method import Method, Work, calibrated, merged
from compress.panel import Panel
from students.branches import Branched
from teachers.networks import DeepLab, DigitsCNN
from teachers.task import Split
from teachers.tasks import Scenes, Subset
from teachers.teacher import Teacher
from teachers.train import Train

Fingerprint = Callable[[nn.Module], dict[str, Any]]
METHODS: dict[str, Method] = {
    "soft": MergedTargets(),
    "layer-wise": LayerWise(taps=("bn1", "conv2"), code_epochs=1, layer_epochs=2),
    "common, paired": CommonFeature(width=8),
    "common, mmd": CommonFeature(width=8, distance="mmd", tap="bn2", teacher_taps={"one": "bn2"}, weight=0.1),
    "branching": Branching(cuts=("bn1", "bn2"), block_epochs=1, start="one"),
    "one trunk": Branching(cuts=("bn1", "bn2"), block_epochs=1, leave="last"),
}
each = pytest.mark.parametrize("name", METHODS)


def work(
    *teachers: Teacher, method: Method | None = None, merge: Any = "auto", session: Session | None = None
) -> Work:
    """A workplace with the toy's images."""
    session = session or Session.bare(TASK, sees=Sees.INPUTS)
    panel = Panel(teachers, session.signature)
    source = Loaded(session)
    made = calibrated(panel, source, session, "class", 10, None, 400, strict=False)
    return Work(
        session, panel, merged(panel, merge, made), made, Course(Amalgamate(epochs=1), session, source)
    )


def run(
    stage: Amalgamate, *teachers: Teacher, **more: Any
) -> tuple[nn.Module, Session, list[dict[str, float]]]:
    told: list[dict[str, float]] = []
    session = Session.bare(TASK, sees=stage.sees, report=lambda values, _: told.append(dict(values)), **more)
    torch.manual_seed(0)
    made = stage(State(teachers), session).student
    assert made is not None
    return made, session, told


# -- it learns ---------------------------------------------------------------------------------------------


@each
def test_every_method_makes_one_student_of_two(name: str, fingerprint: Fingerprint) -> None:
    teachers = (one(), two())
    same = [fingerprint(teacher.module) for teacher in teachers]
    student, session, told = run(Amalgamate(student=STUDENT, epochs=8, method=METHODS[name]), *teachers)
    assert [fingerprint(teacher.module) for teacher in teachers] == same
    assert accuracy(student) > (0.55 if name.startswith("common") else 0.7)
    assert not student.training
    assert all(p.requires_grad for p in student.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())
    losses = [values for values in told if {"one", "two"} <= {key.split("/")[-1] for key in values}]
    assert losses, "each teacher's loss is told"
    assert all(
        value > 0
        for values in losses
        for key, value in values.items()
        if key.split("/")[-1] in ("one", "two")
    )
    assert set(session.read) <= {"train", "val"}
    if name in ("soft", "layer-wise", "one trunk"):
        plain = STUDENT.build()
        assert repr(student) == repr(plain), "the student ends with its own layers"


def test_shared_labels_weigh_teachers_against_each_other() -> None:
    student, _, _ = run(Amalgamate(student=STUDENT, epochs=8), one(), over())
    assert accuracy(student) > 0.7


def test_a_teacher_that_speaks_louder_costs_the_raw_recipe_dearly_and_us_nothing() -> None:
    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = two().module

        def forward(self, x: Tensor) -> Tensor:
            return 9 * self.inner(x) + 30  # type: ignore[no-any-return]

    loud = Teacher("two", Loud(), two().signature)
    ours, _, _ = run(Amalgamate(student=STUDENT, epochs=8), one(), loud)
    raw, session, _ = run(Amalgamate(student=STUDENT, epochs=8, merge="concat", calibrate="raw"), one(), loud)
    assert accuracy(ours) > 0.7
    assert accuracy(raw) < 0.6
    assert any("do not compare" in note for note in session.notes)


def test_what_is_not_identified_is_told() -> None:
    _, session, _ = run(Amalgamate(student=STUDENT, epochs=0.1, merge="per_task"), one(), two())
    assert any("not identified" in note for note in session.notes)
    _, session, _ = run(Amalgamate(student=STUDENT, epochs=0.1), one(), two())
    assert not any("not identified" in note for note in session.notes)


def test_only_the_labels_asked_for() -> None:
    task = Subset(of=TASK, keep=(P[4], P[0], P[2]))
    student = DigitsCNN(classes=3, widths=WIDTHS)
    session = Session.bare(task, sees=Sees.INPUTS)
    torch.manual_seed(0)
    made = Amalgamate(student=student, epochs=6)(State((one(), over())), session).student
    assert made is not None
    assert accuracy(made, task) > 0.75


def test_one_teacher_is_distilled() -> None:
    """M = 1: the loss is plain distillation, whatever is fitted."""
    whole = taught("whole", (0, 1, 2, 3, 4))
    at = work(whole)
    images = next(iter(TASK.open(None).batches(Split.VAL, CPU))).inputs[0]
    torch.testing.assert_close(
        at.merger(at.panel.ask(images)).softmax(1), whole(images).softmax(1), atol=1e-4, rtol=1e-3
    )


# -- invariants --------------------------------------------------------------------------------------------


def test_the_order_of_the_teachers_changes_no_bit() -> None:
    first, _, _ = run(Amalgamate(student=STUDENT, epochs=1), one(), two())
    second, _, _ = run(Amalgamate(student=STUDENT, epochs=1), two(), one())
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@each
def test_an_exception_in_the_loop_leaves_teachers_as_they_were(
    name: str, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers = (one(), two())
    teachers[0].module.train()  # as somebody left it
    before = [fingerprint(teacher.module) for teacher in teachers]
    steps = []

    def broken(self: Any, *_: Any, **__: Any) -> None:
        steps.append(1)
        if len(steps) > 3:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(torch.optim.SGD, "step", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(Amalgamate(student=STUDENT, epochs=1, method=METHODS[name]), *teachers)
    assert [fingerprint(teacher.module) for teacher in teachers] == before
    teachers[0].module.eval()


class Stop(Exception):
    """As if the power went."""


@each
def test_what_is_resumed_equals_what_was_never_stopped(name: str, tmp_path: Path) -> None:
    stage = Amalgamate(student=STUDENT, epochs=2, method=METHODS[name])

    def go(folder: Path, stop: int) -> nn.Module:
        told: list[int] = []

        def report(values: Any, step: int) -> None:
            told.append(step)
            if len(told) == stop:
                raise Stop

        session = Session(
            splits=TASK.open(None), signature=TASK.signature(), sees=stage.sees, report=report, folder=folder
        )
        teachers = (one(), two())
        torch.manual_seed(0)
        made = stage(State(teachers), session).student
        assert made is not None
        return made

    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    whole = go(tmp_path / "whole", 0)
    with pytest.raises(Stop):
        go(tmp_path / "cut", 2)
    again = go(tmp_path / "cut", 0)
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@each
def test_every_parameter_of_the_student_learns(name: str) -> None:
    """After a phase with everything together no parameter of the student is where a fresh one would be.

    Without weight decay, which moves also what no gradient reaches.
    """
    torch.manual_seed(0)
    fresh = STUDENT.build().state_dict()
    stage = Amalgamate(student=STUDENT, epochs=1, method=METHODS[name], weight_decay=0)
    student, _, _ = run(stage, one(), two())
    names = [n for n, _ in student.named_parameters()]
    moved = [n for n, p in student.named_parameters() if n not in fresh or not torch.equal(p, fresh[n])]
    assert moved == names
    frozen = [n for n, p in student.named_parameters() if "excite" in n and not p.abs().sum()]
    assert not frozen


@pytest.mark.parametrize("taps", [("bn1", "bn2"), ("conv1", "linear"), ("bn3",)])
def test_folding_changes_no_answer(taps: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    student = taught("whole", (0, 1, 2, 3, 4)).module
    student = type(student)(5, *WIDTHS)
    images = [batch.inputs[0] for batch in TASK.open(None).batches(Split.VAL, CPU)]
    student.train()(images[0])
    student.eval()
    before = [foldable(student, tap) for tap in taps]
    shape = {
        "bn1": (1, 6, 8, 8),
        "bn2": (1, 8, 8, 8),
        "bn3": (1, 10, 4, 4),
        "conv1": (1, 6, 8, 8),
        "linear": (1, 5),
    }
    tapped = insert(student, taps, [torch.Size(shape[tap]) for tap in taps])
    with torch.no_grad():
        for tap in tapped:
            for p in tap.adapt.parameters():
                p += 0.3 * torch.randn_like(p)
        wanted = student(images[0])
        fold(student, taps, tapped, before, images)
        torch.testing.assert_close(student(images[0]), wanted, atol=1e-4, rtol=1e-4)
        assert repr(student) == repr(STUDENT.build().eval())
    # The norms remember what they see, so that they do in training what they do in use.
    for tap, layer in zip(taps, before, strict=True):
        if layer is not None:
            with heard(student, {layer: Point(layer)}) as features, torch.no_grad():
                student(images[0])
            norm = student.get_submodule(tap)
            assert isinstance(norm, nn.BatchNorm2d)
            torch.testing.assert_close(
                norm.running_mean, features[layer].mean((0, 2, 3)), atol=1e-4, rtol=1e-4
            )
            torch.testing.assert_close(
                norm.running_var, features[layer].var((0, 2, 3), correction=0), atol=1e-4, rtol=1e-4
            )


def test_a_graft_of_a_teacher_into_itself_is_the_teacher() -> None:
    whole = taught("whole", (0, 1, 2, 3, 4))
    panel = Panel([whole], TASK.signature())
    member = panel.members[0]
    grafts = Grafts(panel, member.teacher.module, ("bn1", "bn2"), {})
    images = next(iter(TASK.open(None).batches(Split.VAL, CPU))).inputs[0]
    feature = images
    with torch.no_grad():
        for block, part in enumerate(grafts.trunk.parts, 1):
            feature = part(feature, images)
            assert torch.equal(grafts.grafted(0, block, feature, images), whole(images)), (
                "open codings, own blocks"
            )


def test_at_the_last_block_a_graft_is_the_students_own_head() -> None:
    torch.manual_seed(0)
    student = STUDENT.build().eval()
    panel = Panel([one(), two()], TASK.signature())
    grafts = Grafts(panel, student, ("bn1", "bn2"), {})
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        outputs = student(images)
        for place, labels in enumerate(([0, 1, 2], [3, 4])):
            assert torch.equal(grafts.grafted(place, 3, outputs, images), outputs[:, labels])


def test_codes_do_not_let_their_scale_weigh_the_loss() -> None:
    from compress.adapters import Codes

    torch.manual_seed(0)
    codes, features = Codes([4, 5], 6, True), [torch.randn(8, 4, 3, 3), torch.randn(8, 5, 3, 3)]
    before, _ = codes(features)
    with torch.no_grad():
        codes.encode.weight *= 0.05
    after, _ = codes(features)
    torch.testing.assert_close(before, after, atol=1e-2, rtol=1e-2)
    assert after.std().item() == pytest.approx(1, abs=0.05)


def test_branches_leave_where_the_loss_is_least_and_are_told() -> None:
    student, session, _ = run(
        Amalgamate(student=STUDENT, epochs=1, method=METHODS["branching"]), one(), two()
    )
    assert isinstance(student, Branched)
    rows = [note for note in session.notes if note.startswith("behind block")]
    table = [[float(cell.split()[-1]) for cell in row.split(": ")[1].split(", ")] for row in rows]
    assert student.leaves == [min(range(3), key=lambda b, m=m: table[b][m]) + 1 for m in range(2)]  # type: ignore[misc]
    assert any("of the teachers' together" in note for note in session.notes)


# -- dense tasks of unlike kinds ---------------------------------------------------------------------------


def test_shapes_and_depth_in_one_student() -> None:
    """Two teachers of unlike outputs, one of them branching off: the student answers both for every pixel."""
    both = Scenes(size=16, samples=64, batch=8)
    teachers = []
    for ask, classes in (("shapes", 3), ("depth", 1)):
        task = replace(both, ask=ask)
        torch.manual_seed(1)
        net = DeepLab(classes=classes, widths=(8, 8, 8, 8), blocks=1, head=8, rates=(1,)).build()
        Train(epochs=6, lr=0.1, warmup=1)(
            net, task.open(None), device=CPU, autocast=lambda: torch.autocast("cpu", enabled=False),
            epochs=lambda total, **_: range(total), log=lambda *_: None, kind=task.signature().kind,
        )  # fmt: skip
        teachers.append(Teacher(ask, net, task.signature()))
    student = DeepLab(classes=4, widths=(8, 8, 8, 8), blocks=1, head=8, rates=(1,))
    method = Branching(cuts=("layer1", "layer2", "pyramid"), block_epochs=1, start="shapes")
    session = Session.bare(both, sees=Sees.INPUTS)
    torch.manual_seed(0)
    made = Amalgamate(student=student, epochs=2, lr=0.02, method=method)(
        State(tuple(teachers)), session
    ).student
    assert made is not None
    (batch,) = list(both.open(None).batches(Split.TEST, CPU))[:1]
    with torch.no_grad():
        outputs = made(*batch.inputs)
        wanted = torch.cat([t(*batch.inputs) for t in teachers], 1)
    assert outputs.shape == (8, 4, 16, 16)
    assert (outputs[:, :3].argmax(1) == wanted[:, :3].argmax(1)).double().mean() > 0.8
    assert (outputs[:, 3] - wanted[:, 3]).abs().mean() < 0.3 * wanted[:, 3].mean()
    assert math.isfinite(both.score(both.predict(outputs), batch.target))  # type: ignore[arg-type]
