"""A network written down and rebuilt is the same: names, answers in both modes, a step of training."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from students import load
from students.compact import put_away, take_out
from students.structure import Untraceable, clean, describe, describe_factory, origin, rebuild
from teachers.signature import Signature


class Residual(nn.Module):
    """Shortcut by subsampling and zero-padding, as wide as the channels say when it is called."""

    def __init__(self, inner: int = 6) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, inner, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = x[:, :, ::2, ::2]
        missing = out.shape[1] - short.shape[1]
        return F.relu(out + F.pad(short, (0, 0, 0, 0, missing // 2, missing - missing // 2)))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.block = Residual()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x))
        return self.head(x.mean(dim=(2, 3)))


class Branches(nn.Module):
    """Concatenation, groups, chunk, and a reshape that reads the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(4))
        self.right = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding="same"), nn.Sequential(nn.ReLU6(), nn.Identity())
        )
        self.groups = nn.Conv2d(8, 8, 3, padding=1, groups=4, padding_mode="reflect")
        self.pool = nn.AdaptiveAvgPool2d((2, 1))
        self.head = nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(torch.cat([self.left(x), self.right(x)], dim=1))
        a, b = x.chunk(2, dim=1)
        x = self.pool(a * torch.sigmoid(b))
        return self.head(x.view(x.size(0), -1))


class Dropping(nn.Module):
    """Dropout in all its clothes, and a rate that is a number only while training."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.3)
        self.one, self.two = nn.Linear(12, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.drop(F.gelu(self.one(x.flatten(1)))), p=0.4, training=self.training)
        return self.two(F.dropout(x, p=0.2 if self.training else 0.0, training=True))


class Bare(nn.Module):
    """Parameters and buffers of its own, a constant, a tied and a shared layer, one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(6))
        self.register_buffer("shift", torch.randn(6), persistent=False)
        self.level = torch.tensor([0.5, float("-inf"), 2.0, 0.0, 1.0, -1.0])
        self.unused = nn.Linear(2, 2)
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.two.weight = self.one.weight
        self.again = self.one
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.again(x.flatten(1)[:, :6])) * self.scale + self.shift
        return self.head(torch.maximum(x, self.level.to(x.dtype)).clamp(-9, 9))


