"""Trial cuts: a network that was cut must equal the one in which the same things are silenced.

Trials run in fp32 on a copy on the CPU, where no convolution is rounded to shorter numbers, and with weights drawn
anew: a trained network's dead channels, or a norm that starts at zero, would let a wrong cut pass unseen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from students.knife import Group, cut, inputs_of, scale_inputs

TOLERANCE = 1e-4
"""relative to the largest output: how near a trial cut must come to the silenced network in fp32"""

Item = TypeVar("Item")


def generic(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[Tensor, ...], Tensor]:
    """A copy in eval mode on the CPU with weights drawn anew, inputs of at least two samples, and its output.

    Raises ValueError where the network does not give one tensor.
    """
    inputs = tuple(_two(tensor.detach().cpu()) for tensor in inputs)
    twin = copy.deepcopy(network).cpu().eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        whole = output_of(twin(*inputs))
        drawn = copy.deepcopy(twin)
        _draw(drawn)
        answer = output_of(drawn(*inputs))
    # Hundreds of residual blocks may overflow with weights that nobody trained: then the trained ones must do.
    twin, whole = (drawn, answer) if bool(answer.isfinite().all()) else (twin, whole)
    return twin.requires_grad_(True), inputs, whole


def _draw(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(like: Tensor, scale: float) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like.dtype) * scale

    def around_one(like: Tensor) -> Tensor:
        return (0.5 + torch.rand(like.shape, generator=generator, dtype=torch.float32)).to(like.dtype)

    for module in network.modules():
        norm = isinstance(module, _NormBase | nn.LayerNorm | nn.GroupNorm)
        for name, parameter in module._parameters.items():
            if parameter is None or not parameter.is_floating_point():
                continue
            if parameter.dim() > 1:
                fan = max(parameter[0].numel(), 1)
                parameter.copy_(normal(parameter, (2.0 / fan) ** 0.5))
            else:
                parameter.copy_(
                    around_one(parameter) if norm and name == "weight" else normal(parameter, 0.3)
                )
        if isinstance(module, _NormBase) and module.running_mean is not None:
            module.running_mean.copy_(normal(module.running_mean, 0.3))
            assert module.running_var is not None
            module.running_var.copy_(around_one(module.running_var))


def _two(tensor: Tensor) -> Tensor:
    # A single sample would hide what a batch shows: a view(-1, 64) that folds channels into the batch.
    if tensor.dim() == 0 or len(tensor) > 1:
        return tensor[:2] if tensor.dim() else tensor
    return torch.cat([tensor, tensor.flip(0) * 0.9 if tensor.is_floating_point() else tensor])


def output_of(output: object) -> Tensor:
    """The network's one output. Raises ValueError where it is something else."""
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the network gives a {type(output).__name__}; one tensor is needed: wrap it so that it does"
        )
    return output


def sift(
    items: Sequence[Item], differs: Callable[[list[Item]], str | None]
) -> tuple[list[Item], list[tuple[Item, str]]]:
    """The items that can go together, and the others with reasons: all at once if that works, else by halves.

    `differs` tries several items at once and gives the reason where they cannot go.
    """
    good: list[Item] = []
    bad: list[tuple[Item, str]] = []

    def admit(part: Sequence[Item]) -> None:
        if not part:
            return
        reason = differs([*good, *part])
        if reason is None:
            good.extend(part)
        elif len(part) == 1:
            bad.append((part[0], reason))
        else:
            admit(part[: len(part) // 2])
            admit(part[len(part) // 2 :])

    admit(items)
    return good, bad


def differs(
    twin: nn.Module, groups: Sequence[Group], inputs: tuple[Tensor, ...], whole: Tensor
) -> str | None:
    """Cut about half of each group in place, compare with the network that silences them, and put all back."""
    modules = dict(twin.named_modules())
    generator = torch.Generator().manual_seed(1)
    dead: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    for group in groups:
        gone = torch.rand(group.width, generator=generator) < 0.5
        gone[0], gone[group.width // 2] = True, False
        dead[group.name] = gone
        for member in group.readers():
            fresh = torch.ones(inputs_of(modules[member.module]))
            scales.setdefault(member.module, fresh)[member.index[gone[member.unit]]] = 0.0
    silent = {
        f"{name}.weight": scale_inputs(modules[name], modules[name].weight, scale)  # type: ignore[arg-type]
        for name, scale in scales.items()
    }
    before = {
        name: _snapshot(modules[name]) for name in {m.module for group in groups for m in group.members}
    }
    with torch.no_grad():
        masked = output_of(functional_call(twin, silent, inputs))
        try:
            cut(twin, dead, groups)
            small = output_of(twin(*inputs))
        except Exception as problem:  # whatever the network's own code runs into is the answer
            return f"the network does not run once it is cut ({first_line(problem)})"
        finally:
            for name, state in before.items():
                _put_back(modules[name], state)
    if len(small) != len(whole):
        return f"a reshape of fixed size folds its channels into the batch, which grows or shrinks to {len(small)}"
    if small.shape != whole.shape:
        return f"it reaches the output, whose shape would change from {_shape(whole)} to {_shape(small)}"
    return gap(
        small, masked, "cutting differs from silencing by {} of the output: an operation mixes its channels"
    )


def gap(small: Tensor, masked: Tensor, message: str) -> str | None:
    """`message` with the relative distance in it, where that is above the tolerance."""
    distance = (small - masked).abs().max().item() / max(masked.abs().max().item(), 1e-12)
    return None if distance <= TOLERANCE else message.format(f"{distance:.1e}")


def first_line(problem: BaseException) -> str:
    """What an exception says, in one line."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


def _snapshot(module: nn.Module) -> Mapping[str, object]:
    return {key: copy.copy(value) if isinstance(value, dict) else value for key, value in module.__dict__.items()}


def _put_back(module: nn.Module, state: Mapping[str, object]) -> None:
    module.__dict__.clear()
    module.__dict__.update(state)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
