"""Whether a student can learn from a teacher at all, and which blocks of the two can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compress.losses import discrepancy
from teachers.teacher import Teacher


def fits(teacher: Teacher, student: nn.Module) -> None:
    """Raises ValueError where the student does not answer as the teacher does, or the teacher hides its input."""
    device = next(teacher.module.parameters()).device
    inputs = tuple(x.to(device).requires_grad_() for x in teacher.signature.example(2))
    training = student.training
    try:
        wanted, given = teacher(*inputs), student.eval()(*inputs)
    except RuntimeError as problem:
        raise ValueError(
            f"teacher {teacher.name!r} or the student does not take gradients to inputs of "
            f"{tuple(inputs[0].shape[1:])}: {problem}"
        ) from problem
    finally:
        student.train(training)
    discrepancy(given, wanted)
    if not wanted.requires_grad:
        raise ValueError(
            f"teacher {teacher.name!r} passes no gradient to its input (no_grad or detach on the way): the generator "
            "could not learn where the two differ"
        )


def shared_blocks(teacher: Teacher, student: nn.Module) -> tuple[str, ...]:
    """Modules with children that both networks have by the same name and with outputs of the same shape.

    Raises ValueError where there are none.
    """
    both = [
        name
        for name, part in student.named_modules()
        if name and list(part.children()) and name in dict(teacher.module.named_modules())
    ]
    shapes: list[dict[str, torch.Size]] = []
    inputs = teacher.signature.example(2)
    for network in (teacher.module, student):
        outputs: dict[str, Tensor] = {}
        device, training = next(network.parameters()).device, network.training
        with noted(network.eval(), both, outputs), torch.no_grad():
            network(*(x.to(device) for x in inputs))
        network.train(training)
        shapes.append({name: tensor.shape for name, tensor in outputs.items()})
    found = tuple(name for name in both if name in shapes[0] and shapes[0][name] == shapes[1].get(name))
    if not found:
        raise ValueError(
            "features matches blocks that have the same name and the same output shape in student and teacher, and "
            f"there are none among {', '.join(both[:8]) or 'no blocks at all'}: set features to 0"
        )
    return found


@contextmanager
def noted(network: nn.Module, names: Sequence[str], into: dict[str, Tensor]) -> Iterator[None]:
    """Note what the named modules give."""
    modules = dict(network.named_modules())

    def hook(name: str) -> Any:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                into[name] = output

        return note

    hooks = [modules[name].register_forward_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
