"""What a page may say, told to editors (JSON schema) and to people (`decoct describe`)."""

import inspect
import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from recipes.names import fields, find, is_spec, name_of, walk
from recipes.writing import show
from teachers.nearest import did_you_mean

_CALL = "decoct:call"


def schema(trust: tuple[str, ...] = ()) -> dict[str, Any]:
    """The JSON schema of a page (draft 2020-12): a `recipes.Recipe` call, every other call under `$defs`.

    A call is an object with one key. Where a field asks for a Stage, a Network or a Task, every spec of that
    kind is offered, those of packages in `trust` as well.
    """
    specs = walk(trust)
    definitions = {name: _definition(name, cls, specs) for name, cls in specs.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A decoct recipe",
        "$ref": "#/$defs/recipes.Recipe",
        "$defs": definitions,
    }


def _definition(name: str, cls: type, specs: Mapping[str, type]) -> dict[str, Any]:
    class Generator(_Generator):
        root = cls
        known = specs

    made = TypeAdapter(cls).json_schema(schema_generator=Generator)
    inside = _inline(made, made.pop("$defs", {}))
    inside.pop("title", None)
    inside.pop("description", None)
    optional = {"anyOf": [inside, {"type": "null"}]} if not inside.get("required") else inside
    return {
        "type": "object",
        "description": inspect.getdoc(cls) or name,
        "properties": {name: optional},
        "required": [name],
        "additionalProperties": False,
    }


class _Generator(GenerateJsonSchema):
    """pydantic's own, but specs inside a spec become calls, and an abstract class all calls that fit it."""

    root: type
    known: Mapping[str, type]

    def dataclass_schema(self, schema: Any) -> JsonSchemaValue:
        if schema["cls"] is self.root:
            return super().dataclass_schema(schema)
        return {_CALL: [name_of(schema["cls"])]}

    def is_instance_schema(self, schema: Any) -> JsonSchemaValue:
        wanted = schema["cls"]
        return {_CALL: [name for name, cls in self.known.items() if issubclass(cls, wanted)]}


def _inline(value: Any, definitions: Mapping[str, Any]) -> Any:
    """Put pydantic's definitions where they are used, and references to our calls in place of the marks."""
    if isinstance(value, list):
        return [_inline(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    if _CALL in value:
        calls = [{"$ref": f"#/$defs/{name}"} for name in value[_CALL]]
        rest = {key: item for key, item in value.items() if key != _CALL}
        return rest | (calls[0] if len(calls) == 1 else {"anyOf": calls} if calls else {"type": "object"})
    if isinstance(reference := value.get("$ref"), str) and reference.startswith("#/$defs/"):
        rest = {key: item for key, item in value.items() if key != "$ref"}
        return _inline({**definitions[reference.removeprefix("#/$defs/")], **rest}, definitions)
    return {key: _inline(item, definitions) for key, item in value.items()}


# -- for people -------------------------------------------------------------------------------------------


def describe(name: str | None = None, trust: tuple[str, ...] = ()) -> str:
    """A spec's docstring and fields: type and bounds, default, meaning; without a name, what there is.

    Raises ValueError for a name that is not there, with the nearest ones.
    """
    if name is None:
        return "\n".join(_listing(walk(trust)))
    if "." not in name:
        names = walk(trust)
        ends = [full for full in names if full.rpartition(".")[2] == name]
        if len(ends) != 1:
            near = did_you_mean(name, [full.rpartition(".")[2] for full in names])
            raise ValueError(
                f"there is no {name!r} to describe{near}" if not ends else f"{name!r} is any of {ends}"
            )
        name = ends[0]
    cls = find(name, trust)
    lines = [name_of(cls), "", inspect.getdoc(cls) or "", ""]
    for field, info in fields(cls).items():
        annotation = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        default = (
            "required"
            if info.is_required()
            else f"default {show(info.get_default(call_default_factory=True))}"
        )
        lines.append(f"  {field}: {kind(annotation)}; {default}")
        lines += [f"      {line}" for line in meaning(cls, field).splitlines()]
    return "\n".join(lines) + "\n"


def meaning(cls: type, field: str) -> str:
    """What is said under a field: pydantic reads it in the class that declares the field, not in those that inherit
    it.
    """
    said = (
        fields(base)[field].description for base in cls.__mro__ if is_spec(base) and field in fields(base)
    )
    return next((text for text in said if text), "")


def _listing(specs: Mapping[str, type]) -> Iterator[str]:
    width = max(map(len, specs), default=0)
    package = ""
    for name, cls in specs.items():
        if name.rpartition(".")[0] != package:
            if package:
                yield ""
            package = name.rpartition(".")[0]
        yield f"{name:{width}}  {(inspect.getdoc(cls) or '').partition(chr(10))[0]}".rstrip()


def kind(annotation: Any) -> str:
    """An annotation with its bounds, in words: `int, at least 1`."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [bound for mark in inside[1:] for bound in _bounds(mark)]
        return ", ".join([kind(inside[0]), *bounds])
    if origin is Literal:
        return " or ".join(map(repr, inside))
    if origin in (Union, types.UnionType):
        return " or ".join(map(kind, inside))
    if annotation is type(None):
        return "null"
    if origin in (tuple, list) and len(inside) == 2 and inside[1] is ...:
        return f"list of ({kind(inside[0])})" if "," in kind(inside[0]) else f"list of {kind(inside[0])}"
    if origin is tuple:
        return f"list of {len(inside)}: {', '.join(map(kind, inside))}"
    if origin is list:
        return f"list of {kind(inside[0])}"
    if inside and isinstance(origin, type):
        return f"mapping from {kind(inside[0])} to {kind(inside[-1])}"
    if is_spec(annotation):
        return name_of(annotation)
    return str(getattr(annotation, "__name__", annotation))


_WORDS = {
    "ge": "at least {:g}",
    "gt": "more than {:g}",
    "le": "at most {:g}",
    "lt": "less than {:g}",
    "multiple_of": "a multiple of {:g}",
    "min_length": "at least {} long",
    "max_length": "at most {} long",
    "pattern": "matching {}",
}


def _bounds(mark: Any) -> list[str]:
    marks = [mark, *getattr(mark, "metadata", ())]
    found = [(word, getattr(each, word, None)) for each in marks for word in _WORDS]
    return [
        _WORDS[word].format(bound.pattern if isinstance(bound, re.Pattern) else bound)
        for word, bound in found
        if bound is not None
    ]
