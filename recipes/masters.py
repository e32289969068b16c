"""At the end of a run with several teachers: the student against each, and all together, on test."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compress.amalgamation import Amalgamation
from compress.merging import Merger
from compress.panel import Member, Panel, fronting
from compress.stage import State
from recipes.folders import fingerprint
from reports import mastery
from reports.mastery import Duel
from reports.profile import macs
from students.files import write_json
from teachers.labels import LabelSpace, owners
from teachers.signature import Signature
from teachers.task import Split, Splits, Task
from teachers.tasks.scoring import average_precision
from teachers.teacher import Teacher

if TYPE_CHECKING:
    from recipes.run import Run


def measure(run: Run, state: State) -> dict[str, Any] | None:
    """Everything that `reports.mastery` shows; kept as `amalgamation.json`, and not measured again for this student.

    None where no teachers were amalgamated, or there is no test split to tell by.
    """
    made, student = state.amalgamation, state.student
    if made is None or student is None or not run.opened(run.recipe.task).samples(Split.TEST):
        return None
    path, whose = run.folder / "amalgamation.json", fingerprint(student)
    if path.exists() and (kept := json.loads(path.read_text(encoding="utf-8")))["fingerprint"] == whose:
        return dict(kept)
    teachers = [teacher for teacher in run.teachers if teacher.name in made.teachers]
    tasks = {c.name: c.task for c in run.recipe.teachers}
    with run.clock.on("measuring"):
        found = compared(student, teachers, tasks, run.recipe.task, made, run.opened, run.device)
    found["fingerprint"] = whose
    write_json(path, found)
    return found


@torch.no_grad()
def compared(
    student: nn.Module,
    teachers: Sequence[Teacher],
    tasks: dict[str, Task],
    task: Task,
    made: Amalgamation,
    opened: Any,
    device: torch.device,
) -> dict[str, Any]:
    """The student against every teacher on that one's own task, and against all of them on the recipe's."""
    signature = task.signature()
    panel = Panel(teachers, signature, aliases=aliases(teachers, made), device=device)
    student = student.eval()
    duels = []
    for member in panel.members:
        duel = of_one(student, member, tasks[member.name], signature, opened(tasks[member.name]), device)
        duels.append({"name": member.name, "metric": tasks[member.name].metric, **duel.to_dict()})
    example = signature.example(1)
    own = [(m.teacher.module, m.teacher.signature.example(1)) for m in panel.members]

    def params(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    cost = {
        "params": params(student), "params_teachers": sum(params(module) for module, _ in own),
        "macs": macs(student, example), "macs_teachers": sum(macs(module, inputs) for module, inputs in own),
    }  # fmt: skip
    joint, groups = together(student, panel, made, opened(task), device)
    return {
        "split": "test", "teachers": duels, "master": all(duel["master"] for duel in duels), "joint": joint,
        "groups": groups, "cost": cost, "amalgamation": made.to_dict(),
    }  # fmt: skip


def aliases(teachers: Sequence[Teacher], made: Amalgamation) -> dict[str, dict[str, str]]:
    """The aliases under which they were amalgamated."""
    known = dict(zip(made.teachers, made.labels, strict=True))
    return {
        teacher.name: {
            old: new
            for old, new in zip(teacher.signature.labels, known[teacher.name], strict=True)
            if old != new
        }
        for teacher in teachers
    }


def of_one(
    student: nn.Module, member: Member, task: Task, signature: Signature, splits: Splits, device: torch.device
) -> Duel:
    """Both on the teacher's own test split, answers among its labels that the student has."""
    front = fronting(member.teacher.signature, Teacher("student", nn.Identity(), signature))
    own = list(member.own)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in splits.batches(Split.TEST, device):
        assert batch.target is not None
        images = batch.inputs[0]
        mine = student(images if front is None else front.to(device)(images))[:, list(member.index)]
        its = member.swift(images)[:, own]
        parts.append(answered(mine.float(), its.float(), batch.target, own, len(member.space), member.kind))
    mine, its, truth = (torch.cat(part) for part in zip(*parts, strict=True))
    if member.kind == "softmax" and truth.dim() == 1:
        return mastery.of_shares(mine == truth, its == truth)
    if member.kind == "softmax":
        # Each image by a table of its own: what is drawn again are images.
        return mastery.of_tables(mine, its)
    if member.kind == "sigmoid":
        return mastery.of_scores(_precision, mine, its, truth)
    return mastery.of_scores(task.score, mine, its, truth)


