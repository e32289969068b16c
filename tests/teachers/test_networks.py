"""Networks: published sizes, graphs that tools can read, shortcuts, and the user's own."""

import dataclasses
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from teachers.networks import (
    MLP,
    VGG,
    Autoencoder,
    Blocks,
    DeepLab,
    DenseNet,
    DigitsCNN,
    GoogLeNet,
    LeNet,
    LeNet5,
    Own,
    ResNet,
)

RGB, GREY, TINY = (3, 32, 32), (1, 28, 28), (1, 8, 8)

# Parameters and MACs counted here, and the published figures in millions where there are any.
SIZES = [
    (ResNet(depth=20), RGB, 269_722, 40_551_040, (0.27, None)),
    (ResNet(depth=20, shortcut="B"), RGB, 272_474, 40_813_184, (0.27, 40.8)),
    (ResNet(depth=56), RGB, 853_018, 125_485_696, (0.85, 125.49)),
    (ResNet(depth=110), RGB, 1_727_962, 252_887_680, (1.72, 252.89)),
    (VGG(), RGB, 14_987_722, 313_463_808, (14.98, 313.73)),
    (DenseNet(), RGB, 1_059_298, 282_917_328, (1.04, 282.92)),
    (GoogLeNet(), RGB, 6_166_250, 1_521_756_160, (6.15, 1520)),
    (LeNet5(), GREY, 61_706, 416_520, (None, None)),
    (LeNet(), GREY, 431_080, 2_293_000, (0.431, 2.293)),
    (DigitsCNN(), TINY, 56_554, 1_788_544, (None, None)),
    (Blocks(), RGB, 24_346, 2_802_304, (None, None)),
    (MLP(inputs=30, classes=10), (30,), 6_922, 6_656, (None, None)),
]
NAMES = [
    f"{type(network).__name__}{getattr(network, 'depth', '')}{getattr(network, 'shortcut', '')}"
    for network, *_ in SIZES
]
SMALL = [(network, shape) for network, shape, _, macs, _ in SIZES if macs < 1e8]


@pytest.mark.parametrize(("network", "shape", "params", "macs", "published"), SIZES, ids=NAMES)
def test_sizes_are_the_published_ones(network, shape, params, macs, published):
    module = network.build().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert module(torch.randn(1, *shape)).shape == (1, 10)
    counted = sum(parameter.numel() for parameter in module.parameters())
    assert (counted, counter.get_total_flops() // 2) == (params, macs)
    # Published figures are rounded, and some count batch norm or biases along: 2 % allows for that.
    for ours, theirs in zip((params, macs), published, strict=True):
        assert theirs is None or ours / 1e6 == pytest.approx(theirs, rel=0.02)


@pytest.mark.parametrize(("network", "shape"), [size[:2] for size in SIZES], ids=NAMES)
def test_fx_reads_the_whole_network(network, shape):
    module = network.build().eval()
    images = torch.randn(3, *shape)
    traced = torch.fx.symbolic_trace(module)
    assert not [node for node in traced.graph.nodes if node.op == "call_method" and node.target == "size"]
    with torch.no_grad():
        assert torch.equal(traced(images), module(images))


@pytest.mark.parametrize(("network", "shape"), SMALL)
def test_export_leaves_the_batch_free(network, shape):
    module = network.build().eval()
    free = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    program = torch.export.export(module, (torch.randn(3, *shape),), dynamic_shapes=free).module()
    for batch in (1, 5):
        images = torch.randn(batch, *shape)
        assert_close(program(images), module(images))


@pytest.mark.parametrize("network", [ResNet, VGG, DenseNet, GoogLeNet])
def test_classes_and_channels_are_free(network):
    module = network(classes=7, channels=1).build().eval()
    with torch.no_grad():
        assert module(torch.randn(1, 1, 32, 32)).shape == (1, 7)
        assert module(torch.randn(1, 1, 48, 40)).shape == (1, 7)


def test_deeplab_answers_every_pixel_at_any_size():
    module = DeepLab().build().eval()
    images = torch.randn(1, 3, 240, 320)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert module(images).shape == (1, 11, 240, 320)
        assert module(torch.randn(2, 3, 40, 72)).shape == (2, 11, 40, 72)
    small = DeepLab(classes=5, widths=(8, 8, 16, 16), blocks=1, head=8, rates=(1, 2, 4)).build().eval()
    assert sum(p.numel() for p in module.parameters()) == 1_653_707
    assert counter.get_total_flops() // 2 > 2_452_121_088  # the whole image, and a small one
    free = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(small, (torch.randn(3, 3, 32, 48),), dynamic_shapes=free).module()
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        assert_close(program(images), small(images))


def test_networks_are_values():
    assert ResNet(depth=56) == ResNet(depth=56) != ResNet(depth=20)
    assert hash(VGG()) == hash(VGG())
    assert Own(factory="a.b:c") == Own(factory="a.b:c", arguments={})
    for network in (DigitsCNN(), LeNet(), ResNet()):
        assert dataclasses.replace(network, classes=3).build()
    torch.manual_seed(3)
    first = DigitsCNN().build().state_dict()
    torch.manual_seed(3)
    again = DigitsCNN().build().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNet(depth=21), "20, 32, 44, 56 or 110"),
        (lambda: ResNet(classes=0), "greater than or equal to 1"),
        (lambda: ResNet(shortcut="C"), "'A' or 'B'"),
        (lambda: ResNet(dept=20), "dept"),
        (lambda: DenseNet(depth=41), "so 40 or 43"),
        (lambda: LeNet(widths=(20, 50, 700, 500)), "write 800"),
        (lambda: Own(factory="no_colon"), "pattern"),
    ],
)
def test_wrong_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wild_names_of_the_cifar_resnets():
    names = set(ResNet(depth=20).build().state_dict())
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer3.2.bn2.bias",
        "linear.bias",
    } <= names
    assert not any("shortcut" in name for name in names)
    with_convolutions = set(ResNet(depth=20, shortcut="B").build().state_dict()) - names
    assert {name.rsplit(".", 1)[0] for name in with_convolutions} == {
        f"layer{stage}.0.shortcut.{part}" for stage in (2, 3) for part in (0, 1)
    }


