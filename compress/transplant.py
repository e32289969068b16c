"""A student that begins as a trained network up to one of its layers, and anew above it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compress.attribution import last_layer
from compress.freezing import below
from compress.tracing import up_to
from reports.profile import observed
from students.adapt import Adapt
from teachers.signature import Signature
from teachers.teacher import Teacher


def transplant(
    teacher: Teacher, layer: str, wanted: Signature, end: str | None = None, *, anew: bool = True
) -> tuple[nn.Module, tuple[str, ...]]:
    """A student that is the teacher up to a layer, for the inputs and classes of `wanted`; and what is the teacher's.

    end   a module after which the student ends, in the mean over pixels and a linear classifier; None keeps the
          teacher's own end, a classifier, with as many outputs as are wanted
    anew  draws every layer above from its own initialisation; False does so with the last alone. What has no
          initialisation of its own (`reset_parameters`) stays the teacher's
    What is the teacher's are names of layers and weights, as `freezing.freeze` takes them. Raises ValueError for a
    teacher that does not end in a classifier and that no `end` is named for, or that cannot be cut there.
    """
    module = copy.deepcopy(teacher.module).requires_grad_(True)
    inputs, theirs = example(module, teacher.signature), teacher.signature
    still = below(module, layer, inputs)
    if anew:
        for name, part in module.named_modules():
            if name not in still and not list(part.children()) and hasattr(part, "reset_parameters"):
                part.reset_parameters()
    if end is not None:
        student: nn.Module = _cut(module, end, inputs, wanted.classes)
        still = tuple(f"body.{name}" for name in still)
    else:
        student = _ended(module, teacher, wanted.classes)
    if (wanted.inputs, wanted.mean, wanted.std) != (theirs.inputs, theirs.mean, theirs.std):
        student = nn.Sequential(OrderedDict(front=Adapt(wanted, theirs), network=student))
        still = tuple(f"network.{name}" for name in still)
    return student, still


def _ended(module: nn.Module, teacher: Teacher, classes: int) -> nn.Module:
    """The same network, in place, with a fresh last layer."""
    inputs = example(module, teacher.signature)
    with observed(module), torch.no_grad():
        answer = module(*inputs)
    if answer.dim() != 2 or answer.shape[1] != teacher.signature.classes:
        raise ValueError(
            f"{teacher.name!r} gives {tuple(answer.shape[1:])} numbers an input and ends in no classifier: say after "
            f"which module its student ends, embeddings: {{{teacher.name}: name}}"
        )
    last = last_layer(module, inputs[0], teacher.name)
    _put(module, last, _like(module.get_submodule(last), classes))
    return module


def _cut(module: nn.Module, end: str, inputs: tuple[Tensor, ...], classes: int) -> nn.Module:
    """What lies below a module, as `body`, and a linear classifier on it."""
    body = up_to(module.eval(), end)
    with torch.no_grad():
        features = body(*inputs)
    pool = nn.AdaptiveAvgPool2d(1) if features.dim() == 4 else nn.Identity()
    width = features.shape[1] if features.dim() == 4 else features[0].numel()
    linear = nn.Linear(width, classes).to(features.device, features.dtype)
    return nn.Sequential(OrderedDict(body=body, pool=pool, flatten=nn.Flatten(), linear=linear))


def _like(part: nn.Module, outputs: int) -> nn.Module:
    """A fresh layer of the same kind with another number of outputs."""
    if isinstance(part, nn.Linear):
        return nn.Linear(part.in_features, outputs, bias=part.bias is not None)
    assert isinstance(part, _ConvNd)
    kind: Any = type(part)
    made: nn.Module = kind(
        part.in_channels, outputs, part.kernel_size, part.stride, part.padding, dilation=part.dilation,
        bias=part.bias is not None,
    )  # fmt: skip
    return made


def _put(module: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    weight = next(module.get_submodule(name).parameters())
    setattr(module.get_submodule(parent), last, part.to(weight.device, weight.dtype))


def example(module: nn.Module, signature: Signature) -> tuple[Tensor, ...]:
    """Two random inputs of a signature, where the network is."""
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    return tuple(tensor.to(device) for tensor in signature.example(2))
