"""Pages: what is read is what was written, and every mistake is told at once, with its line."""

import math
import sys
from dataclasses import replace
from enum import Enum
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.session import Sees, Session
from compress.stage import Stage, State
from recipes.page import PageError, digest, hash_prefix, read, write
from recipes.recipe import Recipe
from teachers import Checkpoint
from teachers.networks import Own, ResNet
from teachers.spec import Field, spec
from teachers.tasks import CIFAR10, Digits

ME = __name__


class Order(Enum):
    FORTH = "forth"
    BACK = "back"


@spec
class Shrink(Stage):
    """A stage with one field of every kind."""

    sees: ClassVar[Sees] = Sees.NOTHING

    epochs: Annotated[int, Field(ge=1, le=100)]
    """passes over the data"""
    lr: Annotated[float, Field(gt=0)] = 0.1
    keep: Annotated[float, Field(ge=0, lt=1)] | None = None
    budget: dict[str, Annotated[float, Field(gt=0, lt=1)]] | None = None
    optimizer: Literal["sgd", "adam"] = "sgd"
    layers: tuple[str, ...] = ()
    size: tuple[int, int] = (3, 3)
    order: Order = Order.FORTH
    folder: Path | None = None
    names: frozenset[str] = frozenset()
    nesterov: bool = False
    anything: Any = None

    def __post_init__(self) -> None:
        if self.optimizer == "adam" and self.nesterov:
            raise ValueError("adam knows no nesterov: leave it out")

    def __call__(self, state: State, session: Session) -> State:
        """Not needed on paper."""
        raise NotImplementedError


@spec
class Around(Stage):
    """A stage that holds others."""

    sees: ClassVar[Sees] = Sees.LABELS

    inner: tuple[Stage, ...] = ()
    named: dict[str, Stage] = Field(default_factory=dict)

    def __call__(self, state: State, session: Session) -> State:
        """Not needed on paper."""
        raise NotImplementedError


def page(stages: str, more: str = "") -> str:
    head = f"""\
recipes.Recipe:
  name: a-recipe
  task: {{teachers.tasks.Digits: }}
  teachers:
    - teachers.Checkpoint: {{name: t, weights: w.pt, task: {{teachers.tasks.Digits: }}, network: {{NET: }}}}
{more}  stages:
"""
    lines = dedent(stages).strip().splitlines()
    head = head.replace("NET", "teachers.networks.DigitsCNN")
    return head + "\n".join("    " + line for line in lines).replace("ME.", f"{ME}.") + "\n"


def stage(text: str) -> Any:
    return read(page(text), (ME,)).stages[0]


def messages(text: str, trust: tuple[str, ...] = (ME,)) -> tuple[str, ...]:
    with pytest.raises(PageError) as caught:
        read(text, trust)
    assert all(message in str(caught.value) for message in caught.value.messages)
    return caught.value.messages


# -- reading ----------------------------------------------------------------------------------------------


def test_the_page_of_the_design_is_a_call_in_python() -> None:
    text = """
        recipes.Recipe:
          name: resnet56-shrunk
          task: {teachers.tasks.CIFAR10: }
          teachers:
            - teachers.Checkpoint:
                {name: resnet56, weights: resnet56-cifar10.pt, task: {teachers.tasks.CIFAR10: },
                 network: {teachers.networks.ResNet: {depth: 56, classes: 10}}}
          stages:
            - ME.Shrink: {epochs: 100, lr: 1e-2}
            - ME.Shrink: {epochs: 30, keep: 5E-1, size: [1, 2], nesterov: true, order: back}
    """.replace("ME.", f"{ME}.")
    teacher = Checkpoint(
        name="resnet56", weights="resnet56-cifar10.pt", task=CIFAR10(), network=ResNet(depth=56, classes=10)
    )
    assert read(text, (ME,)) == Recipe(
        name="resnet56-shrunk",
        task=CIFAR10(),
        teachers=(teacher,),
        stages=(
            Shrink(epochs=100, lr=0.01),
            Shrink(epochs=30, keep=0.5, size=(1, 2), nesterov=True, order=Order.BACK),
        ),
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-2", 0.01), ("1E3", 1000.0), ("-.5", -0.5), ("+1.", 1.0), (".inf", math.inf),
        ("-.INF", -math.inf),
        ("12", 12), ("010", 10), ("0x1f", 31), ("0o17", 15), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"),
        ("true", True), ("yes", "yes"), ("off", "off"), ("n", "n"), ("null", None), ("~", None), ("", None),
        ("'1e-2'", "1e-2"), ('"null"', "null"), ("1.2.3", "1.2.3"), ("1e", "1e"),
        ("[1, [a, null]]", [1, ["a", None]]), ("!tuple [1, !tuple []]", (1, ())),
        ("{1: a, b: 2}", {1: "a", "b": 2}),
    ],
)  # fmt: skip
def test_what_a_bare_word_means(text: str, value: object) -> None:
    read_back = stage(f"- ME.Shrink: {{epochs: 1, anything: {text} }}").anything
    assert read_back == value
    assert type(read_back) is type(value)


