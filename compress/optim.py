"""FISTA and its proximal map: the solver of soft masks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

Variant = Literal["textbook", "official"]
Restart = Literal["adaptive", "never", "always"]


def shrink(values: Tensor, threshold: Tensor | float) -> Tensor:
    """The proximal map of threshold * |m| + [m >= 0]:  max(z - threshold, 0), elementwise.

    Soft-thresholding followed by projection on m >= 0 is the same map. threshold is a number or (units,), >= 0.
    """
    return (values - threshold).clamp_min(0.0)


class FISTA:
    """Accelerated proximal gradient for  min over m >= 0 of  f(m) + sum_i l1_i m_i.

    The textbook form takes the gradient where the network runs, at the extrapolated point y_k (held in `values`):

        m_k     = shrink(y_k - lr * grad f(y_k), lr * l1)
        t_{k+1} = (1 + sqrt(1 + 4 t_k^2)) / 2,   t_1 = 1
        y_{k+1} = m_k + (t_k - 1) / t_{k+1} * (m_k - m_{k-1})

    restart  "adaptive" forgets the momentum (t = 1, y = m) once it points uphill,
             (y_k - m_k) . (m_k - m_{k-1}) > 0 (O'Donoghue and Candes 2015); "always" at every step, which is
             plain ISTA; "never" leaves it to `restart()`
    variant  "official" is the form of GAL's released code: the gradient is taken at m_k, which `values` then
             holds, and applied at the extrapolated point; kept to compare with

    lr is a number, or one step size per unit (a diagonal metric: shrink and the test of `restart` follow it).
    Raises ValueError for lr <= 0. Source: Beck and Teboulle 2009, with the gradient gathered by the caller.
    """

    def __init__(
        self,
        values: Tensor,
        lr: Tensor | float,
        *,
        restart: Restart = "adaptive",
        variant: Variant = "textbook",
    ) -> None:
        if not torch.as_tensor(lr > 0).all():
            raise ValueError(f"FISTA's step size must be positive, not {lr}")
        self.values = values
        self.lr = lr
        self.policy = restart
        self.variant = variant
        self.momentum = 1.0
        self.solution = values.detach().clone()
        self.restarts = 0
        self._fresh = True

    @torch.no_grad()
    def step(self, gradient: Tensor, l1: Tensor | float) -> None:
        """One step; `gradient` is that of the smooth part at `values`, `l1` the penalty per unit, both (units,)."""
        if self.variant == "official":
            self._official(gradient, l1)
            return
        proposed = shrink(self.values - self.lr * gradient, self.lr * l1)
        moved = proposed - self.solution
        if self.policy == "always" or (
            self.policy == "adaptive" and ((self.values - proposed) / self.lr * moved).sum() > 0
        ):
            self.restart()
        following = (1 + math.sqrt(1 + 4 * self.momentum**2)) / 2
        self.values.copy_(proposed + (self.momentum - 1) / following * moved)
        self.momentum = following
        self.solution = proposed

    def restart(self) -> None:
        """Forget the momentum: the next extrapolation starts anew."""
        self.restarts += self.momentum > 1
        self.momentum = 1.0
        self._fresh = True

    def _official(self, gradient: Tensor, l1: Tensor | float) -> None:
        at = self.values.clone()
        if self._fresh or self.policy == "always":
            self.momentum, extrapolated = 1.0, at
        else:
            following = (1 + math.sqrt(1 + 4 * self.momentum**2)) / 2
            extrapolated = at + (self.momentum - 1) / following * (at - self.solution)
            self.momentum = following
        self._fresh = False
        self.solution = at  # the released code calls this the previous mask
        self.values.copy_(shrink(extrapolated - self.lr * gradient, self.lr * l1))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Put the solution m_k itself into `values`, without extrapolation, and return it."""
        if self.variant == "textbook":
            self.values.copy_(self.solution)
        return self.values.detach().clone()

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed search needs to go on identically."""
        return {
            "values": self.values.detach(), "solution": self.solution, "momentum": self.momentum,
            "restarts": self.restarts, "fresh": self._fresh, "lr": self.lr,
        }  # fmt: skip

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.values.copy_(state["values"])
        self.solution = state["solution"].to(self.values).clone()
        lr = state["lr"]
        self.momentum, self.lr = (
            float(state["momentum"]),
            lr.to(self.values) if isinstance(lr, Tensor) else lr,
        )
        self.restarts, self._fresh = int(state["restarts"]), bool(state["fresh"])
