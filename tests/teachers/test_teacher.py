"""Checkpoint and Teacher: found, checked, loaded, frozen."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from teachers import zoo
from teachers.networks import DigitsCNN, LeNet5, Own, ResNet
from teachers.signature import Signature
from teachers.tasks import Digits
from teachers.teacher import Checkpoint, Teacher
from teachers.train import Train
from teachers.weights import digest


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    module = DigitsCNN().build()
    save_file(module.state_dict(), tmp_path / "digits.safetensors")
    return module


def checkpoint(**more):
    fields = {"name": "digits", "network": DigitsCNN(), "task": Digits(), "weights": "digits.safetensors"}
    return Checkpoint(**{**fields, **more})


def test_loaded_frozen_and_equal(tmp_path, saved):
    teacher = checkpoint(sha256=digest(tmp_path / "digits.safetensors")).load(tmp_path)
    assert (teacher.name, teacher.signature) == ("digits", Digits().signature())
    assert not any(module.training for module in teacher.module.modules())
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())
    images = torch.randn(4, 1, 8, 8, requires_grad=True)
    logits = teacher(images)
    assert torch.equal(logits, saved.eval()(images))
    logits.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.module.parameters())


def test_loading_leaves_the_random_state_alone(tmp_path, saved):
    before = torch.get_rng_state()
    checkpoint().load(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_where_weights_are_looked_up(tmp_path, saved, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert checkpoint().load(tmp_path)
    assert checkpoint(weights=str(tmp_path / "digits.safetensors")).load()
    with pytest.raises(ValueError, match=r"there is no .*empty.digits\.safetensors$"):
        checkpoint().load()
    with pytest.raises(ValueError, match=r"no .*empty.digit\.pt nor .*digit\.pt"):
        checkpoint(weights="digit.pt").load(tmp_path)
    with pytest.raises(ValueError, match=r"did you mean 'digits\.safetensors'"):
        checkpoint(weights="digit.safetensors").load(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert checkpoint().load()


def test_another_file_than_meant(tmp_path, saved):
    with pytest.raises(
        ValueError, match=r"not the file that checkpoint 'digits' means: its sha256 is \w{64}, not 0"
    ):
        checkpoint(sha256="0" * 64).load(tmp_path)
    right = digest(tmp_path / "digits.safetensors")
    assert checkpoint(sha256=right.upper()).load(tmp_path)


def test_neither_weights_nor_training():
    with pytest.raises(ValueError, match="'digits' has neither weights nor train"):
        checkpoint(weights=None)
    with pytest.raises(ValueError, match="sha256 but no weights"):
        checkpoint(weights=None, train=Train(epochs=1), sha256="0" * 64)
    with pytest.raises(ValueError, match="should match pattern"):
        checkpoint(sha256="12fca82f")
    with pytest.raises(ValueError, match="no weights to load: a run trains it first"):
        checkpoint(weights=None, train=Train(epochs=1)).load()


def test_network_and_task_must_fit(tmp_path, saved):
    torch.save(DigitsCNN(classes=12).build().state_dict(), tmp_path / "twelve.pt")
    twelve = checkpoint(network=DigitsCNN(classes=12), weights="twelve.pt")
    with pytest.raises(ValueError, match=r"task has 10 classes, but .*\(2, 12\) for 2 inputs: classes=10"):
        twelve.load(tmp_path)
    torch.save(ResNet().build().state_dict(), tmp_path / "rgb.pt")
    with pytest.raises(ValueError, match=r"does not take the inputs of Digits.*\(1, 8, 8\) each"):
        checkpoint(network=ResNet(), weights="rgb.pt").load(tmp_path)
    with pytest.raises(ValueError, match="does not fit the network"):
        checkpoint(network=LeNet5()).load(tmp_path)
    with pytest.raises(ValueError, match="has 12 classes, the file 10: classes=10"):
        checkpoint(network=DigitsCNN(classes=12)).load(tmp_path)


class Pair(nn.Flatten):
    def forward(self, x):
        return x, x


def test_outputs_must_be_logits():
    with pytest.raises(ValueError, match="gives a tuple; a teacher gives one tensor of logits"):
        checkpoint().teacher(Pair())


def test_a_trained_module_becomes_the_teacher():
    made = checkpoint(weights=None, train=Train(epochs=1))
    module = made.network.build()
    assert made.teacher(module).module is module
    assert not module.training


def test_moving_makes_a_copy():
    signature = Signature(((1, 8, 8),), tuple("0123456789"))
    teacher = Teacher("digits", DigitsCNN().build(), signature)
    moved = teacher.to("cpu")
    assert moved.module is not teacher.module
    assert (moved.name, moved.signature) == ("digits", signature)
    assert moved.module.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert teacher.module.conv2.weight.is_contiguous()
    images = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(moved(images), teacher(images))


def test_checkpoints_are_values():
    assert checkpoint() == checkpoint() != checkpoint(name="other")
    assert dataclasses.replace(checkpoint(), name="other").name == "other"
    with pytest.raises(ValueError, match="name"):
        checkpoint(name="no spaces, please")
    with pytest.raises(ValueError, match="Network"):
        checkpoint(network="ResNet")
    assert checkpoint(network=Own(factory="torchvision.models:resnet18")).network.package == "torchvision"


def test_the_zoo_holds_facts():
    known = [zoo.RESNET20, zoo.RESNET56, zoo.RESNET20_JPEG, zoo.RESNET56_JPEG]
    assert [entry.score for entry in known] == [0.917, 0.934, 0.881, 0.8985]
    assert len({entry.checkpoint.sha256 for entry in known}) == 4
    for entry in known:
        signature = entry.checkpoint.task.signature()
        assert (signature.mean, signature.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert signature.classes == 10
        # Published files carry the beginning of their sha256 in their names.
        _, _, tail = entry.checkpoint.weights.removesuffix(".th").partition("-")
        if entry.checkpoint.weights.endswith(".th"):
            assert entry.checkpoint.sha256.startswith(tail)


def test_the_front_door_is_light():
    code = (
        "import sys, teachers; assert 'torch' not in sys.modules; "
        "from teachers import Checkpoint, Teacher, Train, networks, tasks; networks.ResNet; tasks.Digits"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import teachers

    with pytest.raises(AttributeError, match="no attribute 'Chekpoint'"):
        _ = teachers.Chekpoint