def test_option_a_subsamples_and_pads_on_both_sides():
    block = ResNet(depth=20).build().layer2[0].eval()
    torch.nn.init.zeros_(block.bn2.weight)  # the residual path is silent
    x = torch.randn(2, 16, 8, 8)
    expected = torch.zeros(2, 32, 4, 4)
    for channel in range(16):
        for row in range(4):
            for column in range(4):
                expected[:, channel + 8, row, column] = x[:, channel, 2 * row, 2 * column]
    assert_close(block(x), F.relu(expected))


def test_option_a_runs_where_inner_channels_are_cut():
    import torch_pruning as tp

    module = ResNet(depth=20).build().eval()
    images = torch.randn(2, 3, 32, 32)
    graph = tp.DependencyGraph().build_dependency(module, images)
    block = module.layer2[0]
    graph.get_pruning_group(block.conv1, tp.prune_conv_out_channels, list(range(20))).prune()
    assert block.conv1.out_channels == block.conv2.in_channels == 12
    assert module(images).shape == (2, 10)


def test_option_a_does_not_lean_on_the_residual_path():
    traced = torch.fx.symbolic_trace(ResNet(depth=20).build())
    pads = [node for node in traced.graph.nodes if node.target is F.pad]
    assert len(pads) == 2
    for pad, stage in zip(pads, ("layer2", "layer3"), strict=True):
        behind, seen = [pad], set()
        while behind:
            node = behind.pop()
            seen.add(str(node.target))
            behind.extend(node.all_input_nodes)
        assert not any(name.startswith(f"{stage}.0") for name in seen)


def test_the_digits_are_learned_in_seconds():
    from sklearn.datasets import load_digits

    data = load_digits()
    torch.manual_seed(0)
    images = torch.tensor((data.images / 16 - 0.305) / 0.376, dtype=torch.float32)[:, None]
    labels = torch.tensor(data.target)
    shuffled = torch.randperm(len(labels))
    train, test = shuffled[:1400], shuffled[1400:]
    module = DigitsCNN().build()
    optimizer = torch.optim.SGD(module.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6 * 21)
    for _ in range(6):
        for chosen in train[torch.randperm(1400)][: 21 * 64].split(64):
            optimizer.zero_grad()
            F.cross_entropy(module(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        right = module.eval()(images[test]).argmax(1) == labels[test]
    assert right.double().mean() > 0.98


# -- the user's own ---------------------------------------------------------------------------------------

PACKAGE = """
import torch

class Small(torch.nn.Linear):
    def __init__(self, classes=10):
        super().__init__(4, classes)

class Shelf:
    small = Small

def fails(): raise KeyError("shelf")
def text(): return "a network"
number = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "mine_for_test").mkdir()
    (tmp_path / "mine_for_test" / "__init__.py").write_text("")
    (tmp_path / "mine_for_test" / "nets.py").write_text(PACKAGE)
    (tmp_path / "mine_for_test" / "needs.py").write_text("import nobody_has_this")
    (tmp_path / "mine_for_test" / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    yield "mine_for_test"
    for name in [name for name in sys.modules if name.startswith("mine_for_test")]:
        del sys.modules[name]


def test_own_builds_what_the_factory_gives(package):
    own = Own(factory="mine_for_test.nets:Small", arguments={"classes": 3})
    assert own.build().out_features == 3
    assert own.package == package
    assert Own(factory="mine_for_test.nets:Shelf.small").build().out_features == 10


def test_own_takes_torchvision_by_path():
    module = Own(factory="torchvision.models:squeezenet1_1", arguments={"num_classes": 5}).build()
    assert module.classifier[1].out_channels == 5


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("nowhere_at_all.nets:Small", {}, "no module 'nowhere_at_all' to import.*PYTHONPATH"),
        ("mine_for_test.net:Small", {}, r"no module 'mine_for_test\.net'"),
        ("mine_for_test.needs:Small", {}, "importing mine_for_test.needs failed.*nobody_has_this"),
        ("mine_for_test.broken:Small", {}, "importing mine_for_test.broken failed: ZeroDivisionError"),
        ("mine_for_test.nets:Smal", {}, "has no 'Smal'; did you mean 'Small'"),
        ("mine_for_test.nets:fails", {}, "failed: KeyError: 'shelf'"),
        ("mine_for_test.nets:Small", {"clases": 3}, r"Small\(clases=3\) failed: TypeError.*clases"),
        ("mine_for_test.nets:text", {}, "gave a str: a network's factory returns a torch.nn.Module"),
        ("mine_for_test.nets:number", {}, "is an int, which cannot be called"),
    ],
)
def test_own_says_what_went_wrong(package, factory, arguments, message):
    with pytest.raises(ValueError, match=message):
        Own(factory=factory, arguments=arguments).build()


def test_an_autoencoder_answers_every_pixel():
    module = Autoencoder(classes=5, widths=(4, 6), channels=1).build().eval()
    assert module(torch.randn(2, 1, 8, 12)).shape == (2, 5, 8, 12)
    assert module.encoder(torch.randn(2, 1, 8, 12)).shape == (2, 6, 2, 3)
