"""From a dotted name on a page to a class, by importing; and from a class to the name a page should use."""

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, get_args

from pydantic.dataclasses import is_pydantic_dataclass

from teachers.nearest import did_you_mean

HOUSE = ("compress", "teachers", "students", "recipes", "reports")
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


def is_spec(thing: object) -> bool:
    """Whether this is a class that may stand on a page: a frozen dataclass checked by pydantic."""
    if not isinstance(thing, type) or not is_pydantic_dataclass(thing):
        return False
    return bool(thing.__dataclass_params__.frozen)  # type: ignore[attr-defined]


def allowed(name: str, trust: Iterable[str] = ()) -> bool:
    """Whether a dotted name lies in this house or in a package the user trusts."""
    return any(name == package or name.startswith(package + ".") for package in (*HOUSE, *trust))


def find(name: str, trust: tuple[str, ...] = ()) -> type:
    """The spec called `name`, "compress.GAL". Raises ValueError; what is not trusted is not even imported."""
    if not allowed(name, trust):
        top = name.partition(".")[0]
        hint = did_you_mean(top, (*HOUSE, *trust))
        raise ValueError(
            f"{name!r} is neither of this house ({', '.join(HOUSE)}) nor of a package named with --trust, "
            f"and was not imported{hint or '; trust its package, or quote the key if it is plain data'}"
        )
    if any(part.startswith("_") for part in name.split(".")):
        raise ValueError(f"{name!r} is private: only public names may stand on a page")
    where, _, last = name.rpartition(".")
    module = _module(where)
    try:
        thing = getattr(module, last)
    except AttributeError:
        raise ValueError(f"{where} has no {last!r}{_elsewhere(last, module, trust)}") from None
    except ImportError as problem:
        raise ValueError(f"importing {name} failed: {problem}") from problem
    if not is_spec(thing) or inspect.isabstract(thing):
        kind = "is abstract" if is_spec(thing) else "is not a frozen spec"
        raise ValueError(f"{name!r} {kind}, so a page cannot ask for it{_elsewhere(last, module, trust)}")
    if not allowed(thing.__module__, trust):
        raise ValueError(
            f"{name!r} comes from {thing.__module__}, which is neither of this house nor trusted"
        )
    found: type = thing
    return found


def name_of(cls: type) -> str:
    """The shortest name by which a page can call `cls`: `compress.GAL` rather than `compress.gal.GAL`."""
    parts = cls.__module__.split(".")
    for end in range(1, len(parts) + 1):
        where = ".".join(parts[:end])
        module = sys.modules.get(where) or importlib.import_module(where)
        if getattr(module, cls.__qualname__, None) is cls:
            return f"{where}.{cls.__qualname__}"
    raise ValueError(
        f"{cls.__qualname__} of {cls.__module__} cannot be imported by name, so no page can call it: "
        "move it to the top level of a module"
    )


def specs_in(module: ModuleType) -> dict[str, type]:
    """The specs a module shows, by name: those in `__all__`, or else all public ones it defines."""
    shown = getattr(module, "__all__", None)
    names = shown if shown is not None else dir(module)
    # Classes begin with a capital; asking a lazy front door for its functions would import what they need.
    things = {name: getattr(module, name, None) for name in names if name[:1].isupper()}
    return {
        name: thing
        for name, thing in things.items()
        if is_spec(thing) and not inspect.isabstract(thing) and isinstance(thing, type)
    }


def walk(trust: tuple[str, ...] = ()) -> dict[str, type]:
    """Every spec a page may call, by its shortest name.

    Found behind the front doors (the packages and their subpackages), and in the fields of what was found.
    """
    found: dict[str, type] = {}
    # reports has instruments, none of which a page calls; asking for them would import what draws pictures.
    packages = [package for package in HOUSE if package != "reports"]
    waiting = [cls for door in _doors((*packages, *trust)) for cls in specs_in(door).values()]
    while waiting:
        cls = waiting.pop()
        if allowed(cls.__module__, trust) and (name := name_of(cls)) not in found:
            found[name] = cls
            waiting += [
                part for field in fields(cls).values() for part in parts(field.annotation) if is_spec(part)
            ]
    return dict(sorted(found.items()))


def fields(cls: type) -> dict[str, Any]:
    """The fields a page may give, in order, as pydantic knows them (`FieldInfo`)."""
    known: dict[str, Any] = cls.__pydantic_fields__  # type: ignore[attr-defined]
    return {name: field for name, field in known.items() if field.init is not False}


def parts(annotation: Any) -> Iterator[Any]:
    """An annotation and everything inside it: `tuple[int, ...]`, then `int`, then the dots."""
    yield annotation
    for inner in get_args(annotation):
        yield from parts(inner)


def _module(name: str) -> ModuleType:
    words = name.split(".")
    for end in range(1, len(words) + 1):
        where = ".".join(words[:end])
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as problem:
            if problem.name != where:  # it is there, and what is missing is something it needs
                raise ValueError(f"importing {where} failed: {problem}") from problem
            inside = pkgutil.iter_modules(getattr(module, "__path__", [])) if end > 1 else ()
            around = [".".join((*words[: end - 1], inner.name)) for inner in inside]
            raise ValueError(f"there is no module {where!r}{did_you_mean(where, around)}") from None
        except ImportError as problem:
            raise ValueError(f"importing {where} failed: {problem}") from problem
    return module


def _elsewhere(word: str, module: ModuleType, trust: tuple[str, ...]) -> str:
    here = specs_in(module)
    hint = did_you_mean(word, here)
    if hint:
        return hint
    there = [name for name in walk(trust) if name.rpartition(".")[2].lower() == word.lower()]
    if there:
        return f"; did you mean {' or '.join(map(repr, there))}?"
    return f"; it has {', '.join(sorted(here))}" if here else ""


def _doors(packages: Iterable[str]) -> Iterator[ModuleType]:
    for package in packages:
        door = _module(package)
        yield door
        for inner in pkgutil.iter_modules(getattr(door, "__path__", [])):
            if inner.ispkg:
                yield _module(f"{package}.{inner.name}")
