"""What is done, in which order: recipes, their pages, the runner and the command.

Names are imported when they are first used, so that `decoct --help` need not wait for PyTorch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recipes.budget import Budget
    from recipes.page import PageError, read, write
    from recipes.recipe import Recipe, Workshop
    from recipes.run import run

__all__ = ["Budget", "PageError", "Recipe", "Workshop", "read", "run", "write"]

_HOMES = {
    "Budget": "recipes.budget",
    "PageError": "recipes.page",
    "Recipe": "recipes.recipe",
    "Workshop": "recipes.recipe",
    "read": "recipes.page",
    "run": "recipes.run",
    "write": "recipes.page",
}


class _Door(ModuleType):
    """`recipes.run` is the function, whoever imported the module of that name first."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Python binds a submodule to its parent once it is loaded. `from recipes.run import ...` needs no
        # such binding, and without this `from recipes import run` would depend on what was imported before.
        super().__setattr__(name, value.run if name == "run" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Door


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
