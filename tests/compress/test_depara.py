"""DEPARA, Rank and SelectLayer: they find the network that was taught the same thing, and say what is wrong."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from compress import DEPARA, Finetune, Rank, Ranking, Sees, SelectLayer, Session, State
from compress import transfer_scores as scores
from compress.attribution import embeddings
from compress.probe import Preprocess, drawn
from compress.rank import OfAnswers, OfFeatures, OfTarget, OfTwo
from compress.transplant import transplant
from teachers.networks import Autoencoder, DigitsCNN, ResNet
from teachers.signature import Signature
from teachers.task import Split
from teachers.tasks import Digits, Toy
from teachers.teacher import Teacher
from teachers.train import Train

TASK = Digits(val=0.3, batch=32)
WIDTHS = (8, 12, 16)


def taught(task: Any, name: str, seed: int, epochs: int = 4) -> Teacher:
    torch.manual_seed(seed)
    bench = Session.bare(task)
    network = DigitsCNN(classes=task.signature().classes, widths=WIDTHS).build()
    if epochs:
        work = Train(epochs=epochs, lr=0.05, warmup=1, seed=seed)
        work(
            network, task.open(None), device=bench.device, autocast=contextlib.nullcontext, epochs=bench.epochs,
            log=bench.log,
        )  # fmt: skip
    return Teacher(name, network, task.signature())


@pytest.fixture(scope="module")
def room() -> tuple[Teacher, ...]:
    """Digits twice, patterns under noise, and one that was never taught."""
    return (
        taught(TASK, "target", 0),
        taught(Toy(classes=3), "patterns", 1),
        taught(TASK, "untaught", 2, epochs=0),
        taught(TASK, "same", 3),
    )


def bench(**more: Any) -> Session:
    return Session.bare(TASK, **more)


def test_it_finds_the_one_that_was_taught_the_same(room: tuple[Teacher, ...]) -> None:
    session = bench(sees=Sees.INPUTS)
    made = DEPARA(target="target", probe=100)(State(room), session)
    assert [teacher.name for teacher in made.teachers] == ["same"]
    assert made.target is room[0]
    assert made.student is None
    ranking = made.ranking
    assert ranking is not None
    assert ranking.names[0] == "same"
    assert set(ranking.names) == {"patterns", "untaught", "same"}
    assert list(ranking.scores) == sorted(ranking.scores, reverse=True)
    for score, v, e, low, high in zip(
        ranking.scores, ranking.parts["V"], ranking.parts["E"], ranking.low, ranking.high, strict=True
    ):
        assert score == pytest.approx(v + e)
        assert low < score < high
    assert sum(ranking.first) == pytest.approx(1)
    assert ranking.first[0] == 1
    assert ranking.stability is not None
    assert ranking.stability > 0.5
    assert ranking.models == ("target", "patterns", "untaught", "same")
    place = ranking.models.index("same")
    assert ranking.similarity[0][place] == pytest.approx(ranking.scores[0])
    assert ranking.similarity[place][place] == pytest.approx(2, abs=1e-5)
    assert any("two halves of the probe agree" in note for note in session.notes)
    assert session.read == {"val": 434}


def test_it_gives_the_same_again_and_with_another_lambda(room: tuple[Teacher, ...]) -> None:
    one, again = (DEPARA(target="target", probe=60)(State(room), bench()).ranking for _ in range(2))
    assert one == again
    assert one is not None
    other = DEPARA(target="target", probe=60, lam=10, keep=2)(State(room), bench())
    assert other.ranking is not None
    of = dict(zip(one.names, zip(one.parts["V"], one.parts["E"], strict=True), strict=True))
    for name, score in zip(other.ranking.names, other.ranking.scores, strict=True):
        assert score == pytest.approx(of[name][0] + 10 * of[name][1])
    assert [teacher.name for teacher in other.teachers] == list(other.ranking.names[:2])


def test_a_ranking_survives_json(room: tuple[Teacher, ...]) -> None:
    import json

    made = DEPARA(target="target", probe=30, resamples=5)(State(room), bench()).ranking
    assert made is not None
    assert Ranking.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False))) == made


@pytest.mark.parametrize(
    "fields",
    [
        {"variant": "taskonomy"}, {"variant": "vgg"}, {"variant": "kamal"}, {"attribution": "saliency"},
        {"attribution": "lrp"}, {"scalar": "sum"}, {"reduction": "mean_channel"}, {"edges": "centered"}, {"size": 4},
    ],
    ids=str,
)  # fmt: skip
def test_every_variant_by_name(fields: dict[str, Any], room: tuple[Teacher, ...]) -> None:
    plain = DEPARA(target="target", probe=40, resamples=0)(State(room), bench()).ranking
    other = DEPARA(target="target", probe=40, resamples=0, **fields)(State(room), bench()).ranking
    assert plain is not None
    assert other is not None
    assert set(other.names) == set(plain.names)
    same = dict(zip(plain.names, plain.scores, strict=True)) == dict(
        zip(other.names, other.scores, strict=True)
    )
    one_channel = fields == {"reduction": "mean_channel"}  # of grey images it is the same
    assert same == one_channel
    assert plain.stability is None
    assert plain.low == ()


class Narrow(nn.Module):
    """An embedding of colour images twice as large, to be named."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))
        self.rest = nn.Linear(5, 20)
        self.last = nn.Linear(20, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.rest(self.encoder(x))))


