"""Features of several networks brought into one space: networks that live only while a student learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.losses import fine


def resized(feature: Tensor, size: Sequence[int]) -> Tensor:
    """A feature on another grid: averaged where it gets smaller, bilinear where it grows; (n, C, ...) to (n, C, *size).

    A grid and no grid: the mean over places, or the same everywhere.
    """
    if tuple(feature.shape[2:]) == tuple(size):
        return feature
    if not size:
        return feature.flatten(2).mean(2)
    if feature.dim() == 2:
        return feature[:, :, None, None].expand(-1, -1, *size)
    if all(new <= old for new, old in zip(size, feature.shape[2:], strict=True)):
        return F.adaptive_avg_pool2d(feature, list(size))  # type: ignore[arg-type]
    return F.interpolate(feature, tuple(size), mode="bilinear", align_corners=False)


def pointwise(inputs: int, outputs: int, grid: bool, bias: bool = True) -> nn.Module:
    """One linear map for every place: a 1x1 convolution where there is a grid."""
    return nn.Conv2d(inputs, outputs, 1, bias=bias) if grid else nn.Linear(inputs, outputs, bias=bias)


def norm(channels: int, grid: bool, *, affine: bool = True) -> nn.Module:
    """Batch norm."""
    kind = nn.BatchNorm2d if grid else nn.BatchNorm1d
    return kind(channels, affine=affine)


class Codes(nn.Module):
    """Teachers' features of one layer, laid side by side and coded into as many channels as the student has there.

        R = norm( E [F_1; ...; F_M] ),   [F^_1; ...; F^_M] = D R ~ the teachers' features, each channel normalised

    The norm has no weights: without it the scale of R, which D can undo, would weigh the student's loss at will.
    Source: Shen et al. 2019 (AAAI), feature amalgamation.
    """

    def __init__(self, widths: Sequence[int], channels: int, grid: bool) -> None:
        super().__init__()
        total = sum(widths)
        self.even = norm(total, grid, affine=False)
        self.encode = pointwise(total, channels, grid)
        self.unit = norm(channels, grid, affine=False)
        self.decode = pointwise(channels, total, grid)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """R, and the mean squared error of the reconstruction; features (n, C_m, ...) on one grid."""
        wanted = self.even(torch.cat(list(features), 1))
        code = self.unit(self.encode(wanted))
        return code, fine(self.decode(code) - wanted).square().mean()


class Residual(nn.Module):
    """relu( x + norm(W relu(norm(W x))) ), every place by itself or, on a grid, with its neighbours."""

    def __init__(self, channels: int, grid: bool) -> None:
        super().__init__()

        def layer() -> nn.Module:
            return (
                nn.Conv2d(channels, channels, 3, padding=1, bias=False)
                if grid
                else nn.Linear(channels, channels)
            )

        self.body = nn.Sequential(layer(), norm(channels, grid), nn.ReLU(), layer(), norm(channels, grid))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (n, C, ...) to the same."""
        return F.relu(x + self.body(x))


class CommonSpace(nn.Module):
    """Where features of student and teachers are compared: an aligner each, then one extractor for all.

        h_m = E(align_m F_m),  h_S = E(align_S F_S),  F^_m = decode_m h_m

    Teachers' features are normalised per channel first. What holds E from becoming constant is the reconstruction.
    Source: Luo et al. 2019, common feature learning.
    """

    def __init__(self, student: int, teachers: Sequence[int], width: int, grid: bool) -> None:
        super().__init__()

        def aligner(channels: int) -> nn.Module:
            return nn.Sequential(pointwise(channels, width, grid, bias=False), norm(width, grid), nn.ReLU())

        self.of_student = aligner(student)
        self.even = nn.ModuleList(norm(channels, grid, affine=False) for channels in teachers)
        self.of_teachers = nn.ModuleList(aligner(channels) for channels in teachers)
        self.extract = nn.Sequential(Residual(width, grid), Residual(width, grid))
        self.decode = nn.ModuleList(
            nn.Sequential(
                pointwise(width, channels, grid, bias=False), norm(channels, grid), nn.ReLU(),
                pointwise(channels, channels, grid),
            )
            for channels in teachers
        )  # fmt: skip

    def forward(
        self, student: Tensor, teachers: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """h_S, the h_m, and the mean squared error of each reconstruction; features on one grid."""
        mine = self.extract(self.of_student(student))
        theirs, losses = [], []
        for feature, even, align, decode in zip(
            teachers, self.even, self.of_teachers, self.decode, strict=True
        ):
            wanted = even(feature)
            theirs.append(self.extract(align(wanted)))
            losses.append(fine(decode(theirs[-1]) - wanted).square().mean())
        return mine, theirs, losses
