"""What holds for every method, every page and every import of this house."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compress.session import Sees, Session
from compress.stage import State
from recipes import folders, measure
from recipes.gather import trained_folder
from recipes.page import read, write
from recipes.recipe import Recipe, Workshop
from recipes.run import Quiet, Result, run
from students import compact
from teachers.teacher import Checkpoint, Teacher

sys.path.insert(0, str(Path(__file__).parent))
from examples import RECIPES, TASK, TEACHER
from untouchable import Untouchable

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "recipes" / "book").rglob("*.yaml"))
each = pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))


class Interrupt(Quiet):
    """Stops a run as Ctrl-C would, when so many epochs were told."""

    def __init__(self, after: int) -> None:
        self.left = after

    def epoch(self, done: int, total: int, values: Mapping[str, float]) -> None:
        """Count down."""
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(runs=tmp_path_factory.mktemp("runs"), device="cpu", tracking="off")


@pytest.fixture(scope="module")
def whole(bench: Workshop) -> Iterator[dict[str, Result]]:
    """Every example, run without a break, compact student and all."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        # The exporter reads its table of operators, which never changes, anew for each network: a second every time.
        patch.setattr(
            ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib))
        )
        patch.setattr(measure, "SECONDS", 0.01)
        yield {name: run(recipe, bench) for name, recipe in RECIPES.items()}


@pytest.fixture(scope="module")
def room(whole: dict[str, Result], bench: Workshop) -> Callable[[Recipe], tuple[Teacher, ...]]:
    """A recipe's teachers, as its run has taught them."""

    def gathered(checkpoint: Checkpoint) -> Teacher:
        weights = trained_folder(checkpoint, bench.runs) / "weights.safetensors"
        return replace(checkpoint, weights=str(weights.resolve())).load()

    return lambda recipe: tuple(map(gathered, recipe.teachers))


# -- every method -----------------------------------------------------------------------------------------


@each
def test_page_and_object(recipe: Recipe) -> None:
    assert read(write(recipe)) == recipe


@each
def test_given_networks_stay_the_same_to_the_bit(
    recipe: Recipe, room: Callable[[Recipe], tuple[Teacher, ...]]
) -> None:
    torch.manual_seed(0)
    teachers = room(recipe)
    student = State(teachers[:1]).draft()
    state = State(teachers, student)
    given = [*(teacher.module for teacher in teachers), student]
    before = [folders.fingerprint(module) for module in given]
    modes = [(p.requires_grad, p.grad) for p in student.parameters()]
    for stage in recipe.stages:
        made = stage(state, Session.bare(recipe.task, sees=stage.sees))
        assert [folders.fingerprint(module) for module in given] == before
        assert [(p.requires_grad, p.grad) for p in student.parameters()] == modes
        assert made.student is not student or made.generated is not state.generated or stage.chooses
        state = replace(made, student=student, freeze=())


@each
def test_a_stage_sees_no_more_than_it_says(
    recipe: Recipe, room: Callable[[Recipe], tuple[Teacher, ...]]
) -> None:
    state = State(room(recipe))
    for stage in recipe.stages:
        if stage.sees is Sees.NOTHING:
            state = stage(state, Session(splits=Untouchable(), sees=Sees.NOTHING))
        else:
            bench = Session.bare(recipe.task, sees=stage.sees)
            state = stage(state, bench)
            assert bench.read, "a stage that looks at nothing should say so"
    assert state.student is not None


