"""What lies below a layer of a network, found by what its output depends on; held still while the rest learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reports.profile import observed
from teachers.nearest import did_you_mean


@dataclass(frozen=True)
class Below:
    """What a layer's output depends on, the layer itself included.

    parameters  that must not be trained
    modules     to be kept in eval mode: those of which every part that is called lies below
    names       of these modules
    """

    parameters: tuple[nn.Parameter, ...]
    modules: tuple[nn.Module, ...]
    names: frozenset[str]

    def hold(self) -> None:
        """Eval mode for what is frozen: its norms do not move, its dropout is off. Call it after `train()`."""
        for module in self.modules:
            module.training = False


def below(network: nn.Module, layer: str, inputs: Sequence[Tensor]) -> Below:
    """What the output of the module named `layer` depends on, found by following gradients back through one pass.

    Where a network branches, a path beside the layer is not below it, though it may be called before. The network's
    parameters must require gradients. Raises ValueError for a layer that is not there or not called.
    """
    names = [name for name, _ in network.named_modules() if name]
    if layer not in names:
        raise ValueError(
            f"{type(network).__name__} has no layer {layer!r} to freeze{did_you_mean(layer, names)}"
        )
    made: dict[str, list[Tensor]] = {}
    ends: list[Tensor] = []
    leaves = {name: part for name, part in network.named_modules() if not list(part.children())}
    handles = []

    def note(name: str, output: object) -> Tensor | None:
        for tensor in output if isinstance(output, list | tuple) else (output,):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                made.setdefault(name, []).append(tensor)
        # What works in place behind a layer gets a copy, and leaves what was noted where it is.
        return output.clone() if isinstance(output, Tensor) else None

    try:
        for name, part in leaves.items():
            handles.append(part.register_forward_hook(lambda _, __, out, name=name: note(name, out)))
        end = network.get_submodule(layer).register_forward_hook(
            lambda _, __, out: ends.extend(
                t.clone() for t in (out if isinstance(out, list | tuple) else (out,))
            )
        )
        handles.append(end)
        with observed(network), torch.enable_grad():
            network(*(x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs))
    finally:
        for handle in handles:
            handle.remove()
    if not ends:
        raise ValueError(
            f"layer {layer!r} of {type(network).__name__} is not called: name another to freeze below"
        )
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    outputs = [(name, tensor) for name, tensors in made.items() for tensor in tensors]
    slopes = torch.autograd.grad(
        [end.sum() for end in ends], [*parameters, *(tensor for _, tensor in outputs)], allow_unused=True
    )
    still = tuple(p for p, slope in zip(parameters, slopes, strict=False) if slope is not None)
    under = {
        name for (name, _), slope in zip(outputs, slopes[len(parameters) :], strict=True) if slope is not None
    }
    whole = []
    for name, part in network.named_modules():
        prefix = f"{name}." if name else ""
        called = [leaf for leaf in made if leaf == name or leaf.startswith(prefix)]
        if called and all(leaf in under for leaf in called):
            whole.append((name, part))
    return Below(still, tuple(part for _, part in whole), frozenset(name for name, _ in whole))


def freeze(network: nn.Module, layer: str, inputs: Sequence[Tensor]) -> Below:
    """Find what lies below, and take it out of training. Raises ValueError where nothing would be left to learn."""
    found = below(network, layer, inputs)
    for parameter in found.parameters:
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(
            f"all weights of {type(network).__name__} lie below {layer!r}: nothing is left to learn. Freeze below an "
            "earlier layer, or not at all (frozen: false)"
        )
    return found