def test_calls_are_read_wherever_they_stand_and_quoted_keys_are_data() -> None:
    made = stage("""
        - ME.Around:
            inner: [{ME.Shrink: {epochs: 2}}]
            named:
              first: {ME.Around: }
              second: {ME.Shrink: {epochs: 3, anything: {"ME.Shrink": {x: {ME.Shrink: {epochs: 4}}}}}}
    """)
    data = {f"{ME}.Shrink": {"x": Shrink(epochs=4)}}
    named = {"first": Around(), "second": Shrink(epochs=3, anything=data)}
    assert made == Around(inner=(Shrink(epochs=2),), named=named)


def test_a_page_comes_from_a_file_too_and_anchors_work(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(page("- &one {ME.Shrink: {epochs: 3}}\n- *one"))
    assert read(file, (ME,)) == read(str(file), (ME,))
    assert read(file, (ME,)).stages == (Shrink(epochs=3), Shrink(epochs=3))
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.yaml")
    file.write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(PageError, match=r"p\.yaml: it is not UTF-8 text"):
        read(file)


# -- mistakes ---------------------------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once_in_order_with_their_lines() -> None:
    text = page(
        """
        - ME.Shrink: {epochs: 0, granulartiy: 4}
        - ME.Shrink:
            epochs: 101
            lr: -1e-2
            optimizer: adm
            budget: {macs: 2}
            nesterow: true
        - ME.Shrnk: {epochs: 1}
        - ME.Around:
            inner: [{ME.Shrink: }]
        """,
        more="  precison: bf16\n",
    )
    assert messages(text) == (
        "recipe (line 6): recipes.Recipe has no field 'precison'; did you mean 'precision'?",
        f"recipe.stages[0] (line 8): {ME}.Shrink's epochs must be at least 1, not 0",
        f"recipe.stages[0] (line 8): {ME}.Shrink has no field 'granulartiy'; it has epochs, lr, keep, "
        "budget, optimizer, layers, size, order, folder, names, nesterov, anything",
        f"recipe.stages[1] (line 10): {ME}.Shrink's epochs must be at most 100, not 101",
        f"recipe.stages[1] (line 11): {ME}.Shrink's lr must be more than 0, not -0.01",
        f"recipe.stages[1] (line 12): {ME}.Shrink's optimizer must be 'sgd' or 'adam', not 'adm'; "
        "did you mean 'adam'?",
        f"recipe.stages[1] (line 13): {ME}.Shrink's budget.macs must be less than 1, not 2",
        f"recipe.stages[1] (line 14): {ME}.Shrink has no field 'nesterow'; did you mean 'nesterov'?",
        f"recipe.stages[2] (line 15): {ME} has no 'Shrnk'; did you mean 'Shrink'?",
        f"recipe.stages[3].inner[0] (line 17): {ME}.Shrink needs 'epochs', passes over the data",
    )


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("epochs: x", "epochs must be a whole number, not 'x'"),
        ("epochs: 1.5", "epochs must be a whole number, not 1.5"),
        ("epochs: true", "epochs must be a number, not true or false"),
        ("epochs: null", "epochs must be a whole number, not null"),
        ("epochs: [1]", "epochs must be a whole number, not [1]"),
        ("epochs: 1, lr: fast", "lr must be a number, not 'fast'"),
        ("epochs: 1, lr: 0", "lr must be more than 0, not 0"),
        ("epochs: 1, keep: 1.0", "keep must be less than 1, not 1.0"),
        ("epochs: 1, layers: conv", "layers must be a list, not 'conv'"),
        ("epochs: 1, layers: [a, 1]", "layers[1] must be text, not 1: put it in quotes"),
        ("epochs: 1, budget: 0.5", "budget must be a mapping, not 0.5"),
        ("epochs: 1, budget: {macs: half}", "budget.macs must be a number, not 'half'"),
        ("epochs: 1, nesterov: maybe", "nesterov must be true or false, not 'maybe'"),
        ("epochs: 1, order: sideways", "order must be 'forth' or 'back', not 'sideways'"),
        ("epochs: 1, folder: 3", "folder must be a path, not 3"),
    ],
)  # fmt: skip
def test_wrong_values_are_told_with_what_was_wanted(field: str, said: str) -> None:
    assert messages(page(f"- ME.Shrink: {{{field}}}")) == (
        f"recipe.stages[0] (line 7): {ME}.Shrink's {said}",
    )


