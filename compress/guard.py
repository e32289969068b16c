"""What happens in a game where a loss stops being finite: the step is skipped, then the last good state comes back."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LRScheduler

from compress.session import Diverged, Session, Stateful

_PATIENCE = 3  # losses in a row that are not finite before the last good state comes back
_RESCUES = 5  # times that this may happen


class Guard:
    """Watches over the players of a game.

    players  modules and optimisers, put back together
    pace     the schedule whose rates are halved each time: the adversary's
    clip     largest norm of a gradient; None takes any
    """

    def __init__(
        self, players: Mapping[str, Stateful], pace: LRScheduler, clip: float | None, session: Session
    ) -> None:
        self.players, self.pace, self.session = players, pace, session
        self.limit = math.inf if clip is None else clip
        self.good: dict[str, Any] = {}
        self.misses = 0
        self.rescues = 0

    def remember(self) -> None:
        """Take this state as the last good one."""
        self.good = copy.deepcopy({name: player.state_dict() for name, player in self.players.items()})

    def sound(self, loss: Tensor, player: nn.Module) -> bool:
        """Clip the player's gradient; False, and no step is to be taken, where loss or gradient is not finite.

        Raises Diverged where the last good state came back too often.
        """
        norm = clip_grad_norm_([p for p in player.parameters() if p.grad is not None], self.limit)
        if bool((loss.isfinite() & norm.isfinite()).item()):
            self.misses = 0
            return True
        self.misses += 1
        if self.misses >= _PATIENCE:
            self._rescue()
        return False

    def _rescue(self) -> None:
        self.misses = 0
        self.rescues += 1
        if self.rescues > _RESCUES or not self.good:
            raise Diverged(
                f"{self.session.name}: {_PATIENCE} losses in a row were not finite, {self.rescues} times over: "
                "lower lr or generator_lr, set clip, or take fp32 in place of bf16"
            )
        for name, player in self.players.items():
            player.load_state_dict(copy.deepcopy(self.good[name]))
        self.pace.base_lrs = [0.5 * rate for rate in self.pace.base_lrs]
        self.session.note(
            f"{_PATIENCE} losses in a row were not finite: went back to the start of the epoch, with "
            f"{0.5**self.rescues:g} times the generator's rate"
        )

    def state_dict(self) -> dict[str, Any]:
        """How often it had to help; an epoch begins anew with its own good state."""
        return {"rescues": self.rescues}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self.rescues = int(state["rescues"])
