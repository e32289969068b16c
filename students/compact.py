"""The compact student: a folder that outlives us, and the proof that it says what the student says.

model.pt2             torch.export.load("model.pt2").module()(images), for any number of images; for use: batch
                      norms are folded into the convolutions before them, shared kernels written out. Of a graph
                      network (features, edges), any number of both; features alone where it looks at no edge
model.onnx            the same for serving, unless ONNX has no word for one of its operators; checked in onnxruntime
weights.safetensors   every parameter and buffer
structure.json        which layers there are and in which order they are called
load.py               rebuilds the network from these two, to train on; PyTorch and safetensors alone
kernels.py            beside it where kernels are shared: the layer that unpacks them
card.json             what the caller wants remembered, the signature, and the proof
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import ExportedProgram

from students import kernels, onnx_form
from students import load as loader
from students.exported import exported, needed
from students.files import write, write_json
from students.proof import LIMIT, Agreement, Proof, Prover
from students.structure import Untraceable, clean, describe, describe_factory, origin, rebuild, tensors
from teachers.signature import Signature
from teachers.task import Batch

__all__ = ["LIMIT", "Agreement", "Proof", "bytes_on_disk", "card", "load", "put_away", "save", "take_out"]

_KNOWN = {
    "model.pt2",
    "model.onnx",
    "model.onnx.data",
    "weights.safetensors",
    "structure.json",
    "load.py",
    "kernels.py",
    "card.json",
    "__pycache__",
}


def save(
    student: nn.Module,
    folder: str | Path,
    signature: Signature,
    *,
    card: Mapping[str, Any] | None = None,
    val: Iterable[Batch] | None = None,
    factory: Any = None,
    teacher: tuple[nn.Module, Signature] | None = None,
    seconds: float = 0.3,
) -> Proof:
    """Write the compact folder, prove it in a fresh process, and only then put it in place.

    card     JSON values to remember: recipe, teachers, seed, commit, scores; "signature", "versions", "proof" and
             "onnx" are added
    val      batches to prove parity on, inputs only; without, 64 random samples
    factory  how the unpruned network is made, for one that torch.fx cannot trace: its spec, or
             {"factory": "package.module:callable", "arguments": {...}}; load.py then needs that package
    teacher  a network and its signature, timed in onnxruntime in turns with the student
    seconds  of that timing, for each batch size

    The student stays as it is. Raises ValueError where it holds hooks, masks or wrappers, cannot be traced
    (`Untraceable`) or exported, fixes its batch size, gives NaN, or where a form differs from it by more than
    `LIMIT`; and OSError where the folder cannot be written. An older folder then stays as it was. Only the ONNX form
    may be lacking: `card["onnx"]["refused"]` then says why.
    """
    folder, remembered = Path(folder), dict(card or {})
    try:
        json.dumps(remembered, allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise ValueError(f"the card must hold JSON values, no NaN among them: {problem}") from problem
    _refuse_foreign(folder)
    clean(student)
    reference = copy.deepcopy(student).cpu().eval()
    signature = needed(reference, signature)
    _answers(reference, signature)
    structure = _describe(reference, factory, signature.example(2))
    with _swapped(folder) as half, Prover() as prover:
        _write_network(reference, half, structure)
        shutil.copyfile(loader.__file__, half / "load.py")
        if any(isinstance(inner, kernels.SharedConvolution) for inner in reference.modules()):
            shutil.copyfile(kernels.__file__, half / "kernels.py")
        program = exported(onnx_form.plain(reference), signature)
        _export(program, half / "model.pt2")
        needs = _needs(structure)
        refused = onnx_form.attempt(program, half / onnx_form.FILE, signature)
        proof = prover.prove(reference, half, signature, val, needs)
        onnx = onnx_form.told(half / onnx_form.FILE, signature, proof, refused, teacher, seconds)
        versions = {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "safetensors": safetensors.__version__,
        }
        write_json(
            half / "card.json",
            {
                "signature": asdict(signature),
                "versions": versions,
                **remembered,
                "proof": asdict(proof),
                "onnx": onnx,
            },
        )
    return proof


def load(folder: str | Path, *, trust: Iterable[str] = ()) -> nn.Module:
    """The network of a folder written by `save` or `put_away`, in evaluation mode, all parameters trainable.

    Our own networks are trusted, other packages have to be named in `trust`; raises as `students.load.load`.
    """
    return loader.load(folder, trust=("teachers", *trust))


def card(folder: str | Path) -> dict[str, Any]:
    """What card.json says. Raises FileNotFoundError where there is none, ValueError where it is damaged."""
    path = Path(folder) / "card.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: is {folder} a compact student?")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"{path} is damaged ({problem}): fetch the folder anew") from problem
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(found).__name__}. Fetch the folder anew")
    return found


def amend(folder: str | Path, **more: Any) -> None:
    """Add JSON values to what card.json says. Raises as `card` does."""
    write_json(Path(folder) / "card.json", {**card(folder), **more})


def bytes_on_disk(folder: str | Path) -> int:
    """Size of weights.safetensors in bytes: the file that is shipped, and the cost named `cost/bytes`."""
    return (Path(folder) / "weights.safetensors").stat().st_size


def put_away(
    student: nn.Module, folder: str | Path, *, signature: Signature | None = None, factory: Any = None
) -> None:
    """Write structure.json and weights.safetensors into `folder`, beside whatever lies there, for `take_out`.

    The network that comes back has the same names, in the same order, and answers bit for bit the same, in
    training as in evaluation mode; with `signature` that is tried out first. Raises as `save` does.
    """
    inputs = None if signature is None else signature.example(2)
    structure = _describe(student, factory, inputs)
    Path(folder).mkdir(parents=True, exist_ok=True)
    _write_network(student, Path(folder), structure)


def take_out(folder: str | Path, *, trust: Iterable[str] = ()) -> nn.Module:
    """The student that `put_away` wrote: as `load`."""
    return load(folder, trust=trust)


# -- writing ----------------------------------------------------------------------------------------------


def _describe(student: nn.Module, factory: Any, inputs: tuple[Tensor, ...] | None) -> dict[str, Any]:
    try:
        return describe(student, inputs)
    except Untraceable as problem:
        if factory is None:
            raise Untraceable(
                f"{problem}. Say how the unpruned network is made (factory=...), and it is saved "
                "as that call and the layers that changed"
            ) from problem
        return describe_factory(student, origin(factory), inputs)


def _needs(structure: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        (structure["factory"].partition(":")[0].partition(".")[0],) if structure["form"] == "factory" else ()
    )


def _write_network(student: nn.Module, folder: Path, structure: dict[str, Any]) -> None:
    needs = _needs(structure)
    with torch.random.fork_rng(devices=[]):
        twin = rebuild(structure, trust=needs, device="cpu" if needs else "meta")
    held = tensors(student, twin, structure)
    broken = [name for name, tensor in held.items() if tensor.isnan().any()]  # a mask may well hold -inf
    if broken:
        raise ValueError(f"{len(broken)} tensors of the student hold NaN, '{broken[0]}' first")
    weights = folder / "weights.safetensors"
    write(weights, lambda half: save_file(held, half))
    with open(weights, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    # Last, since it seals the other: a reader never takes new weights for those of an old structure.
    write_json(
        folder / "structure.json",
        {"sha256": {"network": loader.digest(structure), "weights": sha256}, "network": structure},
    )


def _answers(reference: nn.Module, signature: Signature) -> None:
    """Raise ValueError where the student does not answer as its signature says."""
    inputs = signature.example(2)
    count = len(inputs[0])
    with torch.no_grad():
        outputs = reference(*inputs)
    if not isinstance(outputs, Tensor):
        raise ValueError(
            f"the student answers with a {type(outputs).__name__}; a compact student gives one tensor"
        )
    if outputs.dim() < 2 or outputs.shape[0] != count:
        raise ValueError(
            f"the student answers {count} samples with shape {tuple(outputs.shape)}, not ({count}, outputs, ...): "
            "it fixes its batch size, or has no batch dimension"
        )
    if signature.labels and outputs.shape[1] != signature.classes:
        raise ValueError(
            f"the student has {outputs.shape[1]} outputs, but its signature has {signature.classes} labels"
        )


def _export(program: ExportedProgram, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # channels_last weights are saved whole all the same
        torch.export.save(program, path)


def _refuse_foreign(folder: Path) -> None:
    """Whatever is replaced must be one of ours: a mistyped folder is not worth somebody's data."""
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - _KNOWN):
        raise ValueError(
            f"{folder} exists and is no compact student: name a new folder, or an older compact one"
        )


@contextlib.contextmanager
def _swapped(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place when all went well, and vanishes otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    old = half.with_name(f"{half.name}.old")
    try:
        yield half
        half.chmod(0o755)
        for path in half.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            folder.replace(old)
        try:
            half.replace(folder)
        except OSError:
            if old.exists():
                old.replace(folder)
            raise
    except BaseException as problem:
        shutil.rmtree(half, ignore_errors=True)
        # torch's archive writer reports a full disk as a RuntimeError.
        if (
            isinstance(problem, OSError)
            or "No space left" in str(problem)
            or "PytorchStreamWriter" in str(problem)
        ):
            raise OSError(
                f"{folder} was not written ({problem}); what was there before is intact. "
                "See that there is space, and try again"
            ) from problem
        raise
    shutil.rmtree(old, ignore_errors=True)
