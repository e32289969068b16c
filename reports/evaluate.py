"""A network's score on a split, with the doubt that its number of samples leaves.

Two kinds of score: val scores are for choosing and have an order; test scores are for telling and have none,
so a line that picks by test does not run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, NoReturn, Protocol, TypeVar

import torch
from torch import Tensor, nn

from reports.profile import observed


class Samples(Protocol):
    """What a batch must have: what the network is called with, and the truth."""

    @property
    def inputs(self) -> tuple[Tensor, ...]: ...

    @property
    def target(self) -> Tensor | None: ...


@dataclass(frozen=True)
class Score:
    """A score in [0, 1], how many samples it rests on, and its 95 % Wilson interval.

    The interval is that of a share of right answers; for another metric it is a rough guide to the spread.
    """

    value: float
    samples: int

    def __post_init__(self) -> None:
        if not (0 <= self.value <= 1 and self.samples >= 1):
            raise ValueError(
                f"a score lies in [0, 1] and rests on at least one sample, got {self.value} on {self.samples}"
            )

    @property
    def interval(self) -> tuple[float, float]:
        """The lower and upper end of the 95 % interval."""
        return wilson(self.value, self.samples)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back equal."""
        low, high = self.interval
        return {**asdict(self), "low": low, "high": high}

    @classmethod
    def from_dict(cls: type[S], data: Mapping[str, Any]) -> S:
        """Read what `to_dict` wrote."""
        return cls(float(data["value"]), int(data["samples"]))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.2f} % ({100 * low:.2f} to {100 * high:.2f}, {self.samples} samples)"


S = TypeVar("S", bound=Score)


@dataclass(frozen=True, order=True)
class ValScore(Score):
    """A score on data held out of training, to choose by: higher is better, and `<` says so."""


@dataclass(frozen=True)
class TestScore(Score):
    """A score on the test split, read once and only told: comparing two of them raises TypeError."""

    __test__ = False  # no test case, whatever pytest makes of the name

    def _refuse(self, other: object) -> NoReturn:
        raise TypeError(
            "test scores have no order: choosing by them would make the test split part of training. "
            "Choose by val scores; for a table of finished runs take `.value`"
        )

    __lt__ = __le__ = __gt__ = __ge__ = _refuse


def evaluate(
    module: nn.Module,
    batches: Iterable[Samples],
    predict: Callable[[Tensor], Tensor],
    score: Callable[[Tensor, Tensor], float],
    *,
    kind: type[S],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    keep: Callable[[Tensor, Tensor], object] | None = None,
) -> S:
    """Run `module` over `batches` and judge all answers together.

    predict   network outputs (batch, ...) to answers (batch, ...)
    score     answers and truth of all samples (N, ...) to a number in [0, 1]
    kind      ValScore or TestScore: which split this is
    autocast  makes the context of every forward pass
    keep      is told answers and truth of all samples, for whoever wants more of them than a score
    The module's mode, its buffers and all random states are as before. Raises ValueError where there is no
    batch or a batch has no target, and ArithmeticError where an output is not finite.
    """
    answers: list[Tensor] = []
    truth: list[Tensor] = []
    # Not inference_mode: what a module caches on the way must still be good for training.
    with observed(module), torch.no_grad():
        for batch in batches:
            if batch.target is None:
                raise ValueError("a batch without target cannot be scored: open the split with labels")
            with autocast():
                outputs = module(*batch.inputs)
            if not bool(torch.isfinite(outputs).all()):
                bad = int((~torch.isfinite(outputs)).sum())
                raise ArithmeticError(
                    f"{bad} of {outputs.numel()} outputs of {type(module).__name__} are not finite: "
                    "look for NaN in its weights"
                )
            answers.append(predict(outputs.float()).cpu())
            truth.append(batch.target.cpu())
    if not answers:
        raise ValueError("there was no batch to score: the split is empty")
    said, true = torch.cat(answers), torch.cat(truth)
    if keep is not None:
        keep(said, true)
    return kind(float(score(said, true)), _judged(true))


def _judged(target: Tensor) -> int:
    """Samples that count: not those below 0, nor (several labels each) those of which nothing is known."""
    if target.is_floating_point():
        return int((~target.isnan()).flatten(1).any(1).sum())
    return int((target >= 0).sum()) if target.dim() == 1 else len(target)


def wilson(share: float, samples: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a share p of n samples, z = 1.96 for 95 %.

    centre = (p + z^2 / 2n) / (1 + z^2 / n),  half = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2)

    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927).
    """
    spread = z * z / samples
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / samples + spread / (4 * samples))
    return max(0.0, centre - half), min(1.0, centre + half)
