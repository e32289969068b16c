"""Attribution maps: exact where they can be known, per layer what one layer alone gives, and nothing left behind."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.attribution import EMBEDDING, attribution_maps, cosines, embeddings
from compress.probe import Preprocess, Probe
from teachers.networks import DigitsCNN, ResNet


@pytest.fixture
def probe() -> Probe:
    return Probe(torch.rand((7, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def digits(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = DigitsCNN(classes=3, widths=(4, 6, 8)).build().double()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.3, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(part.bias, -0.3, 0.3)
    return network


def test_of_a_linear_map_it_is_weight_times_input(probe: Probe) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 1, bias=False)).double()
    weight = linear[1].weight[0]
    made = attribution_maps(linear, probe, ["1"], scalar="sum")["1"]
    torch.testing.assert_close(made.maps, weight.detach() * probe.images.flatten(1))
    norm = attribution_maps(linear, probe, ["1"])["1"]
    torch.testing.assert_close(norm.maps, made.maps * made.embeddings.double().sign())
    saliency = attribution_maps(linear, probe, ["1"], attribution="saliency", scalar="sum")["1"]
    torch.testing.assert_close(saliency.maps, weight.detach().abs().expand(7, -1))


@pytest.mark.parametrize("scalar", ["norm", "squared_norm", "sum", "mean"])
def test_one_image_at_a_time_says_the_same(scalar: Any, probe: Probe) -> None:
    """The slow twin: an image, a backward pass, no batch; and per layer a network that ends there."""
    network = digits().eval()

    def upto(layer: str, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        handle = network.get_submodule(layer).register_forward_hook(lambda _, __, out: found.append(out))
        network(x)
        handle.remove()
        return found[0]

    layers = ("conv1", "bn2", "conv3", "linear")
    made = attribution_maps(network, probe, layers, scalar=scalar, batch=3)
    of = {
        "norm": lambda f: f.norm(), "squared_norm": lambda f: (f * f).sum(), "sum": lambda f: f.sum(),
        "mean": lambda f: f.mean(),
    }[scalar]  # fmt: skip
    for layer in layers:
        for row, image in enumerate(probe.images):
            x = image[None].clone().requires_grad_()
            of(upto(layer, x)).backward()
            assert x.grad is not None
            torch.testing.assert_close(made[layer].maps[row], (x.grad * x).detach().flatten())
            torch.testing.assert_close(made[layer].embeddings[row], upto(layer, x).detach().flatten().float())


def test_the_embedding_is_what_the_last_layer_takes_in(probe: Probe) -> None:
    network = digits()
    made = attribution_maps(network, probe)[EMBEDDING]
    assert made.embeddings.shape == (7, 8)
    torch.testing.assert_close(
        F.linear(made.embeddings.double(), network.linear.weight, network.linear.bias).detach(),
        network.eval()(probe.images).detach(), rtol=1e-5, atol=1e-6,
    )  # fmt: skip
    plain, answers = embeddings(network, probe.images)
    torch.testing.assert_close(plain.float(), made.embeddings)
    assert answers.shape == (7, 3)
    pooled, _ = embeddings(network, probe.images, "bn3", pool=2)
    assert pooled.shape == (7, 8 * 4)


def test_layers_do_not_pile_up(probe: Probe) -> None:
    """Any company of layers gives what one layer alone gives, to the bit."""
    network = digits()
    together = attribution_maps(network, probe, ["conv1", "conv2", "conv3"])
    for layer, made in together.items():
        alone = attribution_maps(network, probe, [layer])[layer]
        assert torch.equal(made.maps, alone.maps)
        assert torch.equal(made.embeddings, alone.embeddings)


def test_work_in_place_behind_a_layer_does_not_reach_it(probe: Probe) -> None:
    torch.manual_seed(0)
    first, last = nn.Conv2d(1, 4, 3).double(), nn.Linear(144, 2).double()
    inplace = nn.Sequential(first, nn.ReLU(inplace=True), nn.Flatten(), last)
    plain = nn.Sequential(first, nn.ReLU(), nn.Flatten(), last)
    one, other = (attribution_maps(network, probe, ["0", "1"]) for network in (inplace, plain))
    for layer in ("0", "1"):
        assert torch.equal(one[layer].maps, other[layer].maps)
        assert torch.equal(one[layer].embeddings, other[layer].embeddings)
    assert one["0"].embeddings.min() < 0
    assert one["1"].embeddings.min() == 0


def test_of_another_geometry(probe: Probe) -> None:
    """A network of colour images of twice the size: its maps are of the probe's pixels all the same."""
    torch.manual_seed(0)
    network = ResNet(depth=20).build().double()
    ready = Preprocess((3, 16, 16), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    made = attribution_maps(network, probe, preprocess=ready)[EMBEDDING]
    assert made.maps.shape == (7, 64)
    x = ready(probe.images).requires_grad_()
    network.eval()
    found: list[Tensor] = []
    network.linear.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    network(x)
    found[0].norm(dim=1).sum().backward()
    assert x.grad is not None
    whole = (x.grad * x).detach().sum(1, keepdim=True)
    want = F.interpolate(whole, (8, 8), mode="bilinear", antialias=True).flatten(1)
    torch.testing.assert_close(made.maps, want)


def test_reductions_and_size() -> None:
    probe = Probe(torch.rand((4, 3, 12, 10), generator=torch.Generator().manual_seed(0)))
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 80, 2))
    whole = attribution_maps(network, probe)[EMBEDDING].maps.view(4, 3, 12, 10)
    for reduction, want in (("mean_channel", whole.mean(1)), ("abs_mean_channel", whole.abs().mean(1))):
        made = attribution_maps(network, probe, reduction=reduction)[EMBEDDING].maps  # type: ignore[arg-type]
        torch.testing.assert_close(made, want.flatten(1))
    small = attribution_maps(network, probe, size=6)[EMBEDDING].maps
    torch.testing.assert_close(small, F.adaptive_avg_pool2d(whole, 6).flatten(1))


