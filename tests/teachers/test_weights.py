"""Weights: every form met in the wild is read, every broken one is refused with one clear message."""

import argparse
import hashlib
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from teachers.networks import DigitsCNN, LeNet5, ResNet
from teachers.weights import digest, load_into, read


@pytest.fixture(scope="module")
def states():
    torch.manual_seed(0)
    return DigitsCNN().build().state_dict()


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def prefixed(states, prefix):
    return {prefix + name: tensor for name, tensor in states.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "best_prec1": 91.7, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"param_groups": [{"lr": 0.1}]}},
        lambda s: {"state_dict": prefixed(s, "module.")},
        lambda s: prefixed(s, "module."),
        lambda s: prefixed(s, "module._orig_mod."),
        lambda s: prefixed(s, "_orig_mod.module."),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_as_found(tmp_path, states, wrap, zipped):
    path = tmp_path / "net.th"
    torch.save(wrap(dict(states)), path, _use_new_zipfile_serialization=zipped)
    assert same(read(path), states)


def test_safetensors_whatever_the_name(tmp_path, states):
    for name in ("net.safetensors", "net.pt"):
        save_file(prefixed(states, "module."), tmp_path / name)
        assert same(read(tmp_path / name), states)


def test_loading_fills_everything_bit_for_bit(states):
    module = DigitsCNN().build()
    load_into(module, states, source="net.pt")
    assert same(module.state_dict(), states)
    counters = [name for name in states if name.endswith("num_batches_tracked")]
    old = {name: tensor for name, tensor in states.items() if name not in counters}
    fresh = DigitsCNN().build()
    load_into(fresh, old, source="old.pt")
    assert counters
    assert same({name: fresh.state_dict()[name] for name in old}, old)


def test_digest_is_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"decoct" * 100_000)
    assert digest(tmp_path / "file") == hashlib.sha256(b"decoct" * 100_000).hexdigest()


# -- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 1e-4, 0.001, 0.01, 0.3, 0.7, 0.99, 0.99999])
def test_cut_short(tmp_path, states, form, share):
    whole, half = tmp_path / "whole", tmp_path / "half.pt"
    if form == "safetensors":
        half = tmp_path / "half.safetensors"
        save_file(states, whole)
    else:
        torch.save(states, whole, _use_new_zipfile_serialization=form == "zip")
    data = whole.read_bytes()
    half.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"half.*(damaged or cut short|is empty)") as caught:
        read(half)
    assert "arbitrary code" not in str(caught.value)  # PyTorch's advice to run it is not passed on


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("sprung",))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (Trap(), "mkdir"),
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_code_is_named_and_never_run(tmp_path, monkeypatch, states, thing, name, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": states, "more": thing}, "net.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=rf"carries code \((posix\.|nt\.)?{name}\), which is never run"):
        read(tmp_path / "net.pt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "log": {"loss": 0.1}}, "no tensors.*'epoch', 'log'"),
        ({"state_dict": {}}, "no tensors.*nothing"),
        (torch.zeros(3), r"one tensor of shape \(3,\)"),
        ([1, 2], "holds a list"),
    ],
)
def test_no_state_dict_inside(tmp_path, content, message):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "net.pt")


def test_other_files(tmp_path, states):
    save_file({}, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"none\.safetensors holds no tensors"):
        read(tmp_path / "none.safetensors")
    (tmp_path / "page.html").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"neither a safetensors file nor a PyTorch state dict.*<html>"):
        read(tmp_path / "page.html")
    with pytest.raises(ValueError, match="is a folder"):
        read(tmp_path)
    torch.save(states, tmp_path / "resnet20-12fca82f.th")
    with pytest.raises(ValueError, match=r"no .*resnet20-12fca82e\.th; did you mean 'resnet20-12fca82f\.th'"):
        read(tmp_path / "resnet20-12fca82e.th")
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        digest(tmp_path / "nowhere" / "net.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*TorchScript")
def test_a_program_is_refused(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(ValueError, match="TorchScript archive, a program and not just weights"):
        read(tmp_path / "script.pt")


# -- fitting ----------------------------------------------------------------------------------------------


def refused(network, tensors):
    module = network.build()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"net\.pt") as caught:
        load_into(module, tensors, source="net.pt")
    assert same(module.state_dict(), before), "a refused load must not leave half of it behind"
    return str(caught.value)


def test_missing_and_unexpected_with_nearest_names(states):
    renamed = {name.replace("conv2.weight", "conv_2.weight"): tensor for name, tensor in states.items()}
    said = refused(DigitsCNN(), renamed)
    assert "1 missing from the file:\n    conv2.weight; did you mean 'conv_2.weight'" in said
    assert (
        "1 in the file that the network does not have:\n    conv_2.weight; did you mean 'conv2.weight'"
        in said
    )


def test_long_lists_are_cut(states):
    said = refused(ResNet(depth=32), ResNet(depth=20).build().state_dict())
    assert "60 missing from the file" in said
    assert "and 52 more" in said


@pytest.mark.parametrize(
    ("network", "other", "messages"),
    [
        (ResNet(classes=10), ResNet(classes=100), ["has 10 classes, the file 100: classes=100"]),
        (ResNet(channels=3), ResNet(channels=1), ["takes 3 channels, the file 1: channels=1"]),
        (
            ResNet(classes=10),
            ResNet(classes=7, channels=4),
            ["has 10 classes, the file 7: classes=7", "takes 3 channels, the file 4: channels=4"],
        ),
        (LeNet5(classes=10), LeNet5(classes=26), ["has 10 classes, the file 26: classes=26"]),
    ],
)
def test_wrong_ends_are_said_in_words(network, other, messages):
    said = refused(network, other.build().state_dict())
    for message in messages:
        assert message in said


def test_other_shapes_are_listed(states):
    said = refused(DigitsCNN(), {**states, "conv2.weight": torch.zeros(48, 32, 3, 3)})
    assert "conv2.weight: (64, 32, 3, 3) in the network, (48, 32, 3, 3) in the file" in said
    assert "classes=" not in said
    assert "channels=" not in said


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["conv2.weight", "bn1.running_var"])
def test_not_a_number_is_refused(states, name, value):
    bad = states[name].clone()
    bad.view(-1)[5] = value
    assert f"1 of the {bad.numel()} values of {name} are NaN or infinite" in refused(
        DigitsCNN(), {**states, name: bad}
    )


def test_quantised_weights_are_refused(states):
    said = refused(DigitsCNN(), {**states, "conv2.weight": states["conv2.weight"].to(torch.int8)})
    assert "conv2.weight is stored as int8" in said


def test_half_precision_is_taken(states):
    halves = {name: t.half() if t.is_floating_point() else t for name, t in states.items()}
    module = DigitsCNN().build()
    load_into(module, halves, source="net.pt")
    assert module.conv1.weight.dtype is torch.float32
    assert torch.equal(module.conv1.weight, halves["conv1.weight"].float())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight


def test_tied_parameters_need_one_name():
    weight = torch.randn(3, 3)
    for name in ("first.weight", "second.weight"):
        module = Tied()
        load_into(module, {name: weight}, source="net.pt")
        assert module.first.weight is module.second.weight
        assert torch.equal(module.first.weight, weight)
    with pytest.raises(ValueError, match="2 missing"):
        load_into(Tied(), {}, source="net.pt")
    with pytest.raises(ValueError, match=r"first\.weight and second\.weight are one in the network"):
        load_into(Tied(), {"first.weight": weight, "second.weight": weight + 1}, source="net.pt")
