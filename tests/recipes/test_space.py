"""What a sweep may change: paths, ranges and choices, checked against the fields before anything runs."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress import Finetune, Prune
from recipes import pointer
from recipes.__main__ import find_page
from recipes.goals import Bound, bounds, mean, objectives, of_page
from recipes.page import read as page
from recipes.recipe import Recipe
from recipes.space import Choice, Range, Space, merged, read, space
from recipes.words import parser
from teachers.networks import DigitsCNN
from teachers.tasks import Toy
from teachers.teacher import Checkpoint
from teachers.train import Train

TASK = Toy(samples=120, batch=32)
TEACHER = Checkpoint(name="toy", network=DigitsCNN(classes=3), task=TASK, train=Train(epochs=1))
PAGE = Recipe(name="mine", task=TASK, teachers=(TEACHER,), stages=(Prune(macs=0.5), Finetune(epochs=2)))


def one(path: str, wanted: str | list[Any]) -> Range | Choice:
    (dimension,) = space(PAGE, {path: wanted})
    return dimension


def test_paths_lead_into_a_recipe() -> None:
    assert pointer.at(PAGE, "stages.0.macs") == 0.5
    assert pointer.at(PAGE, "teachers.0.network.classes") == 3
    made = pointer.put(PAGE, "teachers.0.train.epochs", 7)
    assert pointer.at(made, "teachers.0.train.epochs") == 7
    assert pointer.put(made, "teachers.0.train.epochs", 1) == PAGE
    assert pointer.put(PAGE, "stages.1", Prune(macs=0.25)).stages == (Prune(macs=0.5), Prune(macs=0.25))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("stages.0.mcas", "compress.Prune has no field 'mcas'; did you mean 'macs'?"),
        ("stage.0.macs", "recipes.Recipe has no field 'stage'; did you mean 'stages'?"),
        ("stages.2.macs", "stages holds 0 (compress.Prune), 1 (compress.Finetune), and no 2"),
        ("stages.Prune.macs", "stages holds 0 (compress.Prune), 1 (compress.Finetune), and no 'Prune'"),
        ("stages.0.macs.most", "stages.0.macs is 0.5, and nothing lies below it"),
        ("stages..macs", "'stages..macs' is no path into a recipe"),
    ],
)
def test_a_path_that_leads_nowhere(path: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        space(PAGE, {path: "0.1..0.5"})


def test_ranges_as_they_are_written() -> None:
    assert one("stages.0.macs", "0.3..0.7") == Range("stages.0.macs", 0.3, 0.7)
    assert one("stages.1.lr", "log:1e-3..1e-1") == Range("stages.1.lr", 1e-3, 1e-1, log=True)
    assert one("stages.1.epochs", "1..5") == Range("stages.1.epochs", 1, 5, whole=True)
    assert one("stages.1.epochs", "1.0..5.0") == Range("stages.1.epochs", 1.0, 5.0)
    assert one("stages.0.round_to", "8..64:8") == Range("stages.0.round_to", 8, 64, whole=True, step=8)
    assert str(one("stages.1.epochs", "1..5")) == "whole numbers 1 to 5"


def test_choices_are_read_as_on_a_page() -> None:
    chosen = one("stages.0.importance", "bn_scale, l2")
    assert isinstance(chosen, Choice)
    assert chosen.options == {"bn_scale": "bn_scale", "l2": "l2"}
    numbers = one("stages.1.lr", "1e-2, 0.05")
    assert numbers.tries == (0.01, 0.05)
    calls = one("stages.0", "{compress.Prune: {macs: 0.5}}, {compress.Prune: {macs: 0.4, importance: l1}}")
    assert calls.tries == (Prune(macs=0.5), Prune(macs=0.4, importance="l1"))
    assert calls.drawn(PAGE.stages[0]) == "{compress.Prune: {macs: 0.5}}"


@settings(deadline=None, max_examples=50)
@given(low=st.floats(0.01, 0.4), wide=st.floats(0.01, 0.5))
def test_what_is_drawn_goes_into_the_page_and_back(low: float, wide: float) -> None:
    dimension = Range("stages.0.macs", low, low + wide)
    made = Space((dimension,)).recipe(PAGE, {"stages.0.macs": low + wide / 2})
    assert Space((dimension,)).of_page(made) == {"stages.0.macs": low + wide / 2}
    assert dimension.drawn(low + 2 * wide) is None
    distribution: Any = dimension.distribution()
    assert (distribution.low, distribution.high) == (low, low + wide)


def test_the_page_as_the_first_trial() -> None:
    inside = space(
        PAGE, {"stages.0.macs": "0.3..0.7", "stages.1.epochs": "1..5", "stages.0.importance": "l1,l2"}
    )
    assert inside.of_page(PAGE) == {"stages.0.macs": 0.5, "stages.1.epochs": 2, "stages.0.importance": "l2"}
    assert space(PAGE, {"stages.0.macs": "0.6..0.7"}).of_page(PAGE) is None
    assert space(PAGE, {"stages.0.macs": "0.3..0.7:0.4"}).of_page(PAGE) is None


def test_what_all_trials_share() -> None:
    assert space(PAGE, {"stages.1.epochs": "1..5"}).shared(PAGE) == 1
    assert space(PAGE, {"stages.1.epochs": "1..5", "stages.0.macs": "0.3..0.7"}).shared(PAGE) == 0
    assert space(PAGE, {"precision": "fp32,bf16"}).shared(PAGE) == 0


@pytest.mark.parametrize(
    ("path", "wanted", "said"),
    [
        (
            "stages.0.macs",
            "0.5..1.5",
            "compress.Prune's macs must be less than 1, not 1.5; asked for: 0.5 to 1.5",
        ),
        ("stages.0.macs", "0..1", "compress.Prune's macs must be more than 0, not 0"),
        ("stages.0.round_to", "0.5..4.5", "compress.Prune's round_to must be a whole number, not 0.5"),
        ("stages.0.importance", "l1,l3", "compress.Prune's importance must be 'l1', 'l2'"),
        ("stages.0.importance", "1..3", "compress.Prune's importance must be"),
        ("stages.0.macs", "true,false", "compress.Prune's macs must be a number, not true or false"),
        (
            "stages.0.macs",
            "0.7..0.3",
            "stages.0.macs: 0.7..0.3 is empty: the first number has to be the smaller",
        ),
        (
            "stages.0.macs",
            "0.1-0.5..",
            "'0.1-0.5..' is no range: write 0.3..0.7, 1..5, log:1e-3..1e-1 or 8..64:8",
        ),
        ("stages.1.lr", "log:0..1", "a logarithmic range begins above 0"),
        ("stages.1.lr", "log:0.1..1:0.1", "a logarithmic range has no steps"),
        ("stages.0.round_to", "8..60:8", "steps of 8 do not lead from 8 to 60"),
        ("stages.0.macs", "0.5", "stages.0.macs has 0.5 to choose from: name two values, or a range"),
        ("stages.0.macs", "0.5,0.50", "stages.0.macs has the same value twice: 0.5, 0.5"),
        ("stages.0.spare", "{compress.Prun: {}}, [a]", "compress has no 'Prun'; did you mean 'Prune'?"),
        ("seed", "1..5", "'seed' cannot be swept over: a seed is not chosen by its luck"),
        ("name", "a,b", "'name' cannot be swept over"),
        ("task.samples", "60..120", "trials are compared on one and the same val"),
    ],
)
def test_a_space_that_no_field_takes(path: str, wanted: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        space(PAGE, {path: wanted})


def test_what_only_another_field_forbids_is_left_to_the_trials() -> None:
    small = pointer.put(PAGE, "task", Toy(samples=8))
    assert space(small, {"task.batch": "8,16"}).shared(small) == 0


def test_nothing_to_sweep_over_and_paths_within_each_other() -> None:
    with pytest.raises(ValueError, match="there is nothing to sweep over: name a field, --over"):
        space(PAGE, {})
    twice = {
        "stages.0.macs": "0.3..0.7",
        "stages.0": "{compress.Prune: {macs: 0.3}}, {compress.Prune: {macs: 0.4}}",
    }
    with pytest.raises(
        ValueError, match=r"stages\.0\.macs lies inside stages\.0, which is swept over as a whole"
    ):
        space(PAGE, twice)


def test_a_space_in_a_file_and_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("stages.0.macs: 0.3..0.7\nstages.0.importance: [l1, l2]\n")
    over = merged(read(file), ["stages.0.macs=0.4..0.6", "stages.1.epochs = 1..3"])
    assert over == {
        "stages.0.macs": "0.4..0.6", "stages.0.importance": ["l1", "l2"], "stages.1.epochs": "1..3",
    }  # fmt: skip
    assert len(space(PAGE, over).dimensions) == 3
    for text, said in (
        ("[a]", "a space is a mapping"),
        ("stages.0.macs: 3", "stages.0.macs is 3: write a range"),
        ("", "it is empty"),
        ("a: [", "it is not YAML"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=said):
            read(file)
    for words, said in (
        (["stages.0.macs"], "write a path and what it may be"),
        (["a=1..2", "a=1..3"], "twice"),
    ):
        with pytest.raises(ValueError, match=said):
            merged({}, words)


# -- goals ------------------------------------------------------------------------------------------------


def test_objectives() -> None:
    assert [str(each) for each in objectives()] == ["highest score", "lowest macs"]
    assert [each.direction for each in objectives(["score"], ["bytes", "seconds"])] == [
        "maximize", "minimize", "minimize",
    ]  # fmt: skip
    for maximize, minimize, said in (
        (["scores"], [], "there is no objective 'scores'; did you mean 'score'"),
        (["macs"], [], "--maximize macs: costs are minimized"),
        ([], ["score"], "--minimize score: the score is maximized"),
        (["score"], ["macs", "macs"], "the objective macs is named 2 times"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            objectives(maximize, minimize)


def test_bounds_and_by_how_much_they_are_missed() -> None:
    share, size, drop, count = bounds(["macs=40%", "bytes=300kB", "accuracy_drop=0.5", "params=1.2M"])
    assert (share, size) == (Bound("macs", 0.4, share=True), Bound("bytes", 300_000))
    assert (drop, count) == (Bound("accuracy_drop", 0.5), Bound("params", 1_200_000))
    facts = {"macs": 50.0, "teacher_macs": 100.0, "bytes": 150_000.0, "score": 0.9, "teacher_score": 0.91}
    assert share.excess(facts) == pytest.approx(0.25)
    assert size.excess(facts) == pytest.approx(-0.5)
    assert drop.excess(facts) == pytest.approx(0.005)
    with pytest.raises(
        ValueError, match="the bound params at most 1,200,000 cannot be judged: params was not"
    ):
        count.excess(facts)
    for text, said in (
        ("mac=40%", "there is no bound 'mac'; did you mean 'macs'?"),
        ("macs", "write an amount above 0, as in macs=40%"),
        ("macs=0", "write an amount above 0"),
        ("bytes=3kg", "write an amount above 0"),
        ("accuracy_drop=5%", "write an amount above 0"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            bounds([text])
    with pytest.raises(ValueError, match="names macs twice"):
        bounds(["macs=1M", "macs=2M"])


def test_bounds_of_a_page_and_of_the_command_line() -> None:
    """What is asked for on the command line stands in place of the page's own."""

    class Page:
        accuracy_drop = 0.5

        def asked(self) -> dict[str, Any]:
            return {
                "macs": SimpleNamespace(value=0.4, share=True),
                "bytes": SimpleNamespace(value=9, share=False),
            }

    assert of_page(Page(), bounds(["bytes=3"])) == (
        Bound("macs", 0.4, share=True), Bound("bytes", 3), Bound("accuracy_drop", 0.5),
    )  # fmt: skip
    assert of_page(None, bounds(["accuracy_drop=0"])) == (Bound("accuracy_drop", 0),)


def test_means_over_seeds() -> None:
    found = mean([{"score": 0.8, "macs": 10.0}, {"score": 1.0, "macs": 10.0}])
    assert found == {"score": pytest.approx(0.9), "macs": 10.0, "score_low": 0.8, "score_high": 1.0}
    assert mean([{"score": 0.8}]) == {"score": 0.8}


def test_the_command_in_the_readme() -> None:
    """Its page, paths, ranges and goals are what they seem."""
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^    decoct (sweep digits .*\\\n.*)$", text, re.MULTILINE)
    options = parser().parse_args(shlex.split(command.replace("\\\n", " ")))
    digits = page(find_page(options.page))
    made = space(digits, merged({}, options.over))
    assert [str(each) for each in made] == [
        "0.2 to 0.6",
        "0.001 to 0.1, logarithmic",
        "whole numbers 5 to 30",
    ]
    assert made.of_page(digits) is not None
    assert len(objectives(options.maximize, options.minimize)) == 2
    assert bounds(options.at_most) == (Bound("accuracy_drop", 0.5),)
