"""What passes inside a network while it answers: features at named places, heard without being touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from reports.profile import observed
from teachers.nearest import did_you_mean

LAST = ""
"""the place that stands for what the last layer takes in"""


@contextmanager
def heard(network: nn.Module, taps: Mapping[str, tuple[str, bool]]) -> Iterator[dict[str, Tensor]]:
    """The features at `taps` of the last call made meanwhile, by tap; no hook outlives it.

    taps  as `places` gives them: tap -> (module, whether what goes into it is meant)
    """
    parts = dict(network.named_modules())
    features: dict[str, Tensor] = {}
    handles = []

    def keep(tap: str, value: Any) -> None:
        features[tap] = value

    try:
        for tap, (name, before) in taps.items():
            part = parts[name]
            if before:
                handles.append(part.register_forward_pre_hook(lambda _, args, tap=tap: keep(tap, args[0])))
            else:
                handles.append(part.register_forward_hook(lambda _, __, out, tap=tap: keep(tap, out)))
        yield features
    finally:
        for handle in handles:
            handle.remove()


def places(
    network: nn.Module, taps: Sequence[str], inputs: tuple[Tensor, ...], who: str
) -> dict[str, tuple[str, bool]]:
    """Where each tap is: a module's name, and whether what goes in is meant. LAST is what the last layer takes in.

    Raises ValueError for a module that is not there or not called, one that gives no tensor, and one whose output is
    overwritten by what follows: it is compared with a copy, once.
    """
    names = [name for name, _ in network.named_modules() if name]
    for tap in taps:
        if tap != LAST and tap not in names:
            raise ValueError(
                f"{who} has no layer {tap!r}{did_you_mean(tap, names)}; there are {', '.join(names[:24])}"
            )
    called: list[str] = []
    handles = [
        part.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, part in network.named_modules()
        if isinstance(part, nn.Linear | _ConvNd) or name in taps
    ]
    try:
        with observed(network), torch.no_grad():
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    parts = dict(network.named_modules())
    layers = [name for name in called if isinstance(parts[name], nn.Linear | _ConvNd)]
    if silent := [tap for tap in taps if tap != LAST and tap not in called]:
        raise ValueError(
            f"layer {silent[0]!r} of {who} is not called when it answers: there are {', '.join(dict.fromkeys(layers))}"
        )
    if LAST in taps and not layers:
        raise ValueError(
            f"{who} calls no convolution and no linear layer: name the layer whose features are meant"
        )
    found = {tap: ((layers[-1], True) if tap == LAST else (tap, False)) for tap in taps}
    _undisturbed(network, found, inputs, who, layers)
    return found


def _undisturbed(
    network: nn.Module,
    taps: Mapping[str, tuple[str, bool]],
    inputs: tuple[Tensor, ...],
    who: str,
    layers: list[str],
) -> None:
    copies: dict[str, Tensor] = {}
    parts = dict(network.named_modules())
    handles = []

    def copy(tap: str, value: Any) -> None:
        if not isinstance(value, Tensor):
            raise ValueError(
                f"layer {taps[tap][0]!r} of {who} gives a {type(value).__name__}, and features are one tensor: take "
                f"one of {', '.join(dict.fromkeys(layers))}"
            )
        copies[tap] = value.clone()

    try:
        for tap, (name, before) in taps.items():
            if before:
                handles.append(parts[name].register_forward_pre_hook(lambda _, a, tap=tap: copy(tap, a[0])))
            else:
                handles.append(parts[name].register_forward_hook(lambda _, __, out, tap=tap: copy(tap, out)))
        with heard(network, taps) as features, observed(network), torch.no_grad():
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    for tap, feature in features.items():
        if not torch.equal(feature, copies[tap]):
            raise ValueError(
                f"what layer {taps[tap][0]!r} of {who} gives is overwritten in place by what follows (inplace=True?): "
                f"take the layer behind it, one of {', '.join(dict.fromkeys(layers))}"
            )