def test_networks_of_other_geometries(room: tuple[Teacher, ...]) -> None:
    torch.manual_seed(0)
    wide = Teacher("wide", Narrow(), Signature(((3, 16, 16),), ("a", "b"), (0.5,) * 3, (0.2,) * 3))
    stage = DEPARA(target="target", probe=30, resamples=5, embeddings={"wide": "encoder"})
    made = stage(State((*room, wide)), bench()).ranking
    assert made is not None
    assert "wide" in made.names
    assert any("wide at encoder" in line for line in stage.plan(State((*room, wide)), TASK.signature()))


def test_rows_of_a_table() -> None:
    """Nothing is peculiar to images: rows of numbers are asked about as they are."""
    from teachers.networks import MLP
    from teachers.tasks import BreastCancer

    task = BreastCancer(val=0.3)
    teachers = []
    for seed, name in enumerate(("target", "one", "other")):
        torch.manual_seed(seed)
        teachers.append(Teacher(name, MLP(inputs=30, classes=2, widths=(16, 8)).build(), task.signature()))
    state = State((*teachers, Teacher("twin", teachers[0].module, task.signature())))
    made = DEPARA(target="target", probe=40, resamples=5)(state, Session.bare(task)).ranking
    assert made is not None
    assert made.names[0] == "twin"
    assert made.parts["E"][0] == pytest.approx(1)
    assert made.parts["V"][0] > 0.9, "1, but for rows at which every neuron is off"


# -- scores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "by", [*get_args(OfAnswers), *get_args(OfFeatures), *get_args(OfTwo), *get_args(OfTarget)]
)
def test_every_score_knows_taught_from_untaught(by: Any, room: tuple[Teacher, ...]) -> None:
    two = by in get_args(OfTwo)
    stage = Rank(by=by, target="target", probe=120, resamples=2)
    assert stage.sees is (Sees.INPUTS if two or by in get_args(OfTarget) else Sees.LABELS)
    session = bench(sees=stage.sees)
    made = stage(State(room), session)
    ranking = made.ranking
    assert ranking is not None
    assert ranking.names[0] == "same"
    assert ranking.low[0] < ranking.high[0]
    assert bool(ranking.models) == two
    assert made.target is room[0]
    assert ranking.by == by
    again = Rank(by=by, target="target", probe=120, resamples=2)(State(room), bench(sees=stage.sees)).ranking
    assert again == ranking


@pytest.mark.parametrize("by", ["leep", "log_me"])
def test_the_targets_answers_stand_in_for_labels(by: Any, room: tuple[Teacher, ...]) -> None:
    stage = Rank(by=by, target="target", labels="target", probe=120, resamples=2)
    assert stage.sees is Sees.INPUTS
    session = bench(sees=stage.sees)
    ranking = stage(State(room), session).ranking
    assert ranking is not None
    assert ranking.names[0] == "same"
    assert session.read == {"val": 434}
    told = Rank(by=by, target="target", probe=120, resamples=2)(State(room), bench()).ranking
    assert told is not None
    assert ranking.scores != told.scores, "the target errs now and then"
    assert ranking.scores == pytest.approx(told.scores, abs=0.3)


