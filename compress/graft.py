"""Grafts: a student's block judged by what a teacher's remaining blocks, frozen, make of its feature."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from compress.calibration import FITTED, Calibration, fit
from compress.course import Source, Streams, Terms
from compress.losses import soft_answers
from compress.merging import Merger, least_squares
from compress.method import Work, few
from compress.panel import Panel
from students.branches import Blocks, Branched, ChannelCoding, Join, Weighed, cut
from teachers.labels import LabelSpace


class Grafts:
    """A trunk of blocks, and for every block a way on through the tail of every teacher.

        z_m^b(x) = A_m^{b+1 ... B}( f_m^b( S^{1 ... b}(x) ) )   for b < B;   at B the trunk's own outputs for Y_m

    trunk    the student, cut; it answers all labels asked for
    tails    the teachers, cut at the same number of places, with features of the same shapes
    filters  one `ChannelCoding` for each teacher and block but the last
    Raises ValueError with a table of shapes where blocks do not match.
    Source: Ye et al., CVPR 2019; with generated features, Ye et al., CVPR 2020.
    """

    def __init__(
        self, panel: Panel, student: nn.Module, ends: Sequence[str], teacher_ends: Mapping[str, Sequence[str]]
    ) -> None:
        if strange := [name for name in teacher_ends if name not in panel.names]:
            raise ValueError(
                f"cuts name {strange[0]!r}, who is not asked: there are {', '.join(panel.names)}"
            )
        device = next(student.parameters()).device
        images = panel.given.example(2)[0].to(device)
        self.panel, self.student = panel, student
        self.trunk = cut(student, ends, (images,), "the student")
        self.tails = {
            member.name: cut(
                member.teacher.module, teacher_ends.get(member.name, ends), (member.fronted(images),),
                f"teacher {member.name!r}",
            )
            for member in panel.members
        }  # fmt: skip
        matching({"student": self.trunk, **self.tails})
        self.filters = nn.ModuleList(
            nn.ModuleList(ChannelCoding(shape[0], len(shape) > 1) for shape in self.trunk.shapes[:-1])
            for _ in panel.members
        ).to(device)

    def __len__(self) -> int:
        return len(self.trunk)

    def row(self, block: int) -> nn.ModuleList:
        """The filters behind a block, 1 is the first; none behind the last."""
        if block == len(self):
            return nn.ModuleList()
        return nn.ModuleList(of[block - 1] for of in self.filters)  # type: ignore[index]

    def grafted(self, place: int, block: int, feature: Tensor, images: Tensor) -> Tensor:
        """What the teacher at `place` makes of a block's feature, of its labels those that are asked for."""
        member = self.panel.members[place]
        if block == len(self):
            return feature[:, list(member.index)]
        grown: Tensor = self.filters[place][block - 1](feature)  # type: ignore[index]
        shown = member.fronted(images)
        for part in self.tails[member.name].parts[block:]:
            grown = part(grown, shown)
        return grown[:, list(member.own)]

    def terms(
        self, work: Work, block: int, feature: Tensor, images: Tensor, answers: Sequence[Tensor]
    ) -> Terms:
        """Each teacher's loss of a block's feature; at the last block also the joint answer's, where there is one."""
        pieces = work.panel.pieces(answers)
        if block == len(self) and work.merger.joint:
            return work.imitated(feature, answers)
        return {
            member.name: soft_answers(
                self.grafted(place, block, feature, images), pieces[place], member.kind, work.temperature
            )
            for place, member in enumerate(work.panel.members)
        }

    def learn(self, work: Work, block: int, epochs: float) -> None:
        """Teach one block and its filters, those before it fixed: on the student's own path, and on features given."""
        before, part = self.trunk.parts[: block - 1], self.trunk.parts[block - 1]
        for fixed in before:
            fixed.eval()

        def terms(images: Tensor, streams: Streams) -> Terms:
            answers = work.panel.ask(images)
            with torch.no_grad():
                own = images
                for fixed in before:
                    own = fixed(own, images)
            found = dict(self.terms(work, block, part(own, images), images, answers))
            if block > 1 and block - 1 in streams:
                # The second stream: a feature that the generator made where this block's would come in.
                for name, term in self.terms(
                    work, block, part(streams[block - 1], images), images, answers
                ).items():
                    found[f"{name} (generated)"] = term
            return found

        work.course.phase(terms, epochs, [part], [self.row(block)], name=f"block {block}")

    @torch.no_grad()
    def losses(self, work: Work, source: Source) -> list[dict[str, float]]:
        """Per block, each teacher's loss on held images."""
        sums: list[dict[str, float]] = [{} for _ in range(len(self))]
        seen = 0
        for part in (*self.trunk.parts, self.filters):
            part.eval()
        for images, _ in source.held():
            answers = work.panel.ask(images)
            pieces, feature = work.panel.pieces(answers), images
            for block, part in enumerate(self.trunk.parts, 1):
                feature = part(feature, images)
                for place, member in enumerate(work.panel.members):
                    given = self.grafted(place, block, feature, images)
                    loss = soft_answers(given, pieces[place], member.kind, work.temperature).item()
                    sums[block - 1][member.name] = sums[block - 1].get(member.name, 0.0) + loss * len(images)
            seen += len(images)
        return [{name: loss / max(seen, 1) for name, loss in row.items()} for row in sums]

    def branched(self, work: Work, leaves: Mapping[str, int]) -> nn.Module:
        """The student in which every teacher's branch leaves behind its block; the plain student where all leave last.

        Branches are copies that can be trained; trunk blocks and filters that nobody uses are not in it. Their answers
        stand side by side until `weighed` has measured them.
        """
        if all(block == len(self) for block in leaves.values()):
            return self.student
        branches, columns, select = [], [], []
        for place, member in enumerate(self.panel.members):
            block = leaves[member.name]
            row: list[nn.Module] = []
            if block < len(self):
                row = [self.filters[place][block - 1], *self._tail(member.name, block)]  # type: ignore[index]
            branches.append((block, row))
            columns.append([work.merger.union.names.index(name) for name in self.answered(place, block)])
            select.append(member.index)
        made = Branched(self.trunk.parts, branches, select, Join(columns, work.merger.asked))
        return copy.deepcopy(made).to(next(self.student.parameters()).device).requires_grad_(True)

    def answered(self, place: int, block: int) -> tuple[str, ...]:
        """The labels of a branch: all of the teacher's, or behind the last block those that are asked for."""
        member = self.panel.members[place]
        if block < len(self):
            return member.space.names
        return tuple(self.panel.asked.names[index] for index in member.index)

    def to_each(self, work: Work, made: Branched, images: Tensor, answers: Sequence[Tensor]) -> Terms:
        """The distance of every branch to its teacher."""
        found = {}
        for member, head, answer in zip(self.panel.members, made.heads(images), answers, strict=True):
            wanted = answer if head.shape[1] == answer.shape[1] else answer[:, list(member.own)]
            found[member.name] = soft_answers(head, wanted, member.kind, work.temperature)
        return found

    def _tail(self, name: str, block: int) -> list[nn.Module]:
        return list(self.tails[name].parts[block:])

    def leaves(self, work: Work, how: str, source: Source) -> dict[str, int]:
        """Behind which block every branch leaves: "last", or the one with the least loss on held images."""
        if how == "last":
            return dict.fromkeys(self.panel.names, len(self))
        table = self.losses(work, source)
        for block, row in enumerate(table, 1):
            said = ", ".join(f"{name} {loss:.4f}" for name, loss in row.items())
            work.session.note(f"behind block {block} of {len(self)}: {said}")
        return {
            name: 1 + min(range(len(self)), key=lambda place, name=name: table[place][name])  # type: ignore[misc]
            for name in self.panel.names
        }


