"""What goes into a network and what comes out: shapes, labels and normalisation, and no data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Signature:
    """The contract of a network, without the batch dimension.

    inputs  one shape per positional argument, for images ((channels, height, width),)
    labels  the names of the outputs in order; their number is the number of classes
    mean, std  per channel: an image x in [0, 1] enters the network as (x - mean) / std
    """

    inputs: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return len(self.labels)

    def example(self, batch: int = 2, *, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs, standard normal, of shape (batch, *shape) each: for tracing, counting and timing."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn((batch, *shape), generator=generator) for shape in self.inputs)
