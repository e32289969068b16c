"""A compact folder lives without us: it predicts, trains on, proves its parity, says when it is damaged."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import students.compact as compact
from students import load as loader
from students import proof
from students.compact import bytes_on_disk, card, load, put_away, save, take_out
from teachers.signature import Signature
from teachers.task import Batch

SIGNATURE = Signature(((3, 8, 8),), ("cat", "dog", "owl"), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.bn(self.conv(x))).mean((2, 3))))


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = Small().to(memory_format=torch.channels_last)
    network(torch.randn(16, 3, 8, 8))  # batch statistics of its own
    return network.eval()


@pytest.fixture(scope="module")
def student() -> nn.Module:
    return small()


@pytest.fixture(scope="module")
def saved(student: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, proof.Proof]:
    folder = tmp_path_factory.mktemp("run") / "compact"
    val = [Batch((torch.randn(300, 3, 8, 8),), torch.zeros(300)), Batch((torch.randn(7, 3, 8, 8),))]
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    found = save(student, folder, SIGNATURE, card={"recipe": "small", "seed": 3}, val=val)
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())
    return folder, found


def test_the_folder_holds_what_it_promises(saved):
    folder, _ = saved
    assert {path.name for path in folder.iterdir()} == {
        "model.pt2",
        "model.onnx",
        "weights.safetensors",
        "structure.json",
        "load.py",
        "card.json",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["compact"]  # nothing half-done beside it
    assert (folder / "load.py").read_text() == Path(loader.__file__).read_text()
    assert bytes_on_disk(folder) == (folder / "weights.safetensors").stat().st_size > 0
    assert "/test_compact" not in (folder / "structure.json").read_text()
    assert (
        __file__.encode() not in (folder / "model.pt2").read_bytes()
    )  # no paths of the machine it was made on


def test_the_proof_is_on_the_card(saved):
    folder, found = saved
    page = card(folder)
    assert page["recipe"] == "small"
    assert page["signature"]["labels"] == ["cat", "dog", "owl"]
    assert page["versions"]["torch"] == torch.__version__
    proven = page["proof"]
    assert proven["inputs"] == "val"
    assert proven["samples"] == found.samples == 307
    assert proven["needs"] == []
    assert proven["forms"].keys() == {"model.pt2", "load.py", "model.onnx"}
    for form in proven["forms"].values():
        assert form["relative_difference"] <= 1e-6
        assert form["changed_decisions"] == 0


def test_it_predicts_for_any_number_of_images(saved, student):
    folder, _ = saved
    exported = torch.export.load(folder / "model.pt2").module()
    network = load(folder)
    for batch in (1, 2, 5, 33):
        images = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(exported(images), student(images), rtol=0, atol=1e-6)
        assert torch.equal(network(images), student(images))


ALONE = """
import sys
folder, ours = sys.argv[1], ["compress", "teachers", "students", "recipes", "reports"]
for name in ours:
    sys.modules[name] = None
