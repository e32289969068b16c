"""Sweeps, done for real on toy recipes: chosen by val, kept, killed and continued, side by side, and told."""

import csv
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from sealed import Halve, Sealed

from compress import Prune
from compress.session import Session
from recipes.__main__ import main
from recipes.display import Quiet
from recipes.engines import Engine, Here, Processes
from recipes.goals import Bound, Objective
from recipes.page import read, write
from recipes.recipe import Recipe, Workshop
from recipes.space import space
from recipes.sweep import Sweep, sweep
from recipes.swept import Swept
from recipes.trial import Job, Outcome, execute
from teachers.networks import DigitsCNN
from teachers.tasks import Toy
from teachers.teacher import Checkpoint
from teachers.train import Train

TRUST = ("sealed",)
TASK = Sealed(samples=120, batch=32)
TEACHER = Checkpoint(
    name="toy",
    network=DigitsCNN(classes=3, widths=(16, 16, 16)),
    task=TASK,
    train=Train(epochs=4, lr=0.05, warmup=1),
)
PAGE = Recipe(name="swept", task=TASK, teachers=(TEACHER,), stages=(Prune(macs=0.7), Halve(epochs=2)))
GOALS = (Objective("score"), Objective("macs"))
MACS = {"stages.0.macs": "0.3..0.8", "stages.0.importance": "l1,l2"}


class Told(Quiet):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.tables: list[Sequence[Sequence[str]]] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Keep it."""
        self.tables.append([columns, *rows])


def asked(over: Mapping[str, Any], page: Recipe = PAGE, **more: Any) -> Sweep:
    return Sweep(page, space(page, over, TRUST), **{"objectives": GOALS, **more})


def numbers(made: Swept) -> list[tuple[Any, ...]]:
    """What two equal sweeps have in common: all but what a clock gives."""
    exact = ("score", "macs", "bytes", "params")
    return [
        (t.number, dict(t.drawn), t.state, t.problem, [t.facts.get(name) for name in exact])
        for t in made.trials
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(runs=tmp_path_factory.mktemp("runs"), device="cpu", tracking="off")


@pytest.fixture
def bench(home: Workshop, tmp_path: Path, quick: None) -> Iterator[Workshop]:
    """A workshop of its own for each test, in which the teacher is there already."""
    own = replace(home, runs=tmp_path / "runs")
    own.runs.mkdir()
    (home.runs / "teachers").mkdir(exist_ok=True)
    (own.runs / "teachers").symlink_to(home.runs / "teachers")
    return own


@pytest.fixture
def quick(unpacked: None) -> None:
    """Packing has its own tests."""


def test_a_sweep(bench: Workshop) -> None:
    """The page first; best by val, with pages that go on where the trials ended; and nobody looked at test."""
    said = Told()
    wanted = asked(MACS, bounds=(Bound("macs", 0.9, share=True),))
    made = sweep(wanted, bench, trials=4, trust=TRUST, display=said)
    assert made.trials[0].drawn == {"stages.0.macs": 0.7, "stages.0.importance": "l2"}
    assert [trial.state for trial in made.trials] == ["complete"] * 4
    assert made.front
    for place, trial in enumerate(made.front, 1):
        page = read(made.folder / f"best-{place}.yaml", TRUST)
        assert page == wanted.space.recipe(PAGE, trial.drawn)
        (folder,) = map(Path, trial.folders)
        assert page == read(folder / "page.yaml", TRUST)
        result = json.loads((folder / "result.json").read_text())
        last = result["records"][-1]
        assert (last["val"]["value"], last["test"]) == (trial.facts["score"], None)
        assert last["profile"]["macs"] == trial.facts["macs"]
        assert not (folder / "compact").exists()
    rows = list(csv.DictReader((made.folder / "sweep.csv").read_text().splitlines()))
    assert [float(row["macs"]) for row in rows] == [trial.facts["macs"] for trial in made.trials]
    assert (made.folder / "pareto.svg").read_text().startswith("<svg")
    ((columns, teacher, *best),) = said.tables
    assert columns[:4] == ("trial", "score", "macs", "bytes")
    assert teacher[0] == "teacher"
    assert [row[0] for row in best] == [str(trial.number) for trial in made.front]
    assert any("test was not read" in note for note in said.notes)
    # The same again: nothing is done twice, and two more may be asked for.
    again = sweep(wanted, bench, trials=4, trust=TRUST)
    assert numbers(again) == numbers(made)
    more = sweep(wanted, bench, trials=5, trust=TRUST)
    assert numbers(more)[:4] == numbers(made)
    assert len(more.trials) == 5


def test_killed_and_continued_equals_unbroken(
    bench: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped inside the second stage of the third trial; the common beginning was done once."""
    over = {"stages.1.by": "0.1..0.5", "stages.1.epochs": "2,3"}
    whole = sweep(asked(over), bench, trials=4, trust=TRUST)
    cut = replace(bench, runs=tmp_path / "cut")
    plain, calls = Session.log, iter(range(2))

    def dies(self: Session, values: Mapping[str, float], step: int) -> None:
        if self.name == "sealed.Halve" and step == 1 and next(calls, None) is None:
            raise KeyboardInterrupt
        plain(self, values, step)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "log", dies)
        with pytest.raises(KeyboardInterrupt):
            sweep(asked(over), cut, trials=4, trust=TRUST)
    left = [path for path in cut.runs.glob("swept/*") if not (path / "result.json").exists()]
    assert len(left) == 1
    assert list(left[0].glob("02-halve-*/loop-1.safetensors"))
    said = Told()
    made = sweep(asked(over), cut, trials=4, trust=TRUST, display=said)
    assert numbers(made) == numbers(whole)
    assert (left[0] / "result.json").exists()
    (goes_on,) = [note for note in said.notes if "goes on" in note]
    assert re.fullmatch(r"swept-\w{8} goes on: 2 trials are done, 4 are asked for", goes_on)
    prunes = {read(f / "page.yaml", TRUST).stages[0] for f in cut.runs.glob("swept/*")}
    assert prunes == {Prune(macs=0.7)}


