"""Several teachers' answers about one sample made into one: over all labels, from what each says of its own.

All functions take logits with the labels in the last dimension, (..., K_m), and give logits over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from compress.calibration import FITTED, Calibration
from compress.losses import fine
from teachers.labels import LabelSpace, components, owners
from teachers.signature import Kind

Merge = Literal["auto", "concat", "average", "ce", "logit_ls", "logit_scaled", "prob", "select", "per_task"]
NEVER = -1e4
"""the logit of a label that has no probability: finite, so that 0 times it is 0"""
_SOLVED = ("ce", "logit_ls", "logit_scaled", "prob")


class Merger:
    """How the answers of several teachers become one, over the labels that are asked for.

        auto          logit_ls where shared labels connect all teachers, concat where no label is shared, between such
                      parts concat and within them logit_ls; per_task unless exactly one label is true
        concat        side by side:  log p_m(l) + lead_m  (`Calibration.lead`), labels that nobody shares; the raw
                      logits where calibration is "raw"
        average       the same, and the mean of it over those who share a label
        logit_ls      z_m(l) = u(l) + c_m, least squares, in closed form
        logit_scaled  z_m(l) = v_m u(l) + c_m, alternating; at least three labels of every teacher are shared
        ce            the q for which  sum_m CE(p_m, q restricted to Y_m)  is smallest
        prob          p_m(l) = q(l) w_m, least squares with q, w >= 0, alternating
        select        the answer of the teacher whose entropy over log K_m is smallest, for every sample
        per_task      no joint answer: every teacher teaches its own labels

    Where the labels fall into parts that share none, the four that solve for q find no probability of one part against
    another: they solve within each part, and weigh the parts by the evidence of a calibration that was fitted.
    Raises ValueError where there is none, and where labels are shared that may not be, or not shared that must be.
    Source: Vongkulbhisal et al., CVPR 2019 (UHC); Shen et al., ICCV 2019 (select).
    """

    def __init__(
        self,
        spaces: Sequence[LabelSpace],
        asked: LabelSpace,
        how: Merge = "auto",
        calibration: Calibration | None = None,
        kinds: Sequence[Kind] | None = None,
    ) -> None:
        self.spaces, self.calibration = tuple(spaces), calibration
        self.union = spaces[0].union(*spaces[1:])
        self.asked = list(asked.index_map(self.union))
        self.parts = components(spaces)
        single = all(kind == "softmax" for kind in kinds or ())
        if not single and how not in ("auto", "per_task"):
            raise ValueError(
                f"merge: {how} weighs labels against each other, of which exactly one is true, and the answers of "
                f"{', '.join(s.owner for s, k in zip(spaces, kinds or (), strict=True) if k != 'softmax')} are no "
                "such: take per_task"
            )
        self.how: Merge = "per_task" if how == "auto" and not single else how
        self._check()
        # Per part: where its labels stand in the union, and where each teacher's stand in the part.
        self.labels = [spaces[part[0]].union(*(spaces[place] for place in part[1:])) for part in self.parts]
        self.inside = [
            [spaces[place].index_map(space) for place in part]
            for part, space in zip(self.parts, self.labels, strict=True)
        ]
        self.operators = [least_squares(len(s), i) for s, i in zip(self.labels, self.inside, strict=True)]

    @property
    def joint(self) -> bool:
        """Whether there is one answer over all labels."""
        return self.how != "per_task"

    def __call__(self, logits: Sequence[Tensor]) -> Tensor:
        """The joint logits (n, |asked|, ...) of the teachers' (n, K_m, ...), in fp32."""
        assert self.joint, "per_task has no joint answer"
        rows = [fine(z).movedim(1, -1) for z in logits]
        merged = self._whole(rows).movedim(-1, 1)
        return merged[:, self.asked].to(torch.float32)

    def _whole(self, rows: list[Tensor]) -> Tensor:
        level = self.calibration.level(rows) if self.calibration is not None else rows
        if self.how == "select":
            return self._selected(level)
        if self.how == "average":
            return self._averaged(rows)
        found = []
        for number, part in enumerate(self.parts):
            part_logits = self._solved(
                number, [level[place] for place in part], [rows[place] for place in part]
            )
            if len(self.parts) > 1:
                leads = [self._lead(place, rows[place]) for place in part]
                part_logits = part_logits.log_softmax(-1) + torch.stack(leads).amax(0)[..., None]
            found.append(part_logits)
        return torch.cat(found, -1)[..., self.order()]

    def _solved(self, number: int, level: list[Tensor], rows: list[Tensor]) -> Tensor:
        """One part's logits over its own labels."""
        inside = self.inside[number]
        if len(level) == 1:
            # A single teacher is its own solution: its answer inside its labels is not touched.
            back = torch.tensor(inside[0]).argsort()
            return rows[0][..., back.to(rows[0].device)]
        if self.how == "ce":
            return cross_entropy_merge(level, inside, self.operators[number])
        if self.how == "prob":
            return probability_merge(level, inside, len(self.labels[number]))
        if self.how == "logit_scaled":
            return scaled_merge(level, inside, self.operators[number])
        return torch.cat(level, -1) @ self.operators[number].to(level[0]).T

    def _lead(self, place: int, z: Tensor) -> Tensor:
        return z.logsumexp(-1) if self.calibration is None else self.calibration.lead(place, z)

    def order(self) -> list[int]:
        """Where each label of the union stands in the parts laid end to end."""
        there = [name for space in self.labels for name in space]
        return [there.index(name) for name in self.union]

    def _averaged(self, rows: list[Tensor]) -> Tensor:
        total = rows[0].new_zeros((*rows[0].shape[:-1], len(self.union)))
        count = rows[0].new_zeros(len(self.union))
        for place, (space, z) in enumerate(zip(self.spaces, rows, strict=True)):
            index = list(space.index_map(self.union))
            mine = z
            if self.calibration is not None and self.calibration.how != "raw":
                mine = z.log_softmax(-1) + self.calibration.lead(place, z)[..., None]
            total[..., index] += mine
            count[index] += 1
        return total / count

    def _selected(self, level: list[Tensor]) -> Tensor:
        logs = [z.log_softmax(-1) for z in level]
        entropies = torch.stack([-(log.exp() * log).sum(-1) / math.log(log.shape[-1]) for log in logs])
        best = entropies.argmin(0)
        merged = logs[0].new_full((*logs[0].shape[:-1], len(self.union)), NEVER)
        for place, (space, log) in enumerate(zip(self.spaces, logs, strict=True)):
            index = list(space.index_map(self.union))
            merged[..., index] = torch.where((best == place)[..., None], log, merged[..., index])
        return merged

    def _check(self) -> None:
        shared = [name for name, who in owners(self.spaces).items() if len(who) > 1]
        fitted = self.calibration is not None and self.calibration.how in FITTED
        parts = " | ".join(", ".join(self.spaces[place].owner for place in part) for part in self.parts)
        if self.how == "concat" and shared:
            raise ValueError(
                f"merge: concat puts labels side by side that nobody shares, but {', '.join(map(repr, shared))} "
                f"{'is' if len(shared) == 1 else 'are'} shared: take average, logit_ls or auto, or rename by aliases"
            )
        if len(self.parts) > 1 and not fitted and self.how in ("auto", *_SOLVED):
            raise ValueError(
                f"merge: {self.how} cannot weigh labels of teachers that share none, not even by way of others: "
                f"{parts}. What each says of its own labels leaves the share of the parts open, and a start value is "
                "no answer. Take a calibration that is fitted (class, class_z, teacher_q99, zscore), or merge: per_task"
            )
        if self.how == "logit_scaled":
            for place, space in enumerate(self.spaces):
                mine = [name for name in space if name in shared]
                part = next(p for p in self.parts if place in p)
                if len(part) > 1 and len(mine) < 3:
                    raise ValueError(
                        f"merge: logit_scaled finds scale and offset of every teacher from shared labels, three at "
                        f"least, and {space.owner!r} shares {len(mine)}: take logit_ls"
                    )