@each
def test_interrupted_and_resumed_equals_unbroken(
    recipe: Recipe, bench: Workshop, whole: dict[str, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "save", lambda *_, **__: None)
    monkeypatch.setattr(measure, "SECONDS", 0.01)
    weights = sorted((bench.runs / "teachers").iterdir())
    assert len(weights) == len({teacher.name for each in RECIPES.values() for teacher in each.teachers})
    for after in (1, 2, 3, 4):
        page = replace(recipe, name=f"{recipe.name}-cut-{after}")
        try:
            run(page, bench, display=Interrupt(after))
        except KeyboardInterrupt:
            assert not list(bench.runs.glob(f"{page.name}/*/result.json"))
        made = run(page, bench)
        assert made.state.student is not None
        unbroken = whole[recipe.name].state.student
        assert unbroken is not None
        assert folders.fingerprint(made.state.student) == folders.fingerprint(unbroken)
    assert sorted((bench.runs / "teachers").iterdir()) == weights


@each
def test_compact_student_needs_pytorch_alone(
    recipe: Recipe, whole: dict[str, Result], tmp_path: Path
) -> None:
    """`model.pt2` answers like the student in a Python that finds none of our packages."""
    made = whole[recipe.name]
    student = made.state.student
    assert student is not None
    inputs = recipe.task.signature().example(5, seed=3)
    torch.save(inputs, tmp_path / "inputs.pt")
    program = f"""
import sys, torch
inputs = torch.load("inputs.pt", weights_only=True)
answers = torch.export.load({str(made.folder.resolve() / "compact" / "model.pt2")!r}).module()(*inputs)
for name in ("compress", "teachers", "students", "recipes", "reports"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{{name}} can be imported here")
torch.save(answers.detach(), "answers.pt")
"""
    # -I leaves out the working directory and user packages; our own packages are taken off the path by hand.
    hide = (
        "import sys; sys.path = [p for p in sys.path if p not in %r]; sys.meta_path = [f for f in sys.meta_path "
        "if not getattr(f, '__module__', '').startswith('__editable__') and '__editable__' not in repr(f)]\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", hide % [str(ROOT)] + program],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = torch.load(tmp_path / "answers.pt", weights_only=True)
    with torch.no_grad():
        torch.testing.assert_close(answers, student(*inputs), rtol=0, atol=1e-4)


@each
def test_onnx_form_answers_like_the_student(recipe: Recipe, whole: dict[str, Result]) -> None:
    """On all of val, in onnxruntime, in a Python that has never heard of us."""
    told = compact.card(whole[recipe.name].folder / "compact")["onnx"]
    assert "refused" not in told, told
    assert told["inputs"] == "val"
    assert told["samples"] > 0
    assert told["changed_decisions"] == 0
    assert {"student"} <= told.keys()


def test_sigterm_in_a_run_of_the_command(tmp_path: Path) -> None:
    """Killed from outside inside a stage: exit code 130, resumed by the command, equal to the bit."""
    from compress import Finetune

    page = Recipe(name="killed", task=TASK, teachers=(TEACHER,), stages=(Finetune(epochs=6, lr=0.01),))
    (tmp_path / "page.yaml").write_text(write(page), encoding="utf-8")
    command = [sys.executable, "-u", "-m", "recipes"]
    more = ["--tracking", "off", "--threads", "1", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen(
        [*command, "run", "page.yaml", "--runs", "killed", *more],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert job.stdout is not None
    for line in job.stdout:
        if "Finetune  epoch 2/6" in line:
            job.send_signal(signal.SIGTERM)
            break
    _, said = job.communicate(timeout=120)
    assert job.returncode == 130, said
    assert "decoct resume" in said
    (folder,) = tmp_path.glob("killed/killed/*")
    assert list(folder.glob("01-*/loop-1.safetensors"))
    began = time.monotonic()
    for words in (["resume", str(folder), *more], ["run", "page.yaml", "--runs", "whole", *more]):
        done = subprocess.run(
            [*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 200
    kept = [
        json.loads(path.read_text())["sha256"]["weights"]
        for path in tmp_path.glob("*/killed/*/compact/structure.json")
    ]
    assert len(kept) == 2
    assert kept[0] == kept[1]


# -- every page -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_of_the_book(page: Path) -> None:
    recipe = read(page)
    assert read(write(recipe)) == recipe
    assert recipe.name == page.stem
    assert page.read_text(encoding="utf-8").startswith("#"), "a page begins with what it aims at"


def test_the_book_has_pages() -> None:
    assert "digits" in {page.stem for page in PAGES}


# -- every import -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["compress", "teachers", "students", "recipes", "reports"])
def test_imports_are_light(package: str) -> None:
    """No tracker, no plotting and no graph library is imported before it is needed, nor PyTorch by the door."""
    heavy = ("mlflow", "torch_geometric", "matplotlib", "torch_pruning", "sklearn", "torchvision")
    program = f"import sys, {package}; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_methods_import_no_tracker() -> None:
    heavy = ("mlflow", "torch_geometric", "matplotlib", "captum", "sklearn")
    names = "DEPARA, Rank, SelectLayer, GAL, Prune, Finetune, Recalibrate, Session, State"
    program = f"import sys; from compress import {names}; print(*[n for n in {heavy} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_imports_run_downhill() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(tool)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_every_package_is_typed() -> None:
    for package in ("compress", "teachers", "students", "recipes", "reports"):
        assert (ROOT / package / "py.typed").exists()
