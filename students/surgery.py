"""Soft masks, and cutting away what they switched off: channels, residual blocks, branches.

A mask value m >= 0 stands for one *unit*: a channel of a group, a block or a branch. Channel masks act where the
channel is read (W[:, c] -> m_c W[:, c]), so m_c = 0 equals removal whatever norm, bias, pooling or activation lies
between; block and branch masks act on the last weight and bias of their path. Nothing is added to the network:
the masked weights are handed to it for one call (`torch.func.functional_call`), and folded in before the cut.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from reports.profile import macs as count_macs
from reports.units import count
from students.blocks import Whole, find_wholes, take_out
from students.groups import Locked, prove_groups, refuse_tied
from students.hollow import hollow
from students.kernels import SharedConvolution, densified
from students.knife import Group, channels_of, cut, needs, scale_inputs
from students.trial import Trial, first_line, output_of, sift
from teachers.nearest import did_you_mean

Kind = Literal["channel", "block", "branch"]
Alive = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]

_MISSING: dict[Kind, str] = {
    "channel": "no convolution or linear layer feeds another",
    "block": "no addition joins layers with a way around them",
    "branch": "no concatenation of channels joins paths with layers",
}


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer and its MACs for one input, as the network stands."""

    name: str
    macs: int
    outs: int
    ins: int


