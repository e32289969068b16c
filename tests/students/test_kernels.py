"""Layers with shared kernels beside the ordinary convolution with the weight they stand for."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from students import compact
from students.kernels import SharedConvolution, bits, densified, pack, packed_bytes, unpack
from teachers.signature import Signature


def slow_bytes(index: list[int], count: int) -> bytes:
    """As text: every index in binary, one after the other, the last byte filled from the right."""
    width = (count - 1).bit_length()
    text = "".join(format(i, f"0{width}b") if width else "" for i in index)
    return bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))


@given(count=st.integers(1, 300), numbers=st.integers(1, 40), seed=st.integers(0, 99))
def test_indices_come_back_from_their_bytes(count: int, numbers: int, seed: int) -> None:
    index = torch.randint(count, (numbers,), generator=torch.Generator().manual_seed(seed))
    packed = pack(index, count)
    assert bytes(packed.tolist()) == slow_bytes(index.tolist(), count)
    assert len(packed) == packed_bytes(numbers, count) == -(-numbers * bits(count) // 8)
    assert torch.equal(unpack(packed, count, numbers), index)


def test_one_kernel_needs_no_index() -> None:
    assert bits(1) == 0
    assert len(pack(torch.zeros(50), 1)) == 0


def test_bytes_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="10 indices among 5 kernels take 4 bytes, not 3"):
        unpack(torch.zeros(3, dtype=torch.uint8), 5, 10)


def layer_of(levels: list[int], counts: list[int], outputs: int, seed: int = 0, **given) -> SharedConvolution:
    """A layer with random kernels and indices: channel c keeps counts[levels[c]] kernels."""
    torch.manual_seed(seed)
    groups = given.get("groups", 1)
    used = sorted({counts[level] for level in levels})
    rank = [used.index(counts[level]) for level in levels]
    shared = [(q, rank.count(place)) for place, q in enumerate(used)]
    layer = SharedConvolution(len(levels), outputs * groups, shared=shared, **given)
    layer.level.copy_(torch.tensor(rank, dtype=torch.uint8))
    packed = [pack(torch.randint(q, (outputs, n)), q) for q, n in shared if 0 < q < outputs]
    if packed:
        layer.packed.copy_(torch.cat(packed))
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def sharing(indices: Tensor | None, position: int, which: int) -> int:
    """How many outputs take a kernel."""
    return 1 if indices is None else int((indices[:, position] == which).sum())


def slow_weight(layer: SharedConvolution) -> Tensor:
    """One kernel at a time, (C, outputs, *kernel_size)."""
    result = torch.zeros(layer.in_channels, layer.outputs, *layer.kernel_size)
    indices = layer.index()
    for place, (q, _) in enumerate(layer.shared):
        members = [c for c, level in enumerate(layer.level.tolist()) if level == place]
        own = [p for p in layer.parts() if p.shape[1] == q]
        for position, channel in enumerate(members):
            for output in range(layer.outputs):
                if q:
                    which = output if indices[place] is None else int(indices[place][output, position])
                    result[channel, output] = (
                        own[0][position, which] / sharing(indices[place], position, which) ** 0.5
                    )
    return result


CASES = {
    "plain": {"kernel_size": (3, 3), "padding": (1, 1)},
    "strided": {"kernel_size": (3, 3), "stride": (2, 1), "padding": (2, 0), "bias": False},
    "dilated": {"kernel_size": (3, 1), "dilation": (2, 1), "padding": (2, 0)},
    "same": {"kernel_size": (4, 3), "padding": "same", "padding_mode": "circular"},
    "reflecting": {"kernel_size": (3, 3), "padding": (1, 1), "padding_mode": "reflect"},
    "pointwise": {"kernel_size": (1, 1)},
    "grouped": {"kernel_size": (3, 3), "groups": 2},
    "one dimension": {"kernel_size": (5,)},
    "three dimensions": {"kernel_size": (2, 3, 2), "padding": (1, 1, 0)},
    "transposed": {"kernel_size": (3, 3), "transposed": True, "stride": (2, 2), "output_padding": (1, 1)},
    "transposed grouped": {"kernel_size": (3, 3), "transposed": True, "groups": 2},
}


@pytest.mark.parametrize("name", CASES)
def test_it_answers_and_learns_as_the_convolution_with_its_weight(name: str) -> None:
    layer = layer_of([0, 2, 1, 3, 2, 1], [0, 1, 3, 8], 8, **CASES[name]).double()
    ordinary = layer.dense()
    x = torch.randn(2, 6, *([9] * len(layer.kernel_size)), dtype=torch.float64)
    whole = slow_weight(layer.float()).double()
    layer = layer.double()
    if not layer.transposed:
        whole = whole.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(layer.weight(), whole, rtol=1e-6, atol=1e-6)
    target = torch.randn_like(layer(x))
    (layer(x) * target).sum().backward()
    (ordinary(x) * target).sum().backward()
    torch.testing.assert_close(layer(x), ordinary(x), rtol=1e-12, atol=1e-12)
    # A kernel's gradient is the sum over the outputs that share it, each with its factor.
    gradient = ordinary.weight.grad
    if not layer.transposed:
        gradient = gradient.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    indices, slopes = layer.index(), iter(layer.parts(layer.kernels.grad))
    for place, (q, channels) in enumerate(layer.shared):
        if not q:
            continue
        own, members = next(slopes), (layer.level == place).nonzero()[:, 0]
        want = torch.zeros_like(own)
        for position in range(channels):
            for output in range(layer.outputs):
                which = output if indices[place] is None else int(indices[place][output, position])
                share = sharing(indices[place], position, which)
                want[position, which] += gradient[members[position], output] / share**0.5
        torch.testing.assert_close(own, want, rtol=1e-10, atol=1e-10)
    layer.eval()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), ordinary(x), rtol=1e-12, atol=1e-12)


def test_a_step_is_that_of_the_dense_weight_averaged_over_those_that_share() -> None:
    layer = layer_of([0, 1, 2, 1, 2], [1, 3, 8], 8, kernel_size=(3, 3)).double()
    dense = layer.dense()
    x = torch.randn(4, 5, 6, 6, dtype=torch.float64)
    for network in (layer, dense):
        learn = torch.optim.SGD(network.parameters(), 0.1, weight_decay=0.3)
        network(x).square().sum().backward()
        learn.step()
    moved = dense.weight.detach().transpose(0, 1).clone()  # (C, outputs, 3, 3)
    for place, index in enumerate(layer.index()):
        if index is None:
            continue
        for position, channel in enumerate((layer.level == place).nonzero()[:, 0].tolist()):
            for which in index[:, position].unique():
                together = index[:, position] == which
                moved[channel, together] = moved[channel, together].mean(0)
    torch.testing.assert_close(layer.weight().transpose(0, 1), moved, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(
    levels=st.lists(st.integers(0, 3), min_size=1, max_size=7),
    counts=st.sampled_from([[0, 1, 2, 5], [0, 2, 4, 9], [0, 3, 6, 12]]),
    seed=st.integers(0, 9),
)
def test_random_layers_train_and_infer_alike(levels, counts, seed) -> None:
    layer = layer_of(levels, counts, counts[-1], seed, kernel_size=(3, 3))
    x = torch.randn(2, len(levels), 5, 5)
    trained = layer(x)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), trained, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(densified(nn.Sequential(layer))(x), trained, rtol=1e-5, atol=1e-5)


def test_gradients_by_finite_differences() -> None:
    layer = layer_of([0, 1, 2], [0, 2, 5], 5, kernel_size=(2, 2)).double()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)

    def answer(*parameters: Tensor) -> Tensor:
        names = [name for name, _ in layer.named_parameters()]
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    inputs = tuple(p.detach().clone().requires_grad_() for p in layer.parameters())
    assert torch.autograd.gradcheck(answer, inputs)


def test_the_dense_weight_is_put_together_once_and_anew_when_something_changed(monkeypatch) -> None:
    layer = layer_of([1, 1, 2], [0, 2, 6], 6, kernel_size=(3, 3)).eval()
    calls = []
    whole = SharedConvolution.weight
    monkeypatch.setattr(SharedConvolution, "weight", lambda self: (calls.append(1), whole(self))[1])
    x = torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        layer(x)
        before = layer(x)
        assert len(calls) == 1
        layer.parts()[0].mul_(2)
        assert not torch.equal(layer(x), before)
        assert len(calls) == 2
        layer.packed.copy_(pack(torch.zeros(6, 2), 2))
        torch.testing.assert_close(layer(x), layer.dense()(x))
    layer(x).sum().backward()  # in evaluation mode, too
    assert layer.kernels.grad is not None


def test_channels_not_read_are_picked_out_where_that_pays() -> None:
    many = layer_of([0] * 30 + [2] * 2, [0, 4, 64], 64, kernel_size=(3, 3)).eval()
    few = layer_of([0] + [2] * 31, [0, 4, 8], 8, kernel_size=(1, 1)).eval()
    x = torch.randn(2, 32, 8, 8)
    with torch.no_grad():
        for layer in (many, few):
            torch.testing.assert_close(layer(x), layer.dense()(x), rtol=1e-4, atol=1e-4)
    weights = [layer._ready[3][0] for layer in (many, few)]
    assert weights[0].shape[1] == 2
    assert weights[1].shape[1] == 32


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        ([(2, 3)], "hold all 4 input channels"),
        ([(4, 2), (2, 2)], "rising order"),
        ([(2, 2), (2, 2)], "rising order"),
        ([(0, 2), (9, 2)], "between 0 and 8 kernels"),
    ],
)
def test_sharing_that_does_not_add_up_is_refused(shared, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SharedConvolution(4, 8, (3, 3), shared)


def network(half: bool = False) -> nn.Module:
    first = layer_of([1, 2, 2], [0, 3, 16], 16, kernel_size=(3, 3), padding=(1, 1), bias=False, half=half)
    second = layer_of([0, 1, 2, 3] * 4, [0, 1, 4, 16], 16, 1, kernel_size=(3, 3), half=half)
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    return nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU(), second, nn.ReLU(), *flat).eval()


SIGNATURE = Signature(((3, 8, 8),), ("a", "b", "c", "d"))


@pytest.mark.parametrize("half", [False, True])
def test_a_compact_folder_is_smaller_and_needs_nobody(half: bool, tmp_path) -> None:
    student = network(half)
    folder = tmp_path / "compact"
    proof = compact.save(student, folder, SIGNATURE)
    assert set(proof.forms) == {"model.pt2", "load.py", "model.onnx"}
    assert max(form.relative_difference for form in proof.forms.values()) < 1e-5
    held = load_file(folder / "weights.safetensors")
    assert held["3.kernels"].dtype == (torch.float16 if half else torch.float32)
    assert held["0.packed"].dtype == torch.uint8
    plain = tmp_path / "plain"
    compact.save(densified(student), plain, SIGNATURE)
    assert compact.bytes_on_disk(folder) < 0.6 * compact.bytes_on_disk(plain)
    again = compact.load(folder)
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(again(x), student(x))
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in student.named_parameters()]

    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
        "import torch\nfrom load import load\n"
        "network = load().train()\n"
        "before = network(torch.ones(2, 3, 8, 8)).sum()\n"
        "optimiser = torch.optim.SGD(network.parameters(), 0.1)\n"
        "before.backward()\noptimiser.step()\n"
        "print(bool(network(torch.ones(2, 3, 8, 8)).sum() < before), type(network.get_submodule('3')).__name__)\n"
        "assert not [n for n in sys.modules if n.split('.')[0] in ('students', 'compress', 'teachers')]\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    ran = subprocess.run(
        [sys.executable, "-I", str(script)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    assert ran.stdout.split() == ["True", "SharedConvolution"]


def test_sixteen_bits_survive_being_put_away_and_trained_on(tmp_path) -> None:
    student = network(half=True).train()
    with torch.no_grad():
        student[3].kernels.add_(1e-4)
    student.eval()
    assert torch.equal(student[3].kernels, student[3].kernels.half().float())
    compact.put_away(student, tmp_path)
    again = compact.take_out(tmp_path)
    for one, other in zip(student.parameters(), again.parameters(), strict=True):
        assert other.dtype == torch.float32
        assert torch.equal(one, other)


def test_a_damaged_packed_file_is_named(tmp_path) -> None:
    compact.put_away(network(), tmp_path)
    path = tmp_path / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        compact.take_out(tmp_path)


def test_a_missing_kernels_file_is_named(tmp_path) -> None:
    folder = tmp_path / "compact"
    compact.save(network(), folder, SIGNATURE)
    (folder / "kernels.py").unlink()
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from load import load; load()"
    ran = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert "this network shares kernels, fetch the whole folder" in ran.stderr


def test_copies_are_independent() -> None:
    layer = layer_of([1, 2], [0, 2, 4], 4, kernel_size=(3, 3)).eval()
    x = torch.randn(1, 2, 5, 5)
    with torch.no_grad():
        before = layer(x)
        twin = copy.deepcopy(layer)
        twin.parts()[0].zero_()
        assert torch.equal(layer(x), before)
        assert not torch.equal(twin(x), before)
    assert json.loads(json.dumps(layer.arguments()))["out_channels"] == 4
