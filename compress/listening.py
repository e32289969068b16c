"""What passes inside networks while they answer: features at named places, heard without being touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compress.hooks import Point, hooked
from compress.panel import Panel
from reports.profile import observed
from teachers.nearest import did_you_mean

LAST = ""
"""the place that stands for what the last layer takes in"""


@contextmanager
def heard(network: nn.Module, taps: Mapping[str, Point]) -> Iterator[dict[str, Tensor]]:
    """The features at `taps` (as `places` gives them) of the last call made meanwhile, by tap."""
    features: dict[str, Tensor] = {}
    with hooked(network, taps, features.__setitem__):
        yield features


def places(network: nn.Module, taps: Sequence[str], inputs: tuple[Tensor, ...], who: str) -> dict[str, Point]:
    """Where each tap is: what a module gives, or for LAST what the last layer takes in.

    Raises ValueError for a module that is not there or not called, one that gives no tensor, and one whose output is
    overwritten by what follows: it is compared with a copy, once.
    """
    parts = {name: part for name, part in network.named_modules() if name}
    for tap in taps:
        if tap != LAST and tap not in parts:
            raise ValueError(
                f"{who} has no layer {tap!r}{did_you_mean(tap, list(parts))}; there are {', '.join(list(parts)[:24])}"
            )
    called: list[str] = []
    watched = {n: Point(n) for n, part in parts.items() if isinstance(part, nn.Linear | _ConvNd) or n in taps}
    with hooked(network, watched, lambda name, _: called.append(name)), observed(network), torch.no_grad():
        network(*inputs)
    layers = [name for name in called if isinstance(parts[name], nn.Linear | _ConvNd)]
    there = ", ".join(dict.fromkeys(layers))
    if silent := [tap for tap in taps if tap != LAST and tap not in called]:
        raise ValueError(f"layer {silent[0]!r} of {who} is not called when it answers: there are {there}")
    if LAST in taps and not layers:
        raise ValueError(
            f"{who} calls no convolution and no linear layer: name the layer whose features are meant"
        )
    found = {tap: Point(layers[-1], before=True) if tap == LAST else Point(tap) for tap in taps}
    _undisturbed(network, found, inputs, who, there)
    return found


def _undisturbed(
    network: nn.Module, taps: Mapping[str, Point], inputs: tuple[Tensor, ...], who: str, there: str
) -> None:
    copies: dict[str, Tensor] = {}

    def copy(tap: str, value: Any) -> None:
        if not isinstance(value, Tensor):
            raise ValueError(
                f"layer {taps[tap].module!r} of {who} gives a {type(value).__name__}, and features are one tensor: "
                f"take one of {there}"
            )
        copies[tap] = value.clone()

    with (
        hooked(network, taps, copy), heard(network, taps) as features,
        observed(network), torch.no_grad(),
    ):  # fmt: skip
        network(*inputs)
    for tap, feature in features.items():
        if not torch.equal(feature, copies[tap]):
            raise ValueError(
                f"what layer {taps[tap].module!r} of {who} gives is overwritten in place by what follows "
                f"(inplace=True?): take the layer behind it, one of {there}"
            )


class Choir:
    """Teachers heard at several places each while they are asked.

    taps    of teachers whose places have other names than `plain`
    widths  per place, every teacher's number of channels there
    Raises ValueError for a name that is no teacher's, for other numbers of places, and as `places` does.
    """

    def __init__(self, panel: Panel, plain: Sequence[str], taps: Mapping[str, Sequence[str]]) -> None:
        if strange := [name for name in taps if name not in panel.names]:
            raise ValueError(
                f"teacher_taps name {strange[0]!r}, who is not asked: there are {', '.join(panel.names)}"
            )
        self.panel, self.taps = panel, {name: tuple(taps.get(name, plain)) for name in panel.names}
        for name, own in self.taps.items():
            if len(own) != len(plain):
                raise ValueError(
                    f"the student is heard at {len(plain)} layers ({', '.join(plain)}), teacher {name!r} at {len(own)} "
                    f"({', '.join(own)}): as many are needed, in the same order"
                )
        device = next(iter(panel.members[0].teacher.module.parameters())).device
        images = panel.given.example(2)[0].to(device)
        self.places = {
            m.name: places(m.teacher.module, self.taps[m.name], (m.fronted(images),), f"teacher {m.name!r}")
            for m in panel.members
        }
        self.widths = [[feature.shape[1] for feature in row] for row in self.ask(images)[1]]

    @torch.no_grad()
    def ask(self, images: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Every teacher's logits; and per place every teacher's feature."""
        answers, rows = [], []
        for member in self.panel.members:
            with heard(member.teacher.module, self.places[member.name]) as features:
                answers.append(member.teacher(member.fronted(images)).float())
            rows.append([features[tap] for tap in self.taps[member.name]])
        return answers, [list(row) for row in zip(*rows, strict=True)]
