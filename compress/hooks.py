"""Places in a network, and hearing what passes them while it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

Key = TypeVar("Key")


@dataclass(frozen=True)
class Point:
    """A place in a network: what a module gives, or what it takes in."""

    module: str
    before: bool = False

    def __str__(self) -> str:
        return f"the input of '{self.module}'" if self.before else f"'{self.module}'"


@contextmanager
def hooked(
    network: nn.Module, points: Mapping[Key, Point], note: Callable[[Key, Any], Any]
) -> Iterator[None]:
    """Call note(key, value) whenever something passes a point of `network` meanwhile; no hook outlives it.

    The value is what the module gives, or its first positional argument, None where it has none. What `note` returns
    takes its place, unless it is None. Raises KeyError for a module that is not there.
    """
    parts = dict(network.named_modules())
    handles: list[Any] = []
    try:
        for key, point in points.items():
            part = parts[point.module]
            if point.before:
                handles.append(
                    part.register_forward_pre_hook(
                        lambda _, args, key=key: note(key, args[0] if args else None)
                    )
                )
            else:
                handles.append(part.register_forward_hook(lambda _, __, output, key=key: note(key, output)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def outputs_of(network: nn.Module, names: Sequence[str], into: dict[str, Tensor]) -> Iterator[None]:
    """Note what the named modules give meanwhile, where it is a tensor, in `into`."""

    def note(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            into[name] = output

    with hooked(network, {name: Point(name) for name in names}, note):
        yield
