"""Residual blocks that are empty once the channels inside are: cutting the last of these takes the block out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from students.blocks import Whole
from students.knife import Group, channels_of, scale_inputs
from students.trial import Trial


@torch.no_grad()
def hollow(trial: Trial, wholes: Sequence[Whole], groups: Sequence[Group]) -> dict[int, int]:
    """The number of a group -> the place of the block that answers nothing without it.

    That is a group inside a block whose end gives the same for every sample once nobody reads the group's channels:
    in a basic block the channels between its convolutions, in a bottleneck those of either width.
    """
    return {
        number: place
        for place, whole in enumerate(wholes)
        for number, group in enumerate(groups)
        if whole.kind == "block" and group.modules() <= whole.inside and _silences(trial, group, whole.tail)
    }


def _silences(trial: Trial, group: Group, tail: str) -> bool:
    """Whether every twin's module `tail` gives one answer to all samples while the group's channels are not read."""
    return all(_varies(twin, trial.inputs, group, tail) <= trial.tolerance for twin in trial.twins)


def _varies(twin: nn.Module, inputs: tuple[Tensor, ...], group: Group, tail: str) -> float:
    """How much what `tail` gives differs between samples without the group, as a share of how much with it."""
    modules = dict(twin.named_modules())
    silent: dict[str, Tensor] = {}
    for member in group.readers():
        module: nn.Module = modules[member.module]
        factors = torch.ones(channels_of(module, "in"), dtype=torch.bool)
        factors[member.index] = False
        weight: Tensor = module.weight  # type: ignore[assignment]
        silent[f"{member.module}.weight"] = scale_inputs(module, weight, factors.to(weight))
    given: list[Tensor] = []
    # A copy: many networks add the way around to it in place.
    handle = modules[tail].register_forward_hook(lambda _, __, output: given.append(output.clone()))
    try:
        functional_call(twin, silent, inputs)
        twin(*inputs)
    finally:
        handle.remove()
    without, whole = ((answer - answer[:1]).abs().max().item() for answer in given)
    return without / whole if whole else 1.0
