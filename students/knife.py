"""The knife: removing channels from layers, in place, and what it means for a layer's input to be scaled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Axis = Literal["out", "in", "both"]

KNOWN = (_ConvNd, nn.Linear, _NormBase, nn.PReLU)
"""layers that can be narrowed; _NormBase are the batch and instance norms, which keep channels apart"""


@dataclass(frozen=True)
class Member:
    """One module's share in a group.

    axis   "out": it makes the channels; "in": it reads them; "both": it keeps them apart (norms, depthwise)
    index  (P,) positions on that axis
    unit   (P,) which unit of the group each position belongs to; behind a flatten one unit owns many positions
    """

    module: str
    axis: Axis
    index: Tensor
    unit: Tensor


@dataclass(frozen=True)
class Group:
    """Channels that must be kept or removed together, everywhere they appear.

    name     the layer that makes them, by its qualified name
    width    the number of units: each can be removed by itself
    """

    name: str
    width: int
    members: tuple[Member, ...]

    def readers(self) -> tuple[Member, ...]:
        """The linear maps that read these channels: where a mask acts, and is folded."""
        return tuple(member for member in self.members if member.axis == "in")

    def modules(self) -> frozenset[str]:
        """All that would be narrowed."""
        return frozenset(member.module for member in self.members)


def needs(modules: Mapping[str, nn.Module], groups: Sequence[Group]) -> list[list[int]]:
    """Sets of units of which one must live each, or some layer would have nothing to make or to read.

    Units are numbered through all groups, in order. Most sets are whole groups; where a concatenation feeds a layer
    that keeps channels apart, what every one of its parts makes is a set.
    """
    units: dict[tuple[str, Axis], set[int]] = defaultdict(set)
    places: dict[tuple[str, Axis], int] = defaultdict(int)
    found: set[frozenset[int]] = set()
    start = 0
    for group in groups:
        found.add(frozenset(range(start, start + group.width)))
        for member in group.members:
            units[member.module, member.axis].update((member.unit.unique() + start).tolist())
            places[member.module, member.axis] += len(member.index)
        start += group.width
    # A layer with channels that no group holds never runs empty.
    for (name, axis), mine in units.items():
        if places[name, axis] == channels_of(modules[name], axis):
            found.add(frozenset(mine))
    return [sorted(one) for one in sorted(found, key=sorted) if not any(other < one for other in found)]


def cut(
    network: nn.Module,
    dead: Mapping[str, Tensor],
    groups: Iterable[Group],
    gone: frozenset[str] = frozenset(),
) -> None:
    """Remove units in place: `dead` gives, by group name, a boolean vector (width,), True where the unit goes.

    Modules named in `gone` disappear as a whole elsewhere and are passed over. Every module is sliced once, with
    the union of what all groups take from it, so no index ever has to be renumbered.
    Raises ValueError where a layer would be left without a channel; the network is then half cut.
    """
    modules = dict(network.named_modules())
    drop: dict[tuple[str, Axis], list[Tensor]] = defaultdict(list)
    for group in groups:
        if group.name in dead:
            for member in group.members:
                taken = member.index[dead[group.name][member.unit]]
                if member.module not in gone and taken.numel():
                    drop[member.module, member.axis].append(taken)
    for (name, axis), parts in drop.items():
        _slice(modules[name], name, axis, torch.cat(parts).unique())


def _slice(module: nn.Module, name: str, axis: Axis, drop: Tensor) -> None:
    if isinstance(module, _ConvNd):
        _slice_conv(module, name, axis, drop)
    elif isinstance(module, nn.Linear):
        dim = 1 if axis == "in" else 0
        keep = _kept(module.weight.shape[dim], drop, name)
        _keep(module, "weight", dim, keep)
        if dim == 0:
            _keep(module, "bias", 0, keep)
            module.out_features = len(keep)
        else:
            module.in_features = len(keep)
    elif isinstance(module, _NormBase):
        keep = _kept(module.num_features, drop, name)
        for part in ("weight", "bias", "running_mean", "running_var"):
            _keep(module, part, 0, keep)
        module.num_features = len(keep)
    elif isinstance(module, nn.PReLU):
        keep = _kept(module.num_parameters, drop, name)
        _keep(module, "weight", 0, keep)
        module.num_parameters = len(keep)
    elif (bias := own_bias(module)) is not None:
        _keep(module, "bias", 0, _kept(len(bias), drop, name))
    else:
        raise ValueError(f"'{name}' is a {type(module).__name__}, which nobody here knows how to narrow")


def own_bias(module: nn.Module) -> nn.Parameter | None:
    """The bias that a module made of others adds by itself; a layer with a weight of its own is no such module."""
    own = {name: parameter for name, parameter in module._parameters.items() if parameter is not None}
    if isinstance(module, KNOWN) or list(own) != ["bias"] or not list(module.children()):
        return None
    return own["bias"] if own["bias"].dim() == 1 else None


def _slice_conv(conv: _ConvNd, name: str, axis: Axis, drop: Tensor) -> None:
    transposed = isinstance(conv, _ConvTransposeNd)
    if axis == "both":  # a group for every output, depthwise or several inputs wide: it goes as a whole
        keep = _kept(conv.out_channels, drop, name)
        _keep(conv, "weight", 0, keep)
        _keep(conv, "bias", 0, keep)
        conv.out_channels = conv.groups = len(keep)
        conv.in_channels = len(keep) * (1 if transposed else conv.weight.shape[1])
    elif axis == "out":
        keep = _kept(conv.out_channels, drop, name)
        inside = _per_group(keep, conv.out_channels, conv.groups, name)
        _keep(conv, "weight", 1 if transposed else 0, inside if transposed else keep)
        _keep(conv, "bias", 0, keep)
        conv.out_channels = len(keep)
    else:
        keep = _kept(conv.in_channels, drop, name)
        inside = _per_group(keep, conv.in_channels, conv.groups, name)
        _keep(conv, "weight", 0 if transposed else 1, keep if transposed else inside)
        conv.in_channels = len(keep)


def _per_group(keep: Tensor, channels: int, groups: int, name: str) -> Tensor:
    """The positions kept inside one convolution group; the same in all of them, or the cut is refused."""
    size = channels // groups
    rows = [keep[(keep // size) == g] % size for g in range(groups)]
    if any(not torch.equal(row, rows[0]) for row in rows):
        raise ValueError(f"'{name}' has {groups} convolution groups, which must lose the same channels each")
    return rows[0]


def _kept(size: int, drop: Tensor, name: str) -> Tensor:
    keep = torch.ones(size, dtype=torch.bool)
    keep[drop] = False
    if not bool(keep.any()):
        raise ValueError(f"the cut would leave '{name}' without a channel: keep at least one of its {size}")
    return keep.nonzero().flatten()


def _keep(module: nn.Module, name: str, dim: int, keep: Tensor) -> None:
    """Keep these slices of a parameter or buffer, in its memory format; gradients of the old shape are gone."""
    old = getattr(module, name)
    if old is None:
        return
    new = old.detach().index_select(dim, keep.to(old.device))
    for form, dims in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if new.dim() == dims and old.is_contiguous(memory_format=form) and not old.is_contiguous():
            new = new.contiguous(memory_format=form)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(module, name, new)


# -- linear maps and their inputs ---------------------------------------------------------------------------


def channels_of(module: nn.Module, axis: Axis) -> int:
    """How many channels a layer that can be narrowed has on an axis. Raises ValueError for every other module."""
    if isinstance(module, _ConvNd):
        return module.in_channels if axis == "in" else module.out_channels
    if isinstance(module, nn.Linear):
        return module.in_features if axis == "in" else module.out_features
    if isinstance(module, _NormBase):
        return module.num_features
    if isinstance(module, nn.PReLU):
        return module.num_parameters
    if (bias := own_bias(module)) is not None:
        return len(bias)
    raise ValueError(f"a {type(module).__name__} cannot be narrowed")


def scale_inputs(module: nn.Module, weight: Tensor, scale: Tensor) -> Tensor:
    """The weight of a convolution or linear layer whose input channel c is multiplied by scale[c], scale (inputs,).

    Works on convolutions of any dimension, transposed and grouped ones too; returns a tensor of weight's shape.
    """
    tail = (1,) * (weight.dim() - 2)
    if isinstance(module, _ConvTransposeNd):
        return weight * scale.view(-1, 1, *tail)
    if isinstance(module, _ConvNd) and module.groups > 1:
        rows = scale.view(module.groups, 1, -1).expand(-1, module.out_channels // module.groups, -1)
        return weight * rows.reshape(module.out_channels, -1, *tail)
    return weight * scale.view(1, -1, *tail)
