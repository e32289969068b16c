"""The trials of a sweep, as Optuna keeps and proposes them: asked for in batches, told as they end.

What is proposed depends on the seed, on the trial's place in the sweep, and on what the trials of earlier batches came
to; on nothing in this process. So a sweep that was killed goes on as if it had not been, and who does the trials of a
batch, and in which order they end, makes no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recipes.folders import seed_of
from recipes.goals import Bound, Objective
from recipes.space import Space

if TYPE_CHECKING:
    import optuna

Ending = Literal["running", "complete", "failed"]
_SWEEP, _BATCH, _FACTS, _FOLDERS, _PROBLEM, _VOID = "sweep", "batch", "facts", "folders", "problem", "void"


@dataclass(frozen=True)
class Trial:
    """One trial: what was drawn for each path, and what came of it.

    excess  how far it is above each bound, by the bound's words; 0 or less where it is kept
    """

    number: int
    drawn: Mapping[str, Any]
    state: Ending
    facts: Mapping[str, float] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    excess: Mapping[str, float] = field(default_factory=dict)
    problem: str | None = None

    @property
    def keeps_bounds(self) -> bool:
        """Whether it is within all bounds."""
        return self.state == "complete" and all(excess <= 0 for excess in self.excess.values())


class Study:
    """The trials of one sweep in an Optuna storage.

    url    of the storage: sqlite:///path, or what else SQLAlchemy takes
    name   of the study in it; `hash` says which sweep it is, to the letter
    first  what is drawn for the first trial: the page as it is. None draws that, too

    Raises ValueError where the storage cannot be used, or holds another sweep.
    """

    def __init__(
        self,
        url: str,
        name: str,
        hash: str,
        space: Space,
        objectives: Sequence[Objective],
        bounds: Sequence[Bound],
        seed: int,
        first: Mapping[str, Any] | None = None,
    ) -> None:
        self._objectives, self._bounds, self._seed, self._first = objectives, bounds, seed, first
        self._distributions = {each.path: each.distribution() for each in space}
        self._storage = _open(url, name)
        self._study = self._enter(url, name, hash)
        self._id = self._storage.get_study_id_from_name(name)

    def _enter(self, url: str, name: str, hash: str) -> optuna.Study:
        import optuna

        directions = [each.direction for each in self._objectives]
        try:
            study = optuna.create_study(
                storage=self._storage, study_name=name, directions=directions, load_if_exists=True
            )
        except ValueError as problem:  # as many directions as there are objectives, it says
            raise ValueError(f"{url} holds another sweep under the name {name}: {problem}") from problem
        if (kept := study.user_attrs.get(_SWEEP, hash)) != hash:
            raise ValueError(
                f"{url} holds another sweep under the name {name} (its page, space, objectives or bounds are not "
                f"these: {str(kept)[:8]}, not {hash[:8]}): name another --storage, or leave it out"
            )
        study.set_user_attr(_SWEEP, hash)
        return study

    def batch(self, asked: int | None, workers: int) -> int:
        """How many trials are proposed at a time: as asked, else as before, else one for each worker."""
        size = asked or int(self._study.user_attrs.get(_BATCH, workers))
        self._study.set_user_attr(_BATCH, size)
        return size

    def next(self, total: int, batch: int) -> list[Trial]:
        """The trials to do now: those left unfinished, and new ones up to the end of the batch, `total` in all.

        Empty where there are `total` trials and all have ended.
        """
        self._void()
        count, unfinished = len(self.trials()), self._running()
        # A batch that was being asked for when the process was killed is asked for to its end, for none of it was told.
        batches = -(-count // batch) if unfinished else count // batch + 1
        for place in range(count, min(total, batches * batch)):
            self._ask(place)
        return self._running()

    def tell(
        self,
        number: int,
        facts: Mapping[str, float],
        folders: Sequence[str] = (),
        problem: str | None = None,
    ) -> None:
        """A trial has ended: with facts, or with a problem.

        Facts that lack an objective, or what a bound is judged by, are a problem.
        """
        import optuna

        trial = self._open(number)
        trial.set_user_attr(_FACTS, dict(facts))
        trial.set_user_attr(_FOLDERS, list(folders))
        try:
            excess = {} if problem else {str(bound): bound.excess(facts) for bound in self._bounds}
            values = [] if problem else [_fact(facts, each.name) for each in self._objectives]
        except ValueError as lacking:
            problem = str(lacking)
        if problem:
            trial.set_user_attr(_PROBLEM, problem)
            self._study.tell(number, state=optuna.trial.TrialState.FAIL)
            return
        for words, above in excess.items():
            if words not in trial.constraints:
                trial.set_constraint(words, above)
        self._study.tell(number, values)

    def trials(self) -> list[Trial]:
        """All trials, in the order in which they were proposed."""
        return [_trial(frozen) for frozen in self._frozen()]

    def front(self) -> list[Trial]:
        """The trials that no other one beats in all objectives at once, of those within all bounds; best first."""
        best: list[Trial] = []
        for trial in sorted(map(_trial, self._study.best_trials), key=lambda trial: trial.number):
            if all(trial.drawn != other.drawn for other in best):  # the same page twice is one
                best.append(trial)
        first = self._objectives[0]
        sign = -1 if first.direction == "maximize" else 1
        return sorted(best, key=lambda trial: (sign * trial.facts[first.name], trial.number))

    def _ask(self, place: int) -> None:
        from optuna.samplers import TPESampler

        self._study.sampler = TPESampler(seed=seed_of(self._seed, place) % 2**32, constant_liar=True)
        if place == 0 and self._first is not None and not self._waiting():
            self._study.enqueue_trial(dict(self._first))
        self._study.ask(self._distributions)

    def _void(self) -> None:
        """Take trials out of the row whose drawing was cut short, so that the next one is drawn in their place."""
        import optuna

        for frozen in self._frozen():
            if _state(frozen) == "running" and frozen.params.keys() != self._distributions.keys():
                self._open(frozen.number).set_user_attr(_VOID, True)
                self._study.tell(frozen.number, state=optuna.trial.TrialState.FAIL)

    def _open(self, number: int) -> optuna.Trial:
        """A trial that has not ended, of this process or an earlier one."""
        import optuna

        return optuna.Trial(
            self._study, self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
        )

    def _running(self) -> list[Trial]:
        return [trial for trial in self.trials() if trial.state == "running"]

    def _waiting(self) -> bool:
        return any(frozen.state.name == "WAITING" for frozen in self._study.get_trials(deepcopy=False))

    def _frozen(self) -> list[optuna.trial.FrozenTrial]:
        return [
            frozen
            for frozen in self._study.get_trials(deepcopy=False)
            if frozen.state.name != "WAITING" and not frozen.user_attrs.get(_VOID)
        ]


def _open(url: str, name: str) -> optuna.storages.BaseStorage:
    import optuna
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    # It tells of every trial, which the sweep does in its own words.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        return optuna.storages.RDBStorage(url)
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as problem:
        raise ValueError(
            f"{url!r} is no storage for a sweep ({_line(problem)}): give sqlite:///path/to/study.db, or leave "
            "--storage out"
        ) from problem
    except (SQLAlchemyError, RuntimeError) as problem:
        raise ValueError(
            f"the storage {url} cannot be used ({_line(problem)}): a damaged file is best moved away; finished trials "
            "are found again by their run folders"
        ) from problem


def _line(problem: Exception) -> str:
    return next(iter(str(problem).strip().splitlines()), type(problem).__name__)


def _fact(facts: Mapping[str, float], name: str) -> float:
    if name not in facts:
        raise ValueError(f"its {name} was not measured")
    return facts[name]


def _state(frozen: optuna.trial.FrozenTrial) -> Ending:
    names: dict[str, Ending] = {"COMPLETE": "complete", "FAIL": "failed"}
    return names.get(frozen.state.name, "running")


def _trial(frozen: optuna.trial.FrozenTrial) -> Trial:
    kept = frozen.user_attrs
    return Trial(
        number=frozen.number,
        drawn=dict(frozen.params),
        state=_state(frozen),
        facts=dict(kept.get(_FACTS, {})),
        folders=tuple(kept.get(_FOLDERS, ())),
        excess=dict(frozen.constraints),
        problem=kept.get(_PROBLEM),
    )
