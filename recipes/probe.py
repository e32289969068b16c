"""How long a stage will take and how much memory, from a step or two of every kind that it makes."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from compress.forecast import Back, Forecast, Pass
from compress.session import Precision
from students.surgery import SoftMasks
from teachers.place import place
from teachers.signature import Signature
from teachers.task import Split, Splits

_SECONDS = 0.7
"""that a timed step should take at most: larger batches are told from smaller ones"""
_LEAST = 0.2
"""seconds that steps are timed for at least: on a busy machine a shorter look would miss that it is busy"""


@dataclass(frozen=True)
class Estimate:
    """About so many seconds, and bytes of tensors at the peak: weights, gradients and what a step keeps."""

    seconds: float
    memory: int


@dataclass
class Bench:
    """Where steps are timed; every kind of step once.

    inputs       the task's own first batch, on the device
    seconds      that fetching a batch of train took
    """

    device: torch.device
    precision: Precision
    inputs: tuple[Tensor, ...]
    seconds: float
    _known: dict[tuple[int, Back, int], Estimate] = field(default_factory=dict)
    _kept: list[Any] = field(
        default_factory=list
    )  # or another network might take the place, and id, of one gone

    @classmethod
    def of(cls, splits: Splits, signature: Signature, device: torch.device, precision: Precision) -> Bench:
        """A bench with a batch of the task's, and how long fetching one takes; of no data where train is empty."""
        if not splits.samples(Split.TRAIN):
            return cls(device, precision, tuple(x.to(device) for x in signature.usual(32)), 0.0)
        first, spent, taken = None, 0.0, 0
        batches = splits.batches(Split.TRAIN, device, torch.Generator().manual_seed(0))
        began = time.perf_counter()
        for batch in islice(batches, 32):
            now = time.perf_counter()
            # The first one may have opened files and drawn the order of all of them.
            if first is not None or splits.steps(Split.TRAIN) == 1:
                spent, taken = spent + now - began, taken + 1
            first = first if first is not None else batch.inputs
            if spent > _LEAST:
                break
            began = time.perf_counter()
        assert first is not None
        return cls(device, precision, first, spent / max(taken, 1))

    def of_stage(self, forecast: Forecast) -> Estimate:
        """A stage's passes, its reading and what else it does, together."""
        seconds = forecast.seconds + self.seconds * forecast.batches
        most = 0
        held: dict[int, int] = {}
        for one in forecast.passes:
            if not one.times:
                continue
            step = self.step(one)
            seconds += one.times * step.seconds
            most = max(most, step.memory)
            weights = sum(p.numel() * p.element_size() for p in _parameters(one.network))
            # An optimiser with momentum keeps a second set beside the weights; gradients count to the step.
            learned = one.back == "weights"
            held[id(one.network)] = max(held.get(id(one.network), 0), weights * (2 if learned else 1))
        return Estimate(seconds, most + sum(held.values()))

    def step(self, one: Pass) -> Estimate:
        """One batch through a network, and back as far as it goes."""
        batch = one.batch or len(self.inputs[0])
        key = (id(one.network), one.back, batch)
        if key not in self._known:
            self._known[key] = self._measured(one, batch)
            self._kept.append(one.network)
        return self._known[key]

    def _measured(self, one: Pass, batch: int) -> Estimate:
        own = one.signature is None
        if own and (len(self.inputs) > 1 or not self.inputs[0].is_floating_point()):
            return self._of_size(one, self.inputs, _LEAST)  # a graph goes as a whole
        size, found = min(4, batch), []
        while True:
            last = size == batch
            estimate = self._of_size(one, self._inputs(one, size), _LEAST if last else 0.0)
            found.append((size, estimate))
            if last or estimate.seconds > _SECONDS / 4:
                break
            size = min(batch, size * 4)
        return _extended(found, batch)

    def _inputs(self, one: Pass, size: int) -> tuple[Tensor, ...]:
        if one.signature is not None:
            return tuple(x.to(self.device) for x in one.signature.example(size))
        return tuple(_resized(x, size) for x in self.inputs)

    def _of_size(self, one: Pass, inputs: tuple[Tensor, ...], least: float) -> Estimate:
        """A step with these inputs, from as many as take `least` seconds; one alone has warmed up for them."""
        step = _stepper(one, inputs, self.device, self.precision)
        peak = _peak(step, self.device)
        spent, taken = 0.0, 0
        while not taken or spent < least:
            began = time.perf_counter()
            step()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            spent, taken = spent + time.perf_counter() - began, taken + 1
        return Estimate(spent / taken, peak)


def _resized(tensor: Tensor, size: int) -> Tensor:
    """The first rows, over and over where there are too few."""
    return tensor.repeat(-(-size // len(tensor)), *[1] * (tensor.dim() - 1))[:size]


def _extended(found: Sequence[tuple[int, Estimate]], batch: int) -> Estimate:
    """The estimate for a batch, in a line through the last two sizes that were tried."""
    size, last = found[-1]
    if size == batch:
        return last
    if len(found) == 1:
        return Estimate(last.seconds * batch / size, round(last.memory * batch / size))
    before, other = found[-2]

    def line(now: float, then: float) -> float:
        slope = max((now - then) / (size - before), 0.0)
        return max(now + slope * (batch - size), now)

    return Estimate(line(last.seconds, other.seconds), round(line(last.memory, other.memory)))


def _parameters(network: Any) -> list[nn.Parameter]:
    module = network.network if isinstance(network, SoftMasks) else network
    return list(module.parameters())


def _stepper(
    one: Pass, inputs: tuple[Tensor, ...], device: torch.device, precision: Precision
) -> Callable[[], None]:
    """A step of the kind: forward, and back to where gradients go; a copy of the network takes it."""
    module = one.network.network if isinstance(one.network, SoftMasks) else one.network
    learns = one.back == "weights"
    if isinstance(one.network, SoftMasks):
        one.network.to(device)
    module = place(module, device).train(learns)
    weights = [p for p in module.parameters() if p.requires_grad] if learns else []
    learn = torch.optim.SGD(weights, 0.0, 0.9) if weights else None
    inputs = tuple(
        x.detach().clone().requires_grad_(one.back == "inputs" and x.is_floating_point()) for x in inputs
    )

    def step() -> None:
        with (
            torch.set_grad_enabled(one.back != "nothing"),
            torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
        ):
            outputs = one.network(*inputs)
        if one.back == "nothing":
            return
        loss = sum((x.float().square().mean() for x in _tensors(outputs)), torch.zeros((), device=device))
        if learn is None:
            torch.autograd.grad(loss, [x for x in inputs if x.requires_grad], allow_unused=True)
            return
        learn.zero_grad()
        loss.backward()
        learn.step()
        loss.item()

    return step


def _tensors(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    if not isinstance(outputs, dict | tuple | list):
        return []
    items = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for item in items for tensor in _tensors(item)]


def _peak(step: Callable[[], object], device: torch.device) -> int:
    """Bytes that a step holds at most beyond what was there before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return max(0, torch.cuda.max_memory_allocated(device) - before)
    with (watch := _Storages()):
        step()
    return watch.peak


class _Storages(TorchDispatchMode):
    """Counts the bytes of tensors that are born and not yet gone."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {id(x.untyped_storage()) for x in args if isinstance(x, Tensor)}
        for tensor in _tensors(made):
            storage = tensor.untyped_storage()
            if id(storage) not in self.alive and id(storage) not in given:
                self.alive[id(storage)] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, id(storage))
        return made

    def _gone(self, number: int) -> None:
        self.now -= self.alive.pop(number, 0)
