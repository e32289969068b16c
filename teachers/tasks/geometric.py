"""Any node data set of torch-geometric whose files are there."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import KW_ONLY, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import JsonValue
from torch import Tensor

from teachers.nearest import did_you_mean
from teachers.spec import Field, spec
from teachers.task import Split
from teachers.tasks.graph_splits import Graph
from teachers.tasks.graphs import Count, Graphs
from teachers.tasks.judge import Metric
from teachers.tasks.splits import stratified

_MASKS = {Split.TRAIN: "train_mask", Split.VAL: "val_mask", Split.TEST: "test_mask"}


@spec
class Geometric(Graphs):
    """A data set of `torch_geometric.datasets` for the nodes of one graph, or of several with a split each.

    Its masks say which node belongs to which split; what is missing of them is drawn, class by class (`val`, `test`).
    Where the class takes a `split`, it is made once for each, and every graph belongs to its split whole.
    Nothing is fetched: the files lie in `<path>`, as that class wants them.
    """

    dataset: Annotated[str, Field(pattern=r"^[A-Z]\w*$")]
    """the name of the class: Planetoid, WikiCS, KarateClub, GNNBenchmarkDataset ..."""
    inputs: Count
    """numbers a node"""
    classes: Count
    """outputs"""
    arguments: dict[str, JsonValue] = field(default_factory=dict)
    """of the class, by keyword, but for `root` and `split`"""
    _: KW_ONLY
    path: str = "geometric"
    """below the data folder, or absolute"""
    metric_name: Metric = "accuracy"
    """what answers are judged by; several labels may hold but for accuracy"""
    nodes: Count = 1000
    """of a usual graph, for counting what a network costs"""
    edges: Count = 5000
    """of a usual graph, both ways"""
    mask: Annotated[int, Field(ge=0)] = 0
    """which of the splits, where there are several"""
    val: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """the share of the nodes held out to choose by, where the data set does not say"""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """the share of the nodes to test, where the data set does not say"""

    @property
    def width(self) -> int:
        """As the page says."""
        return self.inputs

    @property
    def labels(self) -> tuple[str, ...]:
        """Numbers."""
        return tuple(map(str, range(self.classes)))

    @property
    def size(self) -> tuple[int, int]:
        """As the page says."""
        return self.nodes, self.edges

    @property
    def judge(self) -> Metric:
        """As the page says."""
        return self.metric_name

    def read(self, folder: Path | None) -> Graph:
        """Make the data set.

        Raises ValueError where there is none of that name, its files are missing, or labels belong to graphs.
        """
        home = importlib.import_module("torch_geometric.datasets")
        kind = getattr(home, self.dataset, None)
        if not inspect.isclass(kind):
            hint = did_you_mean(self.dataset, home.__all__)
            raise ValueError(f"torch_geometric.datasets has no {self.dataset!r}{hint}")
        takes = inspect.signature(kind.__init__).parameters
        root = Path(self.path) if Path(self.path).is_absolute() else (folder or Path()) / self.path
        more = {"root": str(root)} if "root" in takes else {}
        parts = (
            {split: split.value for split in Split}
            if "split" in takes and "split" not in self.arguments
            else {}
        )
        if parts and self.dataset != "Planetoid":
            made = {
                split: _made(kind, {**self.arguments, **more, "split": name}, root)
                for split, name in parts.items()
            }
            return self._several(made)
        graphs = _made(kind, {**self.arguments, **more}, root)
        if len(graphs) != 1:
            raise ValueError(
                f"{self.dataset} holds {len(graphs)} graphs, but says not which is of which split: only data sets "
                f"with a "
                "split, or of one graph, have nodes to learn from"
            )
        return self._one(graphs[0])

    def _one(self, data: Any) -> Graph:
        target = self._target(data)
        masks = {split: getattr(data, name, None) for split, name in _MASKS.items()}
        rows = {}
        for split, mask in masks.items():
            if mask is not None:
                mask = mask[:, self.mask % mask.shape[1]] if mask.dim() == 2 else mask
                rows[split] = mask.nonzero().flatten()
        notes = []
        free = torch.ones(len(target), dtype=torch.bool)
        for some in rows.values():
            free[some] = False
        for split, share in ((Split.TEST, self.test), (Split.VAL, self.val)):
            if split not in rows:
                left = free.nonzero().flatten()
                kind = (
                    target[left]
                    if not target.is_floating_point()
                    else torch.zeros(len(left), dtype=torch.long)
                )
                _, held = stratified(kind, min(share * len(target) / max(len(left), 1), 0.5), seed=0)
                rows[split] = left[held]
                free[rows[split]] = False
                notes.append(f"{self.dataset} names no {split.value} nodes: {len(held)} were drawn")
        if Split.TRAIN not in rows:
            rows[Split.TRAIN] = free.nonzero().flatten()
        return Graph(data.x, data.edge_index, target, rows, notes=tuple(notes))

    def _several(self, made: dict[Split, Any]) -> Graph:
        features, edges, targets, rows, ends = [], [], [], {}, [0]
        for split, graphs in made.items():
            begin = ends[-1]
            for data in graphs:
                features.append(data.x.float())
                edges.append(data.edge_index + ends[-1])
                targets.append(self._target(data))
                ends.append(ends[-1] + len(data.x))
            rows[split] = torch.arange(begin, ends[-1])
        return Graph(torch.cat(features), torch.cat(edges, 1), torch.cat(targets), rows, torch.tensor(ends))

    def _target(self, data: Any) -> Tensor:
        """Whole numbers, or 0.0 and 1.0 where several labels may hold."""
        if data.x is None or data.edge_index is None:
            raise ValueError(
                f"{self.dataset} has no {'features' if data.x is None else 'edges'}: a task of nodes needs them"
            )
        y: Tensor = data.y
        if y is None or len(y) != len(data.x):
            raise ValueError(f"{self.dataset} has a label a graph, not a node: only nodes can be classified")
        if self.judge != "accuracy":
            return y.float() if y.dim() == 2 else torch.nn.functional.one_hot(y.long(), self.classes).float()
        if y.dim() == 2:
            y = y.argmax(1) if y.shape[1] > 1 else y[:, 0]
        if int(y.max()) >= self.classes:
            raise ValueError(f"{self.dataset} has labels up to {int(y.max())}, but classes is {self.classes}")
        return y.long()


def _made(kind: Any, arguments: dict[str, Any], root: Path) -> Any:
    """The data set, from files alone."""
    from torch_geometric.data import Dataset

    class Offline(kind):  # type: ignore[misc]
        def download(self) -> None:
            wanted = ", ".join(Path(path).name for path in self.raw_paths)
            raise FileNotFoundError(f"{self.raw_dir} lacks some of: {wanted}")

    Offline.__name__ = kind.__name__
    try:
        made = (kind if kind.download is Dataset.download else Offline)(**arguments)
        return [made[number] for number in range(len(made))]
    except FileNotFoundError as problem:
        raise ValueError(
            f"{problem}. Nothing is fetched: put the files there as {kind.__name__} wants them"
        ) from problem
    except (TypeError, AssertionError, KeyError) as problem:
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise ValueError(f"{kind.__name__}({given}) failed: {type(problem).__name__}: {problem}") from problem
