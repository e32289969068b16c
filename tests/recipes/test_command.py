"""The command: what it takes, what it says, and how it ends."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from compress.session import Diverged
from recipes import __main__ as command
from recipes.__main__ import find_page, main
from recipes.recipe import Recipe, Workshop
from recipes.schema import describe, kind, schema
from recipes.terminal import Display, amount, duration

STAGE = '''
from typing import ClassVar
from compress.session import Sees
from compress.stage import Stage
from teachers.spec import spec

@spec
class Nothing(Stage):
    """Leaves everything as it is."""

    sees: ClassVar[Sees] = Sees.NOTHING
    size: int = 3
    """how large"""

    def __call__(self, state, session):
        return state
'''
PAGE = """\
recipes.Recipe:
  name: a-recipe
  task: {teachers.tasks.Digits: }
  teachers:
    - teachers.Checkpoint:
        {name: t, task: {teachers.tasks.Digits: }, network: {teachers.networks.DigitsCNN: }, weights: w.pt}
  stages:
    - friend_of_tests.Nothing: {size: 4}
"""
TRUST = ["--trust", "friend_of_tests"]


class Runner:
    """Stands in for the runner: remembers what it was asked, and does as it is told."""

    def __init__(self) -> None:
        self.asked: list[tuple[Recipe, Workshop, bool]] = []
        self.act: Callable[[Workshop], None] = lambda workshop: None

    def run(self, recipe: Recipe, workshop: Workshop, *, display: object, rehearse: bool) -> None:
        assert isinstance(display, Display)
        self.asked.append((recipe, workshop, rehearse))
        self.act(workshop)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    made, module = Runner(), ModuleType("recipes.run")
    module.run = made.run  # type: ignore[attr-defined]
    planner = ModuleType("recipes.plan")
    planner.plan = lambda recipe, workshop, probe: f"{recipe.name} on {workshop.device}"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "recipes.plan", planner)
    monkeypatch.setitem(sys.modules, "recipes.run", module)
    return made


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "friend_of_tests", raising=False)
    (tmp_path / "friend_of_tests.py").write_text(STAGE)
    (tmp_path / "a page.yaml").write_text(PAGE)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "a page.yaml"


# -- quick, and without PyTorch -----------------------------------------------------------------------------


def test_help_is_quick_and_needs_no_pytorch() -> None:
    program = (
        "import sys; from recipes.__main__ import main; code = main(['--help']); "
        "heavy = {'torch', 'pydantic', 'yaml', 'rich', 'mlflow'} & set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    root = Path(command.__file__).parent.parent
    taken = []
    for _ in range(3):  # a busy machine may stumble once
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root)
        taken.append(time.perf_counter() - began)
        assert done.returncode == 0, done.stderr
        assert "plan" in done.stdout
        assert "rehearse" in done.stdout
        if taken[-1] < 1.0:
            break
    assert min(taken) < 1.0


@pytest.mark.parametrize("name", ["plan", "run", "rehearse", "resume", "compare", "describe", "schema"])
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"decoct {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: command"),
        (["runn", "x"], "invalid choice: 'runn'"),
        (["run"], "required: page"),
        (["run", "x", "--seed", "-1"], "argument --seed: must be a whole number, at least 0, not '-1'"),
        (["run", "x", "--threads", "0"], "argument --threads: must be a whole number, at least 1, not '0'"),
        (
            ["run", "x", "--register", "a/b"],
            "argument --register: must be a name without / : % and quotes, not 'a/b'",
        ),
        (["run", "x", "--seed", "many"], "argument --seed: must be a whole number, at least 0, not 'many'"),
    ],
)
def test_a_wrong_command_line_ends_with_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


# -- pages and workshops ------------------------------------------------------------------------------------


def test_run_hands_over_the_recipe_and_the_workshop(page: Path, runner: Runner) -> None:
    (page.parent / "data").mkdir()
    options = [
        "--data",
        "data",
        "--runs",
        "there",
        "--device",
        "cpu",
        "--tracking",
        "off",
        "--reuse",
        "--seed",
        "7",
    ]
    assert main(["run", str(page), *TRUST, *options]) == 0
    ((recipe, workshop, rehearse),) = runner.asked
    assert (recipe.name, recipe.seed, rehearse) == ("a-recipe", 7, False)
    assert workshop == Workshop(
        runs=Path("there"), data=Path("data"), device="cpu", tracking="off", reuse=True
    )


def test_a_student_to_register(page: Path, runner: Runner) -> None:
    assert main(["run", str(page), *TRUST, "--register", "small-one"]) == 0
    assert runner.asked[0][1] == Workshop(register="small-one")


def test_rehearse_and_plan_do_too(page: Path, runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rehearse", str(page), *TRUST]) == 0
    assert runner.asked[0][1:] == (Workshop(), True)
    assert main(["plan", str(page), *TRUST, "--device", "cpu"]) == 0
    assert capsys.readouterr().out == "a-recipe on cpu\n"


def test_threads_are_set(page: Path, runner: Runner) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        assert main(["run", str(page), *TRUST, "--threads", "3"]) == 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_weights_beside_the_page_are_found_from_anywhere(
    page: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["run", str(page), *TRUST]) == 0
    assert runner.asked[0][0].teachers[0].weights == "w.pt"
    (page.parent / "w.pt").touch()
    assert main(["run", str(page), *TRUST]) == 0
    assert runner.asked[1][0].teachers[0].weights == str(page.parent / "w.pt")
    monkeypatch.chdir(page.parent)
    assert main(["run", page.name, *TRUST]) == 0
    assert runner.asked[2][0].teachers[0].weights == "w.pt"


def test_a_page_is_a_file_or_a_name_in_the_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("digits.yaml", "deep/resnet20.yaml"):
        (tmp_path / name).touch()
    monkeypatch.setattr(command, "BOOK", tmp_path)
    assert find_page("digits") == tmp_path / "digits.yaml"
    assert find_page("deep/resnet20") == tmp_path / "deep" / "resnet20.yaml"
    assert find_page(str(tmp_path / "digits.yaml")) == tmp_path / "digits.yaml"
    with pytest.raises(
        ValueError, match="there is no page 'digts', neither as a file nor in the book; did you mean 'digits'"
    ):
        find_page("digts")
    with pytest.raises(ValueError, match="the book has deep/resnet20, digits"):
        find_page("zzz")


# -- how it ends --------------------------------------------------------------------------------------------


def test_a_page_with_mistakes_ends_with_2_and_no_traceback(
    page: Path, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    page.write_text(PAGE.replace("size: 4", "sise: 4").replace("name: a-recipe", "name: a recipe"))
    assert main(["run", str(page), *TRUST]) == 2
    assert capsys.readouterr().err == (
        f"decoct: {page} has 2 mistakes:\n"
        "  recipe (line 2): recipes.Recipe's name must be text that matches ^[A-Za-z0-9][A-Za-z0-9._-]*$, "
        "not 'a recipe'\n"
        "  recipe.stages[0] (line 8): friend_of_tests.Nothing has no field 'sise'; did you mean 'size'?\n"
    )
    assert runner.asked == []
    page.write_text(PAGE)
    assert main(["run", str(page)]) == 2
    assert "'friend_of_tests.Nothing' is neither of this house" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "none.yaml"], "decoct: there is no page 'none.yaml', neither as a file nor in the book"),
        (
            ["run", "a page.yaml", *TRUST, "--data", "nowhere"],
            "decoct: --data nowhere: there is no such folder",
        ),
        (["resume", "nowhere"], "decoct: nowhere is no run folder: it has no page.yaml"),
        (["resume"], "decoct: there is no unfinished run in runs: name the run's folder, or --runs"),
        (["describe", "ResNett"], "decoct: there is no 'ResNett' to describe; did you mean 'ResNet'"),
        (["describe", "os.path"], "decoct: 'os.path' is neither of this house"),
    ],
)
def test_wrong_input_ends_with_2_and_one_message(
    words: list[str], said: str, page: Path, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert len(error.splitlines()) == 1


def _refuse(workshop: Workshop) -> None:
    from teachers.tasks import Digits

    Digits().open(Path("/no/such/folder"))  # fine: embedded
    command.find_page("what our own code refuses")


def _no_space(workshop: Workshop) -> None:
    raise OSError(28, "No space left on device", "runs/weights")


def _diverge(workshop: Workshop) -> None:
    raise Diverged("compress.GAL: loss is nan at epoch 3; the last finished epoch is kept in runs/x")


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (_refuse, "decoct: there is no page 'what our own code refuses'"),
        (_no_space, "decoct: [Errno 28] No space left on device: 'runs/weights'"),
        (_diverge, "decoct: compress.GAL: loss is nan at epoch 3; the last finished epoch is kept in runs/x"),
    ],
)
def test_what_a_person_can_put_right_ends_with_2(
    act: Any, said: str, page: Path, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.act = act
    assert main(["run", str(page), *TRUST]) == 2
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "act", [lambda workshop: 1 / 0, lambda workshop: json.loads("{"), lambda workshop: [][0]]
)
def test_a_failure_of_ours_ends_with_1_and_its_traceback(
    act: Any, page: Path, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.act = act
    assert main(["run", str(page), *TRUST]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def _begin(workshop: Workshop) -> Path:
    folder = workshop.runs / "a-recipe" / "0123abcd"
    folder.mkdir(parents=True)
    (folder / "page.yaml").write_text(PAGE)
    about = {"runs": "x", "data": None, "device": "cpu", "tracking": "off", "reuse": False}
    (folder / "workshop.json").write_text(json.dumps(about))
    return folder


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(
    page: Path, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(workshop: Workshop) -> None:
        _begin(workshop)
        raise KeyboardInterrupt

    runner.act = interrupt
    assert main(["run", str(page), *TRUST, "--runs", "my runs"]) == 130
    assert capsys.readouterr().err == (
        "\nstopped; go on with: decoct resume 'my runs/a-recipe/0123abcd' --trust friend_of_tests\n"
    )
    runner.act = lambda workshop: None
    assert main(["resume", "my runs/a-recipe/0123abcd", *TRUST]) == 0
    assert main(["resume", "--runs", "my runs", *TRUST]) == 0
    for recipe, workshop, rehearse in runner.asked[1:]:
        assert (recipe.name, rehearse) == ("a-recipe", False)
        assert workshop == Workshop(runs=page.parent / "my runs", device="cpu", tracking="off")


def test_ctrl_c_before_anything_began_names_no_old_run(
    page: Path, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    old = _begin(Workshop(runs=page.parent / "runs"))
    os.utime(old / "page.yaml", (1, 1))

    def interrupt(workshop: Workshop) -> None:
        raise KeyboardInterrupt

    runner.act = interrupt
    assert main(["run", str(page), *TRUST]) == 130
    assert capsys.readouterr().err == "\nstopped; the same command goes on where it stopped\n"
    assert main(["rehearse", str(page), *TRUST]) == 130
    assert capsys.readouterr().err == "\nstopped; nothing was left unfinished\n"


def test_sigterm_stops_like_ctrl_c(page: Path, runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    def terminate(workshop: Workshop) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    runner.act = terminate
    assert main(["run", str(page), *TRUST]) == 130
    assert capsys.readouterr().err.startswith("\nstopped (SIGTERM); ")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_finished_run_is_not_the_one_to_resume(page: Path, runner: Runner) -> None:
    folder = _begin(Workshop())
    (folder / "result.json").write_text("{}")
    assert main(["resume", *TRUST]) == 2
    (folder / "result.json").unlink()
    (folder / "workshop.json").write_text("{")
    assert main(["resume", *TRUST]) == 2
    assert runner.asked == []


# -- describe and schema -------------------------------------------------------------------------------------


def test_describe_tells_types_bounds_defaults_and_meaning() -> None:
    text = describe("recipes.Recipe")
    assert text.startswith("recipes.Recipe\n\nTeachers, a task and a row of stages.\n")
    assert "  seed: int, at least 0; default 0\n      of every random number\n" in text
    assert "  teachers: list of teachers.Checkpoint, at least 1 long; required\n      who is asked\n" in text
    assert "  precision: 'fp32' or 'bf16'; default 'fp32'\n" in text
    assert describe("Recipe") == text
    assert "passes over train" in describe("LSP"), (
        "what a base class says of a field holds for those that inherit it"
    )


def test_describe_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe"]) == 0
    text = capsys.readouterr().out
    for name in (
        "recipes.Recipe",
        "teachers.Checkpoint",
        "teachers.networks.ResNet",
        "teachers.tasks.CIFAR10",
    ):
        assert re.search(rf"^{re.escape(name)} +\S", text, re.MULTILINE), name


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (int | None, "int or null"), (tuple[int, ...], "list of int"),
        (tuple[int, float], "list of 2: int, float"),
        (list[str], "list of str"), (dict[str, float], "mapping from str to float"), (Any, "Any"),
    ],
)  # fmt: skip
def test_types_are_told_in_words(annotation: Any, said: str) -> None:
    assert kind(annotation) == said


def test_schema_offers_every_call_and_every_field(
    page: Path, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema", *TRUST]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole == schema(("friend_of_tests",))
    recipe = whole["$defs"]["recipes.Recipe"]
    assert whole["$ref"] == "#/$defs/recipes.Recipe"
    assert (recipe["required"], recipe["additionalProperties"]) == (["recipes.Recipe"], False)
    fields = recipe["properties"]["recipes.Recipe"]["properties"]
    assert fields["seed"]["minimum"] == 0
    assert fields["teachers"]["items"] == {"$ref": "#/$defs/teachers.Checkpoint"}
    assert {"$ref": "#/$defs/teachers.tasks.Digits"} in fields["task"]["anyOf"]
    stages = fields["stages"]["items"]
    assert {"$ref": "#/$defs/friend_of_tests.Nothing"} in stages.get("anyOf", [stages])
    mine = whole["$defs"]["friend_of_tests.Nothing"]["properties"]["friend_of_tests.Nothing"]["anyOf"]
    assert mine[0]["properties"]["size"]["description"] == "how large"
    assert mine[1] == {"type": "null"}  # `friend_of_tests.Nothing:` alone is a call, too
    references = re.findall(r'"\$ref": "#/\$defs/([^"]+)"', json.dumps(whole))
    assert set(references) <= set(whole["$defs"])


# -- the display ---------------------------------------------------------------------------------------------


def test_without_a_terminal_every_epoch_is_a_line() -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=80)) as display:
        display.stage("GAL", 1, 2)
        display.epoch(4, 6, {"gap": 0.123456, "macs": 20_450_000})
        display.epoch(5, 6, {"gap": 0.5})
        display.epoch(6, 6, {"gap": 0.1, "accuracy": 0.8812})
        display.note("a [bracketed] note")
        display.table("After", ["stage", "accuracy"], [["GAL", "88.1 %"]])
    lines = out.getvalue().splitlines()
    assert lines[0] == "[1/2] GAL"
    assert lines[1:5] == [
        "[1/2] GAL  epoch 4/6  gap 0.1235  macs 20.4 M",
        "[1/2] GAL  epoch 5/6  gap 0.5  0:00 left",
        "[1/2] GAL  epoch 6/6  gap 0.1  accuracy 88.12 %",
        "a [bracketed] note",
    ]
    assert any("GAL" in line and "88.1 %" in line for line in lines[5:])


def test_on_a_terminal_there_are_bars() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with Display(console) as display:
        display.stage("GAL", 1, 2)
        display.epoch(1, 2, {"gap": 0.5})
        display.note("seen")
        display.epoch(2, 2, {"gap": 0.25})
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "[1/2] GAL" in text
    assert "epoch 2/2  gap 0.25" in text
    assert "seen" in text
    assert out.getvalue().rstrip("\n").endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("cost/macs", 40_550_000, "40.5 M"), ("params", 999, "999"), ("cost/flops", 2.5e9, "2.5 G"),
        ("score/accuracy", 1.0, "100.00 %"), ("alive", 0.61, "0.61"), ("loss", 123456.0, "1.235e+05"),
        ("macs", 0.5, "0.5"), ("params", 1_500, "1.5 k"),
    ],
)  # fmt: skip
def test_numbers_are_told_with_their_unit(name: str, value: float, said: str) -> None:
    assert amount(name, value) == said


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 61, 3661)] == ["0:00", "1:01", "1:01:01"]
