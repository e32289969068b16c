"""What a stage would do, before it does it: what it would leave, how sure that is, and how much work it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from teachers.networks.network import Network
from teachers.signature import Signature

if TYPE_CHECKING:
    from compress.stage import State

Back = Literal["nothing", "inputs", "weights"]
"""where gradients go: nowhere, to the inputs, or to the weights, which then take a step"""


Follows = Literal["settings", "weights", "training"]


@dataclass(frozen=True)
class Pass:
    """A network that batches go through, so many times.

    network    module, or whatever else takes inputs and has parameters, as masks do
    times      batches, a fraction where some are parts
    back       where gradients go
    batch      samples a batch; None where batches are the task's own
    signature  whose inputs go in; None where they are the task's own
    """

    network: Any
    times: float
    back: Back = "nothing"
    batch: int | None = None
    signature: Signature | None = None


@dataclass(frozen=True)
class Feed:
    """What is known of the data before any is read: how many batches a pass over train and over val takes.

    batch, signature   of batches that are not the task's own: generated ones
    """

    steps: int = 1
    val_steps: int = 1
    batch: int | None = None
    signature: Signature | None = None

    def of(self, state: State, generated: bool) -> Feed:
        """The feed of a stage that learns from the state's generated inputs, where it does."""
        if not generated or state.generated is None:
            return self
        batch = min(128, len(state.generated))
        return Feed(len(state.generated) // batch, 0, batch, state.teachers[0].signature)

    def total(self, epochs: float) -> int:
        """Batches in so many epochs, the last of which may be a part of one: as `Session.total_steps`."""
        whole, part = int(epochs), epochs % 1
        return whole * self.steps + (max(1, round(part * self.steps)) if part else 0)

    def through(self, network: Any, times: float, back: Back = "nothing") -> Pass:
        """So many of these batches through a network."""
        return Pass(network, times, back, self.batch, self.signature)


@dataclass(frozen=True)
class Forecast:
    """What a stage would do.

    state    what it would leave: a student of the right shape, whose weights mean nothing
    lines    what a reader should know, in words
    skipped  reason -> layers, groups or blocks that stay as they are for it
    follows  what the student's cost follows from: the settings alone; the weights that come in, too; or the training
             itself, so that it can only be said about
    fresh    whether the student's shape has nothing to do with what came in
    least    the smallest network that the stage could leave, whatever its budget; None: the one in `state`
    blocks   what keeps that from being smaller, in words
    refused  why the stage would refuse its work
    passes   the networks it runs
    batches  of train that it reads
    seconds  of work besides, as it was measured
    settled  what does not depend on weights: the same for a network before and after its training
    """

    state: State
    lines: tuple[str, ...] = ()
    skipped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    follows: Follows = "settings"
    fresh: bool = False
    least: nn.Module | None = None
    blocks: str = ""
    refused: str | None = None
    passes: tuple[Pass, ...] = ()
    batches: float = 0.0
    seconds: float = 0.0
    settled: tuple[str, ...] = ()


def shapes(network: nn.Module) -> tuple[str, ...]:
    """Every tensor of a network, as `name (shape)`."""
    return tuple(f"{name} {tuple(tensor.shape)}" for name, tensor in network.state_dict().items())


def built(state: State, network: Network) -> State:
    """The state with a fresh student; its first values cost no randomness."""
    with torch.random.fork_rng(devices=[]):
        return replace(state, student=network.build())


def drawn(state: State, count: int, signature: Signature) -> State:
    """The state with so many generated inputs in it, which take no memory."""
    (shape,) = signature.inputs
    return replace(state, generated=torch.zeros(()).expand(count, *shape))


def latents(width: int) -> Signature:
    """What a generator takes."""
    return Signature(inputs=((width,),), labels=())


def parts(count: float, batch: int) -> int:
    """Batches that so many samples make."""
    return math.ceil(count / batch)
