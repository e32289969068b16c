"""The user's own network, or torchvision's: anything a function in an importable module builds."""

import importlib
from dataclasses import field
from typing import Annotated, Any

from pydantic import JsonValue
from torch import nn

from teachers.nearest import did_you_mean
from teachers.networks.network import Network
from teachers.spec import Field, spec


@spec
class Own(Network):
    """The network that calling `factory` with `arguments` gives.

    Own(factory="torchvision.models:resnet18", arguments={"num_classes": 10})

    Building it imports and runs that code: use it with modules you trust.
    """

    factory: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
    """what to call, as package.module:callable; a class or a function"""
    arguments: dict[str, JsonValue] = field(default_factory=dict)
    """by keyword; plain values, so that they can be written on a page"""

    @property
    def package(self) -> str:
        """The top-level package whose code `build` runs."""
        return self.factory.partition(":")[0].partition(".")[0]

    def build(self) -> nn.Module:
        """A fresh network.

        Raises ValueError where the module or the callable is not there, where the call fails, and where what
        it returns is not an nn.Module.
        """
        make = self._find()
        if not callable(make):
            raise ValueError(
                f"{self.factory} is {_a(make)}, which cannot be called: name a class or a function"
            )
        try:
            module = make(**self.arguments)
        except Exception as problem:
            given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
            raise ValueError(
                f"{self.factory}({given}) failed: {type(problem).__name__}: {problem}"
            ) from problem
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"{self.factory} gave {_a(module)}: a network's factory returns a torch.nn.Module"
            )
        return module

    def _find(self) -> Any:
        path, _, attribute = self.factory.partition(":")
        try:
            found: Any = importlib.import_module(path)
        except ModuleNotFoundError as problem:
            if problem.name is not None and (path == problem.name or path.startswith(problem.name + ".")):
                raise ValueError(
                    f"{self.factory}: there is no module {problem.name!r} to import; install it, or put the "
                    "folder that holds it on PYTHONPATH"
                ) from problem
            raise ValueError(f"{self.factory}: importing {path} failed: {problem}") from problem
        except Exception as problem:
            raise ValueError(
                f"{self.factory}: importing {path} failed: {type(problem).__name__}: {problem}"
            ) from problem
        where = path
        for name in attribute.split("."):
            if not hasattr(found, name):
                hint = did_you_mean(name, (near for near in vars(found) if not near.startswith("_")))
                raise ValueError(f"{self.factory}: {where} has no {name!r}{hint}")
            found, where = getattr(found, name), f"{where}.{name}"
        return found


def _a(thing: object) -> str:
    kind = type(thing).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