class MyNorm(nn.BatchNorm2d):
    """A layer of torch.nn under another name, with its own way of being made."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-3, momentum=0.05)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 8, 2, stride=2)
        self.norm2d, self.norm = MyNorm(8), nn.LayerNorm([8], eps=1e-4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.norm2d(self.cut(x)).flatten(2).transpose(1, 2))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x[:, 0])


IMAGES = (3, 8, 8)
NETWORKS = {
    "residual": (Classifier, IMAGES),
    "branches": (Branches, IMAGES),
    "dropping": (Dropping, (3, 2, 2)),
    "bare": (Bare, (3, 2, 2)),
    "attending": (Attending, (3, 4, 4)),
    "sequential": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Hardswish()), (3, 2, 2)),
}


@pytest.fixture(params=NETWORKS)
def made(request: pytest.FixtureRequest) -> tuple[nn.Module, Signature]:
    torch.manual_seed(0)
    build, shape = NETWORKS[request.param]
    return build(), Signature((shape,), tuple("abcde"))


def same(one: nn.Module, other: nn.Module) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_what_is_taken_out_is_what_was_put_away(made, tmp_path):
    network, signature = made
    network = network.to(memory_format=torch.channels_last) if "stem" in dir(network) else network
    before = copy.deepcopy(network)
    put_away(network, tmp_path, signature=signature)
    same(before, network)  # tracing and comparing leave it alone
    twin = take_out(tmp_path)
    assert not twin.training
    assert [n for n, _ in twin.named_parameters()] == [n for n, _ in network.named_parameters()]
    assert [p.stride() for p in twin.parameters()] == [p.stride() for p in network.parameters()]

    inputs = signature.example(4)
    network.eval()
    assert torch.equal(twin(*inputs), network(*inputs))
    for one in (network, twin):  # two steps of training, to the bit
        one.train()
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1, momentum=0.9)
        torch.manual_seed(1)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(one(*inputs), torch.tensor([0, 1, 2, 3])).backward()
            optimizer.step()
    same(network, twin)
    assert torch.equal(twin.eval()(*inputs), network.eval()(*inputs))


def test_a_rebuilt_network_is_described_the_same(made):
    network, signature = made
    structure = describe(network, signature.example(2))
    assert json.loads(json.dumps(structure)) == structure
    again = describe(rebuild(structure))
    constants = {name for name, part in structure["parts"].items() if part["type"] == "constant"}
    assert {k: v for k, v in again["parts"].items() if k not in constants} == {
        k: v for k, v in structure["parts"].items() if k not in constants
    }
    assert len(again["nodes"]) == len(structure["nodes"])
    assert again["tied"] == structure["tied"]


def test_a_copy_keeps_names_order_and_mode():
    network = Bare()
    twin = rebuild(describe(network))
    twin.train()
    second = copy.deepcopy(twin)
    same(twin, second)
    assert list(second.state_dict()) == list(network.state_dict())  # the layer never called is there
    assert second.training
    assert second.two.weight is second.one.weight
    assert second.again is second.one
    second.one.weight.data.zero_()
    assert twin.one.weight.abs().sum() > 0


def test_dropout_follows_the_mode():
    torch.manual_seed(0)
    twin = rebuild(describe(Dropping()))
    inputs = torch.randn(4, 3, 2, 2)
    twin.eval()
    assert torch.equal(twin(inputs), twin(inputs))
    twin.train()
    assert not torch.equal(twin(inputs), twin(inputs))


def test_a_network_of_torchvision():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    network = models.resnet18(num_classes=5, weights=None)
    structure = describe(network, (torch.randn(2, 3, 32, 32),))
    assert list(rebuild(structure).state_dict()) == list(network.state_dict())


LAYERS = [
    nn.Conv1d(2, 4, 3, bias=False),
    nn.Conv2d(2, 4, (3, 1), stride=(2, 1), padding="valid", dilation=2),
    nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1, groups=2),
    nn.Linear(3, 4, bias=False),
    nn.BatchNorm1d(3, affine=False),
    nn.BatchNorm2d(3, momentum=None),
    nn.BatchNorm2d(3, track_running_stats=False),
    nn.GroupNorm(2, 4, affine=False),
    nn.LayerNorm((2, 3), bias=False),
    nn.LayerNorm(3, elementwise_affine=False),
    nn.InstanceNorm2d(3, affine=True),
    nn.Embedding(5, 3, padding_idx=1),
    nn.LSTM(3, 4, num_layers=2, bias=False),
    nn.RNN(2, 3, nonlinearity="relu"),
    nn.GRU(3, 4, bidirectional=True, batch_first=True),
    nn.MultiheadAttention(8, 2, bias=False, kdim=4, vdim=6),
    nn.MultiheadAttention(8, 4, add_bias_kv=True),
    nn.MaxPool2d(3, stride=2, ceil_mode=True),
    nn.AvgPool2d(2, count_include_pad=False),
    nn.AdaptiveAvgPool2d((None, 2)),
    nn.Upsample(scale_factor=2.0),
    nn.PixelShuffle(2),
    nn.LeakyReLU(0.3, inplace=True),
    nn.Softmax(dim=1),
    nn.GELU(approximate="tanh"),
    nn.Hardtanh(-2, 2),
    nn.PReLU(3),
    nn.Dropout2d(0.1),
    nn.Flatten(2),
    nn.Unflatten(1, (2, 3)),
    nn.ZeroPad2d((1, 2, 3, 4)),
    nn.Identity(),
    nn.Threshold(0.1, 20.0),
    nn.Bilinear(2, 3, 4),
    nn.RMSNorm(4),
    nn.LocalResponseNorm(2),
    nn.SiLU(),
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_every_layer_of_torch_says_how_it_was_made(layer):
    from students.layers import parts_of

    network = nn.Sequential(layer)
    parts, _ = parts_of(network)
    assert list(parts) == ["0"]
    root = nn.Module()
    load._place(root, "0", json.loads(json.dumps(parts["0"])))
    twin = root.get_submodule("0")
    assert repr(twin) == repr(layer)
    assert [(n, t.shape) for n, t in twin.state_dict().items()] == [
        (n, t.shape) for n, t in layer.state_dict().items()
    ]


# -- what cannot be traced --------------------------------------------------------------------------------


class Deciding(nn.Module):
    def __init__(self, width: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(12, width)
        self.rest = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))
        self.gate = Gate()
        self.last = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.gate(self.rest(self.first(x.flatten(1)))))


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 1000:
            return x * 0
        return x


class TwoFaced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) if self.training else self.two(x)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(4)


class Counting(nn.Module):
    """Its code reads a list that grows with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(1)
        return x * len(self.calls)


