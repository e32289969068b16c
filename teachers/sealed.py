"""A network that comes as a program of torch.export: it answers, and nothing in it can be changed."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

# What torch.export.save writes for a network of plain tensors. Anything else is unpickled or run by whoever loads it.
_PLAIN = re.compile(
    r"[^/]+/(models/\w+\.json|data/(weights|constants)/((weight|tensor)_\d+|\w+_config\.json)|"
    r"data/sample_inputs/\w+\.pt|archive_format|archive_version|version|byteorder|\.data/\w+)"
)


class Sealed(nn.Module):
    """The network in a .pt2 file, in the mode it was exported in.

    program  what is called; gradients pass through to its inputs
    source   the program as it was saved, for exporting it to something else
    """

    def __init__(self, source: ExportedProgram) -> None:
        super().__init__()
        self.program = source.module()
        self.source = source
        self.training = False

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that torch.export.save wrote. Raises ValueError where it is none, or holds more than tensors."""
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except zipfile.BadZipFile as problem:
            raise ValueError(
                f"{path} is no file of torch.export.save, or cut short: get it again"
            ) from problem
        if odd := [name for name in names if not _PLAIN.fullmatch(name)]:
            raise ValueError(
                f"{path} is refused: '{odd[0]}' in it is neither a graph nor a plain tensor, and may carry code"
            )
        try:
            with _tensors_only():
                return cls(torch.export.load(path))
        except Exception as problem:  # whatever a reader of several formats raises
            said = next(iter(str(problem).splitlines()), "")
            raise ValueError(
                f"{path} cannot be read as a program of torch.export ({type(problem).__name__}: {said}): it is "
                "damaged, of another PyTorch, or carries more than tensors"
            ) from problem

    def forward(self, *inputs: Tensor) -> Tensor:
        """As the network that was exported."""
        outputs: Tensor = self.program(*inputs)
        return outputs

    def train(self, mode: bool = True) -> Self:
        """Nothing: a program has no modes."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = type(self).__new__(type(self))
        nn.Module.__init__(twin)
        twin.program, twin.source, twin.training = copy.deepcopy(self.program, memo), self.source, False
        return twin


def refuse_sealed(module: nn.Module, name: str) -> None:
    """Raise ValueError where a network that a stage wants to change is a program."""
    if isinstance(module, Sealed):
        raise ValueError(
            f"teacher {name!r} is a program of torch.export (.pt2): it answers, but its layers are fused into one "
            "graph without modules or a training mode, so that it can be neither pruned nor trained. Give the network "
            "itself and its weights (of a compact folder, weights.safetensors and structure.json), or name a student "
            "for it to teach (compress.DFAD or compress.Amalgamate with student)"
        )


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Let no pickle in the file do more than make tensors, whoever reads it."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
