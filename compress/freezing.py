"""What lies below a layer of a network, found by what its output depends on; held still while the rest learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.hooks import Point, hooked
from reports.profile import observed
from teachers.nearest import did_you_mean


def below(network: nn.Module, layer: str, inputs: Sequence[Tensor]) -> tuple[str, ...]:
    """Names of all that the output of the module named `layer` depends on, itself included: see `Still`.

    Found by following gradients back through one pass: where a network branches, a path beside the layer is not below
    it, though it may be called before. Raises ValueError for a layer that is not there or not called.
    """
    names = [name for name, _ in network.named_modules() if name]
    if layer not in names:
        raise ValueError(f"{type(network).__name__} has no layer {layer!r}{did_you_mean(layer, names)}")
    made: list[tuple[str, Tensor]] = []
    ends: list[Tensor] = []
    parts = {name: Point(name) for name, part in network.named_modules() if not list(part.children())}

    def note(name: str, output: object) -> Tensor | None:
        parts = output if isinstance(output, list | tuple) else (output,)
        made.extend((name, part) for part in parts if isinstance(part, Tensor) and part.requires_grad)
        # What works in place behind a layer gets a copy, and leaves what was noted where it is.
        return output.clone() if isinstance(output, Tensor) else None

    def note_end(_: str, output: object) -> None:
        ends.extend(part.clone() for part in (output if isinstance(output, list | tuple) else (output,)))

    with (
        hooked(network, parts, note), hooked(network, {layer: Point(layer)}, note_end),
        observed(network), torch.enable_grad(),
    ):  # fmt: skip
        network(*(x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs))
    if not ends:
        raise ValueError(f"layer {layer!r} of {type(network).__name__} is not called: name another")
    weights = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
    slopes = torch.autograd.grad(
        [end.sum() for end in ends], [tensor for _, tensor in (*weights, *made)], allow_unused=True
    )
    under = [name for (name, _), slope in zip((*weights, *made), slopes, strict=True) if slope is not None]
    modules = dict.fromkeys(under[sum(slope is not None for slope in slopes[: len(weights)]) :])
    alone = [name for name in under if name not in modules and name.rpartition(".")[0] not in modules]
    return (*modules, *alone)


@dataclass(frozen=True)
class Still:
    """What is not to be learned anew in a network: layers, and weights that belong to no layer.

    names    of both; a layer is a module without children
    modules  the layers: they stay in eval mode, so that norms do not move
    """

    names: tuple[str, ...]
    modules: tuple[nn.Module, ...]

    def hold(self) -> None:
        """Eval mode for them; call it after `train()`."""
        for module in self.modules:
            module.eval()


def freeze(network: nn.Module, names: Sequence[str]) -> Still:
    """Take what is named out of training, in place.

    Raises ValueError for names that the network does not have, and where nothing would be left to learn.
    """
    modules, weights = dict(network.named_modules()), dict(network.named_parameters())
    missing = [name for name in names if name not in modules and name not in weights]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(names)} parts to be left as they are, {missing[0]!r} say, are not in the "
            f"student{did_you_mean(missing[0], modules)}: tune before it is cut or replaced, or set frozen to false"
        )
    for name in names:
        (modules[name] if name in modules else weights[name]).requires_grad_(False)
    if not any(weight.requires_grad for weight in weights.values()):
        raise ValueError(
            f"all weights of {type(network).__name__} are to stay as they are: nothing is left to learn. Choose an "
            "earlier layer, or set frozen to false"
        )
    return Still(tuple(names), tuple(modules[name] for name in names if name in modules))
