"""Whether a student can learn from a teacher at all, and which blocks of the two can be compared."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.hooks import outputs_of
from compress.losses import discrepancy
from teachers.signature import Signature
from teachers.teacher import Teacher


def fits(teacher: Teacher, student: nn.Module, signature: Signature) -> torch.Size:
    """The shape of the answers to two inputs of `signature`.

    Raises ValueError where the student does not answer as the teacher does, or the teacher hides its input.
    """
    device = next(teacher.module.parameters()).device
    inputs = tuple(x.to(device) for x in signature.example(2))
    wanted = passing(teacher, inputs)
    training = student.training
    try:
        given = student.eval()(*(x.requires_grad_() for x in inputs))
    except RuntimeError as problem:
        raise ValueError(_no_gradients("the student", inputs, problem)) from problem
    finally:
        student.train(training)
    discrepancy(given, wanted)
    return wanted.shape


def passing(teacher: Teacher, inputs: tuple[Tensor, ...]) -> Tensor:
    """A teacher's answer to inputs, through which a gradient reaches them. Raises ValueError where none does."""
    leaves = tuple(x.detach().clone().requires_grad_() for x in inputs)
    try:
        answer = teacher(*leaves)
    except RuntimeError as problem:
        raise ValueError(_no_gradients(f"teacher {teacher.name!r}", inputs, problem)) from problem
    slopes = torch.autograd.grad(answer.sum(), leaves, allow_unused=True) if answer.requires_grad else (None,)
    if all(slope is None for slope in slopes):
        raise ValueError(
            f"teacher {teacher.name!r} passes no gradient to its input (quantised, or no_grad or detach on the way): "
            "without images nothing can be learned from it"
        )
    return answer


def _no_gradients(who: str, inputs: tuple[Tensor, ...], problem: RuntimeError) -> str:
    return f"{who} does not take gradients to inputs of {tuple(inputs[0].shape[1:])}: {problem}"


def answers_for(teacher: Teacher, signature: Signature) -> None:
    """Raises ValueError where a teacher's answers are to another question than the task's."""
    if other := teacher.signature.unlike(signature):
        raise ValueError(
            f"teacher {teacher.name!r} {other}: its answers teach nothing about it. Set soft_targets to 0, and labels "
            "above 0"
        )


def shared_blocks(teacher: Teacher, student: nn.Module, signature: Signature) -> tuple[str, ...]:
    """Modules with children that both networks have by the same name, with outputs of the same shape.

    inputs are of `signature`. Where a row of modules is longer in one of them, only its end is compared: the third of
    nine blocks is not the third of three. Raises ValueError where there are none.
    """
    its = dict(teacher.module.named_modules())
    both: list[str] = []
    uneven: list[str] = []
    for name, part in student.named_modules():
        if not name or not list(part.children()) or name not in its:
            continue
        if any(name.startswith(f"{row}.") for row in uneven):
            continue
        if isinstance(part, nn.Sequential | nn.ModuleList) and len(part) != len(list(its[name].children())):
            uneven.append(name)
        both.append(name)
    shapes: list[dict[str, torch.Size]] = []
    inputs = signature.example(2)
    for network in (teacher.module, student):
        outputs: dict[str, Tensor] = {}
        device, training = next(network.parameters()).device, network.training
        with outputs_of(network.eval(), both, outputs), torch.no_grad():
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
