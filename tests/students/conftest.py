"""What the tests of surgery share: weights that bite, masks with zeros, and the comparison they are all about."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from reports.profile import macs
from students.surgery import Alive, Anatomy, SoftMasks

Compare = Callable[..., nn.Module]


@pytest.fixture(scope="session")
def stirred() -> Callable[[nn.Module], nn.Module]:
    """A network whose norms are no identities: statistics, scale and shift drawn at random; in eval mode."""

    def stir(network: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        for module in network.modules():
            if isinstance(module, _NormBase | nn.GroupNorm | nn.LayerNorm):
                if module.weight is not None:
                    module.weight.data.uniform_(0.5, 1.5, generator=generator)
                    module.bias.data.normal_(0, 0.3, generator=generator)
                if getattr(module, "running_mean", None) is not None:
                    module.running_mean.normal_(0, 0.3, generator=generator)
                    module.running_var.uniform_(0.5, 1.5, generator=generator)
        return network.eval()

    return stir


def draw(anatomy: Anatomy, seed: int, share: float = 0.4) -> tuple[Alive, Tensor]:
    """Which units live, never a layer without one, and their masks: random values above 0 there, 0 elsewhere."""
    rng = np.random.default_rng(seed)
    alive = (rng.random(anatomy.size) >= share) | ~anatomy.movable()
    alive = anatomy.rescue(alive, rng.random(anatomy.size))
    values = torch.from_numpy(np.where(alive, rng.uniform(0.3, 1.7, anatomy.size), 0.0)).float()
    values[torch.from_numpy(~anatomy.movable())] = 1.0
    return alive, values


@pytest.fixture(scope="session")
def same_when_cut() -> Compare:
    """Cut == masked for random masks, and the cost foretold == the cost counted; gives the last cut network."""

    def compare(
        network: nn.Module,
        inputs: tuple[Tensor, ...],
        anatomy: Anatomy,
        seeds: Sequence[int] = (0, 1),
        bites: bool = True,
    ) -> nn.Module:
        for seed in seeds:
            alive, values = draw(anatomy, seed)
            student = copy.deepcopy(network)
            masks = SoftMasks(anatomy, student)
            with torch.no_grad():
                masks.values.copy_(values)
                masked = masks(*inputs)
                masks.fold()
                small = anatomy.cut(student, alive)
                answer = small(*inputs)
                plain = network(*inputs)
            assert bool((masks.values == 1).all())
            assert not bites or not torch.allclose(masked, plain, rtol=1e-3)  # the masks did something
            gap = (answer - masked).abs().max() / masked.abs().max()
            assert gap <= 1e-5, f"cut and masked differ by {gap:.1e}"
            assert anatomy.cost(alive) == macs(small, inputs)
        return small

    return compare