def test_what_cannot_be_traced_says_where():
    with pytest.raises(
        Untraceable, match=r"'gate', a Gate, .*control flow.*test_structure.py, line \d+: if x.shape"
    ):
        describe(Deciding())
    with pytest.raises(Untraceable, match="in training mode this network calls one where it calls two"):
        describe(TwoFaced())
    with pytest.raises(Untraceable, match="drawn anew"):
        describe(Noisy())
    with pytest.raises(Untraceable, match="answers differently in training mode"):
        describe(Counting(), (torch.ones(2, 4),))
    with pytest.raises(Untraceable, match=r"nn\.Sequential"):
        describe(nn.Linear(2, 2))


HERE = f"{__name__}:Deciding"


def test_a_factory_and_the_layers_that_changed(tmp_path):
    package = __name__.partition(".")[0]
    student = Deciding(width=4, depth=2)
    student.first = nn.Linear(12, 3)  # cut
    student.rest[0] = nn.Linear(3, 4)
    student.rest[1] = nn.Identity()
    signature = Signature(((3, 2, 2),), tuple("abcde"))
    with pytest.raises(Untraceable, match=r"factory=\.\.\."):
        put_away(student, tmp_path, signature=signature)
    put_away(student, tmp_path, signature=signature, factory={"factory": HERE, "arguments": {"depth": 2}})
    with pytest.raises(ValueError, match=rf"load\(trust=\('{package}',\)\)"):
        load.load(tmp_path)
    twin = take_out(tmp_path, trust=[package])
    same(student, twin)
    assert type(twin) is Deciding
    inputs = signature.example(3)
    assert torch.equal(student.eval()(*inputs), twin(*inputs))

    shorter = Deciding(depth=2)
    del shorter.rest[1]
    structure = describe_factory(shorter, {"factory": HERE}, signature.example(2))
    assert structure["removed"] == ["rest.1"]
    assert structure["parts"] == {}

    student.gate = TwoFaced()
    with pytest.raises(ValueError, match=r"'gate' is a TwoFaced, but .* makes a Gate there"):
        describe_factory(student, {"factory": HERE})


def test_a_spec_says_how_its_network_is_made():
    from teachers.networks import LeNet

    network = LeNet(classes=5, widths=(2, 3, 48, 9))
    call = origin(network)
    assert call["factory"].endswith(":LeNet")
    made = describe_factory(network.build(), call)
    assert made["parts"] == {}
    assert isinstance(rebuild(made, trust=["teachers"]), type(network.build()))
    with pytest.raises(ValueError, match="give a network's spec"):
        origin(3)


# -- what must not be in a student ------------------------------------------------------------------------


