"""Measuring: a network's score and cost, as the runner takes them after every stage."""

from __future__ import annotations

from collections.abc import Callable

import torch
from safetensors.torch import save
from torch import Tensor, nn

from recipes.decisions import Answers, Seen, answered
from reports.evaluate import TestScore, ValScore, evaluate
from reports.profile import Profile, latency, layers, profile
from students.structure import stored
from teachers.signature import Signature
from teachers.task import Split, Splits, Task

SECONDS = 0.3
"""of timing for each batch size, teacher and student together"""


class Instruments:
    """Score and cost of networks on one device; every task's data is opened once.

    limit  a rehearsal measures costs, but takes no time for timing
    """

    def __init__(
        self, device: torch.device, opened: Callable[[Task], Splits], *, timing: bool = True
    ) -> None:
        self.device = device
        self._opened = opened
        self._timing = timing

    def val(self, module: nn.Module, task: Task) -> ValScore | None:
        """The score on val, by which one may choose; in fp32, as the student will be used. None where val is empty."""
        if not self._opened(task).samples(Split.VAL):
            return None
        batches = self._opened(task).batches(Split.VAL, self.device)
        return evaluate(module, batches, task.predict, task.score, kind=ValScore)

    def test(
        self, module: nn.Module, task: Task, keep: Callable[[Answers], object] | None = None
    ) -> TestScore | None:
        """The score on test, which is read when all is done. None where test is empty.

        keep  is told what was answered to every sample, where that is more than the score says
        """
        if not self._opened(task).samples(Split.TEST):
            return None
        batches = self._opened(task).batches(Split.TEST, self.device)
        if keep is None:
            return evaluate(module, batches, task.predict, task.score, kind=TestScore)
        seen, kept = Seen(batches), list[tuple[Tensor, Tensor]]()
        score = evaluate(
            module, seen, task.predict, task.score, kind=TestScore, keep=lambda *pair: kept.append(pair)
        )
        if answers := answered(task, *kept[0], score.value, seen.hexdigest()):
            keep(answers)
        return score

    def cost(self, module: nn.Module, signature: Signature) -> Profile:
        """MACs, parameters, and the bytes of its weights as a file."""
        return cost_of(module, signature)

    def timed(self, costs: dict[str, tuple[nn.Module, Profile]], signature: Signature) -> dict[str, Profile]:
        """The same costs with latencies, all networks taking turns."""
        if not self._timing:
            return {name: cost for name, (_, cost) in costs.items()}
        modules = {name: module for name, (module, _) in costs.items()}
        found = latency(modules, signature.usual(1), seconds=SECONDS, graph=signature.is_graph)
        return {name: cost.timed(found[name]) for name, (_, cost) in costs.items()}

    def widths(self, module: nn.Module, signature: Signature) -> list[dict[str, object]]:
        """Every layer with weights: its name, type, MACs, parameters, and channels in and out."""
        return [vars(layer) for layer in layers(module, signature.usual(1))]


def cost_of(module: nn.Module, signature: Signature) -> Profile:
    """MACs, parameters, and the bytes of a network's weights as a file."""
    plain = {name: tensor.cpu().contiguous().clone() for name, tensor in stored(module).items()}
    return profile(module, signature.usual(2), bytes=len(save(plain)))


def device_of(name: str) -> torch.device:
    """The device of that name; "auto" takes an accelerator if there is one.

    Raises ValueError where this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {reason}. auto or cpu can") from problem
    return device
