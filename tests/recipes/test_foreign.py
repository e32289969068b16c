"""Networks that nobody here wrote, the whole road: plan, prune, tune, pack, ONNX."""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compress import Finetune, Prune
from compress.session import Session
from compress.stage import State
from recipes.plan import plan
from recipes.recipe import Recipe, Workshop
from recipes.run import Result, run
from reports import profile
from students import compact
from teachers.networks import Network, Own, Torchvision
from teachers.task import Split, Task
from teachers.tasks import Toy
from teachers.teacher import Checkpoint
from teachers.train import Train

from masked import Masked  # isort: skip

THREE = (0.5, 0.5, 0.5)
IMAGES = Toy(samples=60, size=64, mean=THREE, std=THREE, batch=16, contrast=0.4)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of each network is time enough: at batch 32 these take a good part of a second."""

    def once(ready: Mapping[str, Callable[[], object]], seconds: float, least: int) -> dict[str, list[float]]:
        taken = {}
        for name, call in ready.items():
            start = time.perf_counter()
            call()
            taken[name] = [1e3 * (time.perf_counter() - start)]
        return taken

    monkeypatch.setattr(profile, "_take_turns", once)


@torch.no_grad()
def taught(network: Network, task: Task, folder: Path) -> str:
    """A file with weights that know the task: random ones, but for statistics and a last layer fitted to its images."""
    torch.manual_seed(0)
    module, cpu = network.build(), torch.device("cpu")
    (batch,) = replace(task, batch=64).open(None).batches(Split.TRAIN, cpu)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    module.train()(*batch.inputs)
    *_, last = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    seen: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module.eval()(*batch.inputs)
    hook.remove()
    # Least squares with a ridge: 5 on the right label, -5 on the others.
    features = torch.cat([seen[0], torch.ones(len(seen[0]), 1)], 1).double()
    wanted = 10 * nn.functional.one_hot(batch.target, last.out_features).double() - 5
    ridge = 1e-2 * features.pow(2).mean() * len(features) * torch.eye(features.shape[1])
    solved = torch.linalg.solve(features.T @ features + ridge, features.T @ wanted).float()
    last.weight.copy_(solved[:-1].T)
    last.bias.copy_(solved[-1])
    save_file({name: x.contiguous() for name, x in module.state_dict().items()}, folder / "w.safetensors")
    return str(folder / "w.safetensors")


def road(network: Network, task: Task, weights: str, folder: Path) -> tuple[Result, str]:
    """A run with all of it, and what was planned before."""
    teacher = Checkpoint(name="theirs", network=network, task=task, weights=weights)
    stages = (Prune(macs=0.7), Finetune(epochs=1, lr=0.01))
    page = Recipe(name="foreign", task=task, teachers=(teacher,), stages=stages)
    bench = Workshop(runs=folder / "runs", device="cpu", tracking="off")
    return run(page, bench), plan(page, bench)


def check(made: Result, task: Task) -> None:
    """The student is smaller, loads without its maker, and has an ONNX form that answers alike on all of val."""
    first, *_, last = made.records
    assert last.profile.macs <= 0.7 * first.profile.macs
    assert made.state.student is not None
    inputs = task.signature().example(3, seed=1)
    with torch.no_grad():
        wanted = made.state.student(*inputs)
        torch.testing.assert_close(compact.load(made.folder / "compact")(*inputs), wanted, rtol=0, atol=1e-5)
    onnx = compact.card(made.folder / "compact")["onnx"]
    assert "refused" not in onnx
    val = task.open(None).samples(Split.VAL)
    assert (onnx["inputs"], onnx["samples"], onnx["changed_decisions"]) == ("val", val, 0)
    assert onnx["relative_difference"] <= 1e-4
    for who in ("student", "teacher"):
        assert {f"latency_ms_p{p}_b{b}" for p in (50, 95) for b in (1, 32)} == onnx[who].keys()
    assert json.loads((made.folder / "result.json").read_text())["onnx"] == onnx


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("mobilenet_v3_small", marks=pytest.mark.slow),
        "resnet18",
        pytest.param("mnasnet0_5", marks=pytest.mark.slow),
    ],
)
def test_torchvision(name: str, tmp_path: Path) -> None:
    network = Torchvision(name=name, classes=3)
    made, planned = road(network, IMAGES, taught(network, IMAGES, tmp_path), tmp_path)
    assert "teachers.networks.Torchvision" in str(planned)
    check(made, IMAGES)


def test_a_network_that_cannot_be_cut() -> None:
    """Its shuffled channels cannot be followed: it is refused, with the reason, and may teach all the same."""
    network = Torchvision(name="shufflenet_v2_x0_5", classes=3)
    teacher = Checkpoint(name="t", network=network, task=IMAGES, train=Train(epochs=1)).teacher(
        network.build()
    )
    assert teacher(*IMAGES.signature().example(2)).shape == (2, 3)
    with pytest.raises(
        ValueError, match=r"ShuffleNetV2 has no channel that can be cut: .*cannot follow its channels"
    ):
        Prune(macs=0.7)(State((teacher,)), Session.bare(IMAGES, sees=Prune.sees))


def test_an_image_and_a_mask_by_keyword(tmp_path: Path) -> None:
    """Trained, pruned, tuned and packed; the forms take the mask, too, and look at it."""
    task = Masked(samples=160, batch=32)
    network = Own(factory="masked:make", arguments={"classes": 3})
    teacher = Checkpoint(name="looking", network=network, task=task, train=Train(epochs=6, lr=0.05, warmup=1))
    page = Recipe(
        name="masked", task=task, teachers=(teacher,), stages=(Prune(macs=0.6), Finetune(epochs=1, lr=0.01))
    )
    made = run(page, Workshop(runs=tmp_path, device="cpu", tracking="off"))
    check(made, task)
    import onnxruntime

    session = onnxruntime.InferenceSession(made.folder / "compact" / "model.onnx")
    assert [(given.name, given.type) for given in session.get_inputs()] == [
        ("image", "tensor(float)"), ("mask", "tensor(bool)"),
    ]  # fmt: skip
    image, mask = task.signature().example(3)
    exported = torch.export.load(made.folder / "compact" / "model.pt2").module()
    for seen in (mask, torch.zeros_like(mask)):
        (answer,) = session.run(None, {"image": image.numpy(), "mask": seen.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(answer), exported(image, seen), rtol=0, atol=1e-5)
    assert not torch.equal(exported(image, mask), exported(image, torch.zeros_like(mask)))


def test_what_a_network_cannot_be_given(tmp_path: Path) -> None:
    from teachers.calling import by_position

    network = Own(factory="masked:make", arguments={"classes": 3})
    with pytest.raises(
        ValueError, match=r"gives an input 'msk', but forward of Looking takes image, mask; did you mean"
    ):
        by_position(network.build(), ("image", "msk"))
    with pytest.raises(
        ValueError, match="forward of Looking needs 'mask' besides what the task gives, image"
    ):
        by_position(network.build(), ("image",))
    same = nn.Linear(2, 3)
    assert type(by_position(same, ("input",))) is nn.Linear  # it takes it by position already
    signature = Masked().signature()
    with pytest.raises(ValueError, match="1 names for 2 inputs"):
        replace(signature, names=("image",))
    with pytest.raises(ValueError, match="'complex' is no type of an input"):
        replace(signature, types=("float", "complex"))
    with pytest.raises(ValueError, match="'image' is no name for an input"):
        replace(signature, names=("image", "image"))
    tokens = replace(signature, types=("float", 7)).example(64)[1]
    assert (tokens.dtype, int(tokens.min()), int(tokens.max())) == (torch.int64, 0, 6)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("foreign_factories:breaks", r"foreign_factories:breaks\(\) failed: RuntimeError: no such thing"),
        ("foreign_factories:gives_text", "foreign_factories:gives_text gave a str"),
    ],
)
def test_a_factory_that_fails(
    factory: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from recipes.__main__ import main

    (tmp_path / "foreign_factories.py").write_text(
        "def breaks():\n    raise RuntimeError('no such thing')\n\n\ndef gives_text():\n    return 'a network'\n"
    )
    (tmp_path / "page.yaml").write_text(
        "recipes.Recipe:\n  name: mine\n  task: &toy {teachers.tasks.Toy: }\n  teachers:\n"
        f'    - teachers.Checkpoint: {{name: n, network: {{teachers.networks.Own: {{factory: "{factory}"}}}}, '
        "task: *toy, train: {teachers.Train: {epochs: 1}}}\n  stages:\n    - compress.Prune: {macs: 0.5}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["run", "page.yaml", "--trust", "foreign_factories", "--tracking", "off"]) == 2
    told = capsys.readouterr().err
    assert told.count("decoct: ") == 1
    assert re.search(said, told), told
