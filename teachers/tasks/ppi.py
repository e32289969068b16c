"""PPI: 24 graphs of proteins, 121 labels each of which may hold, graphs of their own to choose by and to test."""

from __future__ import annotations

import json
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from teachers.spec import Field, spec
from teachers.task import Split
from teachers.tasks.graph_splits import Graph
from teachers.tasks.graphs import Graphs
from teachers.tasks.judge import Metric

_NAMES = {Split.TRAIN: "train", Split.VAL: "valid", Split.TEST: "test"}
PARTS = ("graph.json", "feats.npy", "labels.npy", "graph_id.npy")


@spec
class PPI(Graphs):
    """Proteins that act on each other: 20 graphs to learn from, 2 to choose by, 2 to test; judged by micro-F1.

    A label is given where its output is above 0, which is a probability of one half. The files are
    `<path>/raw/{train,valid,test}_{graph.json,feats.npy,labels.npy,graph_id.npy}`. Source: Hamilton et al. 2017.
    """

    _: KW_ONLY
    path: str = "ppi"
    """below the data folder, or absolute"""
    batch: Annotated[int, Field(ge=1)] | None = 2
    """graphs a batch"""

    @property
    def width(self) -> int:
        """Numbers a protein."""
        return 50

    @property
    def labels(self) -> tuple[str, ...]:
        """Functions, by number."""
        return tuple(map(str, range(121)))

    @property
    def size(self) -> tuple[int, int]:
        """A graph of the mean size, without self loops."""
        return 2245, 61318

    @property
    def judge(self) -> Metric:
        """Micro-F1."""
        return "micro_f1"

    def read(self, folder: Path | None) -> Graph:
        """Read the files. Raises ValueError naming those that are missing, and where they do not fit each other."""
        if folder is None and not Path(self.path).is_absolute():
            raise ValueError(f"PPI '{self.path}' lies below the data folder, and none is set: name it")
        raw = (folder or Path()) / self.path / "raw"
        files = {split: [raw / f"{name}_{part}" for part in PARTS] for split, name in _NAMES.items()}
        if gone := [file.name for some in files.values() for file in some if not file.exists()]:
            raise ValueError(
                f"{raw} lacks {', '.join(gone)}: put the 12 files of the data set there, unpacked"
            )
        features, edges, targets, rows, ends = [], [], [], {}, [0]
        for split, some in files.items():
            first = ends[-1]
            x, links, y, of = _read(some)
            features.append(x)
            edges.append(links + first)
            targets.append(y)
            rows[split] = torch.arange(first, first + len(x))
            if bool((of[1:] < of[:-1]).any()):
                raise ValueError(f"{some[3]} does not hold the graphs one after another")
            ends += (first + torch.unique_consecutive(of, return_counts=True)[1].cumsum(0)).tolist()
        return Graph(torch.cat(features), torch.cat(edges, 1), torch.cat(targets), rows, torch.tensor(ends))


def _read(files: list[Path]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, edges both ways, labels, and which graph each node is of."""
    try:
        page = json.loads(files[0].read_text(encoding="utf-8"))
        pairs = torch.tensor([(link["source"], link["target"]) for link in page["links"]], dtype=torch.long)
        edges = pairs.reshape(-1, 2).t()
        x, y, of = (torch.from_numpy(np.load(file, allow_pickle=False)) for file in files[1:])
    except (KeyError, TypeError, ValueError, OSError) as problem:
        raise ValueError(
            f"{files[0].parent}: the files of {files[0].name} are damaged: {problem}"
        ) from problem
    if not len(x) == len(y) == len(of):
        raise ValueError(
            f"{files[1]} holds {len(x)} nodes, the labels {len(y)}, the graphs' numbers {len(of)}"
        )
    if not page.get("directed", False):
        edges = torch.cat([edges, edges.flip(0)], 1)
    return x.float(), edges, y.float(), of.long()
