"""YAML in, objects out, and back again: recipes on paper.

A mapping with one bare dotted key is a call: `compress.GAL: {epochs: 100}` reads `compress.GAL(epochs=100)`.
Names are found by importing; only the frozen specs of this house, and of packages the user trusts, can be
named. A key in quotes is never a call, so that any mapping can be written down.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from recipes.names import DOTTED, HOUSE, allowed, find, is_spec, name_of
from recipes.scalars import MAP, SEQ, STR, PageLoader, no_tag, scalar
from recipes.wording import Broken, Steps, place, switches, wrongs
from recipes.writing import TUPLE, call, canonical, layout, show

if TYPE_CHECKING:
    from recipes.recipe import Recipe

_RECIPE = "recipes.Recipe"


class PageError(ValueError):
    """A page that cannot be read; `messages` holds every mistake found, in the page's order."""

    def __init__(self, messages: tuple[str, ...], page: str = "the page") -> None:
        self.messages = messages
        self.page = page
        if len(messages) == 1:
            super().__init__(f"{page}: {messages[0]}")
        else:
            super().__init__("\n  ".join([f"{page} has {len(messages)} mistakes:", *messages]))


def read(page: str | Path, trust: tuple[str, ...] = ()) -> "Recipe":
    """The recipe on a page: the page's text, or a path to it (a `Path`, or one line that ends in .yaml).

    trust  packages, beside those of this house, whose specs and network factories the page may name

    Raises PageError with all mistakes at once, each with its line; OSError where the file cannot be read.
    """
    text, name = _text(page)
    reader = _Reader(trust)
    node, value = _value(reader, text, name, "recipe", f"begin with `{_RECIPE}:`")
    from recipes.recipe import Recipe

    if not isinstance(value, Recipe | Broken):
        held = show(value) if is_spec(type(value)) else f"`{show(value)}`"
        reader.note("recipe", node, f"a page holds one {_RECIPE}, this one holds {held}")
    reader.complain(name)
    assert isinstance(value, Recipe)
    return value


def values(text: str, trust: tuple[str, ...] = (), *, name: str = "the text") -> Any:
    """What a piece of YAML holds, read as inside a page: numbers and words, lists, mappings, and calls made.

    Raises PageError as `read` does; `name` is what it calls the text.
    """
    reader = _Reader(trust)
    _, value = _value(reader, text, name, "it", "write something into it")
    reader.complain(name)
    return value


def write(recipe: "Recipe") -> str:
    """The page of a recipe, such that `read(write(recipe)) == recipe`.

    Fields equal to their defaults are left out, the others stand in the order of the class. Raises ValueError
    for what a page cannot hold, naming the field: a class made inside a function, an object that is no spec.
    """
    return layout(call(recipe))


def digest(recipe: "Recipe | str | Path", trust: tuple[str, ...] = ()) -> str:
    """The sha256 of a recipe, or of the one on a page, in hexadecimal.

    Taken over the fields, defaults included, so that neither layout nor comments matter, and a default that
    changed does.
    """
    return _sha256(canonical(read(recipe, trust) if isinstance(recipe, str | Path) else recipe))


def hash_prefix(recipe: "Recipe", stages: int) -> str:
    """The sha256 of a recipe's beginning: teachers, task, seed, precision and the first `stages` stages.

    Equal beginnings of different recipes have equal hashes, whatever the recipes are called.
    """
    if not 0 <= stages <= len(recipe.stages):
        raise ValueError(
            f"{recipe.name} has {len(recipe.stages)} stages: its first {stages} cannot be hashed"
        )
    return _sha256(
        {
            "teachers": canonical(recipe.teachers),
            "task": canonical(recipe.task),
            "seed": recipe.seed,
            "precision": recipe.precision,
            "stages": canonical(recipe.stages[:stages]),
        }
    )


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _value(reader: "_Reader", text: str, name: str, path: str, hint: str) -> tuple[yaml.Node, Any]:
    """The node of a text, and its value as far as it could be read."""
    try:
        node = yaml.compose(text, Loader=PageLoader)
        if node is None:
            raise PageError((f"it is empty: {hint}",), name)
        return node, reader.value(node, path)
    except yaml.MarkedYAMLError as problem:
        raise PageError((_not_yaml(problem),), name) from problem
    except yaml.YAMLError as problem:
        raise PageError((f"it is not YAML: {str(problem).splitlines()[0]}",), name) from problem
    except RecursionError as problem:
        raise PageError(("it is nested too deeply to be a recipe",), name) from problem


def _text(page: str | Path) -> tuple[str, str]:
    if isinstance(page, str) and ("\n" in page or not page.endswith((".yaml", ".yml"))):
        return page, "the page"
    try:
        return Path(page).read_text(encoding="utf-8"), str(page)
    except UnicodeDecodeError as problem:
        raise PageError(
            (f"it is not UTF-8 text: {problem.reason} at byte {problem.start}",), str(page)
        ) from problem


def _not_yaml(problem: yaml.MarkedYAMLError) -> str:
    mark = problem.problem_mark or problem.context_mark
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    context = f"{problem.context}, " if problem.context else ""
    return f"it is not YAML{where}: {context}{problem.problem}"


