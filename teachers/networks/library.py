"""Networks of torchvision and timm by name, as they are before training: weights come from the checkpoint's file."""

from collections.abc import Iterable
from dataclasses import field
from typing import Annotated, Any

from pydantic import JsonValue, field_validator
from torch import nn

from teachers.nearest import did_you_mean
from teachers.networks.network import Network
from teachers.spec import Field, spec

_FETCHES = (
    "pretrained",
    "weights",
    "weights_backbone",
    "checkpoint_path",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
)
# Of torchvision's, those that answer with two tensors while they are trained unless told not to.
_AUXILIARY = ("googlenet", "inception_v3")


def _own_weights(arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Raise ValueError for an argument that would fetch weights."""
    if fetching := [name for name in arguments if name in _FETCHES]:
        raise ValueError(
            f"{fetching[0]!r} would fetch or load weights: a network is built without, and the checkpoint's weights "
            "name the file"
        )
    return arguments


@spec
class _ByName(Network):
    """What networks of a library share: a name, outputs, and more for the call that builds them."""

    name: str
    """as the library has it"""
    classes: Annotated[int, Field(ge=1)] = 1000
    """outputs"""
    arguments: dict[str, JsonValue] = field(default_factory=dict)
    """more for the library's builder, by keyword"""

    _checked = field_validator("arguments")(_own_weights)


@spec
class Torchvision(_ByName):
    """A classifier of torchvision.models by name, never with downloaded weights.

    Torchvision(name="resnet50", classes=10)

    GoogLeNet and Inception come without their auxiliary classifiers, since a teacher gives one tensor.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """as torchvision.models.list_models() has it"""

    @property
    def package(self) -> str:
        """The top-level package whose code `build` runs."""
        return "torchvision"

    def origin(self) -> dict[str, Any]:
        """The call that makes it, for whoever loads a student that torch.fx cannot trace."""
        more = {"aux_logits": False} if self.name in _AUXILIARY else {}
        given = {"name": self.name, "num_classes": self.classes, **more, **self.arguments}
        return {"factory": "torchvision.models:get_model", "arguments": given}

    def build(self) -> nn.Module:
        """A fresh network. Raises ValueError for a name that torchvision does not have, and where the call fails."""
        from torchvision import models

        _known(self.name, models.list_models(module=models), "torchvision")
        return _made(models.get_model, self.origin()["arguments"], f"torchvision's {self.name}")


@spec
class Timm(_ByName):
    """A classifier of timm by name, never with downloaded weights; timm has to be installed (`decoct[timm]`).

    Timm(name="mobilenetv3_small_050", classes=10)
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*(\.[a-z0-9_]+)?$")]
    """as timm.list_models() has it; a tag behind a dot is taken, and says nothing without weights"""
    channels: Annotated[int, Field(ge=1)] = 3
    """of the input image"""

    @property
    def package(self) -> str:
        """The top-level package whose code `build` runs."""
        return "timm"

    def origin(self) -> dict[str, Any]:
        """The call that makes it, for whoever loads a student that torch.fx cannot trace."""
        given = {
            "model_name": self.name,
            "num_classes": self.classes,
            "in_chans": self.channels,
            **self.arguments,
        }
        return {"factory": "timm:create_model", "arguments": given}

    def build(self) -> nn.Module:
        """A fresh network.

        Raises ValueError where timm is not installed or has no such name, and where the call fails.
        """
        try:
            import timm
        except ModuleNotFoundError as problem:
            if problem.name != "timm":
                raise
            raise ValueError(
                f"{self.name} is a network of timm, which is not installed: pip install 'decoct[timm]', or name "
                "another network"
            ) from problem
        _known(self.name.partition(".")[0], timm.list_models(), "timm")
        return _made(timm.create_model, self.origin()["arguments"], f"timm's {self.name}")


def _known(name: str, names: Iterable[str], library: str) -> None:
    if name not in names:
        known = sorted(names)
        hint = (
            did_you_mean(name, known)
            or f"; it has {len(known)}, such as {', '.join(known[:: len(known) // 6])}"
        )
        raise ValueError(f"{library} has no network {name!r}{hint}")


def _made(make: Any, arguments: dict[str, Any], what: str) -> nn.Module:
    try:
        module: nn.Module = make(**arguments)
    except Exception as problem:
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise ValueError(
            f"{what} cannot be built with {given}: {type(problem).__name__}: {problem}"
        ) from problem
    return module
