"""Citation networks: Cora, CiteSeer and PubMed, from the files in which they were published."""

from __future__ import annotations

import importlib
import io
import pickle
from collections import defaultdict
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch

from teachers.spec import spec
from teachers.task import Split
from teachers.tasks.graph_splits import Graph
from teachers.tasks.graphs import Graphs

PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
_KNOWN = {
    "Cora": (2708, 10556, 1433, 7),
    "CiteSeer": (3327, 9104, 3703, 6),
    "PubMed": (19717, 88648, 500, 3),
}  # nodes, edges, numbers a node, classes


@spec
class Planetoid(Graphs):
    """A citation network: words of papers, and who cites whom; 20 labelled papers a class, 500 to choose by, 1,000
    to test.

    The files are `<path>/<name>/raw/ind.<name>.{x,tx,allx,y,ty,ally,graph,test.index}`. They are pickles: of those
    nothing is made but arrays, sparse matrices and lists. Source: Yang et al. 2016 (the split), Sen et al. 2008.
    """

    name: Literal["Cora", "CiteSeer", "PubMed"]
    """which"""
    _: KW_ONLY
    path: str = "planetoid"
    """below the data folder, or absolute"""
    normalise: bool = True
    """divide the numbers of a node by their sum"""

    @property
    def width(self) -> int:
        """Words that are counted."""
        return _KNOWN[self.name][2]

    @property
    def labels(self) -> tuple[str, ...]:
        """Subjects, by number: the files do not name them."""
        return tuple(map(str, range(_KNOWN[self.name][3])))

    @property
    def size(self) -> tuple[int, int]:
        """Papers, and citations both ways."""
        return _KNOWN[self.name][:2]

    def read(self, folder: Path | None) -> Graph:
        """Read the files. Raises ValueError naming those that are missing or damaged."""
        if folder is None and not Path(self.path).is_absolute():
            raise ValueError(f"Planetoid '{self.path}' lies below the data folder, and none is set: name it")
        raw = (folder or Path()) / self.path / self.name / "raw"
        files = [raw / f"ind.{self.name.lower()}.{part}" for part in PARTS]
        if gone := [file.name for file in files if not file.exists()]:
            raise ValueError(
                f"{raw} lacks {', '.join(gone)}: put the {len(PARTS)} files of the data set there, as they were "
                f"published"
            )
        x, tx, allx, y, ty, ally, graph = (_read(file) for file in files[:-1])
        order = np.loadtxt(files[-1], dtype=np.int64)
        try:
            return self._graph(x, tx, allx, y, ty, ally, graph, order)
        except (AttributeError, IndexError, TypeError, ValueError) as problem:
            raise ValueError(f"the files in {raw} do not fit each other: {problem}") from problem

    def _graph(
        self, x: Any, tx: Any, allx: Any, y: Any, ty: Any, ally: Any, graph: dict[int, list[int]], order: Any
    ) -> Graph:
        """The parts put together: test papers lie in the order of the index, with gaps where one has no words."""
        first, count = len(ally), int(order.max()) + 1 - len(ally)
        words = np.zeros((first + count, allx.shape[1]), dtype=np.float32)
        topics = np.zeros((first + count, ally.shape[1]), dtype=np.float32)
        words[:first], topics[:first] = allx.toarray(), ally
        words[order], topics[order] = tx.toarray(), ty
        if self.normalise:
            words /= np.maximum(words.sum(1, keepdims=True), 1.0)
        pairs = [(a, b) for a, others in graph.items() for b in others]
        edges = torch.tensor(pairs, dtype=torch.long).t().reshape(2, -1)
        edges = torch.cat([edges, edges.flip(0)], 1).unique(dim=1)  # both ways, and what is named twice once
        taught = len(y)
        rows = {
            Split.TRAIN: torch.arange(taught),
            Split.VAL: torch.arange(taught, taught + 500),
            Split.TEST: torch.from_numpy(np.sort(order)),
        }
        return Graph(torch.from_numpy(words), edges, torch.from_numpy(topics.argmax(1)), rows)


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("scipy.sparse.csr", "csr_matrix"): sp.csr_matrix,
    ("scipy.sparse._csr", "csr_matrix"): sp.csr_matrix,
    ("collections", "defaultdict"): defaultdict,
    ("builtins", "list"): list,
    ("__builtin__", "list"): list,
    ("_codecs", "encode"): lambda text, _: text.encode(
        "latin1"
    ),  # how newer Pythons write the bytes of an array
}  # all that those pickles may name


class _Arrays(pickle.Unpickler):
    """Unpickles arrays and sparse matrices, and nothing that runs."""

    def find_class(self, module: str, name: str) -> Any:
        """Raises ValueError for everything else."""
        if (module, name) in _NAMES:
            return _NAMES[module, name]
        if module.startswith("numpy") and name == "_reconstruct":
            return importlib.import_module("numpy._core.multiarray")._reconstruct
        raise ValueError(f"it names {module}.{name}, which is neither an array nor a list")


def _read(file: Path) -> Any:
    try:
        return _Arrays(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except Exception as problem:
        raise ValueError(f"{file} cannot be read, and was not run: {problem}") from problem