def test_embeddings_with_pixels_are_pooled(room: tuple[Teacher, ...]) -> None:
    stage = Rank(by="predictability", target="target", probe=60, resamples=0, layer="bn3", pool=1)
    ranking = stage(State(room), bench(sees=stage.sees)).ranking
    assert ranking is not None
    images = drawn(bench(sees=stage.sees), 60, Split.VAL, None)[0].images
    target = embeddings(room[0].module, images, preprocess=Preprocess.of(room[0].signature))[1]
    answers = target.double().softmax(1)
    for teacher in room[1:]:
        ready = Preprocess.of(teacher.signature)
        features = embeddings(teacher.module, images, "bn3", preprocess=ready)[0]
        found = scores.predictability(features.view(60, -1, 4, 4).mean((2, 3)), answers)
        assert ranking.scores[ranking.names.index(teacher.name)] == pytest.approx(found, abs=1e-6)
    named = replace(stage, layer="", embeddings=dict.fromkeys(ranking.names, "bn3"))
    assert named(State(room), bench(sees=stage.sees)).ranking == ranking
    whole = replace(stage, pool=None)(State(room), bench(sees=stage.sees)).ranking
    assert whole is not None
    assert whole.scores != pytest.approx(ranking.scores, abs=1e-2)


def test_few_labels_of_every_class(room: tuple[Teacher, ...]) -> None:
    session = bench()
    made = Rank(by="log_me", per_class=5, resamples=2)(State(room), session)
    assert made.ranking is not None
    assert made.ranking.target is None
    assert any("50 samples of val" in note for note in session.notes)
    assert "target" in made.ranking.names


def test_what_rank_refuses(room: tuple[Teacher, ...]) -> None:
    with pytest.raises(
        ValueError, match="Rank by dds compares with a network for the task at hand: name it as target"
    ):
        Rank(by="dds")
    with pytest.raises(
        ValueError, match="Rank by log_me compares with a network for the task at hand: name it as target"
    ):
        Rank(by="log_me", labels="target")
    with pytest.raises(ValueError, match="Rank by predictability takes no labels, not those of the target"):
        Rank(by="predictability", target="target", labels="target")
    with pytest.raises(ValueError, match="Rank by cka sees no labels, and cannot draw so many per class"):
        Rank(by="cka", target="target", per_class=3)
    with pytest.raises(
        ValueError, match="Rank by leep needs labels, and its session shows none: rsa, dds, cka"
    ):
        Rank(by="leep")(State(room), bench(sees=Sees.INPUTS))
    with pytest.raises(
        ValueError, match=r"cannot score '\w+' by logistic_accuracy: a label has one sample.*half"
    ):
        Rank(by="logistic_accuracy", per_class=3)(State(room), bench())
    dense = Teacher("dense", nn.Sequential(nn.Conv2d(1, 3, 1)), Signature(((1, 8, 8),), ("a", "b", "c")))
    with pytest.raises(
        ValueError, match=r"'dense' gives \(3, 8, 8\) numbers a sample and no classes, which nce needs"
    ):
        Rank(by="nce")(State((*room, dense)), bench())


# -- layers --------------------------------------------------------------------------------------------------


def test_a_layer_is_chosen_and_a_student_begins_there(room: tuple[Teacher, ...]) -> None:
    session = bench(sees=Sees.INPUTS)
    state = DEPARA(target="target", probe=40, resamples=5)(State(room), bench())
    made = SelectLayer(probe=60)(state, session)
    last = [name for name in made.freeze if name.startswith("conv")][-1]
    assert made.freeze[0] == "conv1"
    assert made.teachers == (room[0],)
    assert made.student is not None
    assert not made.student.training
    source, student = room[3].module.state_dict(), made.student.state_dict()
    names = ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "linear"]
    above = names[names.index(last) + 1 :]
    for name, tensor in student.items():
        if name.endswith(".weight") and "bn" not in name:
            assert torch.equal(tensor, source[name]) == (name.split(".")[0] not in above), name
    assert sum("<- chosen" in note for note in session.notes) == 1
    assert any("the plain rule, deeper is better, would take 'conv3'" in note for note in session.notes)
    tuned = Finetune(epochs=1, lr=0.05)(made, bench(sees=Sees.INPUTS))
    assert tuned.student is not None
    assert torch.equal(tuned.student.state_dict()["conv1.weight"], source["conv1.weight"])


