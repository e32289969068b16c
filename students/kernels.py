"""Convolutions whose output channels share kernels, within every input channel; PyTorch is all this file needs.

It goes into a compact folder beside load.py, where such a layer is part of the network.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_COPY = 90  # multiply-accumulates that take as long as copying one number of the input (measured, generously)


def bits(count: int) -> int:
    """Bits of one index among `count` kernels: ceil(log2 count), none where there is no choice."""
    return (count - 1).bit_length()


def packed_bytes(numbers: int, count: int) -> int:
    """Bytes that so many indices among `count` kernels take."""
    return -(-numbers * bits(count) // 8)


def pack(index: Tensor, count: int) -> Tensor:
    """Indices in 0 .. count - 1, any shape, as bytes: big-endian, row by row, the last byte filled from the right."""
    width = bits(count)
    if width == 0:
        return torch.zeros(0, dtype=torch.uint8)
    shifts = torch.arange(width - 1, -1, -1)
    flat = ((index.reshape(-1, 1).long() >> shifts) & 1).reshape(-1)
    rest = -len(flat) % 8
    if rest:
        start = len(flat) - (8 - rest)
        flat = torch.cat([flat[:start], flat.new_zeros(rest), flat[start:]])
    return (flat.view(-1, 8) << torch.arange(7, -1, -1)).sum(1).to(torch.uint8)


def unpack(packed: Tensor, count: int, numbers: int) -> Tensor:
    """The indices that `pack` put away: (numbers,), integers."""
    width = bits(count)
    if width == 0:
        return torch.zeros(numbers, dtype=torch.long, device=packed.device)
    if len(packed) != packed_bytes(numbers, count):
        raise ValueError(
            f"{numbers} indices among {count} kernels take {packed_bytes(numbers, count)} bytes, not {len(packed)}"
        )
    shifts = torch.arange(7, -1, -1, device=packed.device)
    flat = ((packed.long()[:, None] >> shifts) & 1).reshape(-1)
    rest = -numbers * width % 8
    if rest:
        flat = torch.cat([flat[:-8], flat[rest - 8 :]])
    weights = 1 << torch.arange(width - 1, -1, -1, device=packed.device)
    return (flat.view(numbers, width) * weights).sum(1)


class SharedConvolution(nn.Module):
    """A convolution whose N kernels of an input channel are picked from q of its own; of no dimension, a linear layer.

        y_n = bias_n + sum_c  x_c * centroid_{c, index_c(n)},      centroid = kernel / sqrt(outputs that share it)

    shared    ((q, channels), ...): how many input channels keep how many kernels, in rising order of q, from 0
              (the channel is not read, and nothing of it is stored) to N / groups (all of them, without an index)
    half      kernels are rounded to 16 bits whenever the layer goes into evaluation mode, and stored so

    Parameters: `kernels` (sum of q * channels, *kernel_size), entry by entry of `shared`, channel by channel (`parts`);
    `bias` (N,). Buffers: `level` (C,), which entry of `shared` each input channel belongs to; `packed`, the indices as
    bytes (`pack`; for every q between 1 and N / groups, row by row over (output, channel)). Other arguments are those
    of nn.Conv1d to nn.Conv3d, or of their transposed kin (weight (C, N / groups, *kernel_size), no output padding left
    to the call).

    Trains centroids and full kernels. With the root, a step of gradient descent on the kernels is the step on the dense
    weight, averaged over the outputs that share, and weight decay sees the dense weight's norm; without it a centroid
    would take a step as many times too long as there are outputs that share it.

    In evaluation mode the dense weight is put together once, and again when a parameter has changed.
    """

    level: Tensor
    packed: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        shared: Sequence[Sequence[int]],
        stride: Sequence[int] = (1,),
        padding: Sequence[int] | str = (0,),
        dilation: Sequence[int] = (1,),
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        transposed: bool = False,
        output_padding: Sequence[int] = (0,),
        half: bool = False,
    ) -> None:
        super().__init__()
        dims = len(kernel_size)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = tuple(kernel_size)
        self.stride, self.dilation = _full(stride, dims), _full(dilation, dims)
        self.output_padding = _full(output_padding, dims)
        self.padding = padding if isinstance(padding, str) else _full(padding, dims)
        self.padding_mode, self.transposed, self.half_stored = padding_mode, transposed, half
        self.shared = tuple((int(q), int(channels)) for q, channels in shared)
        self.outputs = out_channels // groups
        counts = [q for q, _ in self.shared]
        if sum(channels for _, channels in self.shared) != in_channels or counts != sorted(set(counts)):
            raise ValueError(
                f"shared={self.shared} must name each number of kernels once, in rising order, and hold all "
                f"{in_channels} input channels"
            )
        if counts and not 0 <= counts[0] <= counts[-1] <= self.outputs:
            raise ValueError(f"shared={self.shared}: a channel has between 0 and {self.outputs} kernels")
        total = sum(q * channels for q, channels in self.shared)
        self.kernels = nn.Parameter(torch.zeros(total, *self.kernel_size))
        self.bias: nn.Parameter | None
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_channels)) if bias else None)
        starts = [place for place, (_, channels) in enumerate(self.shared) for _ in range(channels)]
        self.register_buffer("level", torch.tensor(starts, dtype=torch.uint8))
        size = sum(packed_bytes(self.outputs * n, q) for q, n in self.shared if 0 < q < self.outputs)
        self.register_buffer("packed", torch.zeros(size, dtype=torch.uint8))
        self._layout: tuple[Any, ...] = ()
        self._ready: tuple[Any, ...] = ()

    def parts(self, of: Tensor | None = None) -> list[Tensor]:
        """The kernels (or `of` as many values: their gradients) by entry of `shared`: (channels, q, *kernel_size)."""
        entries = [(q, channels) for q, channels in self.shared if q]
        flat = (self.kernels if of is None else of).split([q * channels for q, channels in entries])
        return [part.unflatten(0, (channels, q)) for part, (q, channels) in zip(flat, entries, strict=True)]

    # -- the dense weight -------------------------------------------------------------------------------------

    def channels(self) -> list[Tensor]:
        """Which input channels belong to each entry of `shared`, in rising order."""
        return [(self.level == place).nonzero()[:, 0] for place in range(len(self.shared))]

    def index(self) -> list[Tensor | None]:
        """For each entry of `shared` its (outputs, channels) indices; None where q is 0, or every kernel is kept."""
        result: list[Tensor | None] = []
        start = 0
        for q, channels in self.shared:
            if not 0 < q < self.outputs:
                result.append(None)
                continue
            numbers = self.outputs * channels
            stop = start + packed_bytes(numbers, q)
            result.append(unpack(self.packed[start:stop], q, numbers).view(self.outputs, channels))
            start = stop
        return result

    def weight(self) -> Tensor:
        """The dense weight, (N, C / groups, *kernel_size) or transposed (C, N / groups, *kernel_size).

        Differentiable in the kernels; channels that are not read have zeros.
        """
        rows, dropped, shares = self._gathered()
        kernels = self.kernels * shares.rsqrt().view(-1, *[1] * len(self.kernel_size))
        if dropped:
            kernels = torch.cat([kernels, kernels.new_zeros(1, *self.kernel_size)])
        whole = kernels[rows]
        if not self.transposed:  # whole is (C, outputs, *kernel_size)
            grouped = whole.unflatten(0, (self.groups, self.in_channels // self.groups))
            whole = grouped.transpose(1, 2).flatten(0, 1)
        return whole

    def shares(self) -> Tensor:
        """How many outputs take each kernel, (sum of q * channels,), at least 1."""
        return self._gathered()[2]

    def _gathered(self) -> tuple[Tensor, bool, Tensor]:
        """The kernel each output of each channel takes, (C, outputs); whether some take none (a row more); `shares`."""
        key = (self.level.data_ptr(), self.level._version, self.packed.data_ptr(), self.packed._version)
        if self._layout[:4] != key:
            rows = torch.full((self.in_channels, self.outputs), len(self.kernels), device=self.level.device)
            start = 0
            for (q, channels), members, index in zip(self.shared, self.channels(), self.index(), strict=True):
                if q:
                    own = torch.arange(channels, device=self.level.device)[:, None] * q + start
                    every = torch.arange(self.outputs, device=self.level.device)
                    rows[members] = own + (every if index is None else index.T)
                start += q * channels
            taken = rows.flatten().bincount(minlength=len(self.kernels) + 1)[: len(self.kernels)]
            dropped = bool(self.shared) and self.shared[0][0] == 0
            self._layout = (*key, rows, dropped, taken.clamp_min(1).to(self.kernels.dtype))
        return self._layout[4], self._layout[5], self._layout[6]

    def _prepare(self) -> None:
        """Put the dense weight together for the calls to come, without the channels that are not worth reading."""
        weight, read = self.weight().detach(), self._read()
        if read is not None:
            weight = weight.index_select(0 if self.transposed else 1, read)
        if weight.dim() == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        tables: tuple[dict[str, Any], ...] = (self._parameters, self._buffers)
        seen = [(table, n, t, t._version) for table in tables for n, t in table.items() if t is not None]
        self._ready = (seen, read, *self._call(weight))

    def _call(self, weight: Tensor) -> tuple[Any, tuple[Any, ...]]:
        """The function that convolves with a dense weight, and what it takes after the input."""
        dims, bias = len(self.kernel_size), self._parameters["bias"]
        if dims == 0:
            return F.linear, (weight, bias)
        if self.transposed:
            more: tuple[Any, ...] = (self.padding, self.output_padding, self.groups, self.dilation)
            return _TRANSPOSED[dims], (weight, bias, self.stride, *more)
        padding = self.padding if self.padding_mode == "zeros" else (0,) * dims
        return _CONVOLUTIONS[dims], (weight, bias, self.stride, padding, self.dilation, self.groups)

    def _stale(self) -> bool:
        """Whether there is no weight yet, or a tensor that it was made of is another, or was written to."""
        if not self._ready:
            return True
        # A plain loop: it runs on every call, and a generator would take as long again.
        for table, name, tensor, version in self._ready[0]:
            if table[name] is not tensor or tensor._version != version:
                return True
        return False

    def _apply(self, fn: Any, recurse: bool = True) -> SharedConvolution:
        """As always; what was put together on another device or in another type is forgotten."""
        self._ready, self._layout = (), ()
        super()._apply(fn, recurse)
        return self

    def _read(self) -> Tensor | None:
        """The channels to pick from the input, where leaving the others out is worth a copy of these."""
        dropped = self.shared[0][1] if self.shared and self.shared[0][0] == 0 else 0
        kept = self.in_channels - dropped
        saved = dropped * self.outputs * math.prod(self.kernel_size) / math.prod(self.stride)
        if not dropped or self.groups > 1 or not kept or saved < _COPY * kept:
            return None
        return (self.level != 0).nonzero()[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution with the dense weight."""
        if self.training or (torch.is_grad_enabled() and self.kernels.requires_grad):
            read, (function, arguments) = None, self._call(self.weight())
        else:
            if self._stale():
                self._prepare()
            _, read, function, arguments = self._ready
        if read is not None:
            x = x.index_select(-len(self.kernel_size) - 1, read)
        if self.padding_mode != "zeros":
            x = F.pad(x, self._around(), mode=self.padding_mode)
        y: Tensor = function(x, *arguments)
        return y

    def _around(self) -> list[int]:
        """Padding on both sides of each dimension, last first, as F.pad takes it."""
        sides: list[int] = []
        for place in reversed(range(len(self.kernel_size))):
            if isinstance(self.padding, str):
                whole = self.dilation[place] * (self.kernel_size[place] - 1) if self.padding == "same" else 0
                sides += [whole // 2, whole - whole // 2]
            else:
                sides += [self.padding[place], self.padding[place]]
        return sides

    def train(self, mode: bool = True) -> SharedConvolution:
        """As always; with `half`, going into evaluation mode rounds the kernels to 16 bits."""
        super().train(mode)
        self._ready = ()
        if not mode and self.half_stored:
            with torch.no_grad():
                if self.kernels.device.type != "meta":
                    self.kernels.copy_(self.kernels.half())
        return self

    def dense(self) -> nn.Module:
        """The ordinary convolution, or linear layer, that answers the same."""
        dims, bias = len(self.kernel_size), self.bias is not None
        layer: Any
        if dims == 0:
            layer = nn.Linear(self.in_channels, self.out_channels, bias)
        else:
            kind: Any = getattr(nn, f"Conv{'Transpose' if self.transposed else ''}{dims}d")
            more = {"output_padding": self.output_padding} if self.transposed else {}
            layer = kind(
                self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding,
                dilation=self.dilation, groups=self.groups, bias=bias, padding_mode=self.padding_mode, **more,
            )  # fmt: skip
        with torch.no_grad():
            weight = self.weight()
            layer.to(device=weight.device, dtype=weight.dtype)
            layer.weight.copy_(weight)
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        plain: nn.Module = layer.train(self.training)
        return plain

    def arguments(self) -> dict[str, Any]:
        """What the constructor was given."""
        return {
            "in_channels": self.in_channels, "out_channels": self.out_channels, "kernel_size": self.kernel_size,
            "shared": self.shared, "stride": self.stride, "padding": self.padding, "dilation": self.dilation,
            "groups": self.groups, "bias": self.bias is not None, "padding_mode": self.padding_mode,
            "transposed": self.transposed, "output_padding": self.output_padding, "half": self.half_stored,
        }  # fmt: skip

    def extra_repr(self) -> str:
        """What there is of kernels."""
        sharing = ", ".join(f"{channels} x {q}" for q, channels in self.shared)
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, kernels: {sharing}"

    # -- accounts ---------------------------------------------------------------------------------------------

    def numbers(self) -> int:
        """Kernel values that are stored: sum over channels of q * D."""
        return sum(q * channels for q, channels in self.shared) * math.prod(self.kernel_size)


def _full(value: Sequence[int], dims: int) -> tuple[int, ...]:
    return tuple(value) * dims if len(value) == 1 else tuple(value)


def densified(network: nn.Module) -> nn.Module:
    """A copy whose layers with shared kernels are ordinary convolutions: the same answers, and plain weights."""
    twin = copy.deepcopy(network)
    for name, inner in list(twin.named_modules()):
        if isinstance(inner, SharedConvolution):
            twin.set_submodule(name, inner.dense())
    return twin
