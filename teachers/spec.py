"""What every written-down object of this house is: a frozen, checked dataclass.

A stage, a network, a task, a checkpoint and a recipe are all *specs*: hyperparameters with types and bounds,
no state, comparable, printable, and written to a page and read back equal.
"""

from __future__ import annotations

from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as _dataclass

T = TypeVar("T")

__all__ = ["Field", "spec"]

_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def spec(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass whose fields pydantic checks against their types and bounds.

    A value out of range raises `pydantic.ValidationError`, a `ValueError`, wherever the object is made:
    from a page, from Python, or by `dataclasses.replace`.
    """
    made: Any = _dataclass(frozen=True, config=_CONFIG)(cls)
    return made  # type: ignore[no-any-return]