def least_squares(labels: int, inside: Sequence[Sequence[int]]) -> Tensor:
    """The matrix that takes all teachers' logits, one behind the other, to u:  min sum (z_m(l) - u(l) - c_m)^2.

    labels  how many there are; inside[m] says which of them teacher m's outputs are
    The pseudo-inverse of the design with u and c: (labels, sum K_m), in float64; exact where the logits fit.
    """
    total = sum(map(len, inside))
    design = torch.zeros(total, labels + len(inside), dtype=torch.float64)
    row = 0
    for place, index in enumerate(inside):
        for label in index:
            design[row, label] = 1
            design[row, labels + place] = 1
            row += 1
    inverse: Tensor = torch.linalg.pinv(design)
    return inverse[:labels]


def scaled_merge(
    logits: Sequence[Tensor],
    inside: Sequence[Sequence[int]],
    start: Tensor,
    rounds: int = 100,
    ridge: float = 1e-2,
) -> Tensor:
    """The u of  z_m(l) = v_m u(l) + c_m  for every sample: alternating least squares, v pulled towards 1 by `ridge`."""
    u = torch.cat(list(logits), -1).double() @ start.to(logits[0].device).T
    rows = [z.double() for z in logits]
    index = [list(i) for i in inside]
    for _ in range(rounds):
        top, bottom = torch.zeros_like(u), torch.zeros_like(u)
        for z, i in zip(rows, index, strict=True):
            mine = u[..., i]
            m, n = mine.mean(-1, keepdim=True), z.mean(-1, keepdim=True)
            v = ((mine - m) * (z - n)).mean(-1, keepdim=True) + ridge
            v = v / ((mine - m).square().mean(-1, keepdim=True) + ridge)
            top[..., i] += v * (z - n + v * m)
            bottom[..., i] += v.square()
        u = top / bottom.clamp_min(1e-12)
        u = u - u.mean(-1, keepdim=True)
    return u.to(logits[0].dtype)