def test_a_tuple_of_the_wrong_length_is_told() -> None:
    (short,) = messages(page("- ME.Shrink: {epochs: 1, size: [1]}"))
    assert short.startswith(f"recipe.stages[0] (line 7): {ME}.Shrink's size")
    (long,) = messages(page("- ME.Shrink: {epochs: 1, size: [1, 2, 3]}"))
    assert long == f"recipe.stages[0] (line 7): {ME}.Shrink's size must be at most 2 long, not [1, 2, 3]"


def test_what_a_spec_itself_refuses_keeps_its_own_words() -> None:
    (said,) = messages(page("- ME.Shrink: {epochs: 1, optimizer: adam, nesterov: true}"))
    assert said == f"recipe.stages[0] (line 7): {ME}.Shrink: adam knows no nesterov: leave it out"


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ("- ME.Shrink", f"recipe (line 7): recipes.Recipe's stages[0] must be a Stage, not '{ME}.Shrink': "
                        f"put a colon behind the name, '{ME}.Shrink:'"),
        ("- {epochs: 3}", "recipe (line 7): recipes.Recipe's stages[0] must be a Stage, not {epochs: 3}"),
        ("- {teachers.tasks.Digits: }",
         "recipe (line 7): recipes.Recipe's stages[0] must be a Stage, not teachers.tasks.Digits"),
        ("- ME.Shrink: 3", f"recipe.stages[0] (line 7): {ME}.Shrink takes its fields as `name: value`, "
                           "not as a list or a single value"),
        ("- ME.Shrink: {3: 4}", f"recipe.stages[0] (line 7): {ME}.Shrink's fields are words, not 3"),
        ("- ME.Shrink:\n  epochs: 3",
         f"recipe.stages[0] (line 7): '{ME}.Shrink' shares its mapping with 'epochs': a call stands alone, "
         "with its fields deeper than its name; every item of a list begins with '-'"),
        ("- ME.Shrink: {epochs: 3}\n  ME.Around: ",
         f"recipe.stages[0] (line 7): '{ME}.Shrink' shares its mapping with '{ME}.Around': a call stands "
         "alone, with its fields deeper than its name; every item of a list begins with '-'"),
        ("- ME.Shrink:\n    epochs: 3\n    epochs: 4",
         "recipe.stages[0] (line 9): 'epochs' stands here twice, in line 8 too: keep one of them"),
        ("- ME.Shrink: {epochs: 1, anything: {[1]: 2}}",
         "recipe.stages[0].anything (line 7): a key is a word or a number, neither a list nor a mapping"),
        ("- ME.Shrink: {epochs: 1, anything: &a [*a]}",
         "recipe.stages[0].anything[0] (line 7): an alias refers to what it lies in"),
    ],
)  # fmt: skip
def test_wrong_forms_are_told(stages: str, said: str) -> None:
    assert messages(page(stages)) == (said,)


