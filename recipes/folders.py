"""Run folders: what names finished work, how a state is put away, and when it may be taken up again.

    runs/<recipe>/<hash>/           one recipe: page.yaml, workshop.json, result.json, report.html,
                                    decisions.safetensors
    runs/<recipe>/<hash>/01-gal-…/  one stage: record.json, curves.jsonl, state/, its loops while unfinished
    runs/<recipe>/<hash>/compact/   the student to give away
    runs/teachers/<name>-<hash>/    a teacher trained here, shared by every recipe that names it

A hash covers all that a result depends on: teachers to the bit, task, seed, precision, and all stages so far.
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import nn

from compress.amalgamation import Amalgamation
from compress.session import Limit
from compress.stage import Ranking, Stage, State
from recipes.page import hash_prefix
from recipes.recipe import Recipe
from students import compact
from students.files import load_states, save_states, write_json
from teachers.networks import Own, Timm, Torchvision
from teachers.teacher import Teacher

PACKAGES = ("compress", "students", "teachers")
"""whose code can change what a stage makes; the others measure and tell"""
_SHORT = 8


def digest(*parts: object) -> str:
    """sha256 of the parts' reprs, in hex; a spec's repr names every field, so it stands for the spec."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()


def fingerprint(module: nn.Module) -> str:
    """sha256 of a network to the bit: its printed structure; name, type, shape and bytes of every tensor."""
    seen = hashlib.sha256(repr(module).encode())
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            plain = tensor.detach().cpu().contiguous()
            seen.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
            # Reading the bytes through uint8 works for every type, bfloat16 too, which numpy does not know.
            seen.update(plain.flatten().view(torch.uint8).numpy().data if plain.numel() else b"")
    return seen.hexdigest()


def seed_of(seed: int, position: int) -> int:
    """The seed of the stage at `position` (1 is the first): far from its neighbours', below 2^63."""
    return int(digest(seed, position)[:16], 16) >> 1


def stage_hashes(recipe: Recipe, teachers: tuple[Teacher, ...], limit: Limit | None) -> tuple[str, ...]:
    """One hash per stage: the page up to it, its teachers to the bit, and a rehearsal's limit."""
    known = [(teacher.name, fingerprint(teacher.module)) for teacher in teachers]
    return tuple(digest(hash_prefix(recipe, n + 1), known, limit) for n in range(len(recipe.stages)))


def stage_name(position: int, stage: Stage, hash: str) -> str:
    """A stage's folder: `01-gal-3f9a2c7e`."""
    return f"{position:02d}-{type(stage).__name__.lower()}-{hash[:_SHORT]}"


def run_folder(recipe: Recipe, runs: Path, hashes: tuple[str, ...]) -> Path:
    """Where this recipe's work lies: `runs/<name>/<hash of all of it>`."""
    return runs / recipe.name / hashes[-1][:_SHORT]


# -- code ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Code:
    """Which code is at work: the git commit where there is one, and a hash of the sources that matter."""

    commit: str | None
    sources: str

    @property
    def name(self) -> str:
        """The commit, or what stands in for it."""
        return self.commit or f"sources-{self.sources[:12]}"

    def __str__(self) -> str:
        return f"commit {self.commit}" if self.commit else f"sources {self.sources[:12]}"


@cache
def this_code() -> Code:
    """The commit and the sources' hash of the code that is running."""
    home = Path(__file__).resolve().parent.parent
    seen = hashlib.sha256()
    for package in PACKAGES:
        for file in sorted((home / package).rglob("*.py")):
            seen.update(f"{file.relative_to(home).as_posix()}\n".encode() + file.read_bytes())
    return Code(_commit(home), seen.hexdigest())


def _commit(home: Path) -> str | None:
    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(home), *words], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None  # no git here: the sources' hash stands in
        return done.stdout.strip() if done.returncode == 0 else None

    # Installed into somebody else's repository, that repository's commit says nothing about us.
    if not git("ls-files", "--", f"{PACKAGES[0]}/stage.py"):
        return None
    commit = git("rev-parse", "--short=12", "HEAD")
    return f"{commit}+changes" if commit and git("status", "--porcelain", "--", *PACKAGES) else commit


# -- states ----------------------------------------------------------------------------------------------


