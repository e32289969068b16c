"""What a user gets wrong: one clear message, exit code 2 (130 where asked to stop), and nothing lost."""

import contextlib
import os
import pickle
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from compress.session import Session
from recipes import measure
from recipes.__main__ import main
from students import compact, files
from teachers.networks import DigitsCNN
from teachers.tasks import Toy
from teachers.train import Train

TASK = Toy(samples=120, batch=32)
PAGE = """\
recipes.Recipe:
  name: mine
  task: {TASK}
  teachers:
    - teachers.Checkpoint:
        name: toy
        network: {NETWORK}
        weights: {WEIGHTS}
        task: {TASK}
  stages:
    - {STAGE}
"""
DEFAULTS = {
    "TASK": "{teachers.tasks.Toy: {samples: 120, batch: 32}}",
    "NETWORK": "{teachers.networks.DigitsCNN: {classes: 3}}",
    "WEIGHTS": "w.safetensors",
    "STAGE": "compress.Prune: {macs: 0.5}",
}
OWN = '''
import torch
from torch import nn
from teachers.networks import DigitsCNN


def frozen():
    return DigitsCNN(classes=3).build().requires_grad_(False)


class View(nn.Module):
    """Its view folds channels into the batch once they are fewer than 64."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.wide = nn.Conv2d(16, 64, 3, 2, 1)
        self.linear = nn.Linear(64, 3)

    def forward(self, x):
        return self.linear(self.wide(self.body(x)).view(-1, 64))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.out(torch.relu(self.second(torch.relu(self.first(x.flatten(1))))))
'''


def write(**changes: str) -> Path:
    """A page in the working folder."""
    text = PAGE
    for name, value in {**DEFAULTS, **changes}.items():
        text = text.replace("{" + name + "}", value)
    Path("page.yaml").write_text(text, encoding="utf-8")
    return Path("page.yaml")


def learnt(network: nn.Module) -> dict[str, Tensor]:
    """Weights of a network that knows the toy task."""
    torch.manual_seed(0)
    bench = Session.bare(TASK)
    work = Train(epochs=6, lr=0.05, warmup=1)
    module = work(
        network, TASK.open(None), device=bench.device, autocast=contextlib.nullcontext,
        epochs=bench.epochs, log=bench.log,
    )  # fmt: skip
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return learnt(DigitsCNN(classes=3).build())


@pytest.fixture(autouse=True)
def _bench(weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(weights, "w.safetensors")
    monkeypatch.setattr(measure, "SECONDS", 0.01)
    monkeypatch.setattr(compact, "save", lambda *_, **__: None)  # has its own tests, and takes seconds


Wrong = Callable[..., str]


@pytest.fixture
def wrong(capsys: pytest.CaptureFixture[str]) -> Wrong:
    """Run the page in the working folder; what it says, which is one message, after exit code 2."""

    def run(*more: str, code: int = 2, command: str = "run") -> str:
        capsys.readouterr()
        ended = main([command, "page.yaml", "--device", "cpu", "--tracking", "off", *more])
        said = capsys.readouterr().err
        assert ended == code, said
        assert "Traceback" not in said
        assert said.count("decoct: ") == 1, said
        return said.removeprefix("decoct: ").rstrip("\n")

    return run


# -- pages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"STAGE": "compress.GALL: {macs: 0.5}"},
            r"\(line 11\): compress has no 'GALL'; did you mean 'GAL'",
        ),
        (
            {"STAGE": "compress.GAL: {mcas: 0.5}"},
            r"\(line 11\): compress.GAL has no field 'mcas'; did you mean 'macs'",
        ),
        (
            {"NETWORK": "{teachers.networks.DigitCNN: {}}"},
            r"\(line 7\): .* has no 'DigitCNN'; did you mean 'DigitsCNN'",
        ),
        (
            {"STAGE": "compress.GAL: {macs: 2}"},
            r"\(line 11\): compress.GAL's macs must be .*less than 1, not 2",
        ),
        ({"STAGE": "compress.GAL: {macs: .nan}"}, r"\(line 11\): compress.GAL's macs must be .*not .nan"),
        (
            {"STAGE": "compress.Finetune: {epochs: 0}"},
            r"compress.Finetune's epochs must be .*more than 0, not 0",
        ),
        ({"STAGE": "compress.Finetune: {}"}, r"compress.Finetune needs 'epochs'|compress.Finetune.*epochs"),
        (
            {"STAGE": "compress.Prune: {macs: 0.5, importance: l3}"},
            r"importance must be .*l1.*random.*not 'l3'",
        ),
        ({"STAGE": "compress.GAL: {structures: [layer]}"}, r"structures.*channel.*block.*branch.*'layer'"),
        (
            {"STAGE": "compress.Finetune: {epochs: 1, soft_targets: 0}"},
            "nothing to learn from: set soft_targets or",
        ),
        ({"STAGE": "os.system: {command: 'touch owned'}"}, "'os.system' is neither of this house"),
    ],
    ids=str,
)
def test_a_page_with_a_mistake(changes: dict[str, str], said: str, wrong: Wrong) -> None:
    write(**changes)
    assert re.search(said, told := wrong()), told
    assert not Path("runs").exists()
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "page.yaml.*is empty"),
        (b"# only a remark\n", "page.yaml.*is empty"),
        (b"recipes.Recipe: {name: [", r"page.yaml.*line \d"),
        (b"just words", "page.yaml"),
        (b"- 1\n- 2\n", "page.yaml"),
        (b"\xff\xfe\x00binary", "page.yaml"),
        (b"!!python/object/apply:os.system ['touch owned']\n", "page.yaml"),
    ],
    ids=str,
)
def test_a_page_that_is_none(content: bytes, said: str, wrong: Wrong) -> None:
    Path("page.yaml").write_bytes(content)
    assert re.search(said, told := wrong()), told
    assert not Path("owned").exists()


