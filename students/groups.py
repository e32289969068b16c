"""What may be cut: channels that live and die together, each group proven by a trial cut.

torch-pruning's dependency graph proposes groups of coupled channels; this file turns each into a `Group` that
speaks of modules by name, and proves it: a copy of the network is cut there and must equal, on random inputs, the
network in which those channels are silenced. A group that fails is locked, with the reason, and never cut.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Axis = Literal["out", "in", "both"]

TOLERANCE = 1e-4
"""relative to the largest output: how near a trial cut must come to the silenced network in fp32"""


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


@dataclass(frozen=True)
class Locked:
    """Something that was looked at and must stay as it is, with the reason."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def refuse_tied(network: nn.Module) -> None:
    """Raise ValueError where two layers share one parameter: a cut of one would silently cut the other."""
    owners: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        first = owners.setdefault(id(parameter), name)
        if first != name:
            raise ValueError(
                f"'{first}' and '{name}' are one tied parameter of shape {tuple(parameter.shape)}: cutting one would "
                "cut the other. Untie them first (give each layer its own copy), then prune"
            )


def find_groups(
    network: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[tuple[Group, ...], tuple[Locked, ...]]:
    """All channel groups of `network` that can be cut, and those that cannot, with reasons.

    `network` is not touched: a copy is traced and cut. `inputs` are example inputs of batch size >= 1.
    Raises ValueError where parameters are tied or the network cannot be run on `inputs`.
    """
    refuse_tied(network)
    trial = copy.deepcopy(network).requires_grad_(True).eval()
    inputs = tuple(_wiggle(tensor) for tensor in inputs)
    with torch.no_grad():
        whole = _output(trial, inputs)
    found, locked = _propose(trial, inputs)
    proven: list[Group] = []
    for group in found:
        reason = _prove(trial, group, inputs, whole)
        if reason is None:
            proven.append(group)
        else:
            locked.append(Locked(group.name, reason))
    return tuple(proven), tuple(locked)


# -- the cut ------------------------------------------------------------------------------------------------


def cut(
    network: nn.Module,
    dead: Mapping[str, Tensor],
    groups: Iterable[Group],
    gone: frozenset[str] = frozenset(),
) -> None:
    """Remove units in place: `dead` gives, by group name, a boolean vector (width,), True where the unit goes.

    Modules named in `gone` disappear as a whole elsewhere and are passed over. Every module is sliced once, with
    the union of what all groups take from it, so no index ever has to be renumbered.
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
    else:
        # Norms, PReLU and the like: torch-pruning knows their attributes.
        from torch_pruning import ops
        from torch_pruning.dependency import DependencyGraph

        pruner = DependencyGraph().REGISTERED_PRUNERS.get(ops.module2type(module))
        size = pruner.get_out_channels(module) if pruner is not None else None
        if pruner is None or size is None:
            raise ValueError(f"'{name}' is a {type(module).__name__}, which nobody here knows how to narrow")
        _kept(size, drop, name)
        pruner.prune_out_channels(module, drop.tolist())


def _slice_conv(conv: _ConvNd, name: str, axis: Axis, drop: Tensor) -> None:
    transposed = isinstance(conv, _ConvTransposeNd)
    if axis == "both":  # depthwise: a channel is a group of its own
        keep = _kept(conv.out_channels, drop, name)
        _keep(conv, "weight", 0, keep)
        _keep(conv, "bias", 0, keep)
        conv.in_channels = conv.out_channels = conv.groups = len(keep)
    elif axis == "out":
        keep = _kept(conv.out_channels, drop, name)
        if transposed and conv.groups > 1:
            keep_weight = _per_group(keep, conv.out_channels, conv.groups, name)
            _keep(conv, "weight", 1, keep_weight)
        else:
            _per_group(keep, conv.out_channels, conv.groups, name)
            _keep(conv, "weight", 1 if transposed else 0, keep)
        _keep(conv, "bias", 0, keep)
        conv.out_channels = len(keep)
    else:
        keep = _kept(conv.in_channels, drop, name)
        columns = _per_group(keep, conv.in_channels, conv.groups, name)
        _keep(conv, "weight", 0 if transposed else 1, keep if transposed else columns)
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
    old = getattr(module, name)
    if old is None:
        return
    new = old.detach().index_select(dim, keep.to(old.device))
    if new.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last) and not old.is_contiguous():
        new = new.contiguous(memory_format=torch.channels_last)
    setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))


# -- what torch-pruning proposes ----------------------------------------------------------------------------


def _propose(trial: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[list[Group], list[Locked]]:
    import torch_pruning as tp

    graph = tp.DependencyGraph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of elementwise guesses, which the trial cut settles
        try:
            graph.build_dependency(trial, inputs, verbose=False)
            proposals = list(graph.get_all_groups(root_module_types=[_ConvNd, nn.Linear]))
        except Exception as problem:
            # Its tracer gives up on some reshapes with whatever error comes first; blocks may still be cut.
            reason = f"torch-pruning cannot follow its channels ({type(problem).__name__}: {problem})"
            return [], [Locked("the whole network", reason)]
    names = {module: name for name, module in trial.named_modules()}
    found: list[Group] = []
    locked: list[Locked] = []
    for proposal in proposals:
        root = names[proposal[0].dep.target.module]
        result = _translate(root, proposal, names, graph)
        (found if isinstance(result, Group) else locked).append(result)  # type: ignore[arg-type]
    return found, locked


def _translate(root: str, proposal: object, names: Mapping[nn.Module, str], graph: object) -> Group | Locked:
    raw: list[tuple[str, nn.Module, Axis, Tensor, Tensor]] = []
    for item in proposal:  # type: ignore[attr-defined]
        module = item.dep.target.module
        if isinstance(module, nn.Parameter):
            return Locked(
                root, "a bare parameter of the network takes part, which cannot be narrowed by name"
            )
        if module not in names:
            continue  # an operation, not a module: it holds nothing to cut
        roots = item.root_idxs
        if roots is None or any(r is None for r in roots):
            return Locked(root, f"the channels cannot be followed into '{names[module]}'")
        reads = graph.is_in_channel_pruning_fn(item.dep.handler)  # type: ignore[attr-defined]
        makes = graph.is_out_channel_pruning_fn(item.dep.handler)  # type: ignore[attr-defined]
        depthwise = (
            isinstance(module, _ConvNd) and module.groups == module.out_channels == module.in_channels > 1
        )
        axis: Axis = "both" if depthwise or (reads and makes) else "in" if reads else "out"
        raw.append((names[module], module, axis, torch.tensor(list(item.idxs)), torch.tensor(roots)))
    channels = len(raw[0][3])
    # A convolution with groups must lose the same channels in each of them: tie the positions across groups.
    ties = [
        module.groups
        for _, module, axis, _, _ in raw
        if isinstance(module, _ConvNd) and module.groups > 1 and axis != "both"
    ]
    width = channels // math.lcm(*ties) if ties else channels
    if ties and channels % math.lcm(*ties):
        return Locked(
            root, f"its {channels} channels do not divide into {math.lcm(*ties)} convolution groups"
        )
    if width < 2:
        return Locked(root, "it has a single unit, and a layer keeps at least one")
    merged: dict[tuple[str, Axis], list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for name, _, axis, index, roots in raw:
        merged[name, axis].append((index, roots % width))
    members = []
    for (name, axis), parts in merged.items():
        index, unit = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        order = index.argsort()
        index, unit = index[order], unit[order]
        if len(index.unique()) != len(index):
            first = torch.cat([torch.tensor([True]), index[1:] != index[:-1]])
            if not torch.equal(unit[1:][~first[1:]], unit[:-1][~first[1:]]):
                return Locked(root, f"two of its channels meet in one position of '{name}'")
            index, unit = index[first], unit[first]
        members.append(Member(name, axis, index, unit))
    group = Group(root, width, tuple(members))
    if not group.readers():
        return Locked(root, "no layer reads it: it is an output of the network")
    return group


# -- the proof ----------------------------------------------------------------------------------------------


def _prove(trial: nn.Module, group: Group, inputs: tuple[Tensor, ...], whole: Tensor) -> str | None:
    """Cut a few units of the group in place, compare with the network that silences them, and put all back."""
    modules = dict(trial.named_modules())
    dead = torch.zeros(group.width, dtype=torch.bool)
    dead[0] = dead[group.width // 2] = True
    if bool(dead.all()):
        dead[0] = False
    silent = {}
    for member in group.readers():
        reader = modules[member.module]
        scale = torch.ones(_inputs_of(reader), device=whole.device)
        scale[member.index[dead[member.unit]].to(whole.device)] = 0.0
        silent[f"{member.module}.weight"] = scale_inputs(reader, reader.weight, scale)  # type: ignore[arg-type]
    touched = {member.module for member in group.members}
    before = {name: _snapshot(modules[name]) for name in touched}
    with torch.no_grad():
        masked = _output_of(functional_call(trial, silent, inputs))
        try:
            cut(trial, {group.name: dead}, [group])
            small = _output(trial, inputs)
        except (RuntimeError, ValueError, IndexError, AssertionError) as problem:
            first = str(problem).strip().splitlines()[0]
            return f"the network does not run once it is cut ({first})"
        finally:
            for name, state in before.items():
                _put_back(modules[name], state)
    if small.shape != whole.shape:
        return f"it reaches the output, whose shape would change from {_shape(whole)} to {_shape(small)}"
    gap = (small - masked).abs().max().item() / max(whole.abs().max().item(), 1e-12)
    if not gap <= TOLERANCE:
        return f"cutting differs from silencing by {gap:.1e} of the output: an operation mixes its channels"
    return None


def _snapshot(module: nn.Module) -> dict[str, object]:
    return {key: dict(value) if isinstance(value, dict) else value for key, value in module.__dict__.items()}


def _put_back(module: nn.Module, state: dict[str, object]) -> None:
    module.__dict__.clear()
    module.__dict__.update(state)


def _wiggle(tensor: Tensor) -> Tensor:
    # A single sample would hide what a batch shows: a view(-1, 64) that folds channels into the batch.
    return (
        torch.cat([tensor, tensor.flip(0) * 0.9])
        if tensor.is_floating_point() and len(tensor) == 1
        else tensor
    )


def _output(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    return _output_of(network(*inputs))


def _output_of(output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the network gives a {type(output).__name__}; one tensor is needed: wrap it so that it does"
        )
    return output


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


# -- linear maps and their inputs ---------------------------------------------------------------------------


def _inputs_of(module: nn.Module) -> int:
    if isinstance(module, _ConvNd):
        return module.in_channels
    if isinstance(module, nn.Linear):
        return module.in_features
    raise ValueError(
        f"a {type(module).__name__} reads channels, but only convolutions and linear layers carry a mask"
    )


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
