"""Plans: what they predict against what stages really leave, their hash, and how they end."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from compress import DFAD, GAL, KSE, Finetune, Inherit, Prune, Recalibrate
from compress.forecast import Feed
from compress.session import Session
from compress.stage import Stage, State
from recipes.__main__ import main
from recipes.budget import Budget
from recipes.display import Quiet
from recipes.foresee import changed
from recipes.measure import cost_of
from recipes.page import write
from recipes.plan import Plan, plan
from recipes.recipe import Recipe, Workshop
from recipes.run import run
from recipes.seal import structure
from recipes.verdict import Infeasible
from reports.profile import Profile
from reports.track import MLflow
from teachers.networks import DenseNet, DigitsCNN, Own, ResNet
from teachers.signature import Signature
from teachers.tasks import Toy, Unseen
from teachers.teacher import Checkpoint, Teacher
from teachers.train import Train

TASK = Toy(samples=120, batch=32)
TRAIN = Train(epochs=4, lr=0.05, warmup=1)
TEACHER = Checkpoint(name="toy", network=DigitsCNN(classes=3), task=TASK, train=TRAIN)
IMAGES = Signature(((3, 16, 16),), tuple("0123456789"))
NETWORKS = {
    "plain": (DigitsCNN(classes=3), TASK.signature()),
    "residual": (ResNet(depth=20), IMAGES),
    "dense": (DenseNet(depth=13, growth=8), IMAGES),
}


def recipe(*stages: Stage, name: str = "planned", at_most: Budget | None = None) -> Recipe:
    return Recipe(name=name, task=TASK, teachers=(TEACHER,), stages=stages, at_most=at_most)


@pytest.fixture(scope="module", params=NETWORKS)
def teacher(request: pytest.FixtureRequest) -> Teacher:
    network, signature = NETWORKS[request.param]
    torch.manual_seed(0)
    return Teacher(request.param, network.build(), signature)


def foretold(stage: Stage, teacher: Teacher) -> tuple[Profile, Profile, nn.Module, nn.Module]:
    """The cost that a stage foretells and the one it comes to, and both students."""
    state = State((teacher,))
    said = stage.forecast(state, teacher.signature, Feed()).state.student
    made = stage(state, Session(sees=stage.sees, signature=teacher.signature)).student
    assert said is not None
    assert made is not None
    return cost_of(said, teacher.signature), cost_of(made, teacher.signature), said, made


# -- predictions ------------------------------------------------------------------------------------------


def test_a_cut_to_a_share_of_every_layer_is_foretold_exactly(teacher: Teacher) -> None:
    stage = Prune(macs=0.5)
    said, made, student, real = foretold(stage, teacher)
    assert (said.macs, said.params, said.bytes) == (made.macs, made.params, made.bytes)
    assert changed(teacher.module, student) == changed(teacher.module, real) != {}
    assert stage.forecast(State((teacher,)), teacher.signature, Feed()).follows == "settings"


def test_a_cut_by_weights_is_foretold_exactly_where_they_are_known() -> None:
    network, signature = NETWORKS["plain"]
    torch.manual_seed(0)
    known = Teacher("plain", network.build(), signature)
    stage = Prune(macs=0.4, scope="network", importance="l1")
    said, made, _, _ = foretold(stage, known)
    assert (said.macs, said.params) == (made.macs, made.params)
    assert stage.forecast(State((known,)), signature, Feed()).follows == "weights"


def test_shared_kernels_are_foretold_to_the_byte(teacher: Teacher) -> None:
    stage = KSE(granularity=5, half=True)
    said, made, student, real = foretold(stage, teacher)
    assert (said.macs, said.params, said.bytes) == (made.macs, made.params, made.bytes)
    assert changed(teacher.module, student) == changed(teacher.module, real)
    forecast = stage.forecast(State((teacher,)), teacher.signature, Feed())
    assert forecast.least is not None
    assert cost_of(forecast.least, teacher.signature).bytes <= said.bytes
    assert "the classifier" in forecast.skipped


def test_chance_is_foretold_about() -> None:
    network, signature = NETWORKS["residual"]
    torch.manual_seed(0)
    known = Teacher("residual", network.build(), signature)
    said, made, _, _ = foretold(Prune(macs=0.5, scope="network", importance="random"), known)
    assert said.macs == pytest.approx(made.macs, rel=0.1)
    assert said.params == pytest.approx(made.params, rel=0.4)


def test_a_shallower_network_is_foretold_exactly() -> None:
    torch.manual_seed(0)
    deep = Teacher("deep", ResNet(depth=32).build(), IMAGES)
    said, made, _, _ = foretold(Inherit(student=ResNet(depth=20)), deep)
    assert said == made


def test_a_whole_run_comes_out_as_planned(bench: Workshop, unpacked: None) -> None:
    """Cuts, kernels and training in a row: exact where settings decide, about where a game does."""
    stages = (Prune(macs=0.7), Recalibrate(batches=2), GAL(macs=0.5, epochs=1), Finetune(epochs=1))
    page = recipe(*stages, name="whole")
    said = plan(page, bench, probe=False)
    made = run(page, bench)
    costs = [record.profile for record in made.records[1:]]
    for stage, cost in zip(said.stages[:2], costs[:2], strict=True):
        assert stage.sure
        assert (stage.macs, stage.params, stage.bytes) == (cost.macs, cost.params, cost.bytes)
    for stage, cost in zip(said.stages[2:], costs[2:], strict=True):
        assert not stage.sure
        # Widths of 32 and 64 come in steps of 8: which of them the game takes moves the sum by a fifth at most.
        assert stage.macs == pytest.approx(cost.macs, rel=0.2)
        assert stage.params == pytest.approx(cost.params, rel=0.4)
    assert said.seconds is None
    result = json.loads((made.folder / "result.json").read_text())
    assert result["plan"] == said.hash == plan(page, bench, probe=False).hash, "training changes no plan"
    assert result["verdict"] is None
    assert json.loads((made.folder / "plan.json").read_text())["hash"] == said.hash
    again = plan(page, bench, probe=False)
    assert all(stage.done for stage in again.stages)


def test_a_plan_changes_nothing_and_draws_nothing(bench: Workshop) -> None:
    before = torch.get_rng_state()
    plan(recipe(Prune(macs=0.5), Finetune(epochs=1)), bench, probe=False)
    assert torch.equal(torch.get_rng_state(), before)


# -- what it says -----------------------------------------------------------------------------------------


def test_text_and_data_say_the_same(bench: Workshop) -> None:
    page = recipe(
        Prune(macs=0.5), Finetune(epochs=2), name="said", at_most=Budget(macs="60%", accuracy_drop=1)
    )
    made = plan(page, bench)
    text, data = str(made), json.loads(json.dumps(made.to_dict()))
    cut, tune = data["stages"]
    assert (cut["reads"], cut["labels"], tune["reads"], tune["samples"]) == ("nothing", False, "inputs", 108)
    assert list(cut["touched"]) == ["conv1", "conv2", "conv3", "linear"]
    assert cut["skipped"] == {"no layer reads it: it is an output of the network": ["linear"]}
    assert all(
        line in text
        for line in ("touches 4 layers: conv1", "locked: linear", "budget POSSIBLE", "takes about")
    )
    assert tune["seconds"] > 0
    assert tune["memory"] > 2 * 4 * cut["params"]
    assert data["verdict"]["word"] == "POSSIBLE"
    assert made.hash[:12] in text
    assert made.device == "cpu"


def test_a_stage_that_cannot_work_is_told(bench: Workshop) -> None:
    text = str(plan(recipe(Prune(macs=0.01), Finetune(epochs=1)), bench, probe=False))
    assert "compress.Prune cannot do this: a budget of" in text
    assert "2. Finetune" in text


# -- the hash ---------------------------------------------------------------------------------------------


def test_the_hash_is_of_page_and_structure(bench: Workshop) -> None:
    page = recipe(Prune(macs=0.5))
    first = plan(page, bench, probe=False).hash
    others = (
        recipe(Prune(macs=0.4)),
        replace(page, seed=1),
        replace(page, at_most=Budget(macs="60%")),
        replace(page, teachers=(replace(TEACHER, network=DigitsCNN(classes=3, widths=(32, 64, 72))),)),
    )
    assert len({first, *(plan(other, bench, probe=False).hash for other in others)}) == 5


class Turned(nn.Module):
    """A network whose layers do not tell in which order they are called."""

    def __init__(self, turned: bool, traced: bool) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.turned, self.traced = turned, traced

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = (self.two, self.one) if self.turned else (self.one, self.two)
        if not self.traced and x.sum().item() > 1e9:
            return self.out(x)
        return self.out(second(first(x)))

    def extra_repr(self) -> str:
        return ""


@pytest.mark.parametrize("traced", [True, False])
def test_a_network_is_known_by_the_order_of_its_calls(traced: bool) -> None:
    signature = Signature(((4,),), ("a", "b", "c"))
    torch.manual_seed(0)
    same = [structure(Turned(False, traced), signature) for _ in range(2)]
    assert same[0] == same[1], "weights do not matter"
    assert structure(Turned(True, traced), signature) != same[0]


def test_run_with_a_plan(bench: Workshop, unpacked: None) -> None:
    page = recipe(Prune(macs=0.5), name="with-plan")
    hash = plan(page, bench, probe=False).hash
    with pytest.raises(ValueError, match=f"planned with {hash[:12]}, now .*look at `decoct plan` again"):
        run(replace(page, seed=3), bench, plan=hash)
    with pytest.raises(ValueError, match="give at least the first 8 characters"):
        run(page, bench, plan="abc")
    assert run(page, bench, plan=hash[:10].upper()).folder.exists()


def test_a_resumed_run_refuses_another_network(bench: Workshop, tmp_path: Path, unpacked: None) -> None:
    """The same layers and weights, called in another order: no fingerprint of a module knows, the plan does."""
    page = recipe(Prune(macs=0.5), name="resumed")
    made = run(page, bench)
    note = made.folder / "plan.json"
    kept = json.loads(note.read_text())
    kept["seal"]["teachers"]["toy"] = "0" * 64
    note.write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"was planned with .*, now .*: teacher 'toy' has another structure"):
        run(page, bench)
    note.write_text("{")
    with pytest.raises(ValueError, match=r"plan.json is damaged .*: delete it"):
        run(page, bench)
    note.unlink()
    # Another budget is no other work.
    loose = run(replace(page, at_most=Budget(macs="60%")), bench)
    assert loose.folder == made.folder
    assert loose.verdict is not None
    assert loose.verdict.word == "MET"


# -- budgets ----------------------------------------------------------------------------------------------


def test_every_verdict_of_a_run(bench: Workshop, unpacked: None) -> None:
    """The same finished run under several budgets: judged anew, and nothing done again."""
    page = recipe(Prune(macs=0.5), Finetune(epochs=1), name="judged")
    words = {}
    for name, budget in {
        "MET": Budget(macs="50%", bytes="150kB", params="60%", latency_ms_p95=1000, accuracy_drop=90),
        "MISSED": Budget(macs="60%", latency_ms_p95=1e-6),
    }.items():
        made = run(replace(page, at_most=budget), bench)
        assert made.verdict is not None
        words[name] = made.verdict.word
        result = json.loads((made.folder / "result.json").read_text())
        card = json.loads((made.folder / "compact" / "card.json").read_text())
        assert result["verdict"] == card["verdict"] == made.verdict.to_dict()
        assert card["plan"] == result["plan"]
        report = (made.folder / "report.html").read_text()
        assert f"Budget {name}.</p>" in report, "under the title"
        assert f"<h2>Budget {name}</h2>" in report
    assert words == {"MET": "MET", "MISSED": "MISSED"}


def test_unverified_without_a_sample(bench: Workshop, tmp_path: Path, unpacked: None) -> None:
    weights = tmp_path / "w.pt"
    torch.manual_seed(0)
    torch.save(DigitsCNN(classes=3).build().state_dict(), weights)
    unseen = Unseen(shape=(1, 8, 8), classes=3)
    teacher = Checkpoint(name="given", network=DigitsCNN(classes=3), task=unseen, weights=str(weights))
    page = Recipe(
        name="unseen", task=unseen, teachers=(teacher,), stages=(Prune(macs=0.5),),
        at_most=Budget(macs="60%", accuracy_drop=1),
    )  # fmt: skip
    said = plan(page, bench)
    assert said.verdict is not None
    assert "it will stay unverified" in said.verdict.lines()[-1]
    made = run(page, bench)
    assert made.verdict is not None
    assert made.verdict.word == "UNVERIFIED"
    assert "there is no test sample" in made.verdict.lines()[-1]


class Untrained(Quiet):
    """Fails when an epoch is told."""

    def epoch(self, *_: object) -> None:
        raise AssertionError("something was trained")


def test_infeasible_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    fresh = Workshop(runs=tmp_path, device="cpu", tracking="off")
    page = recipe(GAL(macs=0.5), Finetune(epochs=1), at_most=Budget(macs="1%"))
    with pytest.raises(
        Infeasible, match=r"cannot be kept: the smallest that GAL can leave has .* MACs"
    ) as told:
        run(page, fresh, display=Untrained())
    assert "most of that is 'conv" in str(told.value)
    assert "the largest locked group is 'linear'" in str(told.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("stages", "budget", "held_up"),
    [
        ((Finetune(epochs=1),), Budget(params="90%"), "no stage cuts the student further"),
        (
            (DFAD(student=DigitsCNN(classes=3, widths=(8, 16, 16))),),
            Budget(macs=100),
            "no stage cuts the student",
        ),
        ((KSE(granularity=4),), Budget(bytes="1%"), "the largest layer that does not share is"),
        ((Prune(macs=0.5), KSE(granularity=4)), Budget(bytes=200), "KSE can leave|Prune can leave"),
    ],
)
def test_what_blocks_a_budget_is_named(
    stages: tuple[Stage, ...], budget: Budget, held_up: str, bench: Workshop
) -> None:
    made = plan(recipe(*stages, at_most=budget), bench, probe=False)
    assert made.verdict is not None
    assert made.verdict.word == "INFEASIBLE"
    assert any(part in made.verdict.bounds[0].said for part in held_up.split("|"))


def test_stages_in_a_row_can_leave_less_than_each_alone(bench: Workshop) -> None:
    """A network cut to the least, and its kernels shared: only below that is a budget out of reach."""

    def least(*stages: Stage) -> int:
        made = plan(recipe(*stages, at_most=Budget(bytes=1)), bench, probe=False)
        assert made.verdict is not None
        assert made.verdict.word == "INFEASIBLE"
        return round(made.verdict.bounds[0].found or 0)

    cut, share = Prune(macs=0.5, round_to=16), KSE(granularity=4)
    assert least(cut, share) < min(least(cut), least(share))


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str], unpacked: None) -> None:
    more = ["--runs", str(tmp_path / "runs"), "--device", "cpu", "--tracking", "off"]

    def ends(*words: str, at_most: Budget | None, stage: Stage = Prune(macs=0.5)) -> int:
        page = tmp_path / "page.yaml"
        page.write_text(write(recipe(stage, name="coded", at_most=at_most)), encoding="utf-8")
        return main([words[0], str(page), *words[1:], *more])

    assert ends("plan", "--no-probe", at_most=Budget(macs="1%")) == 3
    assert "budget INFEASIBLE" in capsys.readouterr().out
    assert ends("run", at_most=Budget(macs="1%")) == 3
    assert "decoct: INFEASIBLE: macs: at most" in capsys.readouterr().err
    assert ends("plan", "--no-probe", at_most=Budget(macs="30%")) == 3
    assert ends("plan", "--no-probe", "--json", at_most=Budget(macs="60%")) == 0
    capsys.readouterr()
    assert ends("plan", "--no-probe", "--json", at_most=Budget(macs="60%")) == 0
    hash = json.loads(capsys.readouterr().out)["hash"]
    assert ends("run", "--plan", hash[:9], at_most=Budget(macs="60%")) == 0
    assert "budget MET" in capsys.readouterr().out
    assert ends("run", "--plan", hash, at_most=Budget(macs="61%")) == 2
    assert "look at `decoct plan` again" in capsys.readouterr().err
    assert ends("run", at_most=Budget(latency_ms_p95=1e-9)) == 3
    assert "budget MISSED" in capsys.readouterr().out


def test_tracker_is_told(tmp_path: Path, unpacked: None) -> None:
    from mlflow.tracking import MlflowClient

    bench = Workshop(runs=tmp_path, device="cpu")
    made = run(recipe(Prune(macs=0.5), name="tracked", at_most=Budget(macs="60%", accuracy_drop=90)), bench)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    MLflow(made.folder, store).close(patience=120)  # a busy machine may not have sent all of it
    client = MlflowClient(tracking_uri=store)
    (experiment,) = [e for e in client.search_experiments() if e.name == "decoct"]
    runs = client.search_runs([experiment.experiment_id], "tags.decoct.recipe = 'tracked'")
    assert [r.data.tags["decoct.verdict"] for r in runs] == ["MET"]
    result = json.loads((made.folder / "result.json").read_text())
    assert runs[0].data.tags["decoct.plan"] == result["plan"]
    assert runs[0].data.metrics["budget/macs_found"] <= runs[0].data.metrics["budget/macs_asked"]
    assert runs[0].data.metrics["budget/accuracy_drop_asked"] == 90


def test_a_users_own_network_is_planned(bench: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    own = replace(TEACHER, name="own", network=Own(factory="own_network:make", arguments={"classes": 3}))
    made: Plan = plan(replace(recipe(Finetune(epochs=1)), teachers=(own,)), bench)
    assert made.stages[0].macs is not None
    assert made.stages[0].problem is None
