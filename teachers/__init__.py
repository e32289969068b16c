"""What is known: trained networks, the tasks they were taught, and where their weights come from.

Checkpoint (at rest) and Teacher (at work), Train where a teacher must be made first; the architectures are in
`teachers.networks`, the data sets in `teachers.tasks`. Names are fetched when first asked for: PyTorch is not
imported by reading a page's address.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from teachers import networks, tasks
    from teachers.teacher import Checkpoint, Teacher
    from teachers.train import Train

__all__ = ["Checkpoint", "Teacher", "Train", "networks", "tasks"]

_HOMES = {"Checkpoint": "teachers.teacher", "Teacher": "teachers.teacher", "Train": "teachers.train"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in __all__:
        return import_module(f"teachers.{name}")
    raise AttributeError(f"module 'teachers' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
