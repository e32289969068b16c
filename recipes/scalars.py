"""What a bare word on a page means: YAML 1.2's core schema, in which `1e-2` is a number and `on` is a word.

PyYAML follows YAML 1.1, where `1e-2` is text, `off` is false, `010` is eight and `1:30` is ninety.
"""

import re
from typing import Any

import yaml

STR = "tag:yaml.org,2002:str"
MAP = "tag:yaml.org,2002:map"
SEQ = "tag:yaml.org,2002:seq"
NULL = "tag:yaml.org,2002:null"
_BOOL = "tag:yaml.org,2002:bool"
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"


class PageLoader(yaml.SafeLoader):
    """Composes nodes with YAML 1.2's scalars; it is never asked to construct anything."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own


def _resolve(tag: str, pattern: str, first: str) -> None:
    PageLoader.add_implicit_resolver(tag, re.compile(rf"(?:{pattern})\Z", re.ASCII), list(first))


_resolve(NULL, r"~|null|Null|NULL", "~nN")
PageLoader.add_implicit_resolver(NULL, re.compile(r"\Z"), [""])  # nothing at all
_resolve(_BOOL, r"true|True|TRUE|false|False|FALSE", "tTfF")
_resolve(_INT, r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789")
_resolve(
    _FLOAT,
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+.0123456789",
)


def scalar(node: yaml.ScalarNode) -> Any:
    """The value of a scalar. Raises ValueError for unknown tags, and for values unfit for their tag."""
    text = node.value
    if node.tag == STR:
        return text
    if node.tag == NULL:
        return None
    if node.tag == _BOOL and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if node.tag == _INT:
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if node.tag == _FLOAT:
        return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))
    raise ValueError(no_tag(node))


def no_tag(node: yaml.Node) -> str:
    """What to say of a tag, `!!python/tuple`, that means nothing here."""
    return f"a page knows no tag {node.tag.replace('tag:yaml.org,2002:', '!!')!r}"