def test_the_same_network_is_most_like_itself_at_its_embedding(room: tuple[Teacher, ...]) -> None:
    """Against itself, S of the layer that gives the embedding is 2, the most there is."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 10)
    )
    twins = [Teacher(name, net, TASK.signature()) for name in ("target", "source")]
    told: list[dict[str, float]] = []
    session = Session.bare(TASK, report=lambda values, step: told.append(dict(values)))
    made = SelectLayer(target="target", probe=50, layers=("1", "3", "4"))(State(tuple(twins)), session)
    assert set(made.freeze) == {"0", "1", "2", "3", "4"}
    assert told[-1] == {"V": pytest.approx(1), "E": pytest.approx(1), "S": pytest.approx(2)}
    assert told[0]["S"] < told[1]["S"] < told[2]["S"]
    assert told[0]["S"] < 1.9


def test_a_student_for_other_inputs_and_classes(room: tuple[Teacher, ...]) -> None:
    torch.manual_seed(0)
    colour = Signature(((3, 16, 16),), tuple("abcd"), (0.5,) * 3, (0.25,) * 3)
    source = Teacher("resnet", ResNet(depth=20, classes=4).build(), colour)
    student, still = transplant(source, "layer2.0", TASK.signature())
    assert {"network.conv1", "network.layer2.0.bn2"} <= set(still) <= {n for n, _ in student.named_modules()}
    assert not {"network.layer2.1.conv1", "network.layer3.0.bn1", "network.linear"} & set(still)
    (images,) = TASK.signature().example(3)
    assert student.eval()(images).shape == (3, 10)
    kept, _ = transplant(source, "layer2.0", replace(colour, labels=tuple("abcdefg")), anew=False)
    theirs = source.module.state_dict()
    moved = [name for name, tensor in kept.state_dict().items() if not torch.equal(tensor, theirs[name])]
    assert moved == ["linear.weight", "linear.bias"], "only the last layer is made anew where classes differ"


def test_what_ends_in_no_classifier_is_cut(tmp_path: Any) -> None:
    from students import compact

    torch.manual_seed(0)
    signature = Signature(((1, 8, 8),), ("dark", "bright"), (0.3,), (0.4,))
    source = Teacher("auto", Autoencoder(classes=2, widths=(4, 6), channels=1).build(), signature)
    with pytest.raises(
        ValueError, match=r"'auto' gives \(2, 8, 8\) numbers an input and ends in no classifier: say"
    ):
        transplant(source, "encoder.0", TASK.signature())
    student, still = transplant(source, "encoder.0", TASK.signature(), "encoder")
    assert still == ("network.body.encoder.0",)
    tuned = Finetune(epochs=1, lr=0.05, soft_targets=0, labels=1)(
        State((), student, freeze=still), bench()
    ).student
    assert tuned is not None
    before, after = student.state_dict(), tuned.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in same if "front" not in name} == {"network.body.encoder.0.weight"}
    theirs = source.module.state_dict()
    assert torch.equal(after["network.body.encoder.0.weight"], theirs["encoder.0.weight"])
    assert not torch.equal(before["network.body.encoder.4.weight"], theirs["encoder.4.weight"])
    compact.put_away(tuned, tmp_path)
    (images,) = TASK.signature().example(3)
    assert torch.equal(compact.take_out(tmp_path)(images), tuned(images))


def cases() -> list[Any]:
    one = {"target": "target"}
    missing = "to compare with 'tarjet', and there is no such teacher; did you mean 'target'"
    return [
        (DEPARA(target="tarjet"), f"DEPARA is {missing}"),
        (Rank(by="dds", target="tarjet"), f"Rank is {missing}"),
        (SelectLayer(target="tarjet"), f"SelectLayer is {missing}"),
        (DEPARA(**one, keep=4), r"is to keep the best 4 of 3 teachers \(patterns, untaught, same, the target aside\)"),
        (DEPARA(**one, embeddings={"some": "conv1"}), "embeddings name the teacher 'some', who is not there; did you"),
        (DEPARA(**one, embeddings={"same": "conv9"}), "'same' has no layer 'conv9'; did you mean 'conv"),
        (SelectLayer(), "SelectLayer compares with a network for the task at hand: name it as target, or put"),
        (SelectLayer(**one), "SelectLayer looks into one teacher, and there are 3 besides 'target'"),
    ]  # fmt: skip


@pytest.mark.parametrize(("stage", "said"), cases(), ids=lambda case: str(case)[:40])
def test_what_is_refused(stage: Any, said: str, room: tuple[Teacher, ...]) -> None:
    with pytest.raises(ValueError, match=said):
        stage(State(room), bench())


def test_patterns_that_match_nothing(room: tuple[Teacher, ...]) -> None:
    state = State((room[0], room[3]))
    for layers, said in (
        (("layer?.?",), r"'layer\?.\?' matches no layer of 'same'"),
        (("con1",), "'con1' matches no layer of 'same'; did you mean 'conv1'"),
        (("linear",), "no layer of 'same' is left to choose but the last, 'linear'"),
    ):
        with pytest.raises(ValueError, match=said):
            SelectLayer(target="target", layers=layers)(state, bench())


class Changed(nn.Module):
    """A network with something wrong."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.last = how, nn.Linear(64, 6), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.how == "no grad":
            with torch.no_grad():
                return self.last(self.first(x))
        hidden = torch.relu(self.first(x))
        if self.how == "blind":
            hidden = 0 * hidden + 1
        elif self.how == "half blind":
            hidden = hidden * (x[:, 20:21] > 0)
        elif self.how == "nan":
            hidden = hidden / 0
        return self.last(hidden)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no grad", "no gradient comes from the input of 'last' of 'odd'.*no_grad"),
        ("blind", "all 50 attribution maps of 'odd' are zero: the embedding does not depend on the input"),
        ("nan", "300 of the 300 features that 'odd' gives at 'its embedding' are NaN or infinite"),
    ],
)
def test_networks_that_cannot_be_asked(how: str, said: str, room: tuple[Teacher, ...]) -> None:
    torch.manual_seed(0)
    odd = Teacher("odd", Changed(how), TASK.signature())
    with pytest.raises(ValueError, match=said):
        DEPARA(target="target", probe=50)(State((*room, odd)), bench())