def cross_entropy_merge(
    logits: Sequence[Tensor], inside: Sequence[Sequence[int]], start: Tensor, steps: int = 30
) -> Tensor:
    """The log q, up to a constant, with the least  sum_m CE( p_m , q restricted to Y_m ),  for every sample.

    Convex in u = log q: gradient sum_m (s_m - p_m), Hessian sum_m diag(s_m) - s_m s_m^T, s_m the softmax of u over Y_m.
    Newton's method in float64, halving steps that do not descend. Source: Vongkulbhisal et al. 2019.
    """
    shape, labels = logits[0].shape[:-1], len(start)
    rows = [z.double().reshape(-1, z.shape[-1]) for z in logits]
    index = [list(i) for i in inside]
    wanted = [z.softmax(-1) for z in rows]
    u = torch.cat(rows, -1) @ start.to(rows[0].device).T

    def value(u: Tensor) -> Tensor:
        each = [u[:, i].logsumexp(-1) - (p * u[:, i]).sum(-1) for i, p in zip(index, wanted, strict=True)]
        return torch.stack(each).sum(0)

    # The constant that u leaves open is kept at 0 by the all-ones direction, to which the gradient is orthogonal.
    ridge = torch.full((labels, labels), 1 / labels, dtype=torch.float64, device=u.device)
    ridge = ridge + 1e-9 * torch.eye(labels, dtype=torch.float64, device=u.device)
    now = value(u)
    for _ in range(steps):
        gradient, hessian = torch.zeros_like(u), ridge.repeat(len(u), 1, 1)
        for i, p in zip(index, wanted, strict=True):
            s = u[:, i].softmax(-1)
            gradient[:, i] += s - p
            places = torch.tensor(i, device=u.device)
            hessian[:, places[:, None], places] += torch.diag_embed(s) - s[:, :, None] * s[:, None, :]
        if float(gradient.abs().max()) < 1e-10:
            break
        step = torch.linalg.solve(hessian, gradient[..., None])[..., 0]
        # A label that all think impossible has next to no curvature: no logit moves by more than this at once.
        step = step * (8 / step.abs().amax(-1, keepdim=True).clamp_min(8))
        size = torch.ones(len(u), 1, dtype=torch.float64, device=u.device)
        for _ in range(20):
            tried = u - size * step
            after = value(tried)
            worse = after > now + 1e-12
            if not bool(worse.any()):
                break
            size = torch.where(worse[:, None], size / 2, size)
        better = (after <= now + 1e-12)[:, None]
        u = torch.where(better, tried, u)
        now = torch.where(better[:, 0], after, now)
    return u.reshape(*shape, labels).to(logits[0].dtype)


def probability_merge(
    logits: Sequence[Tensor], inside: Sequence[Sequence[int]], labels: int, sweeps: int = 100
) -> Tensor:
    """The log q of  p_m(l) = q(l) w_m,  least squares with q, w >= 0 and sum q = 1, for every sample, in turns.

    Source: Vongkulbhisal et al. 2019, probability matrix factorisation.
    """
    wanted = [z.double().softmax(-1) for z in logits]
    index = [list(i) for i in inside]
    shape = logits[0].shape[:-1]
    weights = [torch.ones(*shape, 1, dtype=torch.float64, device=logits[0].device) for _ in wanted]
    q = torch.zeros(*shape, labels, dtype=torch.float64, device=logits[0].device)
    for _ in range(sweeps):
        top, bottom = torch.zeros_like(q), torch.zeros_like(q)
        for p, i, w in zip(wanted, index, weights, strict=True):
            top[..., i] += w * p
            bottom[..., i] += w.square()
        q = top / bottom.clamp_min(1e-12)
        q = q / q.sum(-1, keepdim=True)
        weights = [
            (q[..., i] * p).sum(-1, keepdim=True) / q[..., i].square().sum(-1, keepdim=True).clamp_min(1e-12)
            for p, i in zip(wanted, index, strict=True)
        ]
    return q.clamp_min(math.exp(-80)).log().to(logits[0].dtype)
