"""What is made: smaller networks, and keeping them.

    import students

    students.save(student, "compact", signature)      # a folder that predicts and trains on without us
    student = students.take_out("compact")

Names are fetched when they are first used: importing this package imports no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from students.compact import Proof as Proof
    from students.compact import bytes_on_disk as bytes_on_disk
    from students.compact import card as card
    from students.compact import put_away as put_away
    from students.compact import save as save
    from students.compact import take_out as take_out
    from students.structure import Untraceable as Untraceable
    from students.structure import describe as describe

_HOMES = {
    **dict.fromkeys(("Proof", "bytes_on_disk", "card", "put_away", "save", "take_out"), "students.compact"),
    **dict.fromkeys(("Untraceable", "describe"), "students.structure"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'students' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
