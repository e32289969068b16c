"""Which units stay when the MACs must fit a budget, in widths that hardware likes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from reports.units import count
from students.surgery import Alive, Anatomy, Values

_HUGE = 1e300


@dataclass(frozen=True)
class _Bundle:
    """Units of one group that go together, so that what stays is a multiple of `round_to`; or a block, a branch."""

    units: tuple[int, ...]
    priority: float
    owner: int
    order: int


def choose(anatomy: Anatomy, priority: Values, budget: int, round_to: int = 8) -> Alive:
    """Keep the units of highest priority so that the cut network has at most `budget` MACs.

    Units of a group go in bundles: what stays is a multiple of `round_to`, or the whole group, and nothing only where
    a block goes with it (`students.hollow`).
    A bundle's priority is the mean of its units'. Bundles leave from the lowest up until the budget is met; those
    that still fit then come back, the best first. priority is (units,), higher is kept longer;
    NaN, which a search that diverged may hand in, is the lowest.

    Raises ValueError where even the smallest network is above the budget, with that floor and what holds it up.
    """
    priority = np.where(np.isnan(priority), -np.inf, priority)
    least = _least(anatomy, priority, round_to)
    if (
        anatomy.cost(least) > budget
    ):  # the best branches may be dear: the cheapest of each concatenation, then
        least = _least(anatomy, -anatomy.prices(), round_to, priority)
    if (floor := anatomy.cost(least)) > budget:
        raise ValueError(
            f"a budget of {count(budget)} MACs ({budget / anatomy.macs:.1%}) cannot be met: with widths in "
            f"multiples of {round_to} the smallest network reachable has {count(floor)} "
            f"({floor / anatomy.macs:.1%}); most of it is {anatomy.blocking(least)}. "
            "Ask for more, lower round_to, or let blocks go too"
        )
    bundles = [
        bundle for bundle in _bundles(anatomy, priority, round_to) if not least[list(bundle.units)].any()
    ]
    low, high = 0, len(bundles)  # the fewest bundles whose leaving meets the budget
    while low < high:
        middle = (low + high) // 2
        if anatomy.cost(_without(anatomy, bundles[:middle])) <= budget:
            high = middle
        else:
            low = middle + 1
    alive = _without(anatomy, bundles[:low])
    blocked: set[int] = set()
    for bundle in sorted(bundles[:low], key=lambda b: (-b.priority, -b.order)):
        if bundle.owner in blocked:  # a worse channel never comes back before a better one of its group
            continue
        units = list(bundle.units)
        alive[units] = True
        if anatomy.cost(alive) > budget:
            alive[units] = False
            blocked.add(bundle.owner)
    return anatomy.hollowed(alive)


def smallest(anatomy: Anatomy, round_to: int = 8) -> Alive:
    """What stays in the smallest network that cutting can reach."""
    return _least(anatomy, -anatomy.prices(), round_to)


def floor(anatomy: Anatomy, round_to: int = 8) -> int:
    """MACs of the smallest network that cutting can reach."""
    return anatomy.cost(smallest(anatomy, round_to))


def uniform(anatomy: Anatomy, scores: Values) -> Values:
    """Priorities that shrink every group by the same share: each unit's rank within its group, in (0, 1]."""
    ranks = np.ones(anatomy.size)
    for number, group in enumerate(anatomy.groups):
        span = anatomy.span(number)
        ranks[span][np.argsort(scores[span], kind="stable")] = (np.arange(group.width) + 1) / group.width
    wholes = scores[anatomy.first_whole :]
    ranks[anatomy.first_whole :][np.argsort(wholes, kind="stable")] = (np.arange(len(wholes)) + 1) / max(
        len(wholes), 1
    )
    return ranks


def _least(anatomy: Anatomy, scores: Values, round_to: int, priority: Values | None = None) -> Alive:
    """The smallest arrangement: of each concatenation the branch of the highest score stays.

    Channels stay by `priority`, or by the same scores.
    """
    bundles = _bundles(anatomy, scores if priority is None else priority, round_to)
    return anatomy.hollowed(anatomy.rescue(_without(anatomy, bundles), scores))


def _without(anatomy: Anatomy, bundles: list[_Bundle]) -> Alive:
    alive = anatomy.full()
    for bundle in bundles:
        alive[list(bundle.units)] = False
    return alive


def _bundles(anatomy: Anatomy, priority: Values, round_to: int) -> list[_Bundle]:
    """All that may go, in the order in which it would."""
    priority = np.clip(priority, -_HUGE, _HUGE)  # means of infinities are no numbers
    bundles: list[_Bundle] = []
    if anatomy.channels:
        needed = anatomy.rescue(np.zeros(anatomy.size, dtype=bool), priority)
        for number, group in enumerate(anatomy.groups):
            span = anatomy.span(number)
            if number in anatomy.hollow:  # its last channels may go, and the block with them
                needed[span] = False
            # What some layer cannot do without stands in front, the others follow from the best down.
            ranked = span.start + np.lexsort((-priority[span], ~needed[span]))
            first = round_to * -(-int(needed[span].sum()) // round_to)
            stops = [*range(first, group.width, round_to), group.width]
            for order, (start, stop) in enumerate(itertools.pairwise(stops)):
                units = tuple(int(u) for u in ranked[start:stop])
                bundles.append(_Bundle(units, float(np.mean(priority[list(units)])), number, -order))
    for place in range(len(anatomy.wholes)):
        unit = anatomy.first_whole + place
        bundles.append(_Bundle((unit,), float(priority[unit]), -1 - place, 0))
    return sorted(bundles, key=lambda b: (b.priority, b.owner, b.order))
