"""A student behind MLflow's pyfunc: `model.pt2` answers. Lies in the registered model as `decoct_student.py`.

PyTorch and NumPy are all it needs, and no pickle is read but that of plain tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch


def _load_pyfunc(path: str) -> Student:
    """What mlflow.pyfunc.load_model calls: `path` is the compact folder."""
    return Student(Path(path))


class Student:
    """The exported network, called with arrays."""

    def __init__(self, folder: Path) -> None:
        self._network: Any = torch.export.load(folder / "model.pt2").module()
        signature = json.loads((folder / "card.json").read_text(encoding="utf-8"))["signature"]
        self._inputs = inputs(signature)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Logits (samples, outputs, ...) of an array (samples, ...), or of one array an input, by name."""
        if not isinstance(model_input, Mapping):
            model_input = {self._inputs[0][0]: model_input}
        given = [
            torch.from_numpy(np.ascontiguousarray(np.asarray(model_input[name], dtype=kind)))
            for name, kind, _ in self._inputs
        ]
        with torch.no_grad():
            return self._network(*given).numpy()


def inputs(signature: Mapping[str, Any]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, NumPy type and shape of every input of a card's signature; -1 stands for a free size."""
    shapes = [tuple(shape) for shape in signature["inputs"]]
    if signature.get("nodes") is not None:
        both = [("features", "float32", (-1, *shapes[0])), ("edges", "int64", (2, -1))]
        return both[: len(shapes)]
    names = signature.get("names") or ["x", *(f"x{place}" for place in range(1, len(shapes)))]
    types = signature.get("types") or ["float"] * len(shapes)
    known = {"float": "float32", "bool": "bool"}
    return [
        (name, known.get(kind, "int64"), (-1, *shape))
        for name, kind, shape in zip(names, types, shapes, strict=True)
    ]


def example(signature: Mapping[str, Any]) -> dict[str, Any]:
    """One made-up sample (a graph of four nodes in a ring) as arrays by name: the form of a request, and no data."""
    random = np.random.default_rng(0)
    types = signature.get("types") or []
    made: dict[str, Any] = {}
    for place, (name, kind, shape) in enumerate(inputs(signature)):
        if name == "edges" and signature.get("nodes") is not None:
            made[name] = np.array([[0, 1, 2, 3], [1, 2, 3, 0]])
            continue
        size = (4 if signature.get("nodes") is not None else 1, *shape[1:])
        if kind == "float32":
            made[name] = random.standard_normal(size).astype("float32").round(3)
        elif kind == "bool":
            made[name] = np.ones(size, dtype=bool)
        else:
            made[name] = random.integers(0, types[place], size)
    return made
