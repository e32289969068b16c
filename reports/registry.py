"""Models of an MLflow store: fetched from it, and a student written so that mlflow can serve it."""

from __future__ import annotations

import shutil
import tempfile
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from reports import served
from reports.patience import hush, patience


def fetch(model: str, uri: str, folder: Path, *, timeout: float = 10.0) -> Path:
    """Download a model of an MLflow store into `folder`, which is replaced; where its files lie.

    model    models:/name/version, models:/name@alias, models:/model-id or runs:/run-id/path
    uri      of the store
    timeout  seconds the store has for one answer; one retry

    Raises ValueError where the store has no such model (with the nearest names) or does not answer.
    """
    half = folder.with_name(f".{folder.name}.fetched")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    try:
        with patience(timeout):
            from mlflow import artifacts
            from mlflow.tracking import MlflowClient

            hush()
            place = _place(MlflowClient(uri, uri), model)
            found = Path(
                artifacts.download_artifacts(place, dst_path=str(half), tracking_uri=uri, registry_uri=uri)
            )
            inside = found.resolve().relative_to(half.resolve())
    except Exception as problem:  # whatever a client of many stores raises
        shutil.rmtree(half, ignore_errors=True)
        line = next(iter(str(problem).strip().splitlines()), type(problem).__name__)[:300]
        raise ValueError(
            f"{model} cannot be had from the MLflow store at {uri}: {line}{_near(model, uri)}"
        ) from problem
    shutil.rmtree(folder, ignore_errors=True)
    half.replace(folder)
    return folder / inside


def _place(client: Any, model: str) -> str:
    """Where a model's files lie. Asked of this store: mlflow itself would ask the one that the process has set."""
    if not model.startswith("models:/"):
        return model
    name, _, version = model.removeprefix("models:/").partition("/")
    name, _, alias = name.partition("@")
    place: str
    if alias:
        version = client.get_model_version_by_alias(name, alias).version
    elif version and not version.isdigit():
        raise ValueError(f"{version!r} is no version: give models:/{name}/1, or models:/{name}@alias")
    if not version:
        place = client.get_logged_model(name).artifact_location
    else:
        place = client.get_model_version_download_uri(name, version)
    return place


def _near(model: str, uri: str) -> str:
    """Registered models called nearly so."""
    name = model.removeprefix("models:/").partition("/")[0].partition("@")[0]
    if not model.startswith("models:/"):
        return ""
    try:
        with patience(3.0):
            from mlflow.tracking import MlflowClient

            names = [one.name for one in MlflowClient(uri, uri).search_registered_models()]
    except Exception:  # it did not answer, which is said already
        return ""
    if name in names:
        return ""
    near = get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(names) or 'no registered model'}"


def servable(path: Path, student: Path, signature: Any, run: str, model: str) -> None:
    """Write a compact student as a model that mlflow serves: python code, tensors, no pickle."""
    import mlflow.pyfunc
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    wanted, given = served.inputs(signature), served.example(signature)
    single = len(wanted) == 1
    specs = [TensorSpec(np.dtype(kind), shape, None if single else name) for name, kind, shape in wanted]
    outputs = [TensorSpec(np.dtype("float32"), (-1, len(signature["labels"]) or -1))]
    about = Model(run_id=run, model_id=model)
    about.add_flavor("decoct", form="safetensors", data="data/compact")
    with tempfile.TemporaryDirectory(prefix="decoct-code-") as code:
        module = Path(code) / "decoct_student.py"
        shutil.copyfile(served.__file__, module)
        mlflow.pyfunc.save_model(
            path,
            loader_module=module.stem,
            code_paths=[str(module)],
            data_path=str(student),
            mlflow_model=about,
            signature=ModelSignature(Schema(specs), Schema(outputs)),
            input_example=next(iter(given.values())) if single else given,
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
            metadata={name: signature[name] for name in ("labels", "mean", "std", "kind")},
        )