def test_trials_that_fail_and_a_sweep_that_does(bench: Workshop) -> None:
    """Values that do not go together are kept with their message; only where nothing else came is it an error."""
    over = {"stages.1.by": "0.6,0.4", "stages.1.more": "0.5,0.6"}
    said = Told()
    made = sweep(asked(over), bench, trials=5, trust=TRUST, display=said)
    failed = [trial for trial in made.trials if trial.state == "failed"]
    assert failed
    assert len(failed) < 5
    for trial in failed:
        assert re.fullmatch(r"0\.\d and 0\.\d are more than all", trial.problem or "")
        assert "Traceback" in (made.folder / f"trial-{trial.number:03d}.txt").read_text()
    assert any("failed: stages.1.by 0." in note and "are more than all" in note for note in said.notes)
    rows = list(csv.DictReader((made.folder / "sweep.csv").read_text().splitlines()))
    assert [row["problem"] for row in rows] == [trial.problem or "" for trial in made.trials]
    with pytest.raises(
        ValueError, match=r"all 2 trials of swept-\w{8} failed, the last with: 0.\d and 0.\d are more"
    ):
        sweep(asked({"stages.1.by": "0.8,0.9", "stages.1.more": "0.6,0.7"}), bench, trials=2, trust=TRUST)


def test_no_trial_within_the_bounds(bench: Workshop) -> None:
    said = Told()
    wanted = asked({"stages.1.by": "0.1,0.2"}, bounds=(Bound("macs", 0.1, share=True),))
    made = sweep(wanted, bench, trials=2, trust=TRUST, display=said)
    assert not made.front
    assert any(
        note.startswith("none of 2 trials keeps all bounds; the nearest is trial")
        and "above macs at most 10 %" in note
        for note in said.notes
    )


def test_means_over_seeds_and_test_of_the_best(bench: Workshop) -> None:
    """Test is read for those chosen, when all is done, and their pages are taken up where they ended."""
    page = replace(
        PAGE, task=Toy(samples=120, batch=32), teachers=(replace(TEACHER, task=Toy(samples=120, batch=32)),)
    )
    made = sweep(
        asked({"stages.1.by": "0.1,0.4"}, page, seeds=2), bench, trials=2, trust=TRUST, test_best=True
    )
    assert all(len(trial.folders) == 2 for trial in made.trials)
    assert made.test.keys() == {trial.number for trial in made.front}
    for trial in made.trials:
        results = [json.loads((Path(folder) / "result.json").read_text()) for folder in trial.folders]
        scores = [result["records"][-1]["val"]["value"] for result in results]
        assert trial.facts["score"] == pytest.approx(sum(scores) / 2)
        chosen = trial.number in made.test
        assert [result["records"][-1]["test"] is not None for result in results] == [chosen, chosen]
        assert [(Path(folder) / "compact").exists() for folder in trial.folders] == [chosen, chosen]


