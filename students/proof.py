"""Proof of parity: what is in the folder answers like the student in memory, in a Python without us."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from students import prove
from teachers.signature import Signature
from teachers.task import Batch

LIMIT = 1e-4
"""the largest difference allowed, as a share of the student's largest output"""
OPTIONAL = prove.OPTIONAL
_CHUNK = 256
_SIZES = (1, 2, 5)


@dataclass(frozen=True)
class Agreement:
    """How one form of the folder compares with the student in memory.

    largest_difference   of any output, absolute
    relative_difference  the same, divided by the student's largest absolute output
    changed_decisions    samples (pixels, where there are several outputs a sample) whose argmax differs
    seconds              spent in forward passes
    """

    largest_difference: float
    relative_difference: float
    changed_decisions: int
    seconds: float


@dataclass(frozen=True)
class Proof:
    """Parity, measured in a fresh process that cannot import us.

    inputs       "val", or "random" where no val set was given: standard normal
    samples      how many
    scale        the student's largest absolute output
    batch_sizes  tried besides
    forms        per file: how it compares
    needs        packages that load.py must be trusted with; none for a network that could be traced
    seconds      for everything, exporting not included
    refused      forms that the student can do without (model.onnx) and that failed, with the reason
    """

    inputs: str
    samples: int
    scale: float
    batch_sizes: tuple[int, ...]
    forms: Mapping[str, Agreement]
    needs: tuple[str, ...]
    seconds: float
    refused: Mapping[str, str] = field(default_factory=dict)


class Prover:
    """A fresh Python at work on `prove.py`: started early, since importing torch takes it a while."""

    def __enter__(self) -> Prover:
        self._folder = Path(tempfile.mkdtemp(prefix="decoct-proof-"))
        self._errors = self._folder / "errors"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        with open(self._errors, "w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-W", "ignore", str(Path(prove.__file__).resolve())],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def prove(
        self,
        reference: nn.Module,
        folder: Path,
        signature: Signature,
        val: Iterable[Batch] | None,
        needs: tuple[str, ...],
    ) -> Proof:
        """Compare the forms in `folder` with `reference`, in evaluation mode on the CPU, on all of `val`.

        Raises ValueError for NaN, a form that fails, and a difference above `LIMIT`; of `OPTIONAL` forms the proof
        then says so.
        """
        start = time.perf_counter()
        paths = sys.path if needs else []
        self._send(folder=str(folder.resolve()), trust=needs, path=paths, threads=torch.get_num_threads())
        found, scale, samples = [], 0.0, -sum(len(signature.example(size)[0]) for size in _SIZES)
        for count, inputs in enumerate(_pieces(signature, val)):
            path = self._folder / f"{count % 2}.safetensors"
            outputs = _batch(reference, inputs, path)
            scale, samples = max(scale, float(outputs.abs().max())), samples + len(outputs)
            found.append(self._answer())  # to the line before: both processes work at the same time
            self._send(batch=str(path))
        found.append(self._answer())
        refused = {form: why for answer in found for form, why in answer.pop("refused", {}).items()}
        forms, *found = found[0]["forms"], *found[1:]
        agreements: dict[str, Agreement] = {}
        for form in forms:
            if form in refused:
                continue
            try:
                agreements[form] = _agreement(form, [answer[form] for answer in found], scale)
            except ValueError as problem:
                if form not in OPTIONAL:
                    raise
                refused[form] = str(problem)
        return Proof(
            inputs="random" if val is None else "val",
            samples=samples,
            scale=scale,
            batch_sizes=_SIZES,
            forms=agreements,
            needs=needs,
            seconds=round(time.perf_counter() - start, 3),
            refused=refused,
        )

    def _send(self, **order: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ValueError(f"in a fresh Python, the compact student fails: {answer['error']}")
        return answer

    def _died(self) -> ValueError:
        code, said = self._process.wait(), self._errors.read_text(encoding="utf-8").strip().splitlines()[-3:]
        return ValueError(
            f"the fresh Python that loads the compact student died (code {code}): {' '.join(said)}"
        )


def _pieces(signature: Signature, val: Iterable[Batch] | None) -> Iterator[tuple[Tensor, ...]]:
    """Random batches of every size in `_SIZES`, then all of val, no more than `_CHUNK` samples at once; graphs
    whole.
    """
    yield from (signature.example(size, seed=size) for size in _SIZES)
    batches = [Batch(signature.example(64))] if val is None else val
    if signature.is_graph:  # all of it at once, as far as this student wants it
        yield from (
            tuple(tensor.cpu() for tensor in batch.inputs[: len(signature.inputs)]) for batch in batches
        )
        return
    for batch in batches:
        for pieces in zip(*(torch.split(tensor, _CHUNK) for tensor in batch.inputs), strict=True):
            yield tuple(piece.cpu() for piece in pieces)


def _batch(reference: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> Tensor:
    """Write inputs and the student's outputs for the other process; give back the outputs."""
    with torch.no_grad():
        outputs: Tensor = reference(*inputs)
    broken = int((~outputs.isfinite()).flatten(1).any(1).sum())
    if broken:
        raise ValueError(f"the student gives NaN or infinite outputs for {broken} of {len(outputs)} samples")
    tensors = {str(index): tensor.contiguous() for index, tensor in enumerate(inputs)}
    save_file({**tensors, "outputs": outputs.contiguous()}, path)
    return outputs


def _agreement(form: str, answers: Sequence[Mapping[str, float]], scale: float) -> Agreement:
    largest = max(answer["difference"] for answer in answers)
    relative = largest / scale if scale else largest
    changed = sum(int(answer["changed"]) for answer in answers)
    if any(answer["nan"] for answer in answers) or not math.isfinite(relative):
        raise ValueError(f"{form} gives NaN or infinite outputs where the student does not")
    if relative > LIMIT:
        raise ValueError(
            f"{form} differs from the student by up to {largest:.3g}, {relative:.2g} of its largest output "
            f"{scale:.3g} (at most {LIMIT:g} is allowed), and decides {changed} samples differently"
        )
    return Agreement(largest, relative, changed, round(sum(answer["seconds"] for answer in answers), 4))