def answered(
    mine: Tensor, its: Tensor, truth: Tensor, own: list[int], labels: int, kind: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Answers of both, and the truth, over these of the teacher's labels; dense classes as tables, image by image."""
    if kind == "sigmoid":
        return mine.sigmoid().cpu(), its.sigmoid().cpu(), truth[:, own].cpu()
    if kind == "regression":
        return mine.cpu(), its.cpu(), truth.cpu()
    numbers = torch.full((labels + 1,), -1, dtype=torch.int64, device=truth.device)  # the last is void's
    numbers[own] = torch.arange(len(own), device=truth.device)
    local = numbers[torch.where(truth >= 0, truth, labels)]
    said = [outputs.argmax(1) for outputs in (mine, its)]
    if truth.dim() == 1:
        there = local >= 0
        return said[0][there].cpu(), said[1][there].cpu(), local[there].cpu()
    tables = [mastery.table(one.cpu(), local.cpu(), len(own)) for one in said]
    return tables[0], tables[1], local[:, :1, :1].cpu()


def _precision(scores: Tensor, truth: Tensor) -> float:
    return float(average_precision(scores, truth).nanmean().nan_to_num())


def together(
    student: nn.Module, panel: Panel, made: Amalgamation, splits: Splits, device: torch.device
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """All labels at once: student and ensemble; and whose label was true and whose was said. None where unlike."""
    if len(set(panel.kinds)) > 1 or panel.kinds[0] == "regression":
        return None, None  # unlike units are not averaged
    merger = Merger(panel.spaces, panel.asked, made.merge, made.calibration, panel.kinds)  # type: ignore[arg-type]
    pairs = list(_both(student, panel, merger, splits, device))
    mine, its, truth = (torch.cat(part) for part in zip(*pairs, strict=True))
    if panel.kinds[0] == "sigmoid":
        return mastery.of_scores(_precision, mine.sigmoid(), its.sigmoid(), truth).to_dict(), None
    if panel.dense:
        return mastery.of_tables(mine.long(), its.long()).to_dict(), None
    said, theirs = mine.argmax(1), its.argmax(1)
    joint = mastery.of_shares(said == truth, theirs == truth).to_dict()
    for name, outputs, answer in (("student", mine, said), ("other", its, theirs)):
        joint[f"error_{name}"] = mastery.calibration_error(outputs.softmax(1).amax(1), answer == truth)
    if not merger.joint:
        joint["error_other"] = joint["error_student"] = None
    return joint, grouped(panel.spaces, panel.asked, truth, said)


def _both(
    student: nn.Module, panel: Panel, merger: Merger, splits: Splits, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Outputs of student and ensemble and the truth, batch by batch; dense ones as tables."""
    for batch in splits.batches(Split.TEST, device):
        assert batch.target is not None
        images = batch.inputs[0]
        answers = panel.ask(images)
        mine = student(images).float()
        its = merger(answers) if merger.joint else side_by_side(panel, answers)
        if panel.dense:
            said = [
                mastery.table(o.argmax(1).cpu(), batch.target.cpu(), len(panel.asked)) for o in (mine, its)
            ]
            yield said[0], said[1], batch.target[:, :1, :1].cpu()
        else:
            yield mine.cpu(), its.cpu(), batch.target.cpu()


def side_by_side(panel: Panel, answers: list[Tensor]) -> Tensor:
    """Every label by those who have it, the mean of their outputs: what an ensemble does that weighs nothing."""
    total = answers[0].new_zeros((len(answers[0]), len(panel.asked), *answers[0].shape[2:]))
    count = total.new_zeros(len(panel.asked))
    for member, piece in zip(panel.members, panel.pieces(answers), strict=True):
        total[:, list(member.index)] += piece
        count[list(member.index)] += 1
    return total / count.view(-1, *(1,) * (total.dim() - 2))


def grouped(spaces: Sequence[LabelSpace], asked: LabelSpace, truth: Tensor, said: Tensor) -> dict[str, Any]:
    """Samples by who owns the true label, and who the one that was said."""
    whose = [" + ".join(owners(spaces)[name]) for name in asked]
    names = sorted(set(whose))
    group = torch.tensor([names.index(one) for one in whose])
    pairs = group[truth] * len(names) + group[said]
    counts = torch.bincount(pairs, minlength=len(names) ** 2).view(len(names), len(names))
    return {"names": names, "counts": counts.tolist()}