# -- weights -----------------------------------------------------------------------------------------------


class Harm:
    """A pickle that would make a file named owned."""

    def __reduce__(self) -> Any:
        return (os.system, ("touch owned",))


def test_weights_that_are_missing(wrong: Wrong) -> None:
    write(WEIGHTS="w.safetensor")
    assert re.search(r"there is no .*/w.safetensor.*did you mean 'w.safetensors'", told := wrong()), told
    write(WEIGHTS="nowhere/w.pt")
    assert re.search(r"there is no folder .*/nowhere", told := wrong()), told


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_weights_that_are_cut_short(share: float, wrong: Wrong) -> None:
    whole = Path("w.safetensors").read_bytes()
    Path("w.safetensors").write_bytes(whole[: int(len(whole) * share)])
    write()
    assert "w.safetensors" in (told := wrong()), told


def test_a_pickle_that_carries_code(weights: dict[str, Tensor], wrong: Wrong) -> None:
    write(WEIGHTS="w.pt")
    torch.save({**weights, "harm": Harm()}, "w.pt")
    assert re.search("w.pt .*code", told := wrong()), told
    for protocol in range(2, 6):
        Path("w.pt").write_bytes(pickle.dumps(Harm(), protocol))
        assert re.search("w.pt is a pickle that .*carr.* code.*never run", told := wrong()), told
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("{teachers.networks.DigitsCNN: {classes: 10}}", r"3.*10|10.*3"),
        ("{teachers.networks.ResNet: {classes: 3, channels: 1}}", "missing"),
        ("{teachers.networks.ResNet: {classes: 3, channels: 3}}", "missing"),
    ],
)
def test_weights_of_another_network(network: str, said: str, wrong: Wrong) -> None:
    write(NETWORK=network)
    assert re.search(said, told := wrong()), told


def test_wrong_channels(weights: dict[str, Tensor], wrong: Wrong) -> None:
    save_file({**weights, "conv1.weight": weights["conv1.weight"].repeat(1, 3, 1, 1)}, "w.safetensors")
    write()
    assert re.search("conv1.weight.*3", told := wrong()), told
    write(TASK="{teachers.tasks.Toy: {mean: [0.5, 0.5, 0.5], std: [0.3, 0.3, 0.3]}}")
    save_file(weights, "w.safetensors")
    assert re.search(r"does not take the inputs of.*\(3, 8, 8\)", told := wrong()), told


def test_wrong_class_count(wrong: Wrong) -> None:
    write(TASK="{teachers.tasks.Toy: {classes: 5}}")
    assert "the task has 5 classes, but" in (told := wrong()), told


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(value: float, weights: dict[str, Tensor], wrong: Wrong) -> None:
    spoilt = {name: tensor.clone() for name, tensor in weights.items()}
    spoilt["conv2.weight"][0, 0, 0, 0] = value
    save_file(spoilt, "w.safetensors")
    write()
    assert re.search("w.safetensors.*conv2.weight", told := wrong()), told


def test_a_teacher_near_chance(wrong: Wrong) -> None:
    torch.manual_seed(3)
    save_file(DigitsCNN(classes=3).build().state_dict(), "w.safetensors")
    write()
    assert re.search(r"teacher 'toy' scores .* chance is 33.33 %.*Usual causes", told := wrong()), told
    assert not list(Path("runs").glob("*/*/01-*"))


