"""A generator in groups that mirror a network's blocks from its end to its beginning: features first, then an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.losses import fine
from teachers.signature import Signature

Shape = tuple[int, ...]


class GroupStack(nn.Module):
    """Draws from latents (n, latent) what blocks B - 1, ..., 1 of a network would give, and an image from the last.

        F^1 = G^1(z), F^j = G^j(F^{j-1});  F^j has the shape of what block B - j gives, F^B is the image

    Groups but the last end in batch norm, and a ReLU where the network's features are never negative; the last in a
    sigmoid and the task's normalisation, so that only pixels are drawn that an image can have.

    shapes    of what blocks 1 to B - 1 give, without the batch
    positive  whether that is never negative
    Source: Ye et al., CVPR 2020.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, signature: Signature, shapes: Sequence[Shape], positive: Sequence[bool], latent: int, width: int
    ) -> None:
        super().__init__()
        (image,) = signature.inputs
        if len(image) != 3:
            raise ValueError(
                f"a stack of groups draws images (channels, height, width), and the task has {image}"
            )
        channels = image[0]
        for name, values in (
            ("mean", signature.mean or (0.0,) * channels),
            ("std", signature.std or (1.0,) * channels),
        ):
            self.register_buffer(name, torch.tensor(values).view(1, channels, 1, 1))
        self.latent = latent
        rows: list[nn.Module] = []
        before: Shape = (latent,)
        for shape, floor in zip(reversed(shapes), reversed(positive), strict=True):
            rows.append(Group(before, shape, width, end="relu" if floor else "norm"))
            before = tuple(shape)
        rows.append(Group(before, image, width, end="image"))
        self.groups = nn.ModuleList(rows)

    def forward(self, z: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Images (n, channels, height, width) as the task normalises them; block -> feature of that block's shape."""
        features: dict[int, Tensor] = {}
        x = z
        for number, group in enumerate(self.groups, 1):
            x = group(x)
            if number < len(self.groups):
                features[len(self.groups) - number] = x
        return (torch.sigmoid(fine(x)) - self.mean) / self.std, features

    def pixels(self, images: Tensor) -> Tensor:
        """Images back in [0, 1], to look at."""
        return (images.detach().float() * self.std + self.mean).clamp(0, 1)


class Group(nn.Module):
    """From one shape to the next: a linear map where places begin or end, else doubling of the size and convolutions.

    A grid that begins begins at about a quarter of its size; one that grows is enlarged (nearest) to the next one.
    """

    def __init__(self, before: Shape, after: Shape, width: int, end: str) -> None:
        super().__init__()
        self.before, self.after = tuple(before), tuple(after)
        channels = after[0]
        self.lift: nn.Module | None = None
        if len(after) == 1:
            flat = math.prod(before)
            self.body: nn.Module = nn.Sequential(
                nn.Flatten(), nn.Linear(flat, channels), nn.BatchNorm1d(channels)
            )
            self.finish: nn.Module = nn.ReLU() if end == "relu" else nn.Identity()
            return
        high, wide = after[1:]
        layers: list[nn.Module] = []
        inputs = before[0]
        if len(before) == 1:
            inputs = 2 * width
            self.start = (inputs, max(1, -(-high // 4)), max(1, -(-wide // 4)))
            self.lift = nn.Linear(before[0], math.prod(self.start))
            layers += [nn.BatchNorm2d(inputs), *_grow((-(-high // 2), -(-wide // 2)), inputs, 2 * width)]
            inputs = 2 * width
        layers += _grow((high, wide), inputs, width)
        layers.append(nn.Conv2d(width, channels, 3, padding=1))
        if end != "image":
            layers.append(nn.BatchNorm2d(channels))
        self.body = nn.Sequential(*layers)
        self.finish = nn.ReLU() if end == "relu" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (n, *before) to (n, *after)."""
        if self.lift is not None:
            x = self.lift(x).view(len(x), *self.start)
        return self.finish(self.body(x))  # type: ignore[no-any-return]


def _grow(size: tuple[int, int], inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Upsample(size=size), nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)
    ]  # fmt: skip


# -- what is asked of its images, by networks whose labels may be true each by itself ------------------------


def certainty(logits: Tensor, threshold: float = 0.5) -> Tensor:
    """BCE of every label with its own decision, [y >= threshold]; logits (n, C). Source: Ye et al. 2020, one-hot."""
    logits = fine(logits)
    return F.binary_cross_entropy_with_logits(
        logits, (logits.sigmoid() >= threshold).to(logits.dtype).detach()
    )


def unevenness(logits: Tensor) -> Tensor:
    """Minus the mean over labels of h( mean over samples of y ), h a coin's entropy: -log 2 if true half the time."""
    mean = fine(logits).sigmoid().mean(0).clamp(1e-6, 1 - 1e-6)
    return (mean * mean.log() + (1 - mean) * (1 - mean).log()).mean()


def sparsity(logits: Tensor) -> Tensor:
    """The mean of y over samples and labels: real images have few. Source: Ye et al. 2020, discrete loss."""
    return fine(logits).sigmoid().mean()


def activation(feature: Tensor) -> Tensor:
    """Minus the mean of |F|, a network's last feature: loud is what it knows. Source: Chen et al. 2019 (DAFL)."""
    return -fine(feature).abs().mean()


def dark(logits: Tensor, threshold: float = 0.5) -> float:
    """The share of samples without a single label: 1 is the degenerate best of certainty and sparsity together."""
    return float((logits.sigmoid() < threshold).all(1).double().mean())


def doubt(logits: Tensor) -> Tensor:
    """Minus the mean entropy of the softmax over log K, from -1, all labels alike, to 0."""
    log = fine(logits).log_softmax(1)
    return (log.exp() * log).sum(1).mean() / math.log(logits.shape[1])
