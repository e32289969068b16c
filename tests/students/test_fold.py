import copy

import pytest
import torch
from torch import Tensor, fx, nn

from students.fold import folded, swift
from teachers.networks import VGG, DeepLab, DenseNet, DigitsCNN, GoogLeNet, LeNet5, Network, ResNet

IMAGES = (2, 3, 32, 32)


def norms(network: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) for m in network.modules())


def alive(network: nn.Module, *shape: int) -> nn.Module:
    """Norms that do something: random statistics and affine parameters."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            for tensor in (module.running_mean, module.bias):
                if tensor is not None:
                    nn.init.normal_(tensor, std=0.3)
            for tensor in (module.running_var, module.weight):
                if tensor is not None:
                    nn.init.uniform_(tensor, 0.5, 1.5)
    return network.double().eval()


def same(network: nn.Module, *shape: int) -> nn.Module:
    """The folded network, after a check that it answers alike and that the original is as it was."""
    x = torch.randn(*shape, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = folded(network)
    with torch.no_grad():
        torch.testing.assert_close(result(x), network.eval()(x), rtol=1e-9, atol=1e-9)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    return result


@pytest.mark.parametrize(
    ("network", "shape", "left"),
    [
        (ResNet(depth=20), IMAGES, 0),
        (ResNet(depth=20, shortcut="B"), IMAGES, 0),
        (GoogLeNet(), IMAGES, 0),
        (VGG(), IMAGES, 1),  # behind the linear layer
        (DigitsCNN(), (2, 1, 8, 8), 0),
        (LeNet5(), (2, 1, 28, 28), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_networks_answer_alike_without_their_norms(network, shape, left) -> None:
    assert norms(same(alive(network.build()), *shape)) == left


def test_norms_before_their_convolution_stay() -> None:
    whole = alive(DenseNet().build())
    assert norms(same(whole, *IMAGES)) == norms(whole)


class Twice(nn.Module):
    """A convolution that two norms share, and one whose output is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.read = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[1](self.shared(self.norms[0](self.shared(x))))
        y = self.read(x)
        return (y + self.norms[2](y)).mean((2, 3))


def test_what_is_called_or_read_twice_is_left_alone() -> None:
    assert norms(same(alive(Twice()), *IMAGES)) == 3


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 6, (3, 1), stride=2, padding="valid", groups=3, bias=True),
        nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect", dilation=2),
    ],
    ids=["grouped", "reflecting"],
)
@pytest.mark.parametrize("affine", [True, False])
def test_every_kind_of_convolution(layer, affine) -> None:
    network = nn.Sequential(copy.deepcopy(layer), nn.BatchNorm2d(6, affine=affine), nn.ReLU(), nn.Flatten())
    assert norms(same(alive(network), *IMAGES)) == 0


def test_transposed_convolutions_keep_their_norm() -> None:
    network = nn.Sequential(nn.ConvTranspose2d(3, 3, 3, groups=3), nn.BatchNorm2d(3), nn.Flatten())
    assert norms(same(alive(network), *IMAGES)) == 1


def test_a_norm_without_running_statistics_stays() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, track_running_stats=False), nn.Flatten())
    assert norms(same(alive(network), *IMAGES)) == 1


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) if x.sum() > -1e9 else x


def test_what_cannot_be_traced_comes_back_as_it_is() -> None:
    assert norms(same(alive(Branching()), *IMAGES)) == 1


class WithConstant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * torch.tensor([2.0], dtype=torch.float64)


def test_tensors_made_in_the_code_come_along() -> None:
    assert norms(same(alive(WithConstant()), *IMAGES)) == 0


@pytest.mark.parametrize(
    "network", [ResNet(), ResNet(shortcut="B"), DigitsCNN(), DeepLab(widths=(4, 4, 4, 4), head=4)], ids=str
)
def test_swift_answers_to_the_bit_and_leaves_its_input_alone(network: Network) -> None:
    torch.manual_seed(0)
    whole = network.build()
    images = torch.randn(3, 1 if isinstance(network, DigitsCNN) else 3, 16, 16)
    whole.train()(images)
    fast, plain, before = swift(whole, (images,)), folded(whole), images.clone()
    with torch.no_grad():
        first = fast(images)
        assert torch.equal(first, plain(images))
        assert torch.equal(fast(images), first)
    assert torch.equal(images, before)
    assert isinstance(fast, fx.GraphModule)
    assert any(n.kwargs.get("inplace") or n.target is Tensor.add_ for n in fast.graph.nodes), (
        "written in place"
    )


def test_swift_keeps_out_of_sums_that_grow() -> None:
    class Grows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = nn.Conv2d(1, 2, 4), nn.Conv2d(1, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.small(x) + self.large(x))

    whole, images = Grows(), torch.randn(2, 1, 4, 4)
    with torch.no_grad():
        assert torch.equal(swift(whole, (images,))(images), folded(whole)(images))
