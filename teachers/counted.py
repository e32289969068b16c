"""A task's data as one reader gets them, with a count of what went out: the rows of a run's data ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from teachers.task import Batch, HandedOn, Split, Splits


@dataclass(frozen=True)
class Handed:
    """What one reader was handed of one split.

    labels    whether the batches carried their targets
    samples   handed out, one counted as often as it came
    distinct  how many different ones these were; None where the data give their samples no numbers
    of        how many the split holds; of a graph, batches also hold nodes of the other splits
    """

    split: str
    labels: bool
    samples: int
    distinct: int | None
    of: int


class Counted(HandedOn):
    """Hands batches on, counts them, and takes their targets off where the reader may not see labels.

    Nobody has to say what he read: there is no other way to the data than through here. Samples are told apart by
    `Batch.rows`, by a bit for each, so that many passes and parts of passes over the same ones count once.
    """

    def __init__(self, splits: Splits, labels: bool = True) -> None:
        super().__init__(splits)
        self.labels = labels
        self._samples: dict[str, int] = {}
        self._seen: dict[str, Tensor | None] = {}

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """One pass, as `Splits.batches` says; a batch is counted when it is asked for."""
        for batch in super().batches(split, device, generator):
            self._count(split.value, batch)
            yield batch if self.labels else batch.unlabeled()

    def handed(self) -> tuple[Handed, ...]:
        """What went out so far, a split each."""
        found = []
        for split, samples in self._samples.items():
            seen = self._seen[split]
            distinct = None if seen is None else int(seen.sum())
            found.append(Handed(split, self.labels, samples, distinct, self.samples(Split(split))))
        return tuple(found)

    def _count(self, split: str, batch: Batch) -> None:
        rows = _rows(batch)
        seen = self._seen.get(split, torch.zeros(0, dtype=torch.bool))
        if rows is None or seen is None:
            self._seen[split] = None
        elif len(rows):
            if (needed := int(rows.max()) + 1) > len(seen):
                seen = torch.cat([seen, seen.new_zeros(needed - len(seen))])
            seen[rows] = True
            self._seen[split] = seen
        self._samples[split] = self._samples.get(split, 0) + len(batch)

    def state_dict(self) -> dict[str, Any]:
        """The counts, to be kept with unfinished work."""
        return {
            split: {"samples": samples, "seen": self._seen[split]} for split, samples in self._samples.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from kept counts: what was handed out since then is handed out anew."""
        self._samples = {split: int(kept["samples"]) for split, kept in state.items()}
        self._seen = {split: kept["seen"] for split, kept in state.items()}


def _rows(batch: Batch) -> Tensor | None:
    """The numbers of the samples of a batch: of a graph, those of its nodes."""
    if batch.part is not None:
        return torch.arange(len(batch)) if batch.part.nodes is None else batch.part.nodes
    return batch.rows
