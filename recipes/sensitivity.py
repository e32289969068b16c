"""Which layers the score hangs on: a look taken once, at the end of a run that pruned, from the uncut network."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from compress.stage import State
from recipes.folders import fingerprint
from reports.evaluate import ValScore, evaluate
from students import passing
from students.files import write_json
from students.groups import propose_groups
from students.kernels import densified
from students.knife import Group, channels_of, scale_inputs
from teachers.signature import Signature
from teachers.task import Batch, Split, Splits, Task

if TYPE_CHECKING:
    from recipes.run import Run

SHARE = 0.5
"""of a layer's channels are silenced, those of the smallest weights"""
SECONDS = 4.0
"""at most, and at most `OF_THE_RUN`"""
OF_THE_RUN = 0.2
"""of the seconds that the run has taken"""
SAMPLES = 512
"""of val at most, spread evenly over it"""


def measure(run: Run, state: State, cut: bool) -> dict[str, Any] | None:
    """The probe of this run's first teacher, where a stage cut it; kept as `sensitivity.json`, and taken once.

    None where nothing was cut, there is no val, or no layer that could be cut alone.
    """
    teacher = state.teachers[0]
    task = next(c.task for c in run.recipe.teachers if c.name == teacher.name)
    if not cut or run.limit is not None or run.ranks_only or not run.data(task).samples(Split.VAL):
        return None
    path, whose = run.folder / "sensitivity.json", fingerprint(teacher.module)
    if path.exists() and (kept := json.loads(path.read_text(encoding="utf-8")))["fingerprint"] == whose:
        return dict(kept)
    spent = sum(record.seconds for record in run.records)  # those that were taken up, too
    seconds = min(SECONDS, OF_THE_RUN * max(spent, sum(run.clock.seconds().values())))
    with run.clock.on("measuring"), run.ledger.reading("looks which layers the score hangs on", run.folder):
        found = probe(teacher.module, teacher.signature, task, run.opened(task), run.device, seconds)
    if found is not None:
        write_json(path, {"fingerprint": whose, "teacher": teacher.name, **found})
    return found and {"teacher": teacher.name, **found}


def probe(
    network: nn.Module, signature: Signature, task: Task, splits: Splits, device: torch.device, seconds: float
) -> dict[str, Any] | None:
    """The score on a part of val with `SHARE` of one layer's channels silenced, layer by layer.

    A channel is silenced where it is read, W[:, c] = 0, which is what cutting it comes to; layers whose channels
    live and die together are one. Nothing is trained, and nothing is cut of `network`. Once `seconds` are over the
    layers that are left are not looked at, those with the fewest weights first; the result says how many.

        {"share": 0.5, "samples": 512, "score": 0.98, "layers": {"conv1": 0.91, ...}, "left": 0}
    """
    twin = densified(copy.deepcopy(network)).eval()
    groups = _groups(twin, signature, device)
    if not groups:
        return None
    batches, started = _part(splits, device), time.perf_counter()

    def score() -> float:
        return evaluate(twin, batches, task.predict, task.score, kind=ValScore).value

    whole, found = score(), dict[str, float]()
    heaviest = sorted(groups, key=lambda group: -_weights(twin, group))
    for group in heaviest:
        if time.perf_counter() - started > seconds and found:
            break
        with torch.no_grad():
            before = _silence(twin, group)
            found[group.name] = score()
            for parameter, old in before:
                parameter.copy_(old)
    ordered = {group.name: found[group.name] for group in groups if group.name in found}
    return {
        "share": SHARE,
        "samples": sum(map(len, batches)),
        "score": whole,
        "layers": ordered,
        "left": len(groups) - len(ordered),
    }


def _groups(network: nn.Module, signature: Signature, device: torch.device) -> list[Group]:
    if passing.passes(network):
        return passing.propose(network)[0]
    inputs = tuple(x.to(device) for x in signature.example(2))
    order = {name: place for place, (name, _) in enumerate(network.named_modules())}
    return sorted(propose_groups(network, inputs), key=lambda group: order[group.name])


def _part(splits: Splits, device: torch.device) -> Sequence[Batch]:
    """Up to `SAMPLES` of val, as many from every batch in proportion: data are often sorted by class."""
    share = min(1.0, SAMPLES / splits.samples(Split.VAL))
    batches: list[Batch] = []
    for batch in splits.batches(Split.VAL, device):
        if batch.part is not None:  # a graph is answered whole
            return [batch, *batches]
        assert batch.target is not None
        count = max(1, round(share * len(batch)))
        where = (torch.arange(count) * (len(batch) - 1) // max(count - 1, 1)).to(device)
        batches.append(Batch(tuple(part[where] for part in batch.inputs), batch.target[where]))
    return batches


def _makers(network: nn.Module, group: Group) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each layer that makes the group's channels: what it weighs per position, positions, and their units."""
    modules, found = dict(network.named_modules()), []
    for member in group.members:
        module = modules[member.module]
        if member.axis == "out" and isinstance(module, _ConvNd | nn.Linear):
            weight = module.weight.detach().abs()
            rows = weight.transpose(0, 1) if isinstance(module, _ConvTransposeNd) else weight
            found.append((rows.flatten(1).sum(1).cpu(), member.index, member.unit))
    return found


def _weights(network: nn.Module, group: Group) -> int:
    modules = dict(network.named_modules())
    return sum(p.numel() for name in group.modules() for p in modules[name].parameters(recurse=False))


def _silence(network: nn.Module, group: Group) -> list[tuple[Tensor, Tensor]]:
    """Set to 0 what reads the weakest units; the parameters it changed, and what they were."""
    weight = torch.zeros(group.width)
    for values, index, unit in _makers(network, group):
        weight.index_add_(0, unit, values[index])
    dead = torch.zeros(group.width, dtype=torch.bool)
    dead[weight.argsort()[: max(1, int(SHARE * group.width))]] = True
    modules, before = dict(network.named_modules()), []
    for member in group.readers():
        module: Any = modules[member.module]
        scale = torch.ones(channels_of(module, "in"))
        scale[member.index[dead[member.unit]]] = 0
        before.append((module.weight, module.weight.clone()))
        module.weight.copy_(scale_inputs(module, module.weight, scale.to(module.weight)))
    return before
