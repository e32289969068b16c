"""What may be cut: channels that live and die together, each group proven by a trial cut.

torch-pruning's dependency graph proposes groups of coupled channels; this file turns each into a `Group` that
speaks of modules by name, and proves it: a copy of the network is cut there and must equal, on random inputs, the
network in which those channels are silenced. A group that fails is locked, with the reason, and never cut.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from students import passing
from students.kernels import densified
from students.knife import KNOWN, Axis, Group, Member, channels_of, cut, scale_inputs
from students.trial import Trial, differs, first_line, sift

__all__ = [
    "Axis",
    "Group",
    "Locked",
    "Member",
    "cut",
    "find_groups",
    "refuse_tied",
    "scale_inputs",
]


@dataclass(frozen=True)
class Locked:
    """Something that was looked at and must stay as it is, with the reason; `modules` are those it holds fast."""

    name: str
    reason: str
    modules: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def refuse_tied(network: nn.Module) -> None:
    """Raise ValueError where two layers share one parameter: a cut of one would silently cut the other.

    One module that goes by two names is no such case: it is narrowed once, wherever it is called.
    """
    owners: dict[int, str] = {}
    for path, module in network.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is None:
                continue
            name = f"{path}.{key}" if path else key
            first = owners.setdefault(id(parameter), name)
            if first != name:
                raise ValueError(
                    f"'{first}' and '{name}' are one tied parameter of shape {tuple(parameter.shape)}: cutting one "
                    "would cut the other. Untie them first (give each layer its own copy), then prune"
                )


def find_groups(
    network: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[tuple[Group, ...], tuple[Locked, ...]]:
    """All channel groups of `network` that can be cut, and those that cannot, with reasons.

    `network` is not touched: a copy is traced and cut. `inputs` are example inputs of batch size >= 1.
    Raises ValueError where parameters are tied, or the network does not give one tensor.
    """
    refuse_tied(network)
    return prove_groups(Trial.of(network, inputs))


def propose_groups(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Group, ...]:
    """What torch-pruning thinks belongs together, before any cut was tried: quick, and not to be cut by."""
    twin = densified(network).eval().requires_grad_(True)
    return tuple(_propose(twin, inputs)[0])


def prove_groups(trial: Trial, heads: bool = False) -> tuple[tuple[Group, ...], tuple[Locked, ...]]:
    """`find_groups` on copies that were made already; of attention the whole heads, where they are asked for."""
    twin = trial.twins[0]
    if heads or passing.passes(twin):
        found, others = passing.propose(twin, heads)
        locked = [Locked(name, reason, frozenset([name])) for name, reason in others]
    else:
        found, locked = _propose(twin, trial.inputs)
    proven, refused = sift(found, lambda groups: differs(trial, groups))
    locked += [Locked(group.name, reason, group.modules()) for group, reason in refused]
    return tuple(proven), tuple(locked)


# -- what torch-pruning proposes ----------------------------------------------------------------------------


def _propose(twin: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[list[Group], list[Locked]]:
    import torch_pruning as tp

    graph = tp.DependencyGraph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of elementwise guesses, which the trial cut settles
        try:
            graph.build_dependency(twin, inputs, verbose=False)
            _bound(graph, twin)
            proposals = list(graph.get_all_groups(root_module_types=[_ConvNd, nn.Linear]))
        except Exception as problem:
            # Its tracer gives up on some reshapes with whatever error comes first; blocks may still be cut.
            reason = (
                f"torch-pruning cannot follow its channels ({type(problem).__name__}: {first_line(problem)})"
            )
            return [], [Locked("the whole network", reason)]
    names = {module: name for name, module in twin.named_modules()}
    found: list[Group] = []
    locked: list[Locked] = []
    for proposal in proposals:
        root = names[proposal[0].dep.target.module]
        result = _translate(root, proposal, names, graph)
        if isinstance(result, Group):
            found.append(result)
        else:
            mine = [names.get(item.dep.target.module) for item in proposal]
            locked.append(Locked(root, result, frozenset(name for name in mine if name)))
    return found, locked


class _Bounded(list[Any]):
    """Index mappings that stop once they give more positions than any layer has."""

    def __init__(self, mappings: Iterable[Any], limit: int) -> None:
        super().__init__(mappings)
        self.limit = limit

    def __iter__(self) -> Iterator[Any]:
        for mapping in super().__iter__():
            yield mapping and (lambda positions, mapping=mapping: self.watch(mapping(positions)))

    def watch(self, positions: Any) -> Any:
        if len(positions) > self.limit:
            raise RuntimeError(f"more than {self.limit} positions: it goes round in a reshape without end")
        return positions


def _bound(graph: Any, network: nn.Module) -> None:
    """Keep torch-pruning from following, in windowed attention, ever more positions for ever."""
    widest = max((max(p.shape, default=1) for p in network.parameters()), default=1)
    for node in graph.module2node.values():
        for dependency in node.dependencies:
            dependency.index_mapping = _Bounded(dependency.index_mapping, 4 * widest)


def _translate(root: str, proposal: object, names: Mapping[nn.Module, str], graph: object) -> Group | str:
    """The group in our words, or why it cannot be one."""
    raw: list[tuple[str, nn.Module, Axis, Tensor, Tensor]] = []
    for item in proposal:  # type: ignore[attr-defined]
        module = item.dep.target.module
        if isinstance(module, nn.Parameter):
            return "a bare parameter of the network takes part, which cannot be narrowed by name"
        if module not in names:
            continue  # an operation, not a module: it holds nothing to cut
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:
            continue  # one slope serves all channels
        name, kind = names[module], type(module).__name__
        if not isinstance(module, KNOWN):
            return f"'{name}' takes part, a {kind}, which mixes its channels or cannot be narrowed"
        if parametrize.is_parametrized(module):
            return f"'{name}' is parametrized: make it plain with remove_parametrizations first"
        roots = item.root_idxs
        if roots is None or any(r is None for r in roots):
            return f"the channels cannot be followed into '{name}'"
        reads = graph.is_in_channel_pruning_fn(item.dep.handler)  # type: ignore[attr-defined]
        makes = graph.is_out_channel_pruning_fn(item.dep.handler)  # type: ignore[attr-defined]
        apart = (
            module.groups == module.out_channels == module.in_channels > 1
            if isinstance(module, _ConvNd)
            else not isinstance(module, nn.Linear)
        )
        axis: Axis = "both" if apart or (reads and makes) else "in" if reads else "out"
        index = torch.tensor(list(item.idxs))
        if int(index.max()) >= channels_of(module, axis):
            return f"the channels cannot be followed into '{name}', which has {channels_of(module, axis)} of them"
        raw.append((name, module, axis, index, torch.tensor(roots)))
    channels = len(raw[0][3])
    # A convolution with groups must lose the same channels in each of them: tie the positions across groups.
    ties = [
        module.groups
        for _, module, axis, _, _ in raw
        if isinstance(module, _ConvNd) and module.groups > 1 and axis != "both"
    ]
    width = channels // math.lcm(*ties) if ties else channels
    if ties and channels % math.lcm(*ties):
        return f"its {channels} channels do not divide into {math.lcm(*ties)} convolution groups"
    if width < 2:
        return "it has a single unit, and a layer keeps at least one"
    merged: dict[tuple[str, Axis], list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for name, _, axis, index, roots in raw:
        merged[name, axis].append((index, roots % width))
    members = []
    for (name, axis), parts in merged.items():
        index, unit = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        order = index.argsort(stable=True)
        index, unit = index[order], unit[order]
        first = torch.cat([torch.tensor([True]), index[1:] != index[:-1]])
        if not torch.equal(unit[1:][~first[1:]], unit[:-1][~first[1:]]):
            return f"two of its channels meet in one position of '{name}'"
        members.append(Member(name, axis, index[first], unit[first]))
    group = Group(root, width, tuple(members))
    return group if group.readers() else "no layer reads it: it is an output of the network"
