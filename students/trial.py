"""Trial cuts: a network that was cut must equal the one in which the same things are silenced.

Trials run on copies on the CPU, in float64 where the network allows it, and with weights drawn anew: a trained
network's dead channels, or a norm that starts at zero, would let a wrong cut pass unseen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from students.knife import Group, channels_of, cut, needs, scale_inputs

PRECISIONS = {torch.float64: 1e-9, torch.float32: 1e-4}
"""what trials are computed in, and how near, relative to the largest output, a cut must come to the silenced network;
the second where a network insists on numbers of its own"""

GAINS = (2**0.5, 1.0, 0.5)
"""standard deviations of the weights, times the root of the inputs: where one draw saturates a softmax or leaves
every ReLU at zero, and so shows nothing, another does"""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Trial:
    """Copies of one network with weights drawn anew, for cuts to be tried on.

    twins      copies in eval mode on the CPU
    inputs     at least two samples
    wholes     what each twin answers to them
    tolerance  relative to the largest output: how near a cut must come to the silenced network
    """

    twins: tuple[nn.Module, ...]
    inputs: tuple[Tensor, ...]
    wholes: tuple[Tensor, ...]
    tolerance: float

    @classmethod
    def of(cls, network: nn.Module, inputs: tuple[Tensor, ...]) -> Trial:
        """Copy and draw. Raises ValueError where the network does not give one tensor."""
        inputs = tuple(tensor.detach().cpu() for tensor in inputs)
        if all(tensor.is_floating_point() for tensor in inputs):  # a graph's nodes and edges stay together
            inputs = tuple(map(_two, inputs))
        plain = copy.deepcopy(network).cpu().eval().requires_grad_(True)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            dtype = _runs_in(plain, inputs)
            plain.to(dtype)
            inputs = tuple(_in(tensor, dtype) for tensor in inputs)
            twins, wholes = [], []
            for seed, gain in enumerate(GAINS):
                twin = _drawn(copy.deepcopy(plain), seed, gain)
                answer = output_of(twin(*inputs))
                # Hundreds of residual blocks may overflow with weights that nobody trained.
                if bool(answer.isfinite().all()):
                    twins.append(twin)
                    wholes.append(answer)
            if not twins:
                twins, wholes = [plain], [output_of(plain(*inputs))]
        return cls(tuple(twins), inputs, tuple(wholes), PRECISIONS[dtype])

    def gap(self, small: Tensor, masked: Tensor, message: str) -> str | None:
        """`message` with the relative distance in it, where that is above the tolerance."""
        distance = (small - masked).abs().max().item() / max(masked.abs().max().item(), 1e-12)
        return None if distance <= self.tolerance else message.format(f"{distance:.1e}")


def _runs_in(network: nn.Module, inputs: tuple[Tensor, ...]) -> torch.dtype:
    """The finest of the precisions in which the network runs. Raises what it raises where it runs in none."""
    first, last = PRECISIONS
    try:
        output_of(copy.deepcopy(network).to(first)(*(_in(tensor, first) for tensor in inputs)))
    except RuntimeError:  # it makes numbers of one kind only
        output_of(copy.deepcopy(network).to(last)(*(_in(tensor, last) for tensor in inputs)))
        return last
    return first


def _in(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _drawn(network: nn.Module, seed: int, gain: float) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor, scale: float) -> Tensor:
        return torch.randn(like.shape, generator=generator) * scale

    def around_one(like: Tensor) -> Tensor:
        return 0.5 + torch.rand(like.shape, generator=generator)

    for module in network.modules():
        norm = isinstance(module, _NormBase | nn.LayerNorm | nn.GroupNorm)
        for name, parameter in module._parameters.items():
            if parameter is None or not parameter.is_floating_point():
                continue
            if parameter.dim() > 1:
                fan = max(parameter[0].numel(), 1)
                parameter.copy_(normal(parameter, gain / fan**0.5))
            else:
                parameter.copy_(
                    around_one(parameter) if norm and name == "weight" else normal(parameter, 0.3)
                )
        if isinstance(module, _NormBase) and module.running_mean is not None:
            module.running_mean.copy_(normal(module.running_mean, 0.3))
            assert module.running_var is not None
            module.running_var.copy_(around_one(module.running_var))
    return network


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


def differs(trial: Trial, groups: Sequence[Group]) -> str | None:
    """Cut about half of each group, on every twin in place, compare with the silenced network, and put all back."""
    for seed, (twin, whole) in enumerate(zip(trial.twins, trial.wholes, strict=True)):
        reason = _differs(trial, twin, whole, groups, torch.Generator().manual_seed(seed))
        if reason is not None:
            return reason
    return None


@torch.no_grad()
def _differs(
    trial: Trial, twin: nn.Module, whole: Tensor, groups: Sequence[Group], generator: torch.Generator
) -> str | None:
    modules = dict(twin.named_modules())
    gone = torch.rand(sum(group.width for group in groups), generator=generator) < 0.5
    for units in needs(modules, groups):
        gone[units[len(units) // 2]] = False
    widths = [group.width for group in groups]
    dead = dict(zip((group.name for group in groups), gone.split(widths), strict=True))
    scales: dict[str, Tensor] = {}
    for group in groups:
        for member in group.readers():
            fresh = whole.new_ones(channels_of(modules[member.module], "in"))
            scales.setdefault(member.module, fresh)[member.index[dead[group.name][member.unit]]] = 0.0
    silent = {
        f"{name}.weight": scale_inputs(modules[name], modules[name].weight, scale)  # type: ignore[arg-type]
        for name, scale in scales.items()
    }
    before = {name: _snapshot(modules[name]) for group in groups for name in group.modules()}
    masked = output_of(functional_call(twin, silent, trial.inputs))
    try:
        cut(twin, dead, groups)
        small = output_of(twin(*trial.inputs))
    except Exception as problem:  # whatever the network's own code runs into is the answer
        return f"the network does not run once it is cut ({first_line(problem)})"
    finally:
        for name, state in before.items():
            _put_back(modules[name], state)
    if len(small) != len(whole):
        return f"a reshape of fixed size folds its channels into the batch, which becomes {len(small)} long"
    if small.shape != whole.shape:
        return f"it reaches the output, whose shape would change from {_shape(whole)} to {_shape(small)}"
    return trial.gap(
        small, masked, "cutting differs from silencing by {} of the output: an operation mixes its channels"
    )


def first_line(problem: BaseException) -> str:
    """What an exception says, in one line."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


def _snapshot(module: nn.Module) -> Mapping[str, object]:
    return {
        key: copy.copy(value) if isinstance(value, dict) else value for key, value in module.__dict__.items()
    }


def _put_back(module: nn.Module, state: Mapping[str, object]) -> None:
    module.__dict__.clear()
    module.__dict__.update(state)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
