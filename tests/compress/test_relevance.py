"""Epsilon-LRP: equal to gradient x input for a tiny epsilon, and to the rule written out for a large one."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from compress.attribution import EMBEDDING, attribution_maps
from compress.probe import Probe
from teachers.networks import DenseNet, DigitsCNN, ResNet
from teachers.networks.network import Network


def network(spec: Network) -> nn.Module:
    torch.manual_seed(0)
    made = spec.build().double().eval()
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.3, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(part.bias, -0.3, 0.3)
    return made


def probe(*shape: int) -> Probe:
    return Probe(torch.rand((3, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64))


CASES = [
    (DigitsCNN(classes=3, widths=(4, 6, 8)), (1, 8, 8), (EMBEDDING, "conv2", "bn3", "linear")),
    (ResNet(depth=20), (3, 12, 12), (EMBEDDING, "layer1.0", "layer2.0.conv1")),
    (DenseNet(), (3, 8, 8), (EMBEDDING,)),
]


def twin(made: nn.Module, inputs: Tensor, layer: str, epsilon: float) -> Tensor:
    """The rule as a gradient: at every layer with weights it is multiplied by z / (z + epsilon sign z).

    With R = x g throughout, R_in = x W^T (R_out / (z + epsilon sign z)) is g_in = W^T (g_out z / (z + epsilon sign z)).
    """

    def hook(_: nn.Module, __: Any, z: Tensor) -> None:
        sign = torch.where(z >= 0, 1.0, -1.0).to(z)
        z.register_hook(lambda grad, z=z.detach(), sign=sign: grad * z / (z + epsilon * sign))

    found: list[Tensor] = []
    weighted = [part for part in made.modules() if isinstance(part, nn.Linear | _ConvNd | _BatchNorm)]
    handles = [part.register_forward_hook(hook) for part in weighted]
    if layer == EMBEDDING:
        handles.append(weighted[-1].register_forward_pre_hook(lambda _, args: found.append(args[0])))
    else:
        handles.append(made.get_submodule(layer).register_forward_hook(lambda _, __, out: found.append(out)))
    x = inputs.clone().requires_grad_()
    made(x)
    found[0].flatten(1).norm(dim=1).sum().backward()
    for handle in handles:
        handle.remove()
    assert x.grad is not None
    return (x.grad * x).detach().flatten(1)


@pytest.mark.parametrize(("spec", "shape", "layers"), CASES, ids=["functions", "residual", "dense"])
def test_a_tiny_epsilon_is_gradient_times_input(spec: Any, shape: Any, layers: Any) -> None:
    made = network(spec)
    plain = attribution_maps(made, probe(*shape), layers)
    lrp = attribution_maps(made, probe(*shape), layers, attribution="lrp", epsilon=1e-11)
    for layer in layers:
        size = plain[layer].maps.abs().max()
        torch.testing.assert_close(lrp[layer].maps / size, plain[layer].maps / size, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("spec", "shape", "layers"), CASES[:2], ids=["functions", "residual"])
@pytest.mark.parametrize("epsilon", [0.01, 0.5])
def test_a_large_epsilon_is_the_rule_written_out(spec: Any, shape: Any, layers: Any, epsilon: float) -> None:
    made = network(spec)
    lrp = attribution_maps(made, probe(*shape), layers, attribution="lrp", epsilon=epsilon)
    plain = attribution_maps(made, probe(*shape), layers)
    for layer in layers:
        want = twin(made, probe(*shape).images, layer, epsilon)
        torch.testing.assert_close(lrp[layer].maps, want, atol=1e-6 * float(want.abs().max()), rtol=1e-4)
        assert not torch.allclose(plain[layer].maps, want, rtol=1e-2)


def test_the_network_stays_as_it_was() -> None:
    made = network(DigitsCNN(classes=3))
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    words = {name: set(vars(part)) for name, part in made.named_modules()}
    attribution_maps(made, probe(1, 8, 8), attribution="lrp")
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state_dict().items())
    assert {name: set(vars(part)) for name, part in made.named_modules()} == words


class Soft(nn.Module):
    """Ends in a nonlinearity for which there is no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.softplus(self.first(x.flatten(1))))


class Twice(Soft):
    """Calls a layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.inner(F.relu(self.inner(self.first(x.flatten(1)))))))


class Branches(Soft):
    """Decides by its input."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.last(self.first(x.flatten(1)))
        return self.last(self.first(-x.flatten(1)))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Soft, "'net' goes through softplus, of which LRP's rules do not say"),
        (Twice, "'net' calls one of its layers more than once, which LRP cannot follow"),
        (Branches, "'net' cannot be traced, which LRP needs.*use gradient_x_input"),
    ],
)
def test_what_lrp_cannot_follow(kind: type[nn.Module], said: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=said):
        attribution_maps(kind().double(), probe(1, 8, 8), name="net", attribution="lrp")