def test_names_that_are_not_there_are_told_with_the_nearest() -> None:
    text = page(
        """
        - teachers.networks.Resnet: {depth: 20}
        - teachers.task.Digits:
        - teachers.netwrks.ResNet:
        - compres.GAL:
        - recipes.ResNet:
        - teachers.networks._Secret:
        """
    )
    neither = (
        "is neither of this house (compress, teachers, students, recipes, reports) nor of a package named"
    )
    said = messages(text)
    assert (
        said[2] == "recipe.stages[2] (line 9): there is no module 'teachers.netwrks'; did you mean "
        "'teachers.networks' or 'teachers.nearest' or 'teachers.tasks'?"
    )
    assert said[:2] + said[3:] == (
        "recipe.stages[0] (line 7): teachers.networks has no 'Resnet'; did you mean 'ResNet'?",
        "recipe.stages[1] (line 8): teachers.task has no 'Digits'; did you mean 'teachers.tasks.Digits'?",
        f"recipe.stages[3] (line 10): 'compres.GAL' {neither} with --trust, and was not imported; "
        "did you mean 'compress'?",
        "recipe.stages[4] (line 11): recipes has no 'ResNet'; did you mean 'teachers.networks.ResNet'?",
        "recipe.stages[5] (line 12): 'teachers.networks._Secret' is private: only public names may stand on "
        "a page",
    )


def test_code_outside_the_house_is_refused_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strangers.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    (said,) = messages(page("- strangers.Stage: {x: 1}"))
    assert "'strangers.Stage' is neither of this house" in said
    assert "trust its package, or quote the key if it is plain data" in said
    assert "strangers" not in sys.modules
    assert "'test_pag.Shrink' is neither of this house" in messages(page("- test_pag.Shrink: "))[0]
    with pytest.raises(PageError, match=r"'os\.system' is neither"):
        read("os.system: {command: exit 1}")
    with pytest.raises(PageError, match=f"{ME}.Shrink' is neither"):
        read(page("- ME.Shrink: {epochs: 1}"))


@pytest.mark.parametrize(
    "name",
    [
        "recipes.page.read",
        "recipes.page.Path",
        "teachers.Signature.example",
        "compress.stage.Stage",
        "teachers.tasks",
    ],
)
def test_only_frozen_specs_can_be_called(name: str) -> None:
    (said,) = messages(page(f"- {name}: "))
    assert "recipe.stages[0] (line 7)" in said
    assert any(
        word in said for word in ("is not a frozen spec", "there is no module", "has no", "is abstract")
    )


def test_a_trusted_package_that_breaks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_friend.py").write_text("import no_such_module_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    (said,) = messages(page("- broken_friend.Stage: "), ("broken_friend",))
    assert said.endswith("importing broken_friend failed: No module named 'no_such_module_at_all'")
    (said,) = messages(page("- no_friend.Stage: "), ("no_friend",))
    assert said.endswith("there is no module 'no_friend'")


def own(factory: str) -> str:
    text = page("- ME.Shrink: {epochs: 1}")
    return text.replace("teachers.networks.DigitsCNN: ", f"teachers.networks.Own: {{factory: '{factory}'}}")


@pytest.mark.parametrize(
    "factory", ["os:system", "subprocess:call", "students.files:os.system",
                "torchvision.models:resnet.partial", "torchvision.datasets.utils:download_url",
                "torchvision.models:_api"],
)  # fmt: skip
def test_a_network_factory_of_strangers_is_refused(factory: str) -> None:
    (said,) = messages(own(factory))
    package = factory.partition(":")[0].partition(".")[0]
    assert said == (
        f"recipe.teachers[0].network (line 5): teachers.networks.Own's factory {factory!r} is code that no "
        "page may run by itself: only functions of torchvision.models are; "
        f"use --trust {package} if you trust it"
    )


