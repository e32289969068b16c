"""A front for a network that was taught on other inputs: a task's images in the size, channels and scale it knows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from teachers.signature import Signature

LUMA = (0.299, 0.587, 0.114)
"""how image files become grey: ITU-R 601"""


class Adapt(nn.Module):
    """Images as one task normalises them, as another does: scale, channels, size, scale; nothing in it is learned.

    given, wanted  signatures of the task that feeds it and of the network behind it
    Raises ValueError where one cannot be made of the other: only sizes, and grey and colour, are brought over.
    """

    def __init__(self, given: Signature, wanted: Signature) -> None:
        super().__init__()
        shapes = (*given.inputs, *wanted.inputs)
        if len(shapes) != 2 or any(len(shape) != 3 or shape[0] not in (1, 3) for shape in shapes):
            raise ValueError(
                f"inputs of {given.inputs} cannot be made inputs of {wanted.inputs}: only grey and colour images are "
                "brought from one shape to another"
            )
        (channels, *size), (others, *other_size) = shapes
        self.channels, self.others = channels, others
        self.size = tuple(other_size) if size != other_size else None
        # x * std + mean undoes one normalisation; (x - mean) / std, as x * scale + shift, is the other.
        off_scale, off_shift = (torch.tensor(row) for row in _scale(given, channels))
        std, mean = (torch.tensor(row) for row in _scale(wanted, others))
        self.off_scale = nn.Buffer(off_scale[:, None, None])
        self.off_shift = nn.Buffer(off_shift[:, None, None])
        self.on_scale = nn.Buffer((1 / std)[:, None, None])
        self.on_shift = nn.Buffer((-mean / std)[:, None, None])
        self.luma = nn.Buffer(torch.tensor(LUMA)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (n, *given) to (n, *wanted)."""
        x = x * self.off_scale + self.off_shift
        if self.channels < self.others:
            x = torch.cat([x, x, x], 1)
        elif self.channels > self.others:
            x = (x * self.luma).sum(1, keepdim=True)
        if self.size is not None:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=True)
        return x * self.on_scale + self.on_shift


def _scale(signature: Signature, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Deviation and mean by which a signature's images were normalised."""
    return signature.std or (1.0,) * channels, signature.mean or (0.0,) * channels
