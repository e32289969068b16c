"""Teachers from models that bring their network along: a model in MLflow, a compact folder, a program (.pt2)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

from reports.track import address
from students import compact
from teachers.networks import Given
from teachers.teacher import Checkpoint, Teacher

_NUMBERED = re.compile(r"models:/[^/@]+/\d+")


def in_mlflow(weights: str | None) -> bool:
    """Whether weights are a model in MLflow: models:/name/1, models:/name@alias, runs:/id/path."""
    return weights is not None and weights.startswith(("models:/", "runs:/"))


def local(checkpoint: Checkpoint, runs: Path, tracking: str | None, data: Path | None) -> Checkpoint:
    """The checkpoint with the file of its weights named, where they are a model in MLflow or a compact folder.

    A numbered version, which never changes, is fetched once; anything else each time. Raises ValueError where there is
    no such model, or none of its files holds weights.
    """
    if checkpoint.weights is None:
        return checkpoint
    folder = _fetched(checkpoint, runs, tracking) if in_mlflow(checkpoint.weights) else None
    if folder is None:
        path = Path(checkpoint.weights).expanduser()
        places = [path] if data is None or path.is_absolute() else [path, data / path]
        folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        return checkpoint
    return replace(checkpoint, weights=str(_file(folder, checkpoint).resolve()))


def load(checkpoint: Checkpoint, data: Path | None) -> Teacher:
    """The teacher of a checkpoint that `local` has seen: a `Given` network is that of the compact folder.

    Raises as `Checkpoint.load`, and ValueError where weights bring no network along.
    """
    path = Path(checkpoint.weights or "")
    if not isinstance(checkpoint.network, Given) or path.suffix == ".pt2":
        return checkpoint.load(data)
    if not (path.with_name("structure.json").exists() and path.name == "weights.safetensors"):
        raise ValueError(
            f"checkpoint {checkpoint.name!r}: {path} holds weights and no network (there is no structure.json beside "
            "it): name the network it belongs to"
        )
    checkpoint.sound(path)
    return checkpoint.teacher(compact.load(path.parent))


def _fetched(checkpoint: Checkpoint, runs: Path, tracking: str | None) -> Path:
    model = checkpoint.weights
    assert model is not None
    uri = address(tracking, runs)
    if uri is None:
        raise ValueError(f"{model} is in MLflow, but --tracking is off: name the store it is in")
    number = hashlib.sha256(f"{uri} {model}".encode()).hexdigest()[:8]
    folder = runs / "teachers" / f"{checkpoint.name}-{number}"
    if _NUMBERED.fullmatch(model) and folder.is_dir():
        return folder
    from reports.registry import fetch

    return fetch(model, uri, folder)


def _file(folder: Path, checkpoint: Checkpoint) -> Path:
    """The file with the weights: of a compact student, the only safetensors file, or the only program."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    packed = [path for path in files if path.name == "weights.safetensors"]
    found = [path for path in packed if path.with_name("structure.json").exists()]
    for suffix in (".safetensors", ".pt2"):
        found = found or [path for path in files if path.suffix == suffix]
    if len(found) == 1:
        return found[0]
    where = f"checkpoint {checkpoint.name!r}: {checkpoint.weights}"
    if found:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise ValueError(f"{where} has several files of weights ({names}): name one of them")
    if pickles := [path.name for path in files if path.suffix in (".pth", ".pkl", ".pt", ".bin")]:
        raise ValueError(
            f"{where} is kept as a pickle ({pickles[0]}), which may carry code and is never run here: save it anew "
            'with mlflow.pytorch.log_model(..., serialization_format="pt2") as a teacher, or its state dict as '
            "safetensors"
        )
    names = ", ".join(path.name for path in files[:6]) or "nothing"
    raise ValueError(f"{where} holds no weights, neither safetensors nor .pt2: it has {names}")
