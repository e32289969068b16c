"""Networks that live only while a method runs."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor, nn

from compress.columns import Category, Number, fit
from compress.losses import fine
from teachers.signature import Signature

Output = Literal["pixels", "published"]


class Discriminator(nn.Module):
    """Tells a teacher's logits from a student's: K -> 128 -> 256 -> 128 -> 1, LeakyReLU(0.2) between the layers.

    Takes logits (n, K), gives one logit per sample (n, 1): the sigmoid belongs to the loss. The first layer sees
    logits divided by the teacher's spread (`calibrate`), so that its scale does not depend on K or on the teacher.

    official=True is the released form, an affine map with a sigmoid inside, kept to compare with: it sees only a
    shift along one direction. Source: Lin et al. 2019, and its code.
    """

    spread: Tensor

    def __init__(self, classes: int, *, official: bool = False) -> None:
        super().__init__()
        self.official = official
        self.register_buffer("spread", torch.ones(()))
        widths = (classes, 128, 256, 128, 1)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            # N(0, 0.01) leaves outputs at 0.5 +- 0.0002 for long; He's scale lets the game begin at once.
            if official:
                nn.init.normal_(layer.weight, std=0.01)
            else:
                nn.init.kaiming_normal_(layer.weight, a=0.2)
            nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def calibrate(self, logits: Tensor) -> None:
        """Take the spread of a teacher's logits as the unit of the input."""
        self.spread.fill_(1.0 if self.official else max(logits.float().std().item(), 1e-6))

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (n, K) -> (n, 1)."""
        x = logits.to(self.spread.dtype) / self.spread
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if not self.official and number < len(self.layers) - 1:
                x = nn.functional.leaky_relu(x, 0.2)
        return torch.sigmoid(x) if self.official else x


class Generator(nn.Module):
    """Draws images of (channels, height, width) from latents z ~ N(0, I), (n, latent).

    Small images, height and width multiples of 4 (and not both of 64 and more): a linear layer to 2 * width channels
    at a quarter of the size, then twice nearest-neighbour doubling, 3x3 convolution, batch norm, LeakyReLU(0.2), and
    a 3x3 convolution to the image. Larger ones, multiples of 16: DCGAN's four transposed 4x4 convolutions from
    8 * width channels at a sixteenth of the size, weights N(0, 0.02).

    output  "pixels": a sigmoid, then the teacher's own normalisation (x - mean) / std, so that it is only asked
            about pixels that an image can have; "published": tanh, and for small images a batch norm without
            weights, which holds every batch at mean 0 and variance 1

    Raises ValueError for sizes that it cannot make, and for "pixels" without a known normalisation.
    Source: Fang et al. 2019 (DFAD), and Fang et al. 2021 (CMI) for "pixels".
    """

    mean: Tensor
    std: Tensor

    def __init__(self, signature: Signature, latent: int, width: int, output: Output | None = None) -> None:
        super().__init__()
        channels, high, wide = _image(signature)
        large = min(high, wide) >= 64
        step = 16 if large else 4
        if high % step or wide % step:
            near = [max(step, round(side / step) * step) for side in (high, wide)]
            raise ValueError(
                f"the generator makes images whose height and width are multiples of {step} at this size, not "
                f"{high}x{wide}: set size to {near[0]}x{near[1]} where the networks take that, too"
            )
        known = signature.mean is not None and signature.std is not None
        self.latent, self.output = latent, output or ("pixels" if known else "published")
        if self.output == "pixels" and not known:
            raise ValueError(
                "the generator is to make pixels, but the teacher's signature has no mean and std: give the task "
                "its normalisation, or take output='published', which assumes mean 0 and variance 1"
            )
        self.start = (high // step, wide // step)
        wanted = signature if known else Signature(signature.inputs, (), (0.0,) * channels, (1.0,) * channels)
        for name, values in (("mean", wanted.mean), ("std", wanted.std)):
            self.register_buffer(name, torch.tensor(values).view(1, channels, 1, 1))
        first = (8 if large else 2) * width
        self.lift = nn.Linear(latent, first * self.start[0] * self.start[1])
        self.body = _large(width) if large else _small(width)
        self.head = nn.Conv2d(width, channels, 3, padding=1)
        self.even = (
            nn.BatchNorm2d(channels, affine=False) if not large and self.output == "published" else None
        )
        if large:
            for part in self.modules():
                if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.normal_(part.weight, std=0.02)
                    if part.bias is not None:
                        nn.init.zeros_(part.bias)
                elif isinstance(part, nn.BatchNorm2d) and part.affine:
                    nn.init.normal_(part.weight, 1.0, 0.02)

    def forward(self, z: Tensor) -> Tensor:
        """Latents (n, latent) -> images (n, channels, height, width), as the teacher takes them."""
        x = self.lift(z).view(len(z), -1, *self.start)
        # Autocast may hand out bf16: what a network is asked about stays in fp32.
        x = fine(self.head(self.body(x)))
        if self.output == "pixels":
            return (torch.sigmoid(x) - self.mean) / self.std
        x = torch.tanh(x)
        return x if self.even is None else self.even(x)

    def pixels(self, images: Tensor) -> Tensor:
        """Images back in [0, 1], to look at: (n, channels, height, width)."""
        if self.output == "published" and self.even is None:
            return (images.detach().float() + 1) / 2
        return (images.detach().float() * self.std + self.mean).clamp(0, 1)

    @torch.no_grad()
    def revive(self) -> None:
        """Draw the first layer anew: what a collapsed generator makes of its latents is all alike."""
        self.lift.reset_parameters()


class Rows(nn.Module):
    """Draws rows of a table from latents z ~ N(0, I): latent -> 128 -> 128 -> one number or more a column.

    Between the layers batch norm and LeakyReLU(0.2). Numbers lie between their bounds (a sigmoid), whole ones are
    rounded with the slope of what was not; categories are hard Gumbel-softmax samples at temperature 0.5, with the
    slope of the soft ones. Without columns a batch norm without weights holds every batch at mean 0 and variance 1,
    which is all that can be assumed.

    Raises ValueError where the columns are not what the teacher takes.
    """

    def __init__(
        self, signature: Signature, latent: int, columns: tuple[Number | Category, ...] = ()
    ) -> None:
        super().__init__()
        ((count,),) = signature.inputs
        self.latent, self.columns = latent, columns
        if columns:
            fit(columns, signature.inputs)
        self.lift = nn.Linear(latent, 128)
        self.body = nn.Sequential(
            nn.BatchNorm1d(128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.BatchNorm1d(128), nn.LeakyReLU(0.2),
            nn.Linear(128, count),
        )  # fmt: skip
        self.even = None if columns else nn.BatchNorm1d(count, affine=False)

    def forward(self, z: Tensor) -> Tensor:
        """Latents (n, latent) -> rows (n, inputs), as the teacher takes them."""
        x = fine(self.body(self.lift(z)))
        if self.even is not None:
            return self.even(x)  # type: ignore[no-any-return]
        sizes = [column.size if isinstance(column, Category) else 1 for column in self.columns]
        parts = []
        for column, part in zip(self.columns, x.split(sizes, 1), strict=True):
            if isinstance(column, Number):
                parts.append(column.of(torch.sigmoid(part)))
            else:
                parts.append(nn.functional.gumbel_softmax(part, tau=0.5, hard=True))
        return torch.cat(parts, 1)

    @torch.no_grad()
    def revive(self) -> None:
        """Draw the first layer anew: what a collapsed generator makes of its latents is all alike."""
        self.lift.reset_parameters()


def drawer(
    signature: Signature,
    latent: int,
    width: int,
    output: Output | None,
    columns: tuple[Number | Category, ...],
) -> Generator | Rows:
    """The generator for what a teacher takes: rows for one input of one dimension, images otherwise."""
    if len(signature.inputs) == 1 and len(signature.inputs[0]) == 1:
        return Rows(signature, latent, columns)
    if columns:
        fit(columns, signature.inputs)  # which says that they do not
    return Generator(signature, latent, width, output)


def _image(signature: Signature) -> tuple[int, int, int]:
    """Channels, height and width of the only input. Raises ValueError where that is no image."""
    if len(signature.inputs) != 1 or len(signature.inputs[0]) != 3:
        raise ValueError(
            f"an image generator makes one input of (channels, height, width), but the teacher takes "
            f"{', '.join(map(str, signature.inputs)) or 'nothing'}"
        )
    channels, high, wide = signature.inputs[0]
    return channels, high, wide


def _small(width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.BatchNorm2d(2 * width)]
    for outs in (2 * width, width):
        layers += [
            nn.Upsample(scale_factor=2), nn.Conv2d(2 * width, outs, 3, padding=1), nn.BatchNorm2d(outs),
            nn.LeakyReLU(0.2),
        ]  # fmt: skip
    return nn.Sequential(*layers)


def _large(width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.BatchNorm2d(8 * width)]
    for ins, outs in itertools.pairwise((8 * width, 4 * width, 2 * width, width, width)):
        layers += [
            nn.ConvTranspose2d(ins, outs, 4, 2, 1, bias=False), nn.BatchNorm2d(outs), nn.LeakyReLU(0.2)
        ]  # fmt: skip
    return nn.Sequential(*layers)
