"""What stages share that draw inputs from a generator: its sizes, and the latents it is given."""

from __future__ import annotations

from dataclasses import KW_ONLY, replace
from typing import Annotated

import torch
from torch import Tensor

from compress.adversaries import Generator, Output, Rows, drawer
from compress.columns import Category, Number
from compress.session import Session
from compress.stage import Stage
from teachers.signature import Signature
from teachers.spec import Field, spec


@spec
class Drawing(Stage):
    """A stage with a generator."""

    _: KW_ONLY
    rounds: Annotated[int, Field(ge=1)] = 50
    """generator steps an epoch"""
    batch: Annotated[int, Field(ge=2)] = 128
    """images a step"""
    latent: Annotated[int, Field(ge=1)] = 100
    """numbers that an image is drawn from"""
    width: Annotated[int, Field(ge=1)] = 32
    """channels of the generator's last layer but one"""
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """height and width of the images, for networks that take any size; None: the teacher's own"""
    output: Output | None = None
    """of the generator, see `adversaries.Generator`; None: pixels where the teacher's normalisation is known"""
    columns: tuple[Number | Category, ...] = ()
    """for a teacher that takes rows of numbers: what they may be; without, mean 0 and variance 1 are assumed"""

    def drawn(self, signature: Signature) -> Signature:
        """What a teacher takes, with images of the size that is drawn. Raises ValueError where it takes no images."""
        if self.size is None:
            return signature
        if len(signature.inputs) != 1 or len(signature.inputs[0]) != 3:
            raise ValueError(
                f"size is of images, but the teacher takes {', '.join(map(str, signature.inputs))}: leave it out"
            )
        return replace(signature, inputs=((signature.inputs[0][0], *self.size),))

    def generator(self, signature: Signature) -> Generator | Rows:
        """A fresh one, for what a teacher takes."""
        return drawer(self.drawn(signature), self.latent, self.width, self.output, self.columns)

    def latents(self, session: Session, count: int | None = None) -> Tensor:
        """(count or batch, latent) numbers from N(0, 1), by the session's own generator of random numbers."""
        drawn = torch.randn((count or self.batch, self.latent), generator=session.generator)
        return drawn.to(session.device)
