"""The weight of a second loss: fixed, or such that its gradient is so long as the first one's, times a share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_MEMORY = 0.9  # of the running ratio: one step's gradients are noisy


class Balance:
    """Adds the gradients of two losses,  g + w h,  with w fixed, or  w = share * |g| / |h|,  smoothed over steps.

    |g| and |h| are the norms over the parameters that the second loss reaches. So one share serves kernels whose
    gradients lie eight orders of magnitude apart, and the second loss never outweighs the first (share < 1).
    Smoothed is the logarithm of the ratio.
    """

    def __init__(self, share: float, weight: float | None = None) -> None:
        self.share, self.fixed = share, weight
        self.log_ratio: float | None = None

    def backward(self, loss: Tensor, extra: Tensor | None, learn: Optimizer) -> float:
        """Put the gradients where the optimiser looks for them; the weight that the second loss had."""
        learn.zero_grad()
        if extra is None:
            loss.backward()
            return 0.0
        if self.fixed is not None:
            (loss + self.fixed * extra).backward()
            return self.fixed
        parameters = [p for group in learn.param_groups for p in group["params"]]
        first = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        second = torch.autograd.grad(extra, parameters, allow_unused=True)
        weight = self._weight(first, second)
        for parameter, g, h in zip(parameters, first, second, strict=True):
            if h is not None:
                g = weight * h if g is None else g.add(h, alpha=weight)
            parameter.grad = g
        return weight

    def _weight(self, first: tuple[Tensor | None, ...], second: tuple[Tensor | None, ...]) -> float:
        both = [(g, h) for g, h in zip(first, second, strict=True) if g is not None and h is not None]
        if not both:
            raise ValueError(
                "the hint reaches no parameter that labels or soft targets reach: its weight cannot be balanced, so "
                "set it"
            )
        norms = [torch.stack([t.float().norm() for t in side]).norm() for side in zip(*both, strict=True)]
        g, h = (float(norm) for norm in norms)
        if g > 0 and h > 0 and torch.isfinite(norms[0] / norms[1]):
            now = float((norms[0].double() / norms[1].double()).log())
            old = now if self.log_ratio is None else self.log_ratio
            self.log_ratio = _MEMORY * old + (1 - _MEMORY) * now
        return self.share * float(torch.tensor(self.log_ratio or 0.0).exp()) if h > 0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"log_ratio": self.log_ratio}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.log_ratio = state["log_ratio"]
