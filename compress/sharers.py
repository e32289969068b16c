"""The layers of one network that share kernels: which they are, how many kernels each gets, and putting them in."""

from __future__ import annotations

import copy
import heapq
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from compress.clustering import cluster
from compress.indicator import indicator, levels
from compress.sharing import Item, empty, kernels_of, macs_of, mark, sort_out
from reports.pictures import kernels, strips
from reports.units import count
from students.groups import Group, propose_groups
from students.kernels import SharedConvolution, pack
from students.structure import stored_bytes
from students.surgery import Anatomy

if TYPE_CHECKING:
    from compress.kse import KSE

Matrix = list[list[float]]
_GRANULARITIES = range(2, 9)
_SHIFTS = range(3)


def _hull(choices: Sequence[tuple[float, float, int, int]]) -> list[tuple[float, float, int, int]]:
    """Of choices (cost, error, ...) the lower convex hull, from the first, dense one towards lower costs."""
    hull: list[tuple[float, float, int, int]] = []
    for choice in sorted(choices, key=lambda c: (-c[0], c[1])):
        if hull and choice[0] >= hull[-1][0]:
            continue
        while len(hull) > 1 and _slope(hull[-2], choice) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(choice)
    return hull


def _slope(one: tuple[float, float, int, int], other: tuple[float, float, int, int]) -> float:
    return (other[1] - one[1]) / (one[0] - other[0])


def _push(
    queue: list[tuple[float, str, int]], name: str, hull: Sequence[tuple[float, float, int, int]], place: int
) -> None:
    """The next step of a layer, by the error it costs for what it saves."""
    if place + 1 < len(hull):
        heapq.heappush(queue, (_slope(hull[place], hull[place + 1]), name, place + 1))


