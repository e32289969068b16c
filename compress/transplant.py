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
from reports.profile import observed
from students.adapt import Adapt
from teachers.signature import Signature
from teachers.teacher import Teacher


def transplant(
    teacher: Teacher, layer: str, wanted: Signature, *, anew: bool = True
) -> tuple[nn.Module, str]:
    """A student that is the teacher up to a layer, for the inputs and classes of `wanted`; and the layer's name in it.

    anew  draws every layer above from its own initialisation; else only the last is, where it gives another number of
          classes. What has no initialisation of its own (`reset_parameters`) stays the teacher's.
    Raises ValueError where the teacher's last layer is no classifier.
    """
    module = copy.deepcopy(teacher.module).requires_grad_(True)
    inputs = example(module, teacher.signature)
    end = last_layer(module, inputs[0], teacher.name)
    still = below(module, layer, inputs).names
    if wanted.classes != teacher.signature.classes or anew:
        _put(module, end, _like(module.get_submodule(end), wanted.classes))
    if anew:
        for name, part in module.named_modules():
            if name not in still and not list(part.children()) and hasattr(part, "reset_parameters"):
                part.reset_parameters()
    theirs = teacher.signature
    if (wanted.inputs, wanted.mean, wanted.std) != (theirs.inputs, theirs.mean, theirs.std):
        module = nn.Sequential(OrderedDict(front=Adapt(wanted, theirs), network=module))
        layer = f"network.{layer}"
    with observed(module), torch.no_grad():
        answer = module(*example(module, wanted))
    if answer.dim() != 2 or answer.shape[1] != wanted.classes:
        raise ValueError(
            f"{teacher.name!r} gives {tuple(answer.shape[1:])} numbers an input, and the task has {wanted.classes} "
            "classes: it does not end in a classifier that could be replaced. Leave it out of the choice"
        )
    return module, layer


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
