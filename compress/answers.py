"""The teacher's answers for the nodes of a graph: asked once, and remembered where the graph stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from compress.noted import Noted, Seen, Where
from compress.session import Session
from teachers.task import Batch, Part
from teachers.teacher import Teacher

__all__ = ["Answers", "Seen"]


class Remembers(Protocol):
    """What a hint says of the teacher's features: what of them is to be kept."""

    def remember(self, theirs: Seen, batch: Batch) -> Seen: ...


class Answers:
    """What the teacher says of a batch: outputs, and what hints want of its layers.

    A whole graph is asked about once; of several graphs outputs are remembered by node and scores by edge. Where
    batches are drawn parts of a graph, the teacher sees the same part, or (`sees` "whole") the whole graph once.
    Inputs that change are asked about anew.
    """

    def __init__(
        self, teacher: Teacher, pairs: Mapping[str, str], where: Where, hints: Mapping[str, Remembers], session:
        Session, sees: str = "part",
    ) -> None:  # fmt: skip
        self.teacher, self.session, self.sees = teacher, session, sees
        self._noted = Noted(teacher.module, list(dict.fromkeys(pairs.values())), where)
        self._remember = {pairs[name]: hint for name, hint in hints.items()}
        self._whole: tuple[Tensor, dict[str, Seen]] | None = None
        self._rows: dict[str, Tensor] = {}

    @torch.no_grad()
    def of(self, batch: Batch) -> tuple[Tensor, dict[str, Seen]]:
        """Outputs (n, classes), and by the teacher's layers what was seen there."""
        part = batch.part
        if part is not None and part.complete and part.nodes is None:
            if self._whole is None:
                self._whole = self._ask(batch)
            return self._whole
        if part is not None and part.whole is not None and self.sees == "whole":
            return self._cut(part, batch)
        if part is not None and part.complete and (known := self._recall(part, batch)) is not None:
            return known
        found = self._ask(batch)
        if part is not None and part.complete:
            self._store(part, found)
        return found

    def _ask(self, batch: Batch) -> tuple[Tensor, dict[str, Seen]]:
        with self.session.autocast(), self._noted.watching(bool(self._noted.names)) as seen:
            outputs = self.teacher(*batch.inputs)
        kept = {name: self._kept(name, given, batch) for name, given in seen.items()}
        return outputs.float(), kept

    def _kept(self, name: str, given: Seen, batch: Batch) -> Seen:
        hint = self._remember.get(name)
        return given if hint is None else hint.remember(given, batch)

    # -- parts of one graph -----------------------------------------------------------------------------------

    def _cut(self, part: Part, batch: Batch) -> tuple[Tensor, dict[str, Seen]]:
        """The rows of a drawn part, of what the teacher said when it saw all of the graph."""
        if self._whole is None:
            assert part.whole is not None
            inputs = tuple(tensor.to(self.session.device) for tensor in part.whole)
            with self.session.autocast(), self._noted.watching(bool(self._noted.names)) as seen:
                outputs = self.teacher(*inputs)
            self._whole = outputs.float(), seen
        outputs, seen = self._whole
        assert part.nodes is not None
        rows = part.nodes.to(outputs.device)
        cut = {}
        for name, whole in seen.items():
            if whole.edges is not None:
                raise ValueError(f"the teacher's '{name}' builds a graph of its own: it has to see the same part, set "
                                 "teacher_sees to part")  # fmt: skip
            given = Seen(whole.the_features()[rows])
            cut[name] = self._kept(name, given, batch)
        return outputs[rows], cut

    # -- several graphs -----------------------------------------------------------------------------------------

    def _store(self, part: Part, found: tuple[Tensor, dict[str, Seen]]) -> None:
        outputs, seen = found
        if any(given.scores is None for given in seen.values()):
            return  # features of many graphs are too much to keep
        assert part.nodes is not None
        assert part.edges is not None
        self._put("outputs", part.nodes, outputs)
        for name, given in seen.items():
            assert given.scores is not None
            self._put(name, part.edges, given.scores)

    def _put(self, name: str, rows: Tensor, values: Tensor) -> None:
        rows, values = rows.cpu(), values.cpu()
        held = self._rows.get(name, values.new_empty((0, *values.shape[1:])))
        if (size := int(rows.max()) + 1) > len(held):
            more = values.new_full((size - len(held), *values.shape[1:]), torch.nan)
            held = torch.cat([held, more])
        held[rows] = values
        self._rows[name] = held

    def _recall(self, part: Part, batch: Batch) -> tuple[Tensor, dict[str, Seen]] | None:
        if "outputs" not in self._rows:
            return None
        assert part.nodes is not None
        assert part.edges is not None
        outputs = self._get("outputs", part.nodes)
        scores = {name: self._get(name, part.edges) for name in self._noted.names}
        if outputs is None or any(value is None for value in scores.values()):
            return None
        device = batch.inputs[0].device
        return outputs.to(device), {
            name: Seen(scores=value.to(device)) for name, value in scores.items() if value is not None
        }

    def _get(self, name: str, rows: Tensor) -> Tensor | None:
        held = self._rows.get(name)
        rows = rows.cpu()
        if held is None or (len(rows) and int(rows.max()) >= len(held)):
            return None
        found = held[rows]
        return None if bool(found.isnan().any()) else found