@torch.no_grad()
def weighed(work: Work, grafts: Grafts, made: Branched, leaves: Mapping[str, int], samples: int) -> None:
    """Measure what the branches answer over `samples` images, and join them by it, in place; no weight changes."""
    if work.calibration is None or not work.merger.joint:
        return
    spaces = [
        LabelSpace(grafts.answered(place, leaves[member.name]), member.name)
        for place, member in enumerate(grafts.panel.members)
    ]
    rows: list[list[Tensor]] = [[] for _ in spaces]
    seen = 0
    for images, _ in work.course.source.batches():
        for kept, head in zip(rows, made.heads(images), strict=True):
            kept.append(few(head.float(), samples).cpu())
        seen += len(images)
        if seen >= samples:
            break
    logits = [torch.cat(kept).double() for kept in rows]
    old = work.calibration
    fitted, _ = fit(logits, [s.owner for s in spaces], [s.names for s in spaces], old.how, old.kappa)
    merger = Merger(spaces, grafts.panel.asked, work.merger.how, replace(fitted, bias=old.bias))
    made.join = joined(merger, made.join).to(next(made.parameters()).device)


def joined(merger: Merger, otherwise: nn.Module) -> nn.Module:
    """What makes one answer of several heads' as `Merger` does, as a layer that stays in the student.

    Heads that share labels are joined by least squares. `otherwise` where nothing was fitted to weigh them by.
    """
    calibration = merger.calibration
    if calibration is None or calibration.how not in FITTED:
        return otherwise
    scales = [calibration.scale(place) for place in range(len(merger.spaces))]
    common = torch.tensor(scales, dtype=torch.float64).log().mean().exp().item()
    parts = [
        (part, least_squares(len(labels), inside))
        for part, labels, inside in zip(merger.parts, merger.labels, merger.inside, strict=True)
    ]
    # A head that shares no label is left as it is.
    scale = {h: 1.0 if len(part) == 1 else common / scales[h] for part, _ in parts for h in part}
    pairs = [affine(calibration, space.owner) for space in merger.spaces]
    order = merger.order()
    return Weighed(
        parts, [scale[h] for h in range(len(scales))], calibration.how != "zscore", [mean for mean, _ in pairs],
        [unit for _, unit in pairs], calibration.kappa, calibration.bias, [order[place] for place in merger.asked],
    )  # fmt: skip


