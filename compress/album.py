"""Pictures of what a generator drew as it learned, for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reports.pictures import grid
from teachers.signature import Signature


class Album:
    """Generated images of some epochs, as bytes: by class, the surest first."""

    def __init__(self) -> None:
        self.pages: dict[str, Tensor] = {}

    @staticmethod
    def moments(epochs: int) -> set[int]:
        """Early, half-way, and the last."""
        return {0, epochs // 2, epochs - 1}

    def put(self, epoch: int, pixels: Tensor, answers: Tensor) -> None:
        """Keep up to eight images of each of the first ten classes: (classes, 8, channels, height, width), uint8.

        Where every pixel has a class, the images with the most of it.
        """
        dense = answers.dim() > 2
        sure = answers.softmax(1).flatten(2).mean(2) if dense else answers.softmax(1)
        page = torch.zeros(min(answers.shape[1], 10), 8, *pixels.shape[1:], dtype=torch.uint8)
        for label in range(len(page)):
            mine = torch.arange(len(sure)) if dense else (sure.argmax(1) == label).nonzero()[:, 0].cpu()
            mine = mine[sure[:, label].cpu()[mine].argsort(descending=True)][:8]
            page[label, : len(mine)] = (pixels.cpu()[mine] * 255).round().byte()
        self.pages[str(epoch + 1)] = page

    def pictures(self, who: str, signature: Signature) -> dict[str, str]:
        """A picture an epoch."""
        return {
            f"{who}: generated images, epoch {epoch}": grid(
                [(signature.labels[row], images.tolist()) for row, images in enumerate(page)],
                "by the class that the teacher sees, the surest (or with the most of it) first; black: there was none",
            )
            for epoch, page in self.pages.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """The pages."""
        return dict(self.pages)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Those pages."""
        self.pages = dict(state)
