"""Making teachers comparable: how sure each may be that a sample is its own, measured once over unlabeled inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

Evidence = Literal["class", "class_z", "teacher_q99", "zscore", "softmax", "raw"]
FITTED: tuple[Evidence, ...] = ("class", "class_z", "teacher_q99", "zscore")
"""those that compare teachers; "softmax" and "raw" take their outputs as they are"""
_NARROW = 1e-6  # a unit whose outputs spread by less than that share of the teacher's does not vary
_FAR, _SELDOM, _OFF = (
    1.5,
    0.02,
    4.0,
)  # what a reader is told of: raw scales, shares of the lead, masses off the prior


@dataclass(frozen=True)
class Statistics:
    """One teacher's outputs over the samples; c(x) = z(x) - mean_l z(x)_l are its centred logits.

    mean, deviation, high   of c, per output: mean, standard deviation, 99th percentile
    level, spread           of z, over samples and outputs together: mean and standard deviation
    reach                   the 99th percentile of max_l c_l
    """

    name: str
    labels: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    high: tuple[float, ...]
    level: float
    spread: float
    reach: float


@dataclass(frozen=True)
class Calibration:
    """What was measured of each teacher, and the rule by which evidence is made of it.

    how       the evidence e_m(x), all of it unchanged by z_m -> a z_m + b, a > 0:
              class        max_l (c_l - mu_l) / sqrt((q99_l - mu_l) sigma_l)
              class_z      max_l (c_l - mu_l) / sigma_l, where classes are known to be balanced
              teacher_q99  max_l c_l / (99th percentile of it), where they are very uneven
              zscore       max_l (z_l - mu) / sigma, one mean and deviation a teacher
              or none: "softmax" trusts every teacher alike, "raw" compares logits as they are
    kappa     how much evidence counts, in nats a unit
    bias      nats per teacher, from a prior that was stated; 0 without
    share     of the samples, on which each teacher has most evidence
    mass      mean probability that a sample is each teacher's, before the bias
    samples   how many there were
    """

    how: Evidence
    kappa: float
    teachers: tuple[Statistics, ...]
    bias: tuple[float, ...]
    share: tuple[float, ...]
    mass: tuple[float, ...]
    samples: int

    def lead(self, place: int, logits: Tensor) -> Tensor:
        """The evidence kappa e_m(x) + bias, in nats: logits (..., K) of the teacher at `place` to (...)."""
        of = self.teachers[place]
        if self.how == "raw":
            return logits.logsumexp(-1) + self.bias[place]
        if self.how == "softmax":
            return logits.new_zeros(logits.shape[:-1]) + self.bias[place]
        if self.how == "zscore":
            return self.kappa * (logits.amax(-1) - of.level) / of.spread + self.bias[place]
        centred = logits - logits.mean(-1, keepdim=True)
        if self.how == "teacher_q99":
            return self.kappa * centred.amax(-1) / of.reach + self.bias[place]
        mean, deviation, high = (logits.new_tensor(row) for row in (of.mean, of.deviation, of.high))
        unit = deviation if self.how == "class_z" else ((high - mean) * deviation).sqrt()
        return self.kappa * ((centred - mean) / unit).amax(-1) + self.bias[place]

    def scale(self, place: int) -> float:
        """One number for the size of a teacher's logits: the mean over outputs of what `lead` divides by; 1 for raw."""
        of = self.teachers[place]
        if self.how not in FITTED:
            return 1.0
        if self.how == "zscore":
            return of.spread
        if self.how == "teacher_q99":
            return of.reach
        if self.how == "class_z":
            return sum(of.deviation) / len(of.deviation)
        units = [math.sqrt((h - m) * d) for h, m, d in zip(of.high, of.mean, of.deviation, strict=True)]
        return sum(units) / len(units)

    def level(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """Each teacher's logits (..., K) centred and brought to one scale, the geometric mean of all.

        With one teacher, or copies of it, nothing but the centring happens.
        """
        if self.how not in FITTED:
            return list(logits)
        scales = [self.scale(place) for place in range(len(self.teachers))]
        common = math.exp(sum(map(math.log, scales)) / len(scales))
        return [
            (z - z.mean(-1, keepdim=True)) * (common / scale) for z, scale in zip(logits, scales, strict=True)
        ]

    def notes(self) -> list[str]:
        """What a reader should know: what was fitted, scales far apart, teachers that seldom lead."""
        names = [of.name for of in self.teachers]
        lines = [
            f"calibrated by {self.how!r} evidence on {self.samples} samples; most evidence: "
            + ", ".join(f"{name} on {100 * s:.1f} %" for name, s in zip(names, self.share, strict=True))
        ]
        raw = [of.reach for of in self.teachers]
        if max(raw) > _FAR * min(raw):
            sizes = ", ".join(f"{name} {size:.3g}" for name, size in zip(names, raw, strict=True))
            taken = (
                "left as they are: their answers do not compare" if self.how not in FITTED else "evened out"
            )
            lines.append(
                f"the logits of the teachers differ in scale by {max(raw) / min(raw):.1f} ({sizes}), {taken}"
            )
        for name, share in zip(names, self.share, strict=True):
            if len(names) > 1 and share < _SELDOM:
                lines.append(
                    f"{name} leads on {100 * share:.1f} % of the samples only: are its labels among them at all?"
                )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, and JSON made lists of."""

        def plain(one: Mapping[str, Any]) -> dict[str, Any]:
            return {name: tuple(value) if isinstance(value, list) else value for name, value in one.items()}

        teachers = tuple(Statistics(**plain(one)) for one in data["teachers"])
        return cls(**{**plain(data), "teachers": teachers})


def fit(
    rows: Sequence[Tensor],
    names: Sequence[str],
    labels: Sequence[Sequence[str]],
    how: Evidence = "class",
    kappa: float = 10.0,
    prior: Mapping[str, float] | None = None,
) -> tuple[Calibration, list[str]]:
    """Measure the teachers' logits, rows (N, K_m) of the same N samples each; and what to tell of it.

    prior  by teacher, the share of the samples that are its own: biases are then found with which the mean
           probabilities are these,  b_m <- b_m - log(mass_m / prior_m)  until they are

    Raises ValueError for logits that are not finite, an output that does not vary, and for a prior that is none.
    """
    of = [measured(row, name, own) for row, name, own in zip(rows, names, labels, strict=True)]
    plain = (0.0,) * len(of)
    made = Calibration(how, kappa, tuple(of), plain, plain, plain, len(rows[0]))
    leads = torch.stack([made.lead(place, row.double()) for place, row in enumerate(rows)], 1)
    first = leads.argmax(1)
    share = tuple((first == place).double().mean().item() for place in range(len(of)))
    mass = leads.softmax(1).mean(0)
    made = replace(made, share=share, mass=tuple(mass.tolist()))
    lines = made.notes()
    if prior is not None:
        wanted = torch.tensor(checked(prior, names), dtype=torch.float64)
        bias = torch.zeros_like(wanted)
        for _ in range(500):
            now = (leads + bias).softmax(1).mean(0)
            if bool(((now - wanted).abs() < 1e-9).all()):
                break
            bias = bias - (now / wanted).log()
        made = replace(made, bias=tuple((bias - bias.mean()).tolist()))
        off = [max(float(m / w), float(w / m)) for m, w in zip(mass, wanted, strict=True)]
        if max(off) > _OFF:
            lines.append(
                "the prior is far from what the samples say without it: "
                + ", ".join(
                    f"{n} {100 * m:.1f} % for {100 * w:.1f} %"
                    for n, m, w in zip(names, mass, wanted, strict=True)
                )
                + ". A wrong prior costs more than none"
            )
    return made, lines


def measured(logits: Tensor, name: str, labels: Sequence[str]) -> Statistics:
    """The statistics of one teacher's logits (N, K). Raises ValueError as `fit` does."""
    z = logits.detach().double()
    if not bool(z.isfinite().all()):
        unit = labels[int((~z.isfinite()).any(0).nonzero()[0])]
        raise ValueError(
            f"teacher {name!r} gives {int((~z.isfinite()).sum())} outputs that are not finite, for {unit!r} first: "
            "look for NaN in its weights, or for inputs that it was not taught on"
        )
    centred = z - z.mean(1, keepdim=True) if z.shape[1] > 1 else z
    deviation = centred.std(0, correction=0)
    spread = z.std(correction=0)
    still = [
        label for label, d in zip(labels, deviation, strict=True) if d <= _NARROW * spread.clamp_min(1e-12)
    ]
    if still:
        raise ValueError(
            f"teacher {name!r} answers {still[0]!r} with the same number for all {len(z)} samples: that output is "
            "dead, or the samples are all alike"
        )
    high = torch.quantile(centred, 0.99, dim=0)
    # An output may have its whole upper end below its mean plus nothing: keep the root real.
    high = torch.maximum(high, centred.mean(0) + 1e-3 * deviation)
    return Statistics(
        name, tuple(labels), tuple(centred.mean(0).tolist()), tuple(deviation.tolist()), tuple(high.tolist()),
        float(z.mean()), float(spread), max(float(torch.quantile(centred.amax(1), 0.99)), 1e-12),
    )  # fmt: skip


def checked(prior: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """The prior in the order of the teachers. Raises ValueError where it names others, or is no distribution."""
    missing, strange = (
        sorted(set(names) - set(prior)),
        sorted(set(prior) - set(names)),
    )
    shares = ", ".join(f"{name} {share:g}" for name, share in prior.items())
    if missing or strange:
        raise ValueError(
            f"the prior ({shares}) gives every teacher a share: "
            + "; ".join(
                f"{what} {', '.join(which)}"
                for what, which in (("missing", missing), ("unknown", strange))
                if which
            )
        )
    if any(not share > 0 for share in prior.values()) or abs(sum(prior.values()) - 1) > 1e-6:
        raise ValueError(
            f"the prior ({shares}) has shares above 0 that sum to 1, not to {sum(prior.values()):g}"
        )
    return [prior[name] for name in names]