def affine(calibration: Calibration, name: str) -> tuple[Tensor, Tensor]:
    """What `Calibration.lead` subtracts and divides by, per output of one teacher."""
    of = next(of for of in calibration.teachers if of.name == name)
    mean, deviation, high = (
        torch.tensor(row, dtype=torch.float64) for row in (of.mean, of.deviation, of.high)
    )
    if calibration.how == "zscore":
        return torch.full_like(mean, of.level), torch.full_like(mean, of.spread)
    if calibration.how == "teacher_q99":
        return torch.zeros_like(mean), torch.full_like(mean, of.reach)
    if calibration.how == "class_z":
        return mean, deviation
    return mean, ((high - mean) * deviation).sqrt()


def matching(rows: Mapping[str, Blocks]) -> None:
    """Raises ValueError, with a table, where networks have other numbers of blocks, or other shapes between them."""
    shapes = {name: blocks.shapes[:-1] for name, blocks in rows.items()}
    if len(set(shapes.values())) == 1:
        return
    most = max(map(len, shapes.values()))
    lines = [
        f"  {name}: "
        + " | ".join("x".join(map(str, shape)) for shape in row)
        + (f" ({len(row) + 1} blocks)" if len({len(r) for r in shapes.values()}) > 1 else "")
        for name, row in shapes.items()
    ]
    raise ValueError(
        f"blocks can be exchanged where features have the same shapes at all {most} cuts, and they have not:\n"
        + "\n".join(lines)
        + "\nname other cuts, by teacher where needed, or take a student of the teachers' widths"
    )
