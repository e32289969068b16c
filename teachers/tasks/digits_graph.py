"""The embedded graph: scikit-learn's digits, each joined to those whose pixels are most like its own."""

from __future__ import annotations

from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Any

import torch

from teachers.spec import Field, spec
from teachers.task import Split
from teachers.tasks.graph_splits import Graph
from teachers.tasks.graphs import Graphs


@spec
class DigitsGraph(Graphs):
    """1,797 digits of 8x8 pixels, an edge to each from the `k` nearest by their pixels; few of them have a label.

    Networks over the graph take the edges; those that build a graph of their own (`DGCNN` with `per_node`) pass them
    over, which is the dynamic form of the same task.
    """

    k: Annotated[int, Field(ge=1)] = 10
    """neighbours of a digit"""
    labelled: Annotated[int, Field(ge=1)] = 5
    """digits of each class that are taught"""
    _: KW_ONLY
    chosen: Annotated[int, Field(ge=1)] = 30
    """digits of each class to choose by; all others test"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of who is taught"""

    @property
    def width(self) -> int:
        """Pixels."""
        return 64

    @property
    def labels(self) -> tuple[str, ...]:
        """The digits."""
        return tuple("0123456789")

    @property
    def size(self) -> tuple[int, int]:
        """Digits, and edges to them."""
        return 1797, 1797 * self.k

    def read(self, folder: Path | None) -> Graph:
        """The digits are embedded: `folder` is not looked at."""
        from sklearn.datasets import load_digits  # a second and more, and only this task needs it

        data: Any = load_digits()
        pixels = torch.from_numpy(data.data).float() / 16
        labels = torch.from_numpy(data.target).long()
        # Squares of sixteenths are exact, and so is who is nearest; equal distances go to the lower number.
        far = torch.cdist(pixels.double(), pixels.double(), compute_mode="donot_use_mm_for_euclid_dist")
        near = far.fill_diagonal_(torch.inf).argsort(dim=1, stable=True)[:, : self.k]
        receive = torch.arange(len(pixels)).repeat_interleave(self.k)
        generator = torch.Generator().manual_seed(self.seed)
        rows: dict[Split, list[torch.Tensor]] = {split: [] for split in Split}
        for label in range(10):
            mine = (labels == label).nonzero().flatten()
            mine = mine[torch.randperm(len(mine), generator=generator)]
            sizes = (self.labelled, self.chosen, len(mine) - self.labelled - self.chosen)
            if min(sizes) < 1:
                raise ValueError(
                    f"DigitsGraph has {len(mine)} digits of class {label}: {self.labelled} labelled and "
                    f"{self.chosen} to "
                    "choose by leave none to test"
                )
            for split, part in zip(Split, mine.split(list(sizes)), strict=True):
                rows[split].append(part)
        found = {split: torch.cat(parts).sort().values for split, parts in rows.items()}
        return Graph(pixels, torch.stack([near.flatten(), receive]), labels, found)