class Work:
    """A network on the bench of KSE: which of its layers share what."""

    def __init__(self, settings: KSE, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.settings, self.network = settings, network
        self.inputs = tuple(x.to(next(network.parameters()).device) for x in inputs)
        self.total, self.items, self.left = sort_out(
            network, self.inputs, settings.spare, settings.transposed, settings.linear
        )

    # -- how many kernels -------------------------------------------------------------------------------------

    def assign(self) -> None:
        """Give every layer a granularity and a shift, and its channels their levels.

        Raises ValueError where nothing would change, or a budget lies below what can be reached.
        """
        if not self.items:
            why = "; ".join(f"{name}: {reason}" for name, reason in list(self.left.items())[:8])
            raise ValueError(f"KSE finds no layer to work on ({why or 'the network has no convolution'})")
        values = {item.name: self._values(item) for item in self.items}
        if self.settings.bytes is not None or self.settings.kernel_macs is not None:
            self._afford(values)
        else:
            for item in self.items:
                item.granularity, item.shift = self.settings.granularity, self.settings.shift
                item.levels = levels(values[item.name], item.granularity)
        for item in list(self.items):
            if item.bytes(self.settings.half) >= item.dense_bytes():
                self.items.remove(item)
                self.left[item.name] = "it would not get smaller"
        if not self.items:
            raise ValueError(
                f"KSE would change nothing: with granularity {self.settings.granularity} and shift "
                f"{self.settings.shift} none of {len(self.left)} layers would get smaller. Raise one of them"
            )

    def _values(self, item: Item) -> Tensor:
        s = self.settings
        found = indicator(item.kernels, s.indicator, layout=s.layout, renormalise=s.renormalise)
        return found.reshape(-1)

    def _afford(self, values: Mapping[str, Tensor]) -> None:
        """Of every layer's choices, those on the lower hull of error against cost, cheapest errors first."""
        by_bytes = self.settings.bytes is not None
        share = self.settings.bytes if by_bytes else self.settings.kernel_macs
        assert share is not None
        dense = {i.name: i.dense_bytes() if by_bytes else i.macs for i in self.items}
        whole = stored_bytes(self.network) if by_bytes else self.total
        budget, cost = share * whole, float(whole)
        queue: list[tuple[float, str, int]] = []
        hulls: dict[str, list[tuple[float, float, int, int]]] = {}
        for item in self.items:
            hulls[item.name] = _hull(
                [(float(dense[item.name]), 0.0, 0, 0), *self._choices(item, values[item.name])]
            )
            _push(queue, item.name, hulls[item.name], 0)
        taken = dict.fromkeys(hulls, 0)
        while cost > budget and queue:
            _, name, place = heapq.heappop(queue)
            cost -= hulls[name][place - 1][0] - hulls[name][place][0]
            taken[name] = place
            _push(queue, name, hulls[name], place)
        if cost > budget:
            unit = "bytes" if by_bytes else "multiply-accumulates"
            rest = whole - sum(dense.values())
            raise ValueError(
                f"a budget of {count(budget)} {unit} ({share:.1%}) cannot be met: with every layer at its smallest "
                f"{count(cost)} are left ({cost / whole:.1%}), {count(rest)} of them in what KSE leaves alone. Ask for "
                "more, or let linear layers share as well"
            )
        for item in list(self.items):
            _, _, item.granularity, item.shift = hulls[item.name][taken[item.name]]
            if not item.granularity:
                self.items.remove(item)
                self.left[item.name] = "the budget is met without it"
            else:
                item.levels = levels(values[item.name], item.granularity)

    def _choices(self, item: Item, values: Tensor) -> list[tuple[float, float, int, int]]:
        """(cost, relative error, granularity, shift) of every way to share that differs, measured once each."""
        found: dict[tuple[int, ...], tuple[float, float, int, int]] = {}
        energy = item.kernels.double().square().sum().item()
        for granularity in _GRANULARITIES:
            for shift in _SHIFTS:
                item.granularity, item.shift = granularity, shift
                item.levels = levels(values, granularity)
                counts = item.counts()
                if tuple(counts) in found:
                    continue
                flat = item.kernels.flatten(0, 1)
                error = 0.0
                for q in sorted(set(counts)):
                    part = flat[torch.tensor(counts) == q]
                    if q == 0:
                        error += part.double().square().sum().item()
                    elif q < item.outputs:
                        error += cluster(part, q, restarts=1).error.sum().item()
                part_of = sum(counts) / (item.channels * item.outputs)
                cost = (
                    item.bytes(self.settings.half) if self.settings.bytes is not None else item.macs * part_of
                )
                found[tuple(counts)] = (float(cost), error / max(energy, 1e-300), granularity, shift)
        return list(found.values())

    # -- the cut ----------------------------------------------------------------------------------------------

    def drop_unread(self) -> None:
        """Cut the filters whose output channel every reader drops, out of the whole network."""
        unread = {
            item.name: {c for c, q in enumerate(item.counts()) if q == 0}
            for item in self.items
            if 0 in item.counts()
        }
        if not unread or not self.settings.cut_unread:
            return
        # Proving what belongs together by trial cuts takes a second: only where there is something to cut.
        if all(self._wanted(group, unread).all() for group in propose_groups(self.network, self.inputs)):
            return
        anatomy = Anatomy(self.network, self.inputs)
        alive = np.ones(anatomy.size, dtype=bool)
        for number, group in enumerate(anatomy.groups):
            alive[anatomy.span(number)] = self._wanted(group, unread).numpy()
        alive = anatomy.rescue(alive, np.zeros(anatomy.size))
        if alive.all():
            return
        # Levels travel through the cut as the weights of a twin: what is left of them is read off afterwards.
        twin = copy.deepcopy(self.network)
        marked = dict(twin.named_modules())
        for item in self.items:
            assert item.levels is not None
            mark(marked[item.name], item.levels)
        marked = dict(anatomy.cut(twin, alive).named_modules())
        modules = dict(anatomy.cut(self.network, alive).named_modules())
        macs = macs_of(self.network, self.inputs)
        self.total = sum(macs.values())
        for item in self.items:
            item.module, item.kernels = modules[item.name], kernels_of(modules[item.name])
            item.macs = macs[item.name]
            item.levels = kernels_of(marked[item.name])[:, :, 0, 0].reshape(-1).long()

    def _wanted(self, group: Group, unread: Mapping[str, Collection[int]]) -> Tensor:
        """Which units of a group somebody reads, and as many more as make its width round: (width,), bool."""
        wanted = torch.zeros(group.width, dtype=torch.bool)
        for member in group.readers():
            dropped = unread.get(member.module, set())
            rows = torch.tensor([int(i) not in dropped for i in member.index], dtype=torch.bool)
            wanted[member.unit[rows]] = True
        if group.width % self.settings.round_to == 0:
            more = -int(wanted.sum()) % self.settings.round_to
            wanted[(~wanted).nonzero()[:more, 0]] = True
        return wanted

    # -- pictures ---------------------------------------------------------------------------------------------

    def pictures(self) -> dict[str, str]:
        """What every channel keeps, by its indicator; and one layer's kernels before and after."""
        rows = []
        for item in self.items:
            order = self._values(item).argsort(descending=True, stable=True).tolist()
            counts = item.counts()
            rows.append((item.name, [counts[channel] / item.outputs for channel in order]))
        said = "a cell is an input channel, the highest indicator first; the fuller, the more of its kernels it keeps"
        drawn = {"KSE: kernels kept": strips(rows, said)}
        flat = [item for item in self.items if item.module.weight.dim() == 4 and 4 <= item.size <= 49]  # type: ignore[union-attr, operator]
        pairs = next((found for item in flat if (found := self._drawn(item))), None)
        if pairs:
            drawn["KSE: kernels before and after"] = kernels(
                pairs, "each channel as it was, and below it as it is"
            )
        return drawn

    def _drawn(self, item: Item) -> list[tuple[str, list[Matrix], list[Matrix]]]:
        """Up to four channels of a layer that share, sixteen of their kernels before and after."""
        counts = item.counts()
        found: list[tuple[str, list[Matrix], list[Matrix]]] = []
        weight: Tensor = item.module.weight  # type: ignore[assignment]
        for channel in [c for c, q in enumerate(counts) if 1 < q < item.outputs][:4]:
            own = item.kernels.flatten(0, 1)[channel : channel + 1]
            clusters = cluster(own, counts[channel], restarts=self.settings.restarts)
            after = clusters.centroids[0][clusters.index[0]]
            name = f"{channel}: {counts[channel]} of {item.outputs}"
            before, now = (k[:16].reshape(-1, *weight.shape[2:]).tolist() for k in (own[0], after))
            found.append((name, before, now))
        return found

    # -- sharing ----------------------------------------------------------------------------------------------

    def share(self) -> float:
        """Put layers with shared kernels in the network; the relative squared error of the kernels that share.

        Channels of all layers with the same N, D and q are clustered together, in one batch.
        """
        shared: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        error = energy = 0.0
        for q, members in self._alike():
            parts = [item.kernels.flatten(0, 1)[channels] for item, channels in members]
            points = torch.cat(parts)
            found = cluster(points, q, restarts=self.settings.restarts)
            error, energy = error + found.error.sum().item(), energy + points.double().square().sum().item()
            sizes = [len(part) for part in parts]
            for (item, _), centroids, index in zip(
                members, found.centroids.split(sizes), found.index.split(sizes), strict=True
            ):
                shared[item.name, q] = (centroids, index)
        for item in self.items:
            self.network.set_submodule(item.name, self._layer(item, shared))
        return error / energy if energy else 0.0

    def _alike(self) -> list[tuple[int, list[tuple[Item, Tensor]]]]:
        """Channels to be clustered together: q, and of every layer which channels."""
        batches: dict[tuple[int, int, int], list[tuple[Item, Tensor]]] = defaultdict(list)
        for item in self.items:
            counts = torch.tensor(item.counts())
            for q in counts.unique().tolist():
                if 0 < q < item.outputs:
                    batches[item.outputs, item.size, q].append((item, (counts == q).nonzero()[:, 0]))
        return [(q, members) for (_, _, q), members in sorted(batches.items(), key=lambda pair: pair[0])]

    def _empty(self, item: Item) -> SharedConvolution:
        """The layer that takes an item's place, with no kernel in it yet."""
        counts = torch.tensor(item.counts())
        times = sorted(Counter(counts.tolist()).items())
        layer = empty(item.module, times, half=self.settings.half)
        rank = torch.searchsorted(torch.tensor([q for q, _ in times]), counts)
        layer.level.copy_(rank.to(torch.uint8))
        return layer

    @torch.no_grad()
    def _layer(
        self, item: Item, shared: Mapping[tuple[str, int], tuple[Tensor, Tensor]]
    ) -> SharedConvolution:
        counts = torch.tensor(item.counts())
        times = sorted(Counter(counts.tolist()).items())
        layer = self._empty(item)
        parts = iter(layer.parts())
        packed: list[Tensor] = []
        for q, _ in times:
            if q == 0:
                continue
            own = next(parts)
            if q == item.outputs:
                own.copy_(item.kernels.flatten(0, 1)[counts == q].view_as(own))
                continue
            centroids, index = shared[item.name, q]
            own.copy_(centroids.view_as(own))
            packed.append(pack(index.T, q))
        if packed:
            layer.packed.copy_(torch.cat(packed))
        layer.kernels.mul_(layer.shares().sqrt().view(-1, *[1] * len(layer.kernel_size)))
        bias = getattr(item.module, "bias", None)
        if layer.bias is not None and bias is not None:
            layer.bias.copy_(bias)
        weight: Tensor = item.module.weight  # type: ignore[assignment]
        return layer.to(weight.device).train(item.module.training)

    # -- before anything is clustered -----------------------------------------------------------------------

    def hollow(self, network: nn.Module) -> None:
        """Put the layers that would share into a network, in place, with kernels of nothing."""
        for item in self.items:
            network.set_submodule(item.name, self._empty(item))

    def least(self) -> nn.Module:
        """The network with every layer at its fewest bytes, no kernel in it; before layers are assigned anything."""
        twin, half = copy.deepcopy(self.network), self.settings.half
        for item in self.items:
            values, best = self._values(item), (item.dense_bytes(), 0, 0)
            for granularity in _GRANULARITIES:
                item.granularity, item.levels = granularity, levels(values, granularity)
                for item.shift in _SHIFTS:
                    best = min(best, (item.bytes(half), granularity, item.shift))
            if best[1]:
                _, item.granularity, item.shift = best
                item.levels = levels(values, item.granularity)
                twin.set_submodule(item.name, self._empty(item))
        return twin

    def seconds_of_clustering(self) -> float:
        """About how long `share` would take, by a few channels of every kind."""
        seconds = 0.0
        for q, members in self._alike():
            points = torch.cat([item.kernels.flatten(0, 1)[channels] for item, channels in members])
            some = points[: max(8, len(points) // 8)]
            began = time.perf_counter()
            cluster(some, q, restarts=self.settings.restarts)
            seconds += (time.perf_counter() - began) * len(points) / len(some)
        return seconds

    def reasons(self) -> dict[str, tuple[str, ...]]:
        """Why layers are left alone: reason -> names."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.left.items():
            found[reason].append(name)
        return {reason: tuple(names) for reason, names in found.items()}

    def blocking(self) -> str:
        """The largest layer that is left alone, in words; empty where none is."""
        modules = dict(self.network.named_modules())
        sizes = {
            name: sum(p.numel() for p in modules[name].parameters()) for name in self.left if name in modules
        }
        name = max(sizes, key=sizes.__getitem__, default="")
        if not name:
            return ""
        held = f"'{name}' with {count(sizes[name])} parameters"
        return f"the largest layer that does not share is {held} ({self.left[name]})"

    # -- accounts ---------------------------------------------------------------------------------------------

    def kernel_macs(self) -> float:
        """Multiply-accumulates of one input as the paper counts them: each kept kernel once, the rest as dense."""
        rest = self.total - sum(item.macs for item in self.items)
        return rest + sum(i.macs * sum(i.counts()) / (i.channels * i.outputs) for i in self.items)

    def gather_adds(self) -> float:
        """The additions that the paper's count leaves out: one for each output of each channel that shares."""
        return sum(
            i.macs / (i.channels * i.size) * sum(0 < q < i.outputs for q in i.counts()) for i in self.items
        )

    def describe(self) -> list[str]:
        """A line for every kind of thing: what shares, at which granularity, and what is left alone."""
        lines = []
        for item in self.items:
            times = sorted(Counter(item.counts()).items())
            said = ", ".join(f"{n} keep {q}" for q, n in times)
            lines.append(
                f"{item.name}: of {item.outputs} kernels a channel, G={item.granularity} T={item.shift}: {said}"
            )
        lines += [f"left alone, {reason}: {', '.join(names)}" for reason, names in self.reasons().items()]
        return lines
