"""What was answered to every sample of test, kept beside the score, so that two runs can be compared sample by sample.

Beside every record with a test score lies `answers.safetensors`; the run's own `decisions.safetensors` sets the
student beside the first teacher that was asked the same:

    targets, student, teacher          (samples,) int64: the true label and the ones decided on
    student_score, teacher_score       (samples,) float32, in their place where an answer is not one label: the
                                       task's score of every sample by itself

Samples are in the task's order, without those that are not judged. There is no file where the task's score says
nothing of a single sample (`Task.scores_one`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recipes.writing import canonical
from students.files import write
from teachers.task import Batch, Task

FILE = "decisions.safetensors"
_PART = "answers.safetensors"


@dataclass(frozen=True)
class Answers:
    """One network's answers to test.

    said     (N,) int64 labels, or float32 scores of the samples
    targets  (N,) int64, or None beside scores
    task     sha256 of the task's fields
    inputs   sha256 of all test inputs, to the bit
    """

    said: Tensor
    targets: Tensor | None
    task: str
    inputs: str


@dataclass(frozen=True)
class Decisions:
    """A run's answers to test: the student's and, where one was asked the same, the first such teacher's.

    Shapes: (N,) each, labels int64 with `targets`, or scores float32 without.
    """

    student: Tensor
    teacher: Tensor | None
    targets: Tensor | None
    task: str
    inputs: str
    recipe: str

    def __len__(self) -> int:
        return len(self.student)

    @property
    def merit(self) -> Tensor:
        """What the student has of every sample, (N,) float64: 1 where it is right and 0 where not, or its score."""
        return (self.student if self.targets is None else self.student == self.targets).double()


class Seen:
    """Batches that pass, and the sha256 of all their inputs."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self._seen = hashlib.sha256()

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            for tensor in batch.inputs:
                # Channels-last memory is put in plain order: the hash is of values, not of how they lie.
                plain = tensor.detach().cpu().contiguous()
                self._seen.update(f"{plain.dtype} {tuple(plain.shape[1:])}".encode())
                self._seen.update(plain.flatten().view(torch.uint8).numpy().data)
            yield batch

    def hexdigest(self) -> str:
        """The hash so far, in hex."""
        return self._seen.hexdigest()


def task_digest(task: Task) -> str:
    """sha256 of a task's fields, defaults included, in hex."""
    return hashlib.sha256(json.dumps(canonical(task), sort_keys=True).encode()).hexdigest()


def answered(task: Task, said: Tensor, truth: Tensor, score: float, inputs: str) -> Answers | None:
    """What of these answers (N, ...) can be kept sample by sample; None where that would not mean the score.

    Labels are kept where the score is the share of right ones among the samples judged (those of truth 0 and above),
    which is checked; other answers as their own score each, where the task has such a thing.
    """
    whole = not (said.is_floating_point() or truth.is_floating_point())
    if whole and said.dim() == truth.dim() == 1:
        judged = truth >= 0
        said, truth = said[judged].long(), truth[judged].long()
        if len(truth) and abs(float((said == truth).double().mean()) - score) < 1e-9:
            return Answers(said, truth, task_digest(task), inputs)
    if not task.scores_one:
        return None
    if truth.is_floating_point() and truth.dim() == 2:
        known = ~truth.isnan().all(1)  # nodes of another split
        said, truth = said[known], truth[known]
    alone = [task.score(said[n : n + 1], truth[n : n + 1]) for n in range(len(truth))]
    return Answers(torch.tensor(alone, dtype=torch.float32), None, task_digest(task), inputs)


def keep(folder: Path) -> Callable[[Answers], None]:
    """What puts answers away in a record's folder, atomically."""

    def put(answers: Answers) -> None:
        tensors = {"said": answers.said}
        if answers.targets is not None:
            tensors["targets"] = answers.targets
        _save(folder / _PART, tensors, {"task": answers.task, "inputs": answers.inputs})

    return put


def join(student: Path, teachers: Sequence[tuple[Path, bool]], folder: Path, recipe: str) -> Path | None:
    """Write the run's `decisions.safetensors` from the answers that lie beside its records; None without a student's.

    teachers  the folder of each teacher's record, and whether it has the labels of the recipe's task
    recipe    the recipe's hash
    """
    if (mine := _kept(student)) is None:
        return None
    scored = "_score" if mine.targets is None else ""
    tensors = {f"student{scored}": mine.said}
    if mine.targets is not None:
        tensors["targets"] = mine.targets
    for place, alike in teachers:
        its = _kept(place) if alike else None
        if its is not None and _same_truth(its, mine):
            tensors[f"teacher{scored}"] = its.said
            break
    about = {"task": mine.task, "inputs": mine.inputs, "samples": str(len(mine.said)), "recipe": recipe}
    _save(folder / FILE, tensors, about)
    return folder / FILE


def read(path: Path) -> Decisions:
    """Read what `join` wrote. Raises ValueError where the file is damaged or holds something else."""
    tensors, about = _load(path)
    scored = "student_score" in tensors
    student, targets = tensors.get("student_score" if scored else "student"), tensors.get("targets")
    teacher = tensors.get("teacher_score" if scored else "teacher")
    sizes = {len(t) for t in (student, targets, teacher) if t is not None}
    if student is None or (targets is None) != scored or len(sizes) != 1:
        raise ValueError(f"{path} holds {sorted(tensors)}, not one answer for each of its samples: delete it")
    try:
        return Decisions(student, teacher, targets, about["task"], about["inputs"], about["recipe"])
    except KeyError as problem:
        raise ValueError(f"{path} does not say its {problem}: delete it") from problem


def _kept(folder: Path) -> Answers | None:
    path = folder / _PART
    if not path.exists():
        return None  # finished before such files were kept: test is not read again for them
    tensors, about = _load(path)
    return Answers(tensors["said"], tensors.get("targets"), about["task"], about["inputs"])


def _same_truth(one: Answers, other: Answers) -> bool:
    """Whether these were asked the same samples: by their targets, or where there are none, by task and inputs."""
    if one.targets is None or other.targets is None:
        return one.targets is other.targets and (one.task, one.inputs) == (other.task, other.inputs)
    return torch.equal(one.targets, other.targets)


def _save(path: Path, tensors: Mapping[str, Tensor], about: dict[str, str]) -> None:
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write(path, lambda half: save_file(plain, half, metadata=about))


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as problem:
        raise ValueError(f"{path} is damaged ({problem}): delete it") from problem