class Anatomy:
    """Everything that may be cut from one network, in one row of units, and what each arrangement costs.

    groups  channel groups, each of `width` units, first in the row
    wholes  blocks and branches, one unit each, after them
    locked  what must stay, with reasons
    macs    of one input, by torch's counter
    hollow  groups, by number, whose last channel takes a block along, by its place among the wholes (`students.hollow`)
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: tuple[Tensor, ...],
        kinds: Sequence[Kind] = ("channel",),
        spare: Sequence[str] = (),
        heads: bool = False,
    ) -> None:
        """Study a copy of `network`, which is not touched, on example `inputs`.

        spare names layers to leave as they are, by patterns: "layer1.*". Whatever would narrow one is locked. heads
        takes the heads of graph attention for units, in place of the channels that all heads have.

        Raises ValueError where a pattern matches no layer; where nothing of these kinds can be cut, with all the
        reasons; where parameters are tied; where the network gives anything but one tensor; where blocks are asked
        for and it cannot be traced.
        """
        refuse_tied(network)
        # Layers with shared kernels are studied as the convolutions they stand for, and left as they are.
        sharing = frozenset(n for n, m in network.named_modules() if isinstance(m, SharedConvolution))
        trial = Trial.of(densified(network) if sharing else network, inputs)
        groups, locked = prove_groups(trial, heads)
        found, shut = find_wholes(trial.twins[0], kinds) if {"block", "branch"} & set(kinds) else ((), ())
        self.macs = count_macs(trial.twins[0], trial.inputs)
        self.layers = _layers(trial.twins[0], trial.inputs)
        for apart, why in (
            (spared(network, spare), "spared by the recipe"),
            (sharing, "its kernels are shared"),
        ):
            shut = (*shut, *(Locked(w.name, why, w.inside) for w in found if w.inside & apart))
            found = tuple(whole for whole in found if not whole.inside & apart)
            locked = (*locked, *(Locked(g.name, why, g.modules()) for g in groups if g.modules() & apart))
            groups = tuple(group for group in groups if not group.modules() & apart)
        self.wholes, refused = _admit(trial, found, groups)
        self.locked = (*(locked if "channel" in kinds else ()), *shut, *refused)
        # A branch takes its group along; where channels are not asked for, that is the group's only use.
        owned = {_owner(whole, groups) for whole in self.wholes if whole.kind == "branch"}
        self.groups: tuple[Group, ...] = tuple(g for g in groups if "channel" in kinds or g in owned)
        self.channels = "channel" in kinds
        self.hollow = hollow(trial, self.wholes, self.groups) if self.channels else {}
        self._index()
        self._needed = needs(dict(trial.twins[0].named_modules()), self.groups)
        if not len(self.wholes) and not (self.groups and self.channels):
            reasons = "; ".join(map(str, self.locked) if self.locked else (_MISSING[kind] for kind in kinds))
            raise ValueError(
                f"{type(network).__name__} has no {' or '.join(kinds)} that can be cut: {reasons}"
            )

    # -- the row of units ---------------------------------------------------------------------------------

    def _index(self) -> None:
        self.starts = np.cumsum([0, *(g.width for g in self.groups)])
        self.first_whole = int(self.starts[-1])
        self.size = self.first_whole + len(self.wholes)
        names = {layer.name: row for row, layer in enumerate(self.layers)}
        self._outs = np.zeros((len(self.layers), self.size), dtype=np.float32)
        self._ins = np.zeros((len(self.layers), self.size), dtype=np.float32)
        self._gates = np.zeros((len(self.layers), self.size), dtype=bool)
        for group, start in zip(self.groups, self.starts, strict=False):
            for member in group.members:
                if member.module in names:
                    table = self._ins if member.axis == "in" else self._outs
                    counts = np.bincount(member.unit.numpy(), minlength=group.width)
                    table[names[member.module], start : start + group.width] += counts
        for place, whole in enumerate(self.wholes):
            for module in whole.inside & names.keys():
                self._gates[names[module], self.first_whole + place] = True
        self._base = np.array([layer.macs for layer in self.layers], dtype=np.float64)
        self._full_out = np.array([layer.outs for layer in self.layers], dtype=np.float64)
        self._full_in = np.array([layer.ins for layer in self.layers], dtype=np.float64)
        self._other = self.macs - int(self._base.sum())
        numbers = {group.name: number for number, group in enumerate(self.groups)}
        self._owned: dict[int, int] = {}
        for place, whole in enumerate(self.wholes):
            if whole.kind == "branch" and (owner := _owner(whole, self.groups)) is not None:
                self._owned[place] = numbers[owner.name]

    def span(self, group: int) -> slice:
        """Where a group's units lie in the row."""
        return slice(int(self.starts[group]), int(self.starts[group + 1]))

    def names(self) -> list[str]:
        """A name per unit: layer1.0.conv1[3], layer2.4 (block)."""
        channels = [f"{g.name}[{u}]" for g in self.groups for u in range(g.width)]
        return channels + [f"{whole.name} ({whole.kind})" for whole in self.wholes]

    def full(self) -> Alive:
        """Everything alive."""
        return np.ones(self.size, dtype=bool)

    def movable(self) -> Alive:
        """Units that may be switched off one by one: all, or only blocks and branches."""
        mine = self.full()
        if not self.channels:
            mine[: self.first_whole] = False
        return mine

    # -- cost ---------------------------------------------------------------------------------------------

    def hollowed(self, alive: Alive) -> Alive:
        """`alive` with blocks that have no channel left dead, and the channels of dead blocks."""
        settled = alive.copy()
        for group, place in self.hollow.items():
            if not settled[self.span(group)].any():
                settled[self.first_whole + place] = False
        for group, place in self.hollow.items():
            if not settled[self.first_whole + place]:
                settled[self.span(group)] = False
        return settled

    def settle(self, alive: Alive) -> Alive:
        """`hollowed`, and the channels of dead branches dead, too."""
        settled = self.hollowed(alive)
        for place, group in self._owned.items():
            if not alive[self.first_whole + place]:
                settled[self.span(group)] = False
        return settled

    def cost(self, alive: Alive) -> int:
        """MACs of one input once the dead units are cut: per layer, macs * outs left / outs * ins left / ins."""
        return self._other + round(float(self._left(alive).sum()))

    def _left(self, alive: Alive) -> Values:
        """MACs of every layer once the dead units are cut: (layers,)."""
        alive = self.settle(alive)
        dead = (~alive).astype(np.float32)
        outs = (self._full_out - self._outs @ dead) / self._full_out
        ins = (self._full_in - self._ins @ dead) / self._full_in
        there = ~(self._gates & ~alive).any(axis=1)
        left: Values = self._base * outs * ins * there
        return left

    def prices(self) -> Values:
        """MACs that leave with each unit alone, by the uncut network: (units,)."""
        per_out = (self._base / self._full_out) @ self._outs
        per_in = (self._base / self._full_in) @ self._ins
        price = per_out + per_in
        price[self.first_whole :] = self._base @ self._gates[:, self.first_whole :]
        for place, group in self._owned.items():
            # What is read of a branch goes with it; what makes it is inside already.
            price[self.first_whole + place] += per_in[self.span(group)].sum()
        return np.maximum(price, 1.0).astype(np.float64)

    def rescue(self, alive: Alive, scores: Values) -> Alive:
        """`alive` with the best unit kept wherever a layer, or a concatenation, would be left with nothing."""
        saved = alive.copy()
        for units in self._needed:
            if not saved[units].any():
                saved[units[int(np.argmax(scores[units]))]] = True
        joins: dict[str, list[int]] = {}
        for place, whole in enumerate(self.wholes):
            if whole.kind == "branch":
                joins.setdefault(whole.node, []).append(self.first_whole + place)
        for units in joins.values():
            if not saved[units].any():
                saved[units[int(np.argmax(scores[units]))]] = True
        return saved

    def blocking(self, alive: Alive) -> str:
        """The layer that costs most of what is left, in words: what keeps a budget from being met."""
        left = self._left(alive)
        worst = int(np.argmax(left))
        name = self.layers[worst].name
        locks = [lock for lock in self.locked if name in lock.modules] if self.channels else []
        why = f" (locked with {'; '.join(map(str, locks))})" if locks else ""
        return f"'{name}' with {count(left[worst])} MACs{why}"

    def largest_lock(self, alive: Alive) -> str | None:
        """The locked group that costs most of what is left, in words; None where nothing is locked."""
        left = dict(zip((layer.name for layer in self.layers), self._left(alive).tolist(), strict=True))
        held = [(sum(left.get(name, 0.0) for name in lock.modules), lock) for lock in self.locked]
        macs, lock = max(held, key=lambda pair: pair[0], default=(0.0, None))
        return f"'{lock.name}' with {count(macs)} MACs (locked: {lock.reason})" if lock and macs else None

    # -- the cut ------------------------------------------------------------------------------------------

    def cut(self, network: nn.Module, alive: Alive) -> nn.Module:
        """Remove the dead units of `network`, in place where channels go, as a new graph where blocks go."""
        settled = self.settle(alive)
        dead_wholes = [w for place, w in enumerate(self.wholes) if not settled[self.first_whole + place]]
        gone = frozenset().union(*(w.inside for w in dead_wholes)) if dead_wholes else frozenset()
        dead = {g.name: torch.from_numpy(~settled[self.span(i)]) for i, g in enumerate(self.groups)}
        # A group whose layer goes as a whole with a dead block needs no cutting of its own.
        cut(network, {name: d for name, d in dead.items() if d.any()}, self.groups, gone)
        return take_out(network, dead_wholes) if dead_wholes else network