def test_nothing_temporary_stays_in_a_student():
    network = Classifier()
    clean(network)
    handle = network.block.conv1.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"'block.conv1' \(Conv2d\) still has a hook"):
        describe(network)
    handle.remove()
    describe(network)
    with pytest.raises(ValueError, match="wrapper"):
        describe(nn.DataParallel(network))
    changed = copy.deepcopy(network)
    nn.utils.parametrizations.weight_norm(changed.head)
    with pytest.raises(ValueError, match=r"'head' .*parametrized"):
        describe(changed)
    changed = copy.deepcopy(network)
    changed.block.forward = lambda x: x
    with pytest.raises(ValueError, match="forward of its own"):
        describe(changed)
    mask = type("Mask", (nn.Module,), {"__module__": "compress.masks"})
    changed = copy.deepcopy(network)
    changed.mask = mask()
    with pytest.raises(ValueError, match=r"'mask' is a Mask of compress.masks"):
        describe(changed)


def test_a_cut_that_forgot_an_attribute_is_named():
    network = Classifier()
    network.head.weight = nn.Parameter(network.head.weight[:3].clone())
    with pytest.raises(
        ValueError, match=r"'head' is Linear\(.*its weight has shape \(3, 8\) where that means \(5, 8\)"
    ):
        describe(network)


# -- a structure is data ----------------------------------------------------------------------------------

NOT_CALLED = [
    "os.system",
    "torch.load",
    "torch.save",
    "torch.from_file",
    "torch.hub.load",
    "torch.compile",
    "torch.ops",
    "torch._C._jit",
    "torch.nn.functional.importlib",
    "torch.nn.functional.np",
    "torch.nn.functional.boolean_dispatch",
    "operator.attrgetter",
    "operator.methodcaller",
    "operator.call",
    "builtins.eval",
    "builtins.__import__",
    "math.__loader__",
    "subprocess.run",
    "torch.nn.functional.__builtins__",
    "torch.set_num_threads",
    "",
]


@pytest.mark.parametrize("name", NOT_CALLED)
def test_functions_from_elsewhere_are_refused(name):
    with pytest.raises(ValueError, match="may not call"):
        load.function(name)


def step(op: str, target: str, *args: object, **more: object) -> dict[str, object]:
    return {"op": op, "name": "n", "target": target, "args": list(args), **more}


X = {"node": "x"}
BAD = [
    (step("call_function", "builtins.getattr", X, "__class__"), "may not read"),
    (step("call_function", "builtins.getattr", {"dtype": "float32"}, "shape"), "may not read"),
    (step("call_method", "__reduce__", X), "may not call the method"),
    (step("call_method", "numpy", X), "may not call the method"),
    (step("call_method", "relu", 3), "may not call the method"),
    (step("call_method", "relu() or print", X), "may not call the method"),
    (step("call_module", 'a"); print("', X), "no attribute"),
    (step("get_attr", "__class__"), "no parameter or buffer"),
    (step("call_function", "torch.relu", X, kwargs={"a=print(1), b": 1}), "bad argument name"),
    (step("call_function", "torch.relu", {"node": "later"}), "later"),
    (step("call_function", "torch.relu", {"import": "os"}), "may not hold"),
    (step("call_function", "torch.zeros", {"dtype": "load"}), "is no dtype"),
    (step("placeholder", "x=print(1)"), "no name of an input"),
    (step("call_anything", "x", X), "no step"),
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=lambda value: str(value)[:60])
def test_a_structure_cannot_do_more_than_arithmetic(bad, message):
    nodes = [
        {"op": "placeholder", "name": "x", "target": "x"},
        bad,
        {"op": "output", "name": "output", "target": "output", "args": [X]},
    ]
    with pytest.raises(ValueError, match=message):
        rebuild({"form": "graph", "parts": {}, "nodes": nodes, "tied": {}, "channels_last": []})


@pytest.mark.parametrize(
    "kind", ["os.system", "torch.nn.Module.apply", "torch.nn.functional", "torch.optim.SGD"]
)
def test_layers_come_from_torch_alone(kind):
    with pytest.raises(ValueError, match=r"only layers of torch.nn"):
        rebuild({"form": "graph", "parts": {"a": {"type": kind}}, "nodes": [], "tied": {}})


def test_names_are_names():
    with pytest.raises(ValueError, match="is no name of a module"):
        rebuild({"form": "graph", "parts": {'a"': {"type": "torch.nn.ReLU"}}, "nodes": [], "tied": {}})