def test_a_network_factory_that_is_trusted_is_let_in() -> None:
    assert read(own("torchvision.models:resnet18"), (ME,)).teachers[0].network == Own(
        factory="torchvision.models:resnet18", arguments={}
    )
    assert read(own("friends.nets:make"), (ME, "friends")).teachers[0].network == Own(
        factory="friends.nets:make", arguments={}
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty: begin with `recipes.Recipe:`"),
        ("# nothing but a remark\n", "it is empty: begin with `recipes.Recipe:`"),
        ("recipes.Recipe: {name: [}\n", "it is not YAML (line 1, column 25): while parsing a flow node, "
                                        "expected the node content, but found '}'"),
        ("a: 1\n---\nb: 2\n", "it is not YAML (line 2, column 1): expected a single document in the stream, "
                               "but found another document"),
        ("just words", "recipe (line 1): a page holds one recipes.Recipe, this one holds `'just words'`"),
        ("- 1\n- 2\n", "recipe (line 1): a page holds one recipes.Recipe, this one holds `[1, 2]`"),
        ("name: x\nstages: []\n", "recipe (line 1): a page holds one recipes.Recipe, this one holds "
                                  "`{name: x, stages: []}`"),
        ("teachers.tasks.Digits:\n", "recipe (line 1): a page holds one recipes.Recipe, "
                                     "this one holds teachers.tasks.Digits"),
        ("recipes.Recipee:\n", "recipe (line 1): recipes has no 'Recipee'; did you mean 'Recipe'?"),
        ("recipes.Recipe: !!python/name:os.system\n",
         "recipe (line 1): a page knows no tag '!!python/name:os.system'"),
        ("!!python/object/apply:os.system [ls]\n",
         "recipe (line 1): a page knows no tag '!!python/object/apply:os.system'"),
        ("[" * 3000, "it is nested too deeply to be a recipe"),
    ],
)  # fmt: skip
def test_a_page_that_is_no_recipe_is_told(text: str, said: str) -> None:
    assert messages(text)[0] == said


def test_a_bad_byte_is_told() -> None:
    (said,) = messages("recipes.Recipe: \x00\n")
    assert said.startswith("it is not YAML: unacceptable character")


def test_one_mistake_is_one_line_and_several_are_counted() -> None:
    with pytest.raises(PageError) as one:
        read("just words")
    assert str(one.value).startswith("the page: recipe (line 1): ")
    assert "\n" not in str(one.value)
    with pytest.raises(PageError) as three:
        read(page("- ME.Shrink: {epochs: 0, lr: 0, keep: 2}"), (ME,))
    assert str(three.value).splitlines()[0] == "the page has 3 mistakes:"
    assert len(str(three.value).splitlines()) == 4


VALID = page("""
    - ME.Shrink: {epochs: 3, budget: {macs: 0.5}, layers: [a, b], anything: !tuple [1, {"a.b": 2}]}
    - ME.Around:
        inner: [{ME.Shrink: {epochs: 2}}]
        named: {x: &x {ME.Around: }, y: *x}
""")
PIECES = st.sampled_from(
    [*"{}[]:,-&*!|>%@'\"#?~ \n\t", "null", "1e400", "ME.Shrink: ", "<<: ", "...", "---", "\ud800", "\x00"]
)


@settings(max_examples=150, deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(0, len(VALID)), st.integers(0, 8), PIECES), min_size=1, max_size=4))
def test_a_damaged_page_is_read_or_refused_with_lines_and_never_breaks(
    damage: list[tuple[int, int, str]],
) -> None:
    text = VALID
    for place, length, piece in damage:
        text = text[:place] + piece.replace("ME.", f"{ME}.") + text[place + length :]
    said: tuple[str, ...] = ("",)
    try:
        read(text + "\n", (ME,))
    except PageError as problem:
        said = problem.messages
    assert said
    assert not any("Broken" in message for message in said)


# -- writing ----------------------------------------------------------------------------------------------