# -- networks ----------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The user's own package of networks, learnt and saved."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "own_networks_of_tests", raising=False)
    Path("own_networks_of_tests.py").write_text(OWN)
    import own_networks_of_tests  # type: ignore[import-not-found]

    return own_networks_of_tests


def factory(name: str) -> str:
    return "{teachers.networks.Own: {factory: 'own_networks_of_tests:" + name + "'}}"


TRUST = ("--trust", "own_networks_of_tests")


def test_a_frozen_teacher_is_pruned_all_the_same(own: Any) -> None:
    write(NETWORK=factory("frozen"), STAGE="compress.GAL: {macs: 0.5, epochs: 1}")
    assert main(["run", "page.yaml", "--device", "cpu", "--tracking", "off", *TRUST]) == 0
    assert list(Path("runs").glob("mine/*/01-*/record.json"))


def test_a_view_behind_a_layer_locks_it_and_names_it(
    own: Any, wrong: Wrong, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(learnt(own.View()), "w.safetensors")
    write(NETWORK=factory("View"), STAGE="compress.GAL: {macs: 0.6, epochs: 1, round_to: 4}")
    assert main(["plan", "page.yaml", *TRUST]) == 0
    assert re.search("locked: wide: ", plan := capsys.readouterr().out), plan
    assert main(["run", "page.yaml", "--device", "cpu", "--tracking", "off", *TRUST]) == 0
    write(NETWORK=factory("View"), STAGE="compress.GAL: {macs: 0.01, epochs: 1}")
    assert re.search(
        r"cannot be met.*smallest network reachable has \d.*most of it is '", told := wrong(*TRUST)
    ), told


def test_tied_weights(own: Any, wrong: Wrong) -> None:
    state = learnt(own.Tied())
    del state["second.weight"]
    save_file(state, "w.safetensors")
    for stage in ("compress.GAL: {macs: 0.5, epochs: 1}", "compress.Prune: {macs: 0.5}"):
        write(NETWORK=factory("Tied"), STAGE=stage)
        assert re.search(
            "'first.weight' and 'second.weight' are one tied parameter", told := wrong(*TRUST)
        ), told


def test_a_factory_that_is_not_trusted(own: Any, wrong: Wrong) -> None:
    write(NETWORK=factory("frozen"))
    assert "own_networks_of_tests" in (told := wrong()), told
    assert "--trust" in told


# -- budgets and data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["compress.GAL: {macs: 0.001, epochs: 9}", "compress.Prune: {macs: 0.001}"])
def test_a_budget_that_cannot_be_met(stage: str, wrong: Wrong) -> None:
    write(STAGE=stage)
    told = wrong()
    assert re.search(
        r"\(0.1%\) cannot be met: .* smallest network reachable has .* most of it is 'conv", told
    ), told
    assert list(Path("runs").glob("mine/*/00-toy/record.json")), "what was measured is kept"


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("compress.KSE: {granularity: 1}", "granularity must be at least 2, not 1"),
        ("compress.KSE: {shift: -1}", "shift must be at least 0, not -1"),
        ("compress.KSE: {bytes: 0.5, kernel_macs: 0.5}", "one budget: bytes or kernel_macs, not both"),
        ("compress.KSE: {bytes: 0.001}", r"\(0.1%\) cannot be met: with every layer at its smallest"),
        (
            "{compress.KSE: {}}\n    - {compress.KSE: {}}",
            "KSE finds no layer to work on .* shares kernels already",
        ),
    ],
)
def test_kernels_that_cannot_be_shared(stage: str, said: str, wrong: Wrong) -> None:
    write(STAGE=stage)
    told = wrong()
    assert re.search(said, told, re.DOTALL), told


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (
            "compress.LSP: {epochs: 1}",
            r"no module of the student is called activations\.N .*name them in pairs",
        ),
        ("compress.LSP: {pairs: {linaer: linear}}", "has no module 'linaer' .*; did you mean 'linear'"),
        (
            "compress.LSP: {pairs: {linear: linear}}",
            "the task gives no edges and neither network builds a graph",
        ),
        ("compress.LSP: {kernel: cosin}", "kernel"),
        ("compress.LSP: {labels: 0, soft_targets: 0}", "nothing to learn from but a hint"),
        ("compress.LSP: {balance: -1}", "balance must be .*more than 0, not -1"),
        (
            "compress.Prune: {macs: 0.5, units: heads}",
            "it has no heads: none of its layers is one of graph attention",
        ),
    ],
)
def test_graphs_where_there_are_none(stage: str, said: str, wrong: Wrong) -> None:
    write(STAGE=stage)
    assert re.search(said, told := wrong()), told