def test_large_embeddings_lie_in_a_file(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress import attribution

    whole = attribution_maps(digits(), probe, ["conv1"])["conv1"]
    made: list[int] = []
    real = attribution.np.memmap
    monkeypatch.setattr(attribution, "_MEMORY", 100)
    monkeypatch.setattr(attribution.np, "memmap", lambda *a, **k: made.append(1) or real(*a, **k))
    filed = attribution_maps(digits(), probe, ["conv1"])["conv1"]
    assert made
    assert torch.equal(whole.embeddings, filed.embeddings)


# -- nothing is left behind, and what is refused ----------------------------------------------------------


def test_the_network_stays_as_it_was(
    probe: Probe, fingerprint: Callable[[nn.Module], dict[str, Any]]
) -> None:
    network = digits().train()
    before = fingerprint(network)
    state = torch.get_rng_state()
    attribution_maps(network, probe, ["conv1", "bn3"])
    embeddings(network, probe.images)
    assert fingerprint(network) == before
    assert torch.equal(torch.get_rng_state(), state)


class Stops(nn.Module):
    """Raises in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 2, 3), nn.Linear(72, 2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        self.calls += 1
        if self.calls > 1:
            raise KeyError("an error of the network's own")
        return self.last(x.flatten(1))


def test_no_hook_outlives_an_error(probe: Probe, fingerprint: Callable[[nn.Module], dict[str, Any]]) -> None:
    network = Stops().double()
    before = fingerprint(network)
    with pytest.raises(KeyError, match="of the network's own"):
        attribution_maps(network, probe, [EMBEDDING, "first"])
    assert fingerprint(network) == before


class NoGrad(nn.Module):
    """Answers under no_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 2, 3), nn.Linear(72, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.last(self.first(x).flatten(1))


class Blind(nn.Module):
    """Its embedding is the same whatever it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.constant, self.last = nn.Parameter(torch.ones(5)), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.constant.expand(len(x), -1) + 0 * x.flatten(1)[:, :5])


class Asleep(nn.Module):
    """Has a layer that is never called, and one that gives no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.odd = nn.Linear(64, 3), nn.Linear(64, 3), Odd()

    def forward(self, x: Tensor) -> Tensor:
        self.odd(x)
        return self.used(x.flatten(1))


class Odd(nn.Module):
    """Gives words."""

    def forward(self, x: Tensor) -> Any:
        return "words"


def with_nan() -> nn.Module:
    network = digits()
    with torch.no_grad():
        network.conv2.weight[0, 0, 0, 0] = float("nan")
    return network


def quantised() -> nn.Module:
    class Rounds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last((self.first(x.flatten(1)) * 20).to(torch.int8).float() / 20)

    return Rounds()


@pytest.mark.parametrize(
    ("network", "layers", "said"),
    [
        (digits, ["conv4"], "'net' has no layer 'conv4'; did you mean 'conv"),
        (Asleep, ["unused"], "layer 'unused' of 'net' is not called when the network answers"),
        (Asleep, ["odd"], "layer 'odd' of 'net' gives a str, and no tensor"),
        (NoGrad, [EMBEDDING], "no gradient comes from the input of 'last' of 'net'.*no_grad"),
        (quantised, [EMBEDDING], "no gradient comes from the input of 'last' of 'net'.*quantised"),
        (with_nan, [EMBEDDING], "56 of the 56 features that 'net' gives at 'its embedding' are NaN"),
        (nn.ReLU, [EMBEDDING], "'net' calls no convolution and no linear layer: name the one"),
        (lambda: nn.Linear(5, 2), [EMBEDDING], r"'net' does not take inputs of \(1, 8, 8\)"),
    ],
    ids=["misspelt", "unused", "no tensor", "no grad", "quantised", "nan", "nothing", "shape"],
)
def test_what_is_refused(
    network: Callable[[], nn.Module], layers: list[str], said: str, probe: Probe
) -> None:
    made = network()
    dtype = next((p.dtype for p in made.parameters()), torch.float64)
    with pytest.raises(ValueError, match=said):
        attribution_maps(made, Probe(probe.images.to(dtype)), layers, name="net")


def test_an_embedding_that_does_not_follow_the_input_has_zero_maps(probe: Probe) -> None:
    made = attribution_maps(Blind().double(), probe)[EMBEDDING]
    assert not made.maps.any()


# -- cosines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("center", [False, True])
def test_cosines_are_those_of_scipy(center: bool) -> None:
    from scipy.spatial.distance import pdist, squareform

    rows = torch.randn((9, 30), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain = rows - rows.mean(0) if center else rows
    want = 1 - squareform(pdist(plain.numpy(), "cosine"))
    torch.testing.assert_close(cosines(rows, center, chunk=40), torch.from_numpy(want))
    rows[3] = 0
    assert cosines(rows)[3].abs().max() == 0