# -- engines ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(home: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """What every engine must come to: a batch of two."""
    runs = tmp_path_factory.mktemp("reference")
    return sweep(
        side_by_side(), replace(home, runs=runs), trials=2, batch=2, engine=Here(Quiet(), 1), trust=TRUST
    )


def side_by_side() -> Sweep:
    return asked({"stages.1.by": "0.1..0.9", "stages.1.more": "0.0,0.5"})


def test_processes_come_to_the_same(reference: Swept, bench: Workshop) -> None:
    made = sweep(side_by_side(), bench, trials=2, batch=2, engine=Processes(2, threads=1), trust=TRUST)
    assert numbers(made) == numbers(reference)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray cluster of two workers on this machine, and this process connected to it."""
    ray = pytest.importorskip("ray", reason="Ray is an extra, and not installed here")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # What is not needed is left out: Ray gives its own agents 15 s to start, all of them at once.
    few = {"include_dashboard": False, "no_monitor": True, "include_log_monitor": False}
    made = Cluster()
    for left in (2, 1, 0):
        try:
            made.add_node(num_cpus=2, **few)
            break
        except Exception as problem:
            made.shutdown()
            if "timed out during startup" not in str(problem):
                raise
            if not left:
                pytest.skip(
                    "this machine is too busy: three times Ray's own processes took longer than it gives them"
                )
    try:
        ray.init(address=made.address, log_to_driver=False, logging_level="error")
        yield
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.timeout(600)
def test_ray_comes_to_the_same(reference: Swept, bench: Workshop, cluster: None) -> None:
    import ray

    from recipes.on_ray import Ray

    made = sweep(side_by_side(), bench, trials=2, engine=Ray(2, threads=1), trust=TRUST)
    assert numbers(made) == numbers(reference)
    assert ray.is_initialized(), "a cluster that was there before is left alone"


def test_a_process_that_dies_is_a_trial_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a page that cannot be read is one, too: both come back as outcomes, in words."""
    job = Job("a", "nonsense", (0,), (), str(tmp_path), {"runs": str(tmp_path), "data": None}, threads=1)
    killed = replace(job, key="b", folder="/nowhere/at/all")
    found = {each.key: outcome for each, outcome in Processes(2).run([job, killed])}
    assert found["a"].problem is not None
    assert "a page holds one recipes.Recipe" in found["a"].problem
    assert not found["a"].ends
    assert found["b"].problem is not None
    assert "/nowhere/at/all is not to be seen on" in found["b"].problem
    assert found["b"].ends
    monkeypatch.setattr(sys, "executable", "/bin/false")
    ((_, outcome),) = Processes(1).run([job])
    assert outcome == Outcome(problem="its process ended without an answer (exit code 1)", trace="")


def test_processes_stop_when_the_sweep_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None outlives it: those at work are told to stop, those waiting are never started."""
    script = tmp_path / "sleeper"
    script.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/pids\nexec sleep 600\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    job = Job("a", "", (0,), (), str(tmp_path), {})
    engine = Processes(2)

    def interrupt() -> None:
        while not (tmp_path / "pids").exists() or len((tmp_path / "pids").read_text().split()) < 2:
            threading.Event().wait(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        list(engine.run([job, job, job, job]))
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


class Pretended(ModuleType):
    """Stands in for Ray where no cluster is needed: tasks are done when they are asked for."""

    class RayError(Exception):
        """What Ray raises where a machine is lost."""

    def __init__(self, cpus: int = 2, gpus: int = 0) -> None:
        super().__init__("ray")
        self.has, self.most, self.started = {"CPU": cpus, "GPU": gpus}, 0, dict[str, Any]()
        self.open: list[str] = []
        self.cancelled: list[str] = []
        self.exceptions = SimpleNamespace(RayError=self.RayError)
        self.cluster_resources = lambda: self.has
        self.is_initialized = lambda: False
        self.shutdown = lambda: self.started.clear()
        self.init = lambda **words: self.started.update(words)
        self.cancel = self.cancelled.append

    def remote(self, _: Any) -> Any:
        """What is asked of a task goes unheard, but for its text."""
        return SimpleNamespace(options=lambda **words: SimpleNamespace(remote=self.ask))

    def ask(self, text: str) -> str:
        """A task is known by its job's key."""
        self.open.append(Job.from_json(text).key)
        self.most = max(self.most, len(self.open))
        return self.open[-1]

    def wait(self, tasks: list[str], num_returns: int) -> tuple[list[str], list[str]]:
        """The youngest is done first."""
        return [tasks[-1]], tasks[:-1]

    def get(self, task: str) -> str:
        """An outcome; `lost` has none."""
        self.open.remove(task)
        if task == "lost":
            raise self.RayError("a worker died\nout of memory")
        return Outcome(({"macs": 1.0},), (task,)).to_json()