# -- blocks and branches on trial ---------------------------------------------------------------------------


def _owner(whole: Whole, groups: Sequence[Group]) -> Group | None:
    """The group whose channels are exactly what a branch adds to its concatenation."""
    for group in groups:
        makers = {m.module for m in group.members if m.axis == "out"}
        if any(m.module == whole.tail and m.axis != "in" for m in group.members) and makers <= whole.inside:
            return group
    return None


def _admit(
    trial: Trial, wholes: Sequence[Whole], groups: Sequence[Group]
) -> tuple[tuple[Whole, ...], tuple[Locked, ...]]:
    """Those without which the network equals the one in which they are multiplied by 0, and the others with reasons."""
    alone = "its channels are locked or shared, so nobody downstream can do without them"
    refused = [
        Locked(whole.name, alone, whole.inside)
        for whole in wholes
        if whole.kind == "branch" and _owner(whole, groups) is None
    ]
    names = {lock.name for lock in refused}
    # All blocks go at once; of a concatenation one branch at a time, as something has to stay.
    rounds: dict[int, list[Whole]] = {}
    for whole in wholes:
        if whole.name not in names:
            rounds.setdefault(whole.operand if whole.kind == "branch" else -1, []).append(whole)
    good: set[str] = set()
    for batch in rounds.values():
        kept, bad = sift(batch, lambda some: _differs(trial, some, groups))
        good |= {whole.name for whole in kept}
        refused += [Locked(whole.name, reason, whole.inside) for whole, reason in bad]
    return tuple(whole for whole in wholes if whole.name in good), tuple(refused)


@torch.no_grad()
def _differs(trial: Trial, wholes: Sequence[Whole], groups: Sequence[Group]) -> str | None:
    """Take the blocks and branches out of copies and compare with the networks that silence them."""
    for twin in trial.twins:
        tensors = dict(twin.named_parameters())
        names = [f"{whole.tail}.{part}" for whole in wholes for part in ("weight", "bias")]
        silent = {name: tensors[name] * 0 for name in names if name in tensors}
        masked = output_of(functional_call(twin, silent, trial.inputs))
        try:
            less = copy.deepcopy(twin)
            for whole in wholes:
                if whole.kind == "branch" and (owner := _owner(whole, groups)) is not None:
                    cut(less, {owner.name: torch.ones(owner.width, dtype=torch.bool)}, [owner], whole.inside)
            small = output_of(take_out(less, wholes)(*trial.inputs))
        except Exception as problem:  # whatever the network's own code runs into is the answer
            return f"the network does not run without it ({first_line(problem)})"
        if small.shape != masked.shape:
            return f"without it the output changes from {tuple(masked.shape)} to {tuple(small.shape)}"
        if reason := trial.gap(small, masked, "taking it out differs from silencing it by {} of the output"):
            return reason
    return None


