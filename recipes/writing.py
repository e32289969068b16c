"""Putting specs on paper: plain values, the human layout of a page, and the form that is hashed."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

import yaml

from recipes.names import DOTTED, fields, is_spec, name_of
from recipes.scalars import PageLoader

WIDTH = 110
TUPLE = "!tuple"


@dataclass(frozen=True)
class Call:
    """`name: {fields}` on a page."""

    name: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Tagged:
    """A tuple where nothing but its tag would tell it from a list."""

    items: tuple[Any, ...]


def call(value: Any) -> Call:
    """The call that makes this spec again; fields equal to their defaults are left out.

    Raises ValueError for what a page cannot hold, naming the field.
    """
    cls = type(value)
    name = name_of(cls)
    given = {field: getattr(value, field) for field in fields(cls)}
    lists, tuples = _again(value, given, tagged=False), _again(value, given, tagged=True)
    written = {}
    for field, info in fields(cls).items():
        if not info.is_required() and info.get_default(call_default_factory=True) == given[field]:
            continue
        where = f"{name}'s {field}"
        if lists is not None and getattr(lists, field) == given[field]:
            written[field] = _plain(given[field], tagged=False, where=where)
        elif tuples is not None and getattr(tuples, field) == given[field]:
            written[field] = _plain(given[field], tagged=True, where=where)
        else:
            raise ValueError(f"{where} is {given[field]!r:.80}, which a page would give back changed")
    return Call(name, written)


def canonical(value: Any) -> Any:
    """The same as JSON values, whole: defaults too, so that a changed default is a changed recipe."""
    if is_spec(type(value)):
        return {
            name_of(type(value)): {field: canonical(getattr(value, field)) for field in fields(type(value))}
        }
    if isinstance(value, dict):
        return {json.dumps(canonical(key)): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((canonical(item) for item in value), key=repr)
    return _leaf(value, "a hash")


def layout(page: Call) -> str:
    """The text of a page: a call to a line where it fits, one field to a line where it does not."""
    return "\n".join(_entry(f"{page.name}:", page.fields, 0, top=True)) + "\n"


def line(page: Call) -> str:
    """The same on one line, however long: `compress.KSE: {granularity: 4}`."""
    return f"{page.name}: {_flow(page.fields)}"


def inline(value: Any) -> str:
    """A value on one line, as it would stand on a page."""
    return _flow(_plain(value, tagged=False, where="it"))


def show(value: Any, width: int = 60) -> str:
    """A value as it would stand on a page, cut to `width` characters; text in quotes, a spec by its name."""
    if is_spec(type(value)):
        return name_of(type(value))
    try:
        text = repr(value) if isinstance(value, str) else _flow(_plain(value, tagged=False, where="it"))
    except ValueError:
        text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def _again(value: Any, given: dict[str, Any], *, tagged: bool) -> Any:
    """The spec made anew from what a page would hold, or None where that is refused."""
    try:
        return type(value)(**{name: _as_read(item, tagged) for name, item in given.items()})
    except (TypeError, ValueError):
        return None


def _as_read(value: Any, tagged: bool) -> Any:
    if isinstance(value, dict):
        return {_as_read(key, tagged): _as_read(item, tagged) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [_as_read(item, tagged) for item in value]
        return tuple(items) if tagged and isinstance(value, tuple) else items
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, PurePath) else value


def _plain(value: Any, *, tagged: bool, where: str) -> Any:
    if is_spec(type(value)):
        return call(value)
    if isinstance(value, dict):
        keys = [_leaf(key, where) for key in value]
        return dict(
            zip(keys, (_plain(item, tagged=tagged, where=where) for item in value.values()), strict=True)
        )
    if isinstance(value, list | tuple | set | frozenset):
        ordered: Iterable[Any] = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        items = [_plain(item, tagged=tagged, where=where) for item in ordered]
        return Tagged(tuple(items)) if tagged and isinstance(value, tuple) else items
    return _leaf(value, where)


def _leaf(value: Any, where: str) -> Any:
    if isinstance(value, Enum):
        return _leaf(value.value, where)
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{where} holds a {type(value).__name__}, {value!r:.80}, which a page cannot hold")


# -- layout -----------------------------------------------------------------------------------------------


def _entry(head: str, value: Any, indent: int, *, top: bool = False) -> list[str]:
    """The lines of `head value`, all of them indented."""
    if isinstance(value, Call) and not head.endswith("-"):
        line = f"{head} {_flow(value)}"
        return (
            [" " * indent + line]
            if _fits(line, value, indent)
            else [" " * indent + head, *_below(value, indent + 2)]
        )
    if isinstance(value, Call):
        return _entry(f"{head} {value.name}:", value.fields, indent)
    line = f"{head} {_flow(value)}"
    if not top and _fits(line, value, indent):
        return [" " * indent + line]
    # Below "- name:" the fields stand clear of the name: two columns for the dash, two for the depth.
    return [" " * indent + head, *_below(value, indent + (4 if head.startswith("- ") else 2))]


def _below(value: Any, indent: int) -> list[str]:
    if isinstance(value, Call):
        return _entry(f"{value.name}:", value.fields, indent)
    if isinstance(value, dict) and value:
        return [line for key, item in value.items() for line in _entry(f"{_key(key)}:", item, indent)]
    if isinstance(value, list) and value:
        return [line for item in value for line in _item(item, indent)]
    return [" " * indent + _flow(value)]


def _item(value: Any, indent: int) -> list[str]:
    if isinstance(value, Call):
        return _entry("-", value, indent)
    return [f"{' ' * indent}- {_flow(value)}"]


def _fits(line: str, value: Any, indent: int) -> bool:
    return indent + len(line) <= WIDTH and _depth(value) <= 2


def _depth(value: Any) -> int:
    """How many calls lie inside one another; a list of calls counts as too deep for one line."""
    if isinstance(value, Call):
        return 1 + max((_depth(item) for item in value.fields.values()), default=0)
    if isinstance(value, dict):
        return max((_depth(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 3 if any(isinstance(item, Call) for item in value) else max(map(_depth, value), default=0)
    return max(map(_depth, value.items), default=0) if isinstance(value, Tagged) else 0


def _flow(value: Any) -> str:
    if isinstance(value, Call):
        return f"{{{value.name}: {_flow(value.fields)}}}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, Tagged):
        return f"{TUPLE} [{', '.join(map(_flow, value.items))}]"
    return _scalar(value)


_SAFE = re.compile(r"[A-Za-z0-9_./](?:[A-Za-z0-9_./ -]*[A-Za-z0-9_./-])?", re.ASCII)


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value).replace("inf", ".inf").replace("nan", ".nan")
    return str(value) if _SAFE.fullmatch(value) and _is_text(value) else _quoted(value)


def _key(value: Any) -> str:
    # A bare dotted key would be a call.
    return _quoted(value) if isinstance(value, str) and DOTTED.fullmatch(value) else _scalar(value)


def _quoted(value: str) -> str:
    return '"' + "".join(map(_escaped, value)) + '"'


def _is_text(value: str) -> bool:
    # Also where a reader of YAML 1.1 would see a number, a date or a switch, as in `on`.
    return all(
        resolver.resolve(yaml.ScalarNode, value, (True, False)) == "tag:yaml.org,2002:str"
        for resolver in (PageLoader(""), yaml.SafeLoader(""))
    )


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