def test_jobs_on_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more at a time than there are workers; a lost one is a problem of its own; the rest is cancelled at a stop."""
    from recipes.on_ray import Ray

    ray = Pretended()
    monkeypatch.setitem(sys.modules, "ray", ray)
    engine = Ray(2)
    assert ray.started["num_cpus"] == 2
    jobs = [Job(key, "", (0,), (), "", {}) for key in ("a", "lost", "b", "c")]
    found = {job.key: outcome for job, outcome in engine.run(jobs)}
    assert ray.most == 2
    assert found["lost"].problem == "RayError: out of memory"
    assert [found[key].folders for key in ("a", "b", "c")] == [("a",), ("b",), ("c",)]
    with closing(engine.run(jobs)) as ended:
        next(ended)
    assert len(ray.cancelled) == 1
    engine.close()
    assert ray.started == {}
    for wanted in ({"threads": 3}, {"device": "cuda"}):
        with pytest.raises(ValueError, match=r"no job fits the Ray cluster: each takes \d CPUs"):
            Ray(2, **wanted)


def test_a_ray_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.on_ray import Ray

    ray = Pretended()

    def away(**_: Any) -> None:
        raise ConnectionError("nobody there")

    ray.init = away
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(
        ValueError, match=r"no Ray cluster answers at 'there:1' \(ConnectionError: nobody there\)"
    ):
        Ray(2, address="there:1")
    with pytest.raises(ValueError, match="Ray could not be started on this machine"):
        Ray(2)


def test_ray_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.on_ray import Ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ValueError, match=r"--engine ray needs Ray, which cannot be .*pip install 'decoct\[ray\]'"
    ):
        Ray(2)


def test_an_orphaned_trial_is_waited_for(bench: Workshop) -> None:
    """A process that an earlier, killed sweep left behind works in the folder of a trial: the trial waits for it."""
    from recipes.folders import alone

    made = sweep(asked({"stages.1.by": "0.1,0.4"}), bench, trials=1, trust=TRUST)
    (folder,) = made.trials[0].folders
    job = Job(
        "a", (Path(folder) / "page.yaml").read_text(), (0,), TRUST, str(made.folder),
        {"runs": str(bench.runs), "data": None, "device": "cpu", "tracking": "off", "reuse": False},
    )  # fmt: skip
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with alone(Path(folder)):
            held.set()
            let_go.wait(60)

    threading.Thread(target=hold).start()
    assert held.wait(60)
    threading.Timer(0.7, let_go.set).start()
    outcome = execute(job)
    assert let_go.is_set()
    assert outcome.problem is None
    assert outcome.runs[0]["macs"] == made.trials[0].facts["macs"]


# -- what is wrong, and what is told ----------------------------------------------------------------------


def test_teachers_that_cannot_be_used_stop_it_at_once(bench: Workshop) -> None:
    lazy = replace(TEACHER, train=Train(epochs=1, lr=1e-6))
    with pytest.raises(ValueError, match=r"no trial of swept-\w{8} can begin: teacher 'toy' scores"):
        sweep(
            asked({"stages.1.by": "0.1,0.4"}, replace(PAGE, teachers=(lazy,))), bench, trials=2, trust=TRUST
        )


def test_one_sweep_at_a_time(bench: Workshop) -> None:
    from recipes.folders import alone

    wanted = asked({"stages.1.by": "0.1,0.4"})
    with (
        alone(bench.runs / "sweeps" / wanted.name),
        pytest.raises(ValueError, match=r"sweeps/swept-\w{8} is being worked in by process"),
    ):
        sweep(wanted, bench, trust=TRUST)


def test_the_command_and_mlflow(bench: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every trial is a run under the sweep's, a failed one too, with the recipe's own run below it."""
    from mlflow.tracking import MlflowClient

    (tmp_path / "page.yaml").write_text(write(PAGE), encoding="utf-8")
    (tmp_path / "space.yaml").write_text("stages.1.by: [0.5, 0.6]\n", encoding="utf-8")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    words = [
        "sweep",
        str(tmp_path / "page.yaml"),
        "--space",
        "space.yaml",
        "--over",
        "stages.1.more=0.5,0.45",
    ]
    more = ["--trust", "sealed", "--runs", str(bench.runs), "--tracking", uri, "--device", "cpu"]
    assert main([*words, *more, "--trials", "3", "--minimize", "macs", "--maximize", "score"]) == 0
    said = capsys.readouterr()
    assert "best of 3 trials" in said.out
    made = json.loads(next(bench.runs.glob("sweeps/*/sweep.json")).read_text())
    states = {f"trial {trial['number']}": trial["state"] for trial in made["trials"]}
    assert sorted(set(states.values())) == ["complete", "failed"], "the space is made for both"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("decoct")
    assert experiment is not None
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    above = {key: run.data.tags.get("mlflow.parentRunId") for key, run in runs.items()}
    (top,) = (key for key, parent in above.items() if parent is None)
    assert runs[top].info.run_name == "sweep of swept"
    assert runs[top].info.status == "FINISHED"
    assert {"sweep.csv", "pareto.svg", "sweep.json", "best-1.yaml"} <= {
        item.path for item in client.list_artifacts(top)
    }
    trials = {key: run for key, run in runs.items() if above[key] == top}
    assert {run.info.run_name: run.info.status for run in trials.values()} == {
        name: "FINISHED" if state == "complete" else "FAILED" for name, state in states.items()
    }
    for key, run in trials.items():
        assert run.data.params.keys() == {"stages.1.by", "stages.1.more"}
        below = [each for other, each in runs.items() if above[other] == key]
        if run.info.status == "FINISHED":
            assert run.data.metrics["score/accuracy"] <= 1
            same = [
                t
                for t in made["trials"]
                if t["drawn"] == made["trials"][int(run.info.run_name.split()[1])]["drawn"]
            ]
            if same[0]["number"] == int(
                run.info.run_name.split()[1]
            ):  # a page that came up again is not done again
                assert [each.info.run_name for each in below] == ["swept, seed 0"]
    # Wrong words: one message, before anything runs.
    for wrong, text in (
        (["--over", "stages.1.bye=0.1..0.5"], "has no field 'bye'; did you mean 'by'?"),
        (["--over", "stages.1.by=0.5..1.5"], "by must be less than 1, not 1.5"),
        (["--maximize", "accuracy"], "there is no objective 'accuracy'"),
        (["--at-most", "mac=40%"], "there is no bound 'mac'; did you mean 'macs'?"),
        (["--ray-address", "auto"], "--ray-address auto is of use with --engine ray only"),
        (["--storage", "nowhere"], "'nowhere' is no storage for a sweep"),
    ):
        assert main([*words[:2], *more, "--over", "stages.1.more=0.1,0.2", *wrong]) == 2
        assert text in capsys.readouterr().err


