"""The layers that KSE may work on: their kernels by input channel, and what a way to share them costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from compress.indicator import NEIGHBOURS, kernels_of_level
from reports.profile import layers
from students.kernels import SharedConvolution, packed_bytes
from students.surgery import spared

_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass
class Item:
    """A layer that may share kernels.

    kernels (groups, C / groups, N / groups, D); macs of one input, as dense; `levels` (C,) of its input channels,
    for a granularity and shift
    """

    name: str
    module: nn.Module
    kernels: Tensor
    macs: int
    granularity: int = 0
    shift: int = 0
    levels: Tensor | None = None

    @property
    def outputs(self) -> int:
        """Kernels of one input channel."""
        return self.kernels.shape[2]

    @property
    def size(self) -> int:
        """Numbers of a kernel."""
        return self.kernels.shape[3]

    @property
    def channels(self) -> int:
        """Input channels of the whole layer."""
        return self.kernels.shape[0] * self.kernels.shape[1]

    def counts(self) -> list[int]:
        """Q of every input channel."""
        assert self.levels is not None
        return [
            kernels_of_level(level, self.outputs, self.granularity, self.shift)
            for level in self.levels.tolist()
        ]

    def bytes(self, half: bool) -> int:
        """What its kernels, indices and levels take when stored."""
        return bytes_of(self.counts(), self.outputs, self.size, half)

    def dense_bytes(self) -> int:
        """What its kernels take now."""
        return 4 * self.kernels.numel()


def kernels_of(module: nn.Module) -> Tensor:
    """A layer's kernels by input channel: (groups, C / groups, N / groups, D)."""
    weight = module.weight.detach().cpu()  # type: ignore[union-attr, operator]
    groups = getattr(module, "groups", 1)
    if isinstance(module, _TRANSPOSED):
        return weight.reshape(groups, -1, weight.shape[1], math.prod(weight.shape[2:]))
    split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], math.prod(weight.shape[2:]))
    return split.transpose(1, 2).contiguous()


def mark(module: nn.Module, values: Tensor) -> None:
    """Write a number into all weights of each input channel."""
    groups = getattr(module, "groups", 1)
    weight = module.weight.detach()  # type: ignore[union-attr, operator]
    values = values.to(weight)
    if isinstance(module, _TRANSPOSED):
        weight.copy_(values.view(-1, *[1] * (weight.dim() - 1)).expand_as(weight))
        return
    rows = values.view(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1).flatten(0, 1)
    weight.copy_(rows.reshape(*rows.shape, *[1] * (weight.dim() - 2)).expand_as(weight))


def empty(module: nn.Module, shared: Sequence[tuple[int, int]], half: bool) -> SharedConvolution:
    """The layer with shared kernels, all of them 0, that takes the place of a convolution or a linear layer."""
    bias = getattr(module, "bias", None) is not None
    if isinstance(module, nn.Linear):
        return SharedConvolution(module.in_features, module.out_features, (), shared, bias=bias, half=half)
    assert isinstance(module, _PLAIN + _TRANSPOSED)
    return SharedConvolution(
        module.in_channels, module.out_channels, module.kernel_size, shared, module.stride, module.padding,
        module.dilation, module.groups, bias, module.padding_mode, isinstance(module, _TRANSPOSED),
        module.output_padding, half,
    )  # fmt: skip


def sort_out(
    network: nn.Module, inputs: tuple[Tensor, ...], spare: Sequence[str], transposed: bool, linear: bool
) -> tuple[int, list[Item], dict[str, str]]:
    """MACs of one input of the whole network, the layers to work on, and those left alone with reasons.

    Raises ValueError where a layer's weights are not finite, or a pattern to spare matches none.
    """
    apart = spared(network, spare)
    macs = macs_of(network, inputs)
    modules = dict(network.named_modules())
    first = next((name for name in macs if not isinstance(modules[name], nn.Linear)), None)
    last = next(reversed(macs), None)
    times = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
    items: list[Item] = []
    left: dict[str, str] = {}
    for name, module in modules.items():
        if isinstance(module, SharedConvolution):
            left[name] = "it shares kernels already"
            continue
        if type(module) not in (*_PLAIN, *_TRANSPOSED, nn.Linear):
            continue
        weight: Tensor = module.weight  # type: ignore[assignment]
        if not weight.isfinite().all():
            bad = int((~weight.isfinite()).sum())
            raise ValueError(
                f"{bad} of {weight.numel()} weights of '{name}' are not finite: nothing to cluster"
            )
        kernels = kernels_of(module)
        _, channels, outputs, _ = kernels.shape
        reasons = (
            (name not in macs, "the network never calls it"),
            (name in apart, "spared by the recipe"),
            (name == first, "the first convolution"),
            (name == last, "the classifier"),
            (isinstance(module, _TRANSPOSED) and not transposed, "transposed, not asked for"),
            (isinstance(module, nn.Linear) and not linear, "linear, not asked for"),
            (times[id(weight)] > 1, "its weight is shared with another layer"),
            (channels < 2, "one input channel, with which nothing can be compared"),
            (outputs < NEIGHBOURS + 2, f"fewer than {NEIGHBOURS + 2} outputs a channel"),
        )
        reason = next((why for holds, why in reasons if holds), None)
        if reason is None:
            items.append(Item(name, module, kernels, macs[name]))
        else:
            left[name] = reason
    return sum(macs.values()), items, left


def macs_of(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """MACs of one input of every convolution and linear layer, in the order they are first called."""
    kinds = (*_PLAIN, *_TRANSPOSED, nn.Linear, SharedConvolution)
    modules = dict(network.named_modules())
    return {
        layer.name: layer.macs
        for layer in layers(network, inputs)
        if isinstance(modules.get(layer.name), kinds)
    }


def bytes_of(counts: Iterable[int], outputs: int, size: int, half: bool) -> int:
    """Stored bytes of a layer whose channels keep so many of `outputs` kernels of `size` numbers.

    4 (or 2) q D for every channel, ceil(log2 q) bits for every output of a channel with 0 < q < N, those of one q
    together rounded up to bytes, and a byte a channel for its level.
    """
    times = Counter(counts)
    kernels = sum(q * n for q, n in times.items()) * size * (2 if half else 4)
    indices = sum(packed_bytes(outputs * n, q) for q, n in times.items() if 0 < q < outputs)
    return kernels + indices + times.total()
