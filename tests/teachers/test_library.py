"""Networks by name of a library, and programs of torch.export as teachers."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from compress import Prune
from compress.session import Session
from compress.stage import State
from recipes.page import read, write
from recipes.recipe import Recipe
from students.structure import origin
from teachers.networks import DigitsCNN, Given, ResNet, Timm, Torchvision
from teachers.sealed import Sealed
from teachers.tasks import Toy
from teachers.teacher import Checkpoint

TASK = Toy(samples=60, batch=32)


def test_a_page_names_them() -> None:
    teachers = tuple(
        Checkpoint(name=f"n{place}", network=network, task=TASK, weights="w.safetensors")
        for place, network in enumerate((
            Torchvision(name="resnet18", classes=3),
            Timm(name="resnet10t", classes=3, channels=1, arguments={"drop_rate": 0.1}),
            Given(),
        ))
    )  # fmt: skip
    recipe = Recipe(name="named", task=TASK, teachers=teachers, stages=(Prune(macs=0.5),))
    assert read(write(recipe)) == recipe


def test_torchvision() -> None:
    module = Torchvision(name="squeezenet1_1", classes=3).build()
    assert module(torch.randn(2, 3, 64, 64)).shape == (2, 3)
    call = origin(Torchvision(name="googlenet", classes=3))
    assert call["factory"] == "torchvision.models:get_model"
    assert call["arguments"] == {"name": "googlenet", "num_classes": 3, "aux_logits": False}
    with pytest.raises(ValueError, match="torchvision has no network 'resnt50'; did you mean 'resnet50'"):
        Torchvision(name="resnt50").build()
    with pytest.raises(ValueError, match=r"torchvision has no network 'zzz'; it has \d+, such as"):
        Torchvision(name="zzz").build()
    with pytest.raises(ValueError, match=r"torchvision's resnet18 cannot be built with .*TypeError"):
        Torchvision(name="resnet18", arguments={"depth": 3}).build()
    with pytest.raises(ValueError, match="'weights' would fetch or load weights"):
        Torchvision(name="resnet18", arguments={"weights": "DEFAULT"})


def test_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    module = Timm(name="resnet10t", classes=3, channels=1).build()
    assert module(torch.randn(2, 1, 64, 64)).shape == (2, 3)
    with pytest.raises(ValueError, match="timm has no network 'resnet10'; did you mean 'resnet"):
        Timm(name="resnet10").build()
    with pytest.raises(ValueError, match="'pretrained' would fetch or load weights"):
        Timm(name="resnet10t", arguments={"pretrained": True})
    with pytest.raises(ValueError, match="name"):
        Timm(name="hf-hub:somebody/network")


def test_timm_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ValueError, match=r"resnet10t is a network of timm, which is not installed: pip install 'decoct"
    ):
        Timm(name="resnet10t").build()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    network = DigitsCNN(classes=3).build().eval()
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    made = torch.export.export(
        network, (torch.randn(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(made, path)
    return network, path


def test_a_program_teaches(program: tuple[nn.Module, Path]) -> None:
    """It answers as the network did, lets gradients through, and stands being copied and switched."""
    network, path = program
    teacher = Checkpoint(name="p", network=Given(), task=TASK, weights=str(path)).load()
    images = torch.randn(5, 1, 8, 8, requires_grad=True)
    torch.testing.assert_close(teacher(images), network(images), rtol=0, atol=1e-6)
    teacher.to("cpu").module.train()(images).sum().backward()
    assert images.grad is not None
    assert bool(images.grad.abs().sum() > 0)
    assert not any(weight.requires_grad for weight in teacher.module.parameters())
    twin = copy.deepcopy(teacher.module)
    torch.testing.assert_close(twin(images), network(images), rtol=0, atol=1e-6)


def test_a_program_cannot_be_changed(program: tuple[nn.Module, Path]) -> None:
    teacher = Checkpoint(name="p", network=Given(), task=TASK, weights=str(program[1])).load()
    with pytest.raises(
        ValueError, match=r"teacher 'p' is a program of torch.export .* neither pruned nor trained"
    ):
        Prune(macs=0.5)(State((teacher,)), Session.bare(TASK, sees=Prune.sees))


def test_programs_that_are_refused(program: tuple[nn.Module, Path], tmp_path: Path) -> None:
    import zipfile

    _, path = program
    with pytest.raises(ValueError, match=r"a program of torch.export, which has its network inside: write"):
        Checkpoint(name="p", network=ResNet(), task=TASK, weights=str(path)).load()
    (tmp_path / "cut.pt2").write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"is no file of torch.export.save, or cut short"):
        Sealed.load(tmp_path / "cut.pt2")
    odd = tmp_path / "odd.pt2"
    odd.write_bytes(path.read_bytes())
    with zipfile.ZipFile(odd, "a") as archive:
        archive.writestr("model/data/constants/custom_obj_0", b"anything")
    with pytest.raises(
        ValueError, match="'model/data/constants/custom_obj_0' in it is neither a graph nor a plain"
    ):
        Sealed.load(odd)
    with pytest.raises(ValueError, match="the network that weights bring along: name a model in MLflow"):
        Given().build()
