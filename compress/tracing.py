"""A network followed by torch.fx, and where in its graph each module began and ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn


class Tracer(fx.Tracer):
    """Stops at layers of torch.nn, and remembers what every other module, too, took in and gave.

    given, taken  by name, the proxy of a module's output and of its first input; of several calls the last counts
    """

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, Any] = {}
        self.taken: dict[str, Any] = {}

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """As fx does, noted."""
        where = self.path_of_module(m)
        self.taken[where] = args[0] if args else None
        self.given[where] = super().call_module(m, forward, args, kwargs)
        return self.given[where]


def up_to(module: nn.Module, layer: str) -> fx.GraphModule:
    """The network as far as the output of one of its modules, by name; weights are shared with it.

    Raises ValueError where fx cannot follow it.
    """
    tracer = Tracer()
    try:
        graph = tracer.trace(module)
    except Exception as problem:
        raise ValueError(
            f"{type(module).__name__} cannot be cut at {layer!r}, since it cannot be traced: {problem}"
        ) from problem
    (output,) = graph.find_nodes(op="output")
    output.args = (tracer.given[layer].node,)
    part = fx.GraphModule(module, graph)
    part.graph.eliminate_dead_code()
    part.delete_all_unused_submodules()
    part.recompile()
    return part
