"""Signs, seen without a label, that labels of two teachers do not mean what their names say."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.calibration import Calibration
from teachers.labels import LabelSpace

_LEAST = 10  # samples that must speak before anything is said
_ALIKE = 0.6  # agreement on a shared label below this is told
_TOGETHER = 0.7  # two labels of two teachers that come together more often than this are told


def disagreements(
    rows: Sequence[Tensor], spaces: Sequence[LabelSpace], calibration: Calibration
) -> list[tuple[str, str, str, float]]:
    """(label, one teacher, other, agreement) of shared labels on which the two agree on less than 60 %.

    Agreement is how often the one says the label where the other is surest that it is (the upper half, by evidence, of
    the samples it says it of), the mean of both ways. rows (N, K_m): logits of the same samples.
    """
    found = []
    sure = _surest(rows, calibration)
    for m, n, label in _pairs(spaces, shared=True):
        rates = []
        for one, other in ((m, n), (n, m)):
            mine, its = spaces[one].names.index(label[0]), spaces[other].names.index(label[1])
            chosen = sure[one] & (rows[one].argmax(1) == mine)
            if int(chosen.sum()) >= _LEAST:
                rates.append((rows[other].argmax(1)[chosen] == its).double().mean().item())
        if rates and (rate := sum(rates) / len(rates)) < _ALIKE:
            found.append((label[0], spaces[m].owner, spaces[n].owner, rate))
    return found


def together(
    rows: Sequence[Tensor], spaces: Sequence[LabelSpace], calibration: Calibration
) -> list[tuple[str, str, str, str, float]]:
    """(label, teacher, label, teacher, share) of labels with different names that come together as if they were one.

    The share of the samples, of which one teacher is surest, that the other is sure to be the other label, the lesser
    of both ways; "animal" and "cat" come together like that, or "cat" and "kitten".
    """
    found = []
    sure = _surest(rows, calibration)
    for m, n, (a, b) in _pairs(spaces, shared=False):
        one = sure[m] & (rows[m].argmax(1) == spaces[m].names.index(a))
        other = sure[n] & (rows[n].argmax(1) == spaces[n].names.index(b))
        least = min(int(one.sum()), int(other.sum()))
        share = int((one & other).sum()) / max(int(one.sum()), int(other.sum()), 1)
        if least >= _LEAST and share > _TOGETHER:
            found.append((a, spaces[m].owner, b, spaces[n].owner, share))
    return found


def _pairs(spaces: Sequence[LabelSpace], shared: bool) -> list[tuple[int, int, tuple[str, str]]]:
    pairs = []
    for m, one in enumerate(spaces):
        for n in range(m + 1, len(spaces)):
            if shared:
                pairs += [(m, n, (label, label)) for label in one if label in spaces[n]]
            else:
                pairs += [
                    (m, n, (a, b)) for a in one if a not in spaces[n] for b in spaces[n] if b not in one
                ]
    return pairs


def _surest(rows: Sequence[Tensor], calibration: Calibration) -> list[Tensor]:
    """Per teacher, which samples lie in the upper half of those it gives their label to, by evidence."""
    found = []
    for place, row in enumerate(rows):
        lead, said = calibration.lead(place, row), row.argmax(1)
        sure = torch.zeros(len(row), dtype=torch.bool)
        for label in range(row.shape[1]):
            mine = said == label
            if bool(mine.any()):
                sure |= mine & (lead >= lead[mine].median())
        found.append(sure)
    return found