def test_zero_maps_are_counted_and_said(room: tuple[Teacher, ...]) -> None:
    torch.manual_seed(0)
    session = bench()
    odd = Teacher("odd", Changed("half blind"), TASK.signature())
    DEPARA(target="target", probe=50, resamples=0)(State((*room, odd)), session)
    (note,) = [note for note in session.notes if "are zero" in note]
    assert note.endswith("attribution maps of 'odd' at the embedding are zero, and count as unlike")
    assert 0 < int(note.split()[0]) < 50


def test_a_segmentation_is_not_scored_by_labels() -> None:
    from teachers.tasks import Shapes

    task = Shapes()
    odd = [Teacher(str(n), nn.Sequential(nn.Conv2d(3, 3, 1)), task.signature()) for n in range(3)]
    with pytest.raises(ValueError, match="takes one label a sample, and this task has"):
        Rank(by="log_me")(State(tuple(odd)), Session.bare(task, name="compress.Rank"))


def test_teachers_stay_as_they_were(
    room: tuple[Teacher, ...], fingerprint: Callable[[nn.Module], dict[str, Any]]
) -> None:
    before = [fingerprint(teacher.module) for teacher in room]
    state = DEPARA(target="target", probe=30, resamples=3)(State(room), bench())
    SelectLayer(probe=30, resamples=3)(state, bench())
    Rank(by="log_me", resamples=2)(State(room), bench())
    assert [fingerprint(teacher.module) for teacher in room] == before