def put_away(state: State, folder: Path, recipe: Recipe) -> None:
    """Save what a stage left: names of the teachers in the room, ranking, student, freezing point, generated inputs.

    A student that cannot be traced is kept as the call that made the only teacher's network, and the changes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if state.student is not None:
        only = recipe.teachers[0].network if len(recipe.teachers) == 1 else None
        student = state.student
        if any(tensor.device.type != "cpu" for tensor in student.state_dict().values()):
            student = copy.deepcopy(student).cpu()
        compact.put_away(student, folder, factory=only)
    note = {
        "teachers": [teacher.name for teacher in state.teachers],
        "ranking": state.ranking.to_dict() if state.ranking else None,
        "target": state.target.name if state.target else None,
        "freeze": list(state.freeze),
        "student": state.student is not None,
        "generated": state.generated is not None,
        "amalgamation": state.amalgamation.to_dict() if state.amalgamation else None,
    }
    if state.generated is not None:
        save_states(folder / "generated.safetensors", {"inputs": state.generated.cpu()})
    write_json(folder / "state.json", note)


def take_out(folder: Path, recipe: Recipe, teachers: tuple[Teacher, ...]) -> State:
    """Read what `put_away` wrote; the teachers in the room are picked from `teachers` by name."""
    kept = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    by_name = {teacher.name: teacher for teacher in teachers}
    named = [*kept["teachers"], *([kept["target"]] if kept["target"] else [])]
    foreign = [name for name in named if name not in by_name]
    if foreign:
        raise ValueError(f"{folder} was left with teachers {foreign}, but the page has {sorted(by_name)}")
    state = State(
        tuple(by_name[name] for name in kept["teachers"]),
        ranking=Ranking.from_dict(kept["ranking"]) if kept["ranking"] else None,
        target=by_name[kept["target"]] if kept["target"] else None,
        freeze=tuple(kept["freeze"]),
    )
    if kept.get("amalgamation"):
        state = replace(state, amalgamation=Amalgamation.from_dict(kept["amalgamation"]))
    if kept["generated"]:
        state = replace(state, generated=load_states(folder / "generated.safetensors")["inputs"])
    if not kept["student"]:
        return state
    # A network of the user's own, or of a library, is made by that package, which the page named already.
    own = tuple(c.network.package for c in recipe.teachers if isinstance(c.network, Own | Torchvision | Timm))
    return replace(state, student=compact.take_out(folder, trust=own))


# -- finished work ---------------------------------------------------------------------------------------


def begin(folder: Path, code: Code) -> None:
    """Note who makes a stage, before it is made; its record is written last and says that it is finished."""
    write_json(folder / "code.json", {"code": str(code), "sources": code.sources})


def spend(folder: Path, seconds: float) -> None:
    """Note how long an unfinished stage has taken so far."""
    write_json(folder / "spent.json", {"seconds": seconds})


def spent(folder: Path) -> float:
    """How long a stage had taken when it was stopped; 0 for a new one."""
    note = folder / "spent.json"
    return float(json.loads(note.read_text(encoding="utf-8"))["seconds"]) if note.exists() else 0.0


def maker(folder: Path) -> str | None:
    """Which code made (or began) the stage in a folder; None where nothing is there."""
    note = folder / "code.json"
    return str(json.loads(note.read_text(encoding="utf-8"))["code"]) if note.exists() else None


def by(folder: Path, code: Code) -> bool:
    """Whether the sources that made (or began) a stage were these."""
    note = folder / "code.json"
    return note.exists() and json.loads(note.read_text(encoding="utf-8"))["sources"] == code.sources


def finished(folder: Path) -> bool:
    """Whether the stage in a folder was finished."""
    return (folder / "code.json").exists() and (folder / "record.json").exists()


def set_aside(folder: Path) -> Path:
    """Rename a folder to make room for another of its name: to what it is called now and a number."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.replace(aside)
    return aside


def adopt(name: str, home: Path, code: Code | None) -> bool:
    """Copy a finished stage of that name from another run of the same recipe name into the run folder `home`.

    The copy makes every run folder complete in itself; it appears in one move, so half a copy is never met.
    With `code`, only what the same sources made is taken.
    """
    for other in sorted(home.parent.glob(f"*/{name}")):
        if other.parent != home and finished(other) and (code is None or by(other, code)):
            half = home / f".{name}.copy"
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(other, half)
            half.replace(home / name)
            return True
    return False


class Busy(ValueError):
    """Another process works in a folder that this one wants for itself."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder for this process. Raises Busy where another one works in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+", encoding="utf-8") as lock:
        try:
            # The system lets go of it when the process ends, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Busy(
                f"{folder} is being worked in by process {lock.read().strip() or 'unknown'}: "
                "wait for it, or stop it"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