FOLDER = (
    "{teachers.tasks.ImageFolder: {path: pets, size: [8, 8], classes: [cat, dog, emu], "
    "channels: 1, mean: [0.5], std: [0.3]}}"
)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (None, "pets/train is not there: put images at"),
        ({}, "pets/train is empty: it needs a folder for each class: cat, dog"),
        ({"cat": 4, "dog": 4}, "not there: emu"),
        ({"cat": 4, "dog": 4, "emu": 4, "fox": 4}, "not on the page: fox"),
        ({"cat": 4, "dog": 4, "emu": 1}, r"at least 3 images .* too few: emu \(1\)"),
        ({"cat": 4, "dog": 0, "emu": 4}, r"too few: dog \(0\)"),
    ],
    ids=str,
)
def test_image_folders(images: dict[str, int] | None, said: str, wrong: Wrong) -> None:
    (root := Path("data/pets")).mkdir(parents=True)
    if images is not None:
        (root / "train").mkdir()
        for label, count in images.items():
            (root / "train" / label).mkdir()
            for number in range(count):
                Image.new("L", (8, 8), number).save(root / "train" / label / f"{number}.png")
    write(TASK=FOLDER)
    assert re.search(said, told := wrong("--data", "data")), told


def test_an_image_that_is_none(wrong: Wrong) -> None:
    for label in ("cat", "dog", "emu"):
        (folder := Path("data/pets/train") / label).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (8, 8), number).save(folder / f"{number}.png")
    Path("data/pets/train/dog/2.png").write_bytes(b"no image")
    write(TASK=FOLDER)
    assert re.search(r"dog/2.png", told := wrong("--data", "data")), told


# -- what happens on the way -------------------------------------------------------------------------------

LONG = "compress.Finetune: {epochs: 4, lr: 0.01}"


def loops() -> list[Path]:
    return list(Path("runs").glob("mine/*/01-*/loop-1.safetensors"))


def finished() -> bool:
    return bool(list(Path("runs").glob("mine/*/result.json")))


def after_epochs(monkeypatch: pytest.MonkeyPatch, count: int, act: Callable[[], object]) -> None:
    """Let something happen when a session has saved so many epochs."""
    save, saved = Session._save, []

    def counted(self: Session, *what: Any) -> None:
        save(self, *what)
        saved.append(1)
        if len(saved) == count:
            act()

    monkeypatch.setattr(Session, "_save", counted)


def again() -> None:
    """The same command goes on where it stopped."""
    assert main(["run", "page.yaml", "--device", "cpu", "--tracking", "off"]) == 0
    assert finished()


def test_a_disk_that_fills_up(wrong: Wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    write(STAGE=LONG)
    with monkeypatch.context() as patch:
        after_epochs(patch, 2, lambda: patch.setattr(files, "save_file", full))
        told = wrong()
    assert re.search(
        "loop-1.safetensors was not written .*No space left.*is intact. Free some space and resume", told
    )
    assert files.load_states(loops()[0])["session"]["finished"] == 2
    again()


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_being_stopped(
    which: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(STAGE=LONG)
    with monkeypatch.context() as patch:
        after_epochs(patch, 2, lambda: os.kill(os.getpid(), which))
        assert main(["run", "page.yaml", "--device", "cpu", "--tracking", "off"]) == 130
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert (found := re.search(r"decoct resume (\S+)", said)), said
    assert files.load_states(loops()[0])["session"]["finished"] == 2
    assert main(["resume", found.group(1)]) == 0
    assert finished()


@pytest.mark.parametrize(
    "stage",
    [
        "compress.Finetune: {epochs: 3, lr: 1.0e+30}",
        "compress.GAL: {macs: 0.5, epochs: 3, lr: 1.0e+30, clip: 1.0e+30}",
    ],
)
def test_a_loss_that_turned_nan(stage: str, wrong: Wrong) -> None:
    write(STAGE=stage)
    told = wrong()
    assert re.search(r"compress\.\w+: .*(nan|inf) at epoch 1; no epoch was finished before", told), told
    assert list(Path("runs").glob("mine/*/00-toy/record.json"))


def test_a_file_of_an_unfinished_stage_that_is_damaged(wrong: Wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    write(STAGE=LONG)
    with monkeypatch.context() as patch:
        after_epochs(patch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert main(["run", "page.yaml", "--device", "cpu", "--tracking", "off"]) == 130
    (path,) = loops()
    path.write_bytes(path.read_bytes()[:999])
    assert re.search("loop-1.safetensors is damaged .*delete it to start this stage anew", told := wrong()), (
        told
    )
    path.unlink()
    again()
