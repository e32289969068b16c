"""The forecast of a stage that cuts: what would be left, and how small that could be at most."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from compress.forecast import Follows, Forecast, shapes
from compress.stage import State
from students.budget import choose, smallest
from students.surgery import Anatomy, Values


def cutting(
    state: State,
    draft: nn.Module,
    anatomy: Anatomy,
    priority: Values,
    macs: float | None,
    round_to: int,
    follows: Follows,
) -> Forecast:
    """What is left of `draft` once the units of lowest priority are gone, so that at most a share `macs` is.

    Without a share nothing is said to go. The smallest that could be left comes with what it is made of.
    """
    least = smallest(anatomy, round_to)
    lock = anatomy.largest_lock(least)
    locked = f"; the largest locked group is {lock}" if lock is not None else ""
    student, refused = draft, None
    if macs is not None:
        try:
            alive = choose(anatomy, priority, int(macs * anatomy.macs), round_to)
        except ValueError as problem:
            refused = str(problem)
        else:
            student = anatomy.cut(copy.deepcopy(draft), alive)
    return Forecast(
        replace(state, student=student),
        skipped=_skipped(anatomy),
        follows=follows if macs is not None and refused is None else "training",
        least=anatomy.cut(copy.deepcopy(draft), least),
        blocks=f"most of that is {anatomy.blocking(least)}{locked}",
        refused=refused,
        settled=(
            *(group.name for group in anatomy.groups),
            *(whole.name for whole in anatomy.wholes),
            *(f"locked {lock.name}" for lock in anatomy.locked),
            *(shapes(student) if follows == "settings" else ()),
        ),
    )


def _skipped(anatomy: Anatomy) -> Mapping[str, tuple[str, ...]]:
    """Locked groups, blocks and branches by the reason."""
    found: dict[str, list[str]] = defaultdict(list)
    for lock in anatomy.locked:
        found[lock.reason].append(lock.name)
    return {reason: tuple(names) for reason, names in found.items()}