WORDS = st.text(max_size=12) | st.sampled_from(
    [
        "null",
        "on",
        "1e-2",
        "a: b",
        "- x",
        "compress.GAL",
        f"{ME}.Shrink",
        "é\u2028\x85\ufeff",
        "\U0001f600",
        " x ",
        "'",
        '"\\n',
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS
SHARES = st.floats(min_value=0.01, max_value=0.99)
STAGES = st.recursive(
    st.builds(
        Shrink,
        epochs=st.integers(1, 100),
        lr=st.floats(min_value=1e-9, max_value=1e9),
        keep=st.none() | SHARES,
        budget=st.none() | st.dictionaries(WORDS, SHARES, max_size=3),
        layers=st.lists(WORDS, max_size=3).map(tuple),
        size=st.tuples(st.integers(), st.integers()),
        order=st.sampled_from(Order),
        folder=st.none() | st.just(Path("a/b c")),
        names=st.frozensets(WORDS, max_size=3),
        nesterov=st.booleans(),
        anything=st.recursive(
            LEAVES,
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.lists(inner, max_size=3).map(tuple)
                | st.dictionaries(LEAVES, inner, max_size=2)
            ),
            max_leaves=6,
        ),
    ),
    lambda inner: st.builds(
        Around, inner=st.lists(inner, max_size=2).map(tuple), named=st.dictionaries(WORDS, inner, max_size=2)
    ),
    max_leaves=4,
)
RECIPES = st.builds(
    Recipe,
    name=st.just("r"),
    teachers=st.just((Checkpoint(name="t", network=ResNet(depth=20), task=Digits(), weights="w.pt"),)),
    task=st.just(Digits()),
    stages=st.lists(STAGES, min_size=1, max_size=3).map(tuple),
    seed=st.integers(0, 2**40),
    precision=st.sampled_from(["fp32", "bf16"]),
)


@settings(max_examples=60, deadline=None, database=None)
@given(RECIPES)
def test_what_is_written_is_read_back_equal(recipe: Recipe) -> None:
    text = write(recipe)
    again = read(text, (ME,))
    assert again == recipe
    assert write(again) == text
    assert digest(text, (ME,)) == digest(recipe)


def test_a_page_is_laid_out_for_people() -> None:
    recipe = Recipe(
        name="small",
        teachers=(Checkpoint(name="t", network=ResNet(depth=56), task=Digits(), weights="w.pt"),),
        task=Digits(),
        stages=(
            Shrink(epochs=3, budget={"macs": 0.5}, lr=0.1),
            Around(inner=(Shrink(epochs=1), Shrink(epochs=2, layers=("on", "a.b", "conv1")))),
        ),
    )
    assert write(recipe) == dedent(
        f"""\
        recipes.Recipe:
          name: small
          teachers:
            - teachers.Checkpoint:
                name: t
                network: {{teachers.networks.ResNet: {{depth: 56}}}}
                task: {{teachers.tasks.Digits: {{}}}}
                weights: w.pt
          task: {{teachers.tasks.Digits: {{}}}}
          stages:
            - {ME}.Shrink: {{epochs: 3, budget: {{macs: 0.5}}}}
            - {ME}.Around:
                inner:
                  - {ME}.Shrink: {{epochs: 1}}
                  - {ME}.Shrink: {{epochs: 2, layers: ["on", a.b, conv1]}}
        """
    )


def test_what_no_page_can_hold_is_refused_by_name() -> None:
    recipe = read(page("- ME.Shrink: {epochs: 1}"), (ME,))
    with pytest.raises(ValueError, match=rf"{ME}.Shrink's anything (is|holds a) .*object"):
        write(replace(recipe, stages=(Shrink(epochs=1, anything=object()),)))
    with pytest.raises(ValueError, match=rf"{ME}.Shrink's anything is .*a page would give back changed"):
        write(replace(recipe, stages=(Shrink(epochs=1, anything=Path("x")),)))

    @spec
    class Hidden(Stage):
        sees: ClassVar[Sees] = Sees.NOTHING

        def __call__(self, state: State, session: Session) -> State:
            """Not needed on paper."""
            raise NotImplementedError

    with pytest.raises(ValueError, match=r"Hidden of .* cannot be imported by name"):
        write(replace(recipe, stages=(Hidden(),)))


# -- hashing ----------------------------------------------------------------------------------------------


def test_a_hash_sees_the_science_and_not_the_layout() -> None:
    recipe = read(page("- ME.Shrink: {epochs: 1}\n- ME.Around: "), (ME,))
    other = page("# a remark\n- ME.Shrink:\n    lr: 0.1   # the default\n    epochs: 1\n- ME.Around: {}")
    assert digest(recipe) == digest(other, (ME,))
    assert len(digest(recipe)) == 64
    assert digest(recipe) != digest(replace(recipe, seed=1))


def test_equal_beginnings_have_equal_hashes() -> None:
    recipe = read(page("- ME.Shrink: {epochs: 1}\n- ME.Around: "), (ME,))
    other = replace(recipe, name="other", stages=(recipe.stages[0], Shrink(epochs=9)))
    assert [hash_prefix(recipe, k) == hash_prefix(other, k) for k in (0, 1, 2)] == [True, True, False]
    assert hash_prefix(recipe, 1) != hash_prefix(replace(recipe, precision="bf16"), 1)
    assert hash_prefix(recipe, 1) != hash_prefix(recipe, 2)
    with pytest.raises(ValueError, match="a-recipe has 2 stages: its first 3 cannot be hashed"):
        hash_prefix(recipe, 3)