def spared(network: nn.Module, patterns: Sequence[str]) -> frozenset[str]:
    """The layers that patterns name. Raises ValueError where one names none."""
    names = [name for name, module in network.named_modules() if name and not list(module.children())]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"'{pattern}' matches no layer of {type(network).__name__}{did_you_mean(pattern, names)}"
            )
    return frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def _layers(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Layer, ...]:
    """Every convolution and linear layer with its MACs for one input: weights times positions they are used at."""
    positions: dict[str, float] = {}
    handles = []

    def watch(name: str) -> None:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            where = args[0] if isinstance(module, _ConvTransposeNd) else output
            channels = where.shape[1] if isinstance(module, _ConvNd) else where.shape[-1]
            positions[name] = positions.get(name, 0.0) + where.numel() / channels / len(inputs[0])

        handles.append(layers[name].register_forward_hook(hook))

    layers = {n: m for n, m in network.named_modules() if isinstance(m, _ConvNd | nn.Linear)}
    try:
        for name in layers:
            watch(name)
        with torch.no_grad():
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(
        Layer(
            name,
            round(positions[name] * m.weight.numel()),
            m.out_channels if isinstance(m, _ConvNd) else m.out_features,
            m.in_channels if isinstance(m, _ConvNd) else m.in_features,
        )
        for name, m in layers.items()
        if name in positions
    )


class SoftMasks:
    """Mask values on a network's units, as tensors: masked weights for one call, and folding for good.

    values  (units,) >= 0, a leaf tensor; 1 everywhere means the network as it was
    """

    def __init__(self, anatomy: Anatomy, network: nn.Module) -> None:
        self.network = network
        device = next(network.parameters()).device
        self.values = torch.ones(anatomy.size, device=device, requires_grad=True)
        modules = dict(network.named_modules())
        # Where channels are not asked for they carry no mask: a search could not move one by mistake.
        # Row 0 of the extended mask vector is the constant 1, for channels that no group holds.
        self._reads: dict[str, Tensor] = {}
        for number, group in enumerate(anatomy.groups if anatomy.channels else ()):
            start = anatomy.span(number).start
            for member in group.readers():
                ins = channels_of(modules[member.module], "in")
                rows = self._reads.setdefault(member.module, torch.zeros(ins, dtype=torch.long))
                rows[member.index] = member.unit + start + 1
        self._reads = {name: rows.to(device) for name, rows in self._reads.items()}
        self._tails = [(w.tail, anatomy.first_whole + i + 1) for i, w in enumerate(anatomy.wholes)]
        self._modules = {name: modules[name] for name in {*self._reads, *(tail for tail, _ in self._tails)}}

    def weights(self, values: Tensor | None = None) -> dict[str, Tensor]:
        """The parameters that differ from the network's own, by name: differentiable in weights and values."""
        values = self.values if values is None else values
        extended = torch.cat([values.new_ones(1), values])
        changed: dict[str, Tensor] = {}
        for name, rows in self._reads.items():
            module = self._modules[name]
            changed[f"{name}.weight"] = scale_inputs(module, module.weight, extended[rows])  # type: ignore[arg-type]
        for name, row in self._tails:
            module = self._modules[name]
            for part in ("weight", "bias"):
                parameter = getattr(module, part)
                if parameter is not None:
                    changed[f"{name}.{part}"] = changed.get(f"{name}.{part}", parameter) * extended[row]
        return changed

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The masked network's outputs."""
        output: Tensor = functional_call(self.network, self.weights(), inputs)
        return output

    def to(self, device: torch.device) -> None:
        """Go, with the network, to a device; the values are then another leaf."""
        self.network.to(device)
        self.values = self.values.detach().to(device).requires_grad_()
        self._reads = {name: rows.to(device) for name, rows in self._reads.items()}

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply the values into the network's own weights; the masks are all 1 afterwards."""
        parameters = dict(self.network.named_parameters())
        for name, weight in self.weights().items():
            parameters[name].copy_(weight)
        self.values.fill_(1.0)
