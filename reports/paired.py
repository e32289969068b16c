"""Whether one recipe does better than another: paired over seeds and over test samples, and what of it is chance.

Two things are drawn by chance when recipes are compared, the seeds and the samples of test, and a difference that holds
for these seeds alone, or for these samples alone, is none. So a difference is told only where both say so:

    over seeds            Student's t of the S differences d_s: mean +- t(S - 1) sd / sqrt(S), for this test set
    seeds and samples     the bootstrap that draws both again: seeds are rows and samples are columns of one table, for
                          every seed is tested on the same samples

With one seed there is no doubt of seeds to be had, and what is left is the test over samples: McNemar's, exact.
Sources: Student 1908; McNemar 1947; Owen 2007, "The pigeonhole bootstrap"; Holm 1979.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, stdtr, stdtrit  # scipy.stats takes seconds to import

from reports.evaluate import wilson

Merits = npt.NDArray[np.float64]
"""(samples,): what is had of every sample, 1 where the answer is right and 0 where not, or its own score"""

LEVEL = 0.05
_DRAWS = 4000
_FLAT = 1e-12  # differences of scores that lie nearer than this are equal, but for the last bits


@dataclass(frozen=True)
class Told:
    """A difference, its 95 % interval, and how probable one as large is where there is none (None: cannot be said)."""

    value: float
    low: float
    high: float
    p: float | None


@dataclass(frozen=True)
class Swap:
    """Samples that one alone had right, on one seed (None: all pooled), and McNemar's exact p.

    better  the other alone was right;  worse  the first alone was
    """

    seed: int | None
    better: int
    worse: int
    p: float


@dataclass(frozen=True)
class Paired:
    """The other recipe less the first, on the seeds and samples that both have; scores in [0, 1].

    value    mean over seeds of the difference of their scores
    apart    the difference of every seed, in the order of `seeds`
    seed     over seeds; None of a single one
    both     over seeds and samples; None where answers to single samples are not known
    swaps    per seed; empty where an answer is not one label
    pooled   all seeds together, as if each had samples of its own: they have not, so it decides nothing
    equal    whether every answer is had alike, sample by sample
    p        the largest that is asked for: a difference is one only where every test says so
    """

    seeds: tuple[int, ...]
    samples: int | None
    value: float
    apart: tuple[float, ...]
    seed: Told | None
    both: Told | None
    swaps: tuple[Swap, ...]
    pooled: Swap | None
    equal: bool
    p: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def paired(
    scores: Mapping[int, tuple[float, float]],
    merits: Mapping[int, tuple[Merits, Merits]] | None = None,
    *,
    labels: bool = True,
    family: int = 1,
) -> Paired:
    """Compare two recipes; pairs are (first, other), by seed.

    merits  of all seeds or None; (samples,) each
    labels  whether merits are of right and wrong labels, so that McNemar's test says something of them
    family  how many are compared: the bootstrap draws more of many, or none of them could have a p that is small enough

    Raises ValueError without a seed, for a score that is no finite number, and for merits of unlike lengths.
    """
    if not scores:
        raise ValueError("there is no seed that both recipes were run with")
    for seed, pair in scores.items():
        if not all(map(math.isfinite, pair)):
            raise ValueError(f"the scores {pair} of seed {seed} are not finite numbers")
    seeds = tuple(sorted(scores))
    apart = tuple(scores[seed][1] - scores[seed][0] for seed in seeds)
    over = over_seeds(apart) if len(seeds) > 1 else None
    both, swaps, pooled, equal, samples = None, tuple[Swap, ...](), None, False, None
    if merits is not None:
        lengths = {len(merit) for seed in seeds for merit in merits[seed]}
        if len(lengths) != 1:
            raise ValueError(f"answers to {sorted(lengths)} samples cannot be set side by side")
        (samples,) = lengths
        table = np.stack([merits[seed][1] - merits[seed][0] for seed in seeds])
        both, equal = over_both(table, max(_DRAWS, 100 * family)), not table.any()
        if labels:
            swaps = tuple(swap(row, seed) for seed, row in zip(seeds, table, strict=True))
            pooled = swap(table, None)
    asked = [told.p for told in (over, both) if told is not None]
    if len(seeds) == 1 and swaps:
        asked = [swaps[0].p]  # exact, where the bootstrap is not
    known = [p for p in asked if p is not None]
    value = math.fsum(apart) / len(apart)
    return Paired(
        seeds, samples, value, apart, over, both, swaps, pooled, equal, max(known) if known else None
    )


def over_seeds(apart: Sequence[float]) -> Told:
    """Student's paired t: the mean of at least two differences, its 95 % interval, and p.

    Equal differences leave t nothing to go by: p is 1 where they are 0, and else None.
    """
    count, mean = len(apart), math.fsum(apart) / len(apart)
    error = float(np.std(apart, ddof=1)) / math.sqrt(count)
    if error < _FLAT:
        return Told(mean, mean, mean, 1.0 if abs(mean) < _FLAT else None)
    half = float(stdtrit(count - 1, 1 - LEVEL / 2)) * error
    return Told(mean, mean - half, mean + half, float(2 * stdtr(count - 1, -abs(mean) / error)))


def over_both(table: Merits, draws: int = _DRAWS) -> Told:
    """The two-level bootstrap of the mean of a table (seeds, samples): rows and columns are drawn again, both at once.

        mean* = sum over s, i of  w_s v_i table[s, i] / (S n),    w ~ Multinomial(S, 1/S),  v ~ Multinomial(n, 1/n)

    Interval by percentiles; p is twice the smaller share of draws on either side of 0, each with one draw added. It
    makes the doubt of samples somewhat too large and that of few seeds too small: t has the latter. Turning all signs
    of the table turns the interval, to the bit.
    """
    seeds, samples = table.shape
    turn = -1.0 if _turned(table) else 1.0
    # Columns that are alike are drawn together: of n samples, few patterns of right and wrong differ.
    kinds, counts = np.unique((turn * table).T, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    kinds, counts = kinds[order], counts[order]
    generator = np.random.default_rng(0)
    found = np.empty(draws)
    step = max(1, 2**22 // len(counts))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        columns = generator.multinomial(samples, counts / samples, size) / samples
        rows = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size) / seeds
        found[start : start + size] = ((columns @ kinds) * rows).sum(1)
    low, high = np.quantile(found, (LEVEL / 2, 1 - LEVEL / 2))
    beyond = min((found <= 0).sum(), (found >= 0).sum())
    ends = sorted((turn * float(low), turn * float(high)))
    return Told(float(table.mean()), ends[0], ends[1], min(1.0, 2 * float(1 + beyond) / (draws + 1)))


def _turned(table: Merits) -> bool:
    """Which of a table and its negative this is: the one whose sum, or else whose first entry, is below 0."""
    entries = table.ravel()
    total = math.fsum(entries)
    if total == 0 and entries.any():
        return bool(entries[np.flatnonzero(entries)[0]] < 0)
    return total < 0


def swap(apart: Merits, seed: int | None) -> Swap:
    """McNemar's exact test of differences (...) in {-1, 0, 1}: of the samples that one alone had right, are as many
    the one's as the other's?  p = binomial test of `better` among `better + worse`, at 1/2.
    """
    better, worse = int((apart > 0).sum()), int((apart < 0).sum())
    # The binomial at 1/2 is symmetric: both tails are the smaller one, twice.
    tail = float(bdtr(min(better, worse), better + worse, 0.5))
    return Swap(seed, better, worse, min(1.0, 2 * tail))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """The p of every member of a family, raised so that all may be judged at one level: Holm's step-down.

        p'_(k) = max over j <= k of  min(1, (m - j + 1) p_(j)),    p_(1) <= ... <= p_(m)

    What has no p is no member.
    """
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    raised: list[float | None] = [None] * len(values)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        raised[place] = least
    return raised


def verdict(found: Paired, p: float | None) -> str:
    """What to say: better, worse, equal (on every sample), or no difference told; `p` is the family's (`holm`)."""
    if found.equal and abs(found.value) < _FLAT:
        return "equal"
    if p is None or p >= LEVEL or found.value == 0:
        return "no difference told"
    return "better" if found.value > 0 else "worse"


def spread(scores: Sequence[float], samples: int | None) -> tuple[float, float]:
    """The 95 % interval of one recipe's mean score: doubt of seeds (Student's t) and of samples (Wilson) together.

    The two are independent, so their distances from the mean add up as squares. Scores of one seed have the latter
    alone, and where the number of samples is not known there is only the former; both ends lie in [0, 1].
    """
    count, mean = len(scores), math.fsum(scores) / len(scores)
    low, high = wilson(min(max(mean, 0.0), 1.0), samples) if samples else (mean, mean)
    half = 0.0
    if count > 1:
        half = float(stdtrit(count - 1, 1 - LEVEL / 2) * np.std(scores, ddof=1)) / math.sqrt(count)
    return max(0.0, mean - math.hypot(mean - low, half)), min(1.0, mean + math.hypot(high - mean, half))