class _Reader:
    """Turns nodes into values from the inside out, noting mistakes and going on."""

    def __init__(self, trust: tuple[str, ...]) -> None:
        self.trust = trust
        self.mistakes: list[tuple[int, str]] = []
        self._inside: list[yaml.Node] = []

    def note(self, path: str, node: yaml.Node, text: str) -> Broken:
        message = f"{path} (line {node.start_mark.line + 1}): {text}"
        if (node.start_mark.index, message) not in self.mistakes:
            self.mistakes.append((node.start_mark.index, message))
        return Broken()

    def complain(self, name: str) -> None:
        """Raise PageError with all that was noted, in the order of the text called `name`."""
        if self.mistakes:
            told = sorted(self.mistakes, key=lambda mistake: mistake[0])
            raise PageError(tuple(text for _, text in told), name)

    def value(self, node: yaml.Node, path: str) -> Any:
        if any(node is outer for outer in self._inside):
            return self.note(path, node, "an alias refers to what it lies in")
        self._inside.append(node)
        try:
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node, path)
            if isinstance(node, yaml.SequenceNode):
                if node.tag not in (SEQ, TUPLE):
                    return self.note(path, node, no_tag(node))
                items = [self.value(item, f"{path}[{place}]") for place, item in enumerate(node.value)]
                return tuple(items) if node.tag == TUPLE else items
            assert isinstance(node, yaml.MappingNode)
            return self._mapping(node, path)
        finally:
            self._inside.pop()

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Any:
        try:
            return scalar(node)
        except ValueError as problem:
            return self.note(path, node, str(problem))

    def _mapping(self, node: yaml.MappingNode, path: str) -> Any:
        if node.tag != MAP:
            return self.note(path, node, no_tag(node))
        calls = [key for key, _ in node.value if _is_call(key)]
        if len(node.value) == 1 and calls:
            key, inside = node.value[0]
            return self._call(key.value, key, inside, path)
        # Two stages under one dash, or fields not set deeper than the name they belong to.
        forgotten = [key for key in calls if allowed(key.value, self.trust)]
        if forgotten:
            others = [f"'{key.value}'" for key, _ in node.value if key is not forgotten[0]]
            text = (
                f"{forgotten[0].value!r} shares its mapping with {', '.join(others)}: a call stands alone, "
                "with its fields deeper than its name; every item of a list begins with '-'"
            )
            return self.note(path, forgotten[0], text)
        return self._pairs(node, path, lambda key: f"{path}{key if key.startswith('[') else '.' + key}")

    def _pairs(self, node: yaml.MappingNode, path: str, below: Any) -> Any:
        found: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node, path) if isinstance(key_node, yaml.ScalarNode) else None
            if isinstance(key, Broken) or not isinstance(key_node, yaml.ScalarNode):
                self.note(path, key_node, "a key is a word or a number, neither a list nor a mapping")
                continue
            if key in found:
                self.note(
                    path, key_node, f"{key!r} stands here twice, in line {lines[key]} too: keep one of them"
                )
                continue
            lines[key] = key_node.start_mark.line + 1
            found[key] = self.value(value_node, below(place((key,))))
        return found

    def _call(self, name: str, key: yaml.Node, node: yaml.Node, path: str) -> Any:
        try:
            cls = find(name, self.trust)
        except ValueError as problem:
            cls = None
            self.note(path, key, str(problem))
        if isinstance(node, yaml.MappingNode) and node.tag == MAP:
            given = self._pairs(node, path, lambda step: f"{path}.{step}")
        elif isinstance(node, yaml.ScalarNode) and self._scalar(node, path) is None:
            given = {}
        else:
            return self.note(
                path, node, f"{name} takes its fields as `name: value`, not as a list or a single value"
            )
        if cls is None or isinstance(given, Broken):
            return Broken()
        words = {field: value for field, value in given.items() if isinstance(field, str)}
        if len(words) < len(given):
            odd = next(field for field in given if not isinstance(field, str))
            return self.note(path, node, f"{name}'s fields are words, not {show(odd)}")
        return self._make(cls, words, key, node, path)

    def _make(self, cls: type, given: dict[str, Any], key: yaml.Node, node: yaml.Node, path: str) -> Any:
        for wrong in switches(cls, given):
            self.note(path, _deepest(node, wrong.steps) or key, wrong.text)
        try:
            made = cls(**given)
        except ValidationError as problem:
            for wrong in wrongs(cls, given, problem):
                self.note(path, _deepest(node, wrong.steps) or key, wrong.text)
            return Broken()
        except ValueError as problem:
            return self.note(path, key, f"{name_of(cls)}: {problem}")
        factory = getattr(made, "factory", None)  # the contract of teachers.networks.Own: code that is called
        if isinstance(factory, str) and not self._may_call(factory):
            text = (
                f"{name_of(cls)}'s factory {factory!r} is code that no page may run by itself: only "
                "functions of torchvision.models are; "
                f"use --trust {factory.partition(':')[0].partition('.')[0]} if you trust it"
            )
            return self.note(path, _deepest(node, ("factory",)) or key, text)
        return made

    def _may_call(self, factory: str) -> bool:
        # Even a trusted module's attributes lead anywhere (`module:os.system`); the user vouches for them. Of
        # torchvision only the plain names of its model zoo are let in, and nothing reached through them.
        module, _, attribute = factory.partition(":")
        if module == "torchvision.models" and attribute.isidentifier() and not attribute.startswith("_"):
            return True
        return any(module == package or module.startswith(package + ".") for package in self.trust)


def _is_call(key: yaml.Node) -> bool:
    return (
        isinstance(key, yaml.ScalarNode)
        and key.style is None
        and key.tag == STR
        and DOTTED.fullmatch(key.value) is not None
    )


def _deepest(node: yaml.Node, steps: Steps) -> yaml.Node | None:
    """The node that the steps lead to, as far as they lead: a key of a mapping, an item of a list."""
    nearest: yaml.Node | None = None
    for step in steps:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if pair is None:
                return nearest
            nearest, node = pair
        elif isinstance(node, yaml.SequenceNode):
            nearest = node = node.value[step]
        else:
            return nearest
    return nearest


__all__ = ["HOUSE", "PageError", "digest", "hash_prefix", "read", "values", "write"]