sys.path.insert(0, folder)
import torch
from load import load
network = load()
torch.manual_seed(0)
labels = torch.randint(3, (32,))
images = torch.randn(32, 3, 8, 8) + labels[:, None, None, None]
network.train()
optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
losses = []
for _ in range(30):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(network(images), labels)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < 0.7 * losses[0], losses
assert not any(sys.modules.get(name) for name in ours)
print("trained")
"""


def test_it_trains_on_in_a_python_that_has_never_heard_of_us(saved, tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", ALONE, str(saved[0])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "trained", done.stderr


# -- damage -----------------------------------------------------------------------------------------------


@pytest.fixture
def stage(student: nn.Module, tmp_path: Path) -> Path:
    (tmp_path / "record.json").write_text("{}")
    put_away(student, tmp_path)
    return tmp_path


def test_a_stage_folder_keeps_its_other_files(stage, student):
    assert {path.name for path in stage.iterdir()} == {"record.json", "structure.json", "weights.safetensors"}
    images = torch.randn(4, 3, 8, 8)
    assert torch.equal(take_out(stage)(images), student(images))
    put_away(small(1), stage)  # once more, over the old one
    assert torch.equal(take_out(stage)(images), small(1)(images))


def test_a_buffer_may_hold_infinity_but_no_tensor_nan(tmp_path):
    class Masked(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + self.get_buffer("mask"))

    network = Masked(nn.Softmax(dim=1), nn.Linear(3, 3))
    network.register_buffer("mask", torch.tensor([0.0, float("-inf"), 1.0]))
    put_away(network, tmp_path)
    inputs = torch.randn(2, 3)
    assert torch.equal(take_out(tmp_path)(inputs), network(inputs))
    network[1].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"1 tensors of the student hold NaN, '1.weight' first"):
        put_away(network, tmp_path)


def test_damaged_weights_are_named(stage):
    weights = stage / "weights.safetensors"
    whole = bytearray(weights.read_bytes())
    weights.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"weights.safetensors is damaged: its sha256"):
        take_out(stage)
    whole[-3] ^= 1
    weights.write_bytes(whole)
    with pytest.raises(ValueError, match=r"weights.safetensors is damaged.*Fetch the folder anew"):
        take_out(stage)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"weights.safetensors is missing"):
        take_out(stage)


def test_a_damaged_structure_is_named(stage):
    path = stage / "structure.json"
    whole = path.read_text()
    path.write_text(whole.replace('"out_channels": 6', '"out_channels": 7'))
    assert path.read_text() != whole
    with pytest.raises(ValueError, match=r"structure.json is damaged: its sha256 differs"):
        take_out(stage)
    for half in (whole[: len(whole) // 2], "", "[]", "{}"):
        path.write_text(half)
        with pytest.raises(ValueError, match=r"structure.json is damaged"):
            take_out(stage)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"structure.json is missing"):
        take_out(stage)


def test_weights_of_another_network_are_refused(stage, tmp_path):
    structure = json.loads((stage / "structure.json").read_text())["network"]
    network = loader.rebuild(structure)
    tensors = {name: tensor.clone() for name, tensor in loader.state(network, structure).items()}
    with pytest.raises(ValueError, match=r"missing \['head.bias'\], unknown \['tail.bias'\]"):
        loader.fill(
            network, structure, {("tail.bias" if n == "head.bias" else n): t for n, t in tensors.items()}
        )
    with pytest.raises(ValueError, match=r"'head.bias' has shape \(4,\) where the network wants \(3,\)"):
        loader.fill(network, structure, {**tensors, "head.bias": torch.zeros(4)})


def test_a_damaged_card_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is missing"):
        card(tmp_path)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(ValueError, match=r"card.json is damaged"):
        card(tmp_path)


# -- nothing is lost --------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_folder(saved, monkeypatch):
    folder, _ = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("save_file", "_export"):
        with monkeypatch.context() as patch:
            patch.setattr(compact, place, full)
            with pytest.raises(OSError, match=r"compact was not written .*No space left.*intact"):
                save(small(1), folder, SIGNATURE)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert [path.name for path in folder.parent.iterdir()] == ["compact"]


def test_only_a_compact_folder_is_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(ValueError, match="exists and is no compact student"):
        save(small(), tmp_path, SIGNATURE)
    assert (tmp_path / "thesis.tex").read_text() == "all my work"


def test_a_network_that_needs_its_maker_is_saved_and_says_so(tmp_path, monkeypatch):
    (tmp_path / "their_nets.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, width=8):\n"
        "        super().__init__()\n"
        "        self.one, self.two = torch.nn.Linear(192, width), torch.nn.Linear(width, 3)\n"
        "    def forward(self, x):\n"
        "        x = self.one(x.flatten(1))\n"
        "        if x.dim() != 2:\n"
        "            raise ValueError\n"
        "        return self.two(x * (2 if isinstance(x, torch.Tensor) and int(x.shape[1]) > 2 else 1))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import their_nets

    student = their_nets.Net()
    student.one, student.two = nn.Linear(192, 4), nn.Linear(4, 3)
    found = save(
        student, tmp_path / "out", SIGNATURE, factory={"factory": "their_nets:Net", "arguments": {"width": 8}}
    )
    assert found.needs == ("their_nets",)
    assert found.inputs == "random"
    images = torch.randn(4, 3, 8, 8)
    assert torch.equal(load(tmp_path / "out", trust=["their_nets"])(images), student(images))


# -- students that cannot be shipped ----------------------------------------------------------------------


def test_what_cannot_be_shipped_is_refused_early(tmp_path):
    out = tmp_path / "compact"
    with pytest.raises(ValueError, match="3 outputs, but its signature has 2 labels"):
        save(small(), out, Signature(((3, 8, 8),), ("a", "b")))
    with pytest.raises(ValueError, match="no NaN"):
        save(small(), out, SIGNATURE, card={"score": float("nan")})
    hooked = small()
    hooked.get_submodule("bn").register_forward_pre_hook(lambda *_: None)
    with pytest.raises(ValueError, match="still has a hook"):
        save(hooked, out, SIGNATURE)
    broken = small()
    broken.get_parameter("head.bias").data[1] = float("nan")
    with pytest.raises(ValueError, match=r"'head.bias' first"):
        save(broken, out, SIGNATURE)

    class Two(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(2, 3, 8, 8))

    with pytest.raises(ValueError, match="cannot be exported for any batch size"):
        save(Two().eval(), out, SIGNATURE)
    assert not out.exists()
    assert not list(tmp_path.iterdir())


def test_a_form_that_differs_is_an_error():
    fine = {"difference": 1e-6, "changed": 0, "nan": 0, "seconds": 0.1}
    assert proof._agreement("model.pt2", [fine, fine], scale=2.0).relative_difference == pytest.approx(5e-7)
    with pytest.raises(
        ValueError, match=r"load.py differs from the student by up to 0.01, 0.005 .*decides 2 samples"
    ):
        proof._agreement("load.py", [fine, {**fine, "difference": 0.01, "changed": 2}], scale=2.0)
    with pytest.raises(ValueError, match="NaN"):
        proof._agreement("load.py", [{**fine, "nan": 1}], scale=2.0)


def test_a_fresh_python_that_fails_is_heard(student, saved, tmp_path):
    (tmp_path / "load.py").write_text("import students\n")
    (tmp_path / "model.pt2").write_bytes((saved[0] / "model.pt2").read_bytes())
    with proof.Prover() as prover, pytest.raises(ValueError, match=r"a fresh Python.*students"):
        prover.prove(student, tmp_path, SIGNATURE, None, ())


def test_the_front_door_is_lazy():
    import students

    assert students.save is save
    assert {"save", "take_out", "Untraceable"} <= set(dir(students))
    with pytest.raises(AttributeError, match="no attribute 'sav'"):
        students.sav  # noqa: B018 - looking is the test
    code = "import students, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
