"""What may be cut from networks over graphs: channels and attention heads, by the names of a layer's parts.

torch-pruning cannot follow channels along edges. The layers of `teachers.networks.passing` are known by name, also when
they were written down and built again: `layers.N.linear source target residual` (GAT), `linear` (GCN), `neighbours
root` (SAGE), `first norm second` (GIN), each with a bias of its own. A wrong guess does no harm: every group is tried.
"""

from __future__ import annotations

import re
from collections import defaultdict

import torch
from torch import Tensor, nn

from students.knife import Axis, Group, Member

_PART = re.compile(r"^(?P<layer>(?:.*\.)?layers\.(?P<number>\d+))\.(?P<part>\w+)$")
_OUT = ("linear", "residual", "neighbours", "root", "second")
_IN = ("linear", "residual", "neighbours", "root", "first")


def passes(network: nn.Module) -> bool:
    """Whether a network has layers that pass messages, by their names."""
    return bool(_layers(network))


def _layers(network: nn.Module) -> dict[str, dict[str, nn.Module]]:
    """The parts of each layer, by the layer's name, in order."""
    found: dict[str, dict[str, nn.Module]] = defaultdict(dict)
    for name, module in network.named_modules():
        match = _PART.match(name)
        if match and match["part"] in {*_OUT, *_IN, "norm", "source", "target"}:
            found[match["layer"]][match["part"]] = module
    known = {name: parts for name, parts in found.items() if {"linear", "neighbours", "first"} & parts.keys()}
    return dict(sorted(known.items(), key=lambda item: int(item[0].rpartition(".")[2])))


def propose(network: nn.Module, heads: bool = False) -> tuple[list[Group], list[tuple[str, str]]]:
    """Groups of channels, or of whole heads, and what cannot be one: (layer, reason)."""
    layers = _layers(network)
    groups: list[Group] = []
    locked: list[tuple[str, str]] = []
    names = list(layers)
    if not names:
        locked.append(("the whole network", "it has no heads: none of its layers is one of graph attention"))
    for place, name in enumerate(names):
        parts = layers[name]
        if {"first", "second"} <= parts.keys() and not heads:
            groups.append(_inner(name, parts))
        makers = [part for part in _OUT if isinstance(parts.get(part), nn.Linear)]
        if place == len(names) - 1:
            locked.append((f"{name}.{makers[0]}", "it makes the output of the network"))
            continue
        group = _between(name, parts, makers, names[place + 1], layers[names[place + 1]], heads)
        if isinstance(group, Group):
            groups.append(group)
        else:
            locked.append((f"{name}.{makers[0]}", group))
    return groups, locked


def _inner(name: str, parts: dict[str, nn.Module]) -> Group:
    """What goes from the first to the second linear layer of a GIN layer."""
    width = parts["first"].out_features
    assert isinstance(width, int)
    every = torch.arange(width)
    axes: tuple[tuple[str, Axis], ...] = (("first", "out"), ("norm", "both"), ("second", "in"))
    members = tuple(Member(f"{name}.{part}", axis, every, every) for part, axis in axes if part in parts)
    return Group(f"{name}.first", width, members)


def _between(
    name: str,
    parts: dict[str, nn.Module],
    makers: list[str],
    after: str,
    readers: dict[str, nn.Module],
    heads: bool,
) -> Group | str:
    """What goes from one layer to the next, or why it cannot be cut."""
    made = parts[makers[0]]
    assert isinstance(made, nn.Linear)
    width = made.out_features
    attention = [part for part in ("source", "target") if isinstance(parts.get(part), nn.Conv1d)]
    count = parts[attention[0]].out_channels if attention else 1
    assert isinstance(count, int)
    if heads and not attention:
        return "it has no heads"
    each = width // count
    size = count if heads else each
    if size < 2:
        return "it has a single head" if heads else "it has a single channel"
    every = torch.arange(width)
    unit = torch.div(every, each, rounding_mode="floor") if heads else every % each
    members = [Member(f"{name}.{part}", "out", every, unit) for part in makers]
    members.append(Member(name, "out", every, unit))  # the layer's own bias
    for part in attention:
        one = torch.arange(count)
        members.append(
            Member(f"{name}.{part}", "both", one, one)
            if heads
            else Member(f"{name}.{part}", "in", every, unit)
        )
    members += [
        Member(f"{after}.{part}", "in", every, unit)
        for part in _IN
        if isinstance(readers.get(part), nn.Linear)
    ]
    kept = [m for m in members if m.module != name or _holds_bias(parts, name, m)]
    return Group(f"{name}.{makers[0]}", size, tuple(kept))


def _holds_bias(parts: dict[str, nn.Module], name: str, member: Member) -> bool:
    # Layers whose linear parts have the bias hold none of their own.
    return not any(getattr(parts.get(part), "bias", None) is not None for part in ("root", "second"))


def importance(network: nn.Module, group: Group, power: float | None) -> Tensor:
    """How much every unit of a group weighs, (width,): the sum over all it makes and reads of |w|^power.

    None takes |w * dL/dw|, gradients being there.
    """
    modules = dict(network.named_modules())
    scores = torch.zeros(group.width, dtype=torch.float64)
    for member in group.members:
        for key, parameter in modules[member.module].named_parameters(recurse=False):
            if key == "bias" and member.axis == "in":
                continue
            if power is None:
                if parameter.grad is None:
                    raise ValueError(f"'{member.module}.{key}' has no gradient: choose l1 or l2")
                value = (parameter * parameter.grad).abs()
            else:
                value = parameter.abs() ** power
            value = value.detach().cpu().double()
            if member.axis == "in" and isinstance(modules[member.module], nn.Conv1d):
                across = value.flatten()  # (heads, width, 1): a number for every position
            elif member.axis == "in":
                across = value.sum(0)
            else:
                across = value.flatten(1).sum(1) if value.dim() > 1 else value
            scores.index_add_(0, member.unit, across[member.index])
    return scores