def test_a_task_without_val_leaves_no_objective(bench: Workshop, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from teachers.tasks import Unseen

    task = Unseen(shape=(1, 8, 8), classes=3)
    save_file(TEACHER.network.build().state_dict(), tmp_path / "w.safetensors")
    own = replace(TEACHER, task=task, weights=str(tmp_path / "w.safetensors"), train=None)
    page = replace(PAGE, task=task, teachers=(own,))
    wanted = asked({"stages.0.macs": "0.3,0.7"}, page, objectives=(Objective("score"),))
    with pytest.raises(
        ValueError, match="has no val sample, so nothing can be chosen by its score: no objective is le"
    ):
        sweep(wanted, bench, trials=1, trust=TRUST)
    with pytest.raises(ValueError, match="leave out --maximize score, and macs is left"):
        sweep(replace(wanted, objectives=GOALS), bench, trials=1, trust=TRUST)
    costs = sweep(replace(wanted, objectives=(Objective("macs"),)), bench, trials=2, trust=TRUST)
    assert costs.front[0].facts["macs"] == min(trial.facts["macs"] for trial in costs.trials)


def test_engines_are_engines() -> None:
    each: list[Engine] = [Here(Quiet()), Processes(2)]
    assert [engine.workers for engine in each] == [1, 2]
