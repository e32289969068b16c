"""The discriminator: what it can see, and in which units. The generator: what it draws."""

import pytest
import torch
from torch import Tensor

from compress.adversaries import Discriminator, Generator
from compress.losses import discriminator_loss
from teachers.signature import Signature


def draw(n: int, k: int, seed: int = 0) -> Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed))


def logit(p: Tensor) -> Tensor:
    return p.log() - (1 - p).log()


def bend(d: torch.nn.Module, official: bool) -> float:
    """How far the network departs from an affine map along random lines, relative to what it does at all."""
    d = d.double()
    a, b = 3 * draw(50, 10).double(), 3 * draw(50, 10, 1).double()

    def raw(x: Tensor) -> Tensor:
        return logit(d(x)) if official else d(x)

    with torch.no_grad():
        middle = raw((a + b) / 2)
        return ((raw(a) + raw(b)) / 2 - middle).abs().max().item() / (raw(a) - raw(b)).abs().max().item()


def test_it_is_no_affine_map() -> None:
    torch.manual_seed(0)
    assert bend(Discriminator(10), official=False) > 0.01


def test_the_official_one_is_affine_inside_its_sigmoid() -> None:
    torch.manual_seed(0)
    network = Discriminator(10, official=True)
    for layer in network.layers:  # at its own tiny init rounding would be all there is to see
        torch.nn.init.normal_(layer.weight, std=0.1)
    assert bend(network, official=True) < 1e-9
    with torch.no_grad():
        told = network(draw(50, 10).double())
    assert ((told > 0) & (told < 1)).all()


def test_the_official_init_says_a_half_to_everything() -> None:
    torch.manual_seed(0)
    network = Discriminator(10, official=True)
    with torch.no_grad():
        assert (network(5 * draw(100, 10)) - 0.5).abs().max() < 1e-3
    assert network.layers[0].weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert all((layer.bias == 0).all() for layer in network.layers)


@pytest.mark.parametrize("classes", [2, 10, 37])
@pytest.mark.parametrize("official", [True, False])
def test_shapes(classes: int, official: bool) -> None:
    network = Discriminator(classes, official=official)
    assert network(draw(5, classes)).shape == (5, 1)
    widths = [(layer.in_features, layer.out_features) for layer in network.layers]
    assert widths == [(classes, 128), (128, 256), (256, 128), (128, 1)]
    assert network(draw(5, classes).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("scale", [1e-3, 1.0, 200.0])
def test_calibrated_it_does_not_mind_the_scale_of_the_logits(scale: float) -> None:
    torch.manual_seed(0)
    network = Discriminator(10)
    logits = draw(200, 10)
    network.calibrate(logits)
    told = network(logits)
    network.calibrate(scale * logits)
    assert network.spread.item() == pytest.approx(scale * logits.std().item(), rel=1e-4)
    torch.testing.assert_close(network(scale * logits), told, rtol=1e-3, atol=1e-5)


def test_calibrating_survives_constant_logits_and_leaves_the_official_one_alone() -> None:
    network = Discriminator(3)
    network.calibrate(torch.ones(4, 3))
    assert network.spread > 0
    assert torch.isfinite(network(torch.ones(4, 3))).all()
    official = Discriminator(3, official=True)
    official.calibrate(draw(10, 3) * 9)
    assert official.spread == 1


def test_the_spread_is_kept_with_the_weights() -> None:
    network, other = Discriminator(4), Discriminator(4)
    network.calibrate(7 * draw(100, 4))
    other.load_state_dict(network.state_dict())
    logits = draw(6, 4, 3)
    assert torch.equal(other(logits), network(logits))


def test_it_tells_apart_what_an_affine_map_cannot() -> None:
    """Two distributions with one mean and different spreads: the released discriminator is blind to them."""
    losses = {}
    for official in (False, True):
        torch.manual_seed(0)
        network = Discriminator(4, official=official)
        learn = torch.optim.SGD(network.parameters(), 0.05, 0.9)
        generator = torch.Generator().manual_seed(1)
        for _ in range(150):
            real = torch.randn(128, 4, generator=generator)
            fake = 3 * torch.randn(128, 4, generator=generator)
            loss = discriminator_loss(network(real), network(fake), 0.0)
            learn.zero_grad()
            loss.backward()
            learn.step()
        losses[official] = loss.item()
    assert losses[False] < 1.0  # 1.386 is blind
    assert losses[True] > 1.37


# -- the generator ------------------------------------------------------------------------------------------


def signature(*shape: int, known: bool = True) -> Signature:
    channels = shape[0]
    return Signature((shape,), ("a", "b"), *(((0.3,) * channels, (0.2,) * channels) if known else ()))


@pytest.mark.parametrize(
    ("shape", "latent", "millions"),
    [((1, 32, 32), 100, 1.050), ((3, 32, 32), 256, 2.329), ((3, 128, 128), 256, 11.243)],
)
def test_sizes_of_the_published_generators(shape: tuple[int, ...], latent: int, millions: float) -> None:
    made = Generator(signature(*shape), latent, 64)
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(millions, abs=5e-4)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 12), (2, 32, 48), (3, 64, 96)])
@pytest.mark.parametrize("known", [True, False])
def test_images_of_every_size_with_gradients_to_all_of_it(shape: tuple[int, ...], known: bool) -> None:
    torch.manual_seed(0)
    made = Generator(signature(*shape, known=known), 6, 4)
    images = made(draw(5, 6))
    assert images.shape == (5, *shape)
    (images * torch.randn_like(images)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in made.parameters())
    pixels = made.pixels(images)
    assert pixels.min() >= 0
    assert pixels.max() <= 1 or made.even is not None


def test_pixels_are_pixels_that_an_image_can_have() -> None:
    torch.manual_seed(0)
    made = Generator(signature(3, 32, 32), 6, 4)
    with torch.no_grad():
        made.head.weight.mul_(100)  # far beyond what a sigmoid lets through
        images = made(draw(16, 6))
    assert images.min().item() >= (0 - 0.3) / 0.2 - 1e-6
    assert images.max().item() <= (1 - 0.3) / 0.2 + 1e-6
    torch.testing.assert_close(made.pixels(images) * 1.0, images * 0.2 + 0.3)


def test_the_published_form_holds_every_batch_at_mean_0_and_variance_1() -> None:
    torch.manual_seed(0)
    images = Generator(signature(3, 32, 32), 6, 4, output="published")(draw(16, 6))
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.var((0, 2, 3), correction=0), torch.ones(3), atol=1e-2, rtol=0)


def test_reviving_draws_the_first_layer_alone() -> None:
    made = Generator(signature(1, 8, 8), 6, 4)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    made.revive()
    assert {n for n, t in made.state_dict().items() if not torch.equal(before[n], t)} == {
        "lift.weight", "lift.bias",
    }  # fmt: skip
