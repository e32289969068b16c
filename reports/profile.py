"""What a network costs: multiply-accumulates, parameters, bytes on disk, and milliseconds.

Convention: one MAC is one multiplication and its addition, counted for *one* input as the network executes it
in eval mode. The number is half of what `torch.utils.flop_counter.FlopCounterMode` counts (convolutions,
matrix products, attention), and FLOPs are always 2 * MACs. Biases, normalisation, activations, pooling and
other pointwise work or reductions are not MACs and cost nothing here; an operator that does more than that
and has no formula is named in `uncounted`, so a number that leaves something out says so. Sums along the edges of a
graph (`index_add`) are MACs, one for each number of a message; one input of a graph network is a node.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

_FREE = frozenset(
    """
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm
    miopen_batch_norm batch_norm_with_update native_layer_norm native_group_norm _fused_rms_norm
    max_pool2d_with_indices max_pool3d_with_indices mkldnn_max_pool2d avg_pool2d avg_pool3d
    _adaptive_avg_pool2d _adaptive_avg_pool3d mkldnn_adaptive_avg_pool2d adaptive_max_pool2d
    adaptive_max_pool3d _softmax _log_softmax softmax log_softmax mean sum amax amin max min argmax
    argmin var std var_mean std_mean any all prod norm linalg_vector_norm logsumexp topk sort prelu
    _prelu_kernel glu native_dropout bernoulli bernoulli_ rand randn rand_like randn_like uniform_
    normal_ randint randperm empty empty_like empty_strided new_empty new_empty_strided zeros
    zeros_like new_zeros ones ones_like new_ones full full_like new_full scalar_tensor arange eye
    linspace tril triu lift_fresh lift_fresh_copy clone copy_ _to_copy contiguous cat stack
    constant_pad_nd reflection_pad2d replication_pad2d channel_shuffle native_channel_shuffle
    pixel_shuffle pixel_unshuffle roll flip repeat gather scatter scatter_ scatter_reduce index index_select
    index_put index_put_ slice_scatter select_scatter embedding masked_fill masked_fill_ where
    one_hot upsample_nearest2d upsample_nearest1d _local_scalar_dense _assert_async is_same_size
    fill_ zero_ resize_ set_ detach im2col col2im _reshape_alias as_strided_ nonzero _unsafe_view
    """.split()  # noqa: SIM905 - a list would be four times as long
)
"""aten operators that are not MACs by the convention above, beside every view and every pointwise one."""


def _messages(_: Any, __: int, ___: Any, source: Sequence[int], *____: Any, **_____: Any) -> int:
    """FLOPs of a sparse product with the edges of a graph: a multiplication and an addition for each number."""
    return 2 * math.prod(source)


_FORMULAS = {torch.ops.aten.index_add: _messages}


@dataclass(frozen=True)
class Layer:
    """One layer with weights: MACs of one input, parameters of its own, channels or features in and out."""

    name: str
    type: str
    macs: int
    params: int
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Latency:
    """Milliseconds a call takes, under names like `latency_ms_p50_b1`, and how they were taken."""

    ms: Mapping[str, float]
    calls: int
    threads: int
    device: str


@dataclass(frozen=True)
class Profile:
    """The cost of a network.

    macs      multiply-accumulates of one input, as executed; `flops` is twice that
    params    parameters, each shared one once
    bytes     of the file on disk, where there is one
    latency_ms_*  median and 95th percentile of a call, at batch 1 and batch 32, in milliseconds; of a graph network,
              `node`, those of a call with a usual graph, divided by its nodes
    threads   PyTorch's threads while timing
    uncounted operators that compute and have no formula: `macs` leaves them out
    """

    macs: int
    params: int
    bytes: int | None = None
    latency_ms_p50_b1: float | None = None
    latency_ms_p95_b1: float | None = None
    latency_ms_p50_b32: float | None = None
    latency_ms_p95_b32: float | None = None
    threads: int | None = None
    uncounted: tuple[str, ...] = field(default=())
    latency_ms_p50_node: float | None = None
    latency_ms_p95_node: float | None = None

    @property
    def flops(self) -> int:
        """2 * MACs."""
        return 2 * self.macs

    def timed(self, latency: Latency) -> Profile:
        """The same with these times. Times at other batch sizes than 1 and 32 are not part of a Profile."""
        known = {name: ms for name, ms in latency.ms.items() if name in _NAMES}
        changes: dict[str, Any] = {**known, "threads": latency.threads}
        return replace(self, **changes)

    def metrics(self) -> dict[str, float]:
        """What was measured, under the tracker's names: `cost/macs`, `cost/latency_ms_p50_b1`, ..."""
        values = {
            f"cost/{name}": getattr(self, name) for name in ("macs", "flops", "params", "bytes", *_LATENCIES)
        }
        return {name: value for name, value in values.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back equal."""
        return {**asdict(self), "flops": self.flops, "uncounted": list(self.uncounted)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Profile:
        """Read what `to_dict` wrote; fields of a newer version are passed over."""
        known = {name: value for name, value in data.items() if name in _NAMES}
        return cls(**{**known, "uncounted": tuple(data.get("uncounted", ()))})


_NAMES = frozenset(item.name for item in fields(Profile))
_LATENCIES = tuple(item.name for item in fields(Profile) if item.name.startswith("latency_ms_"))


def macs(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Multiply-accumulates of one input: the counter's FLOPs // 2 // batch.

    Shapes: every input (batch, ...); inputs are moved to the module's device. The module is left as it was.
    """
    return _count(module, inputs)[0]


def profile(module: nn.Module, inputs: tuple[Tensor, ...], *, bytes: int | None = None) -> Profile:
    """MACs, parameters and what was not counted; `bytes` is the size of the file, where the caller has one.

    Shapes: every input (batch, ...). Time is taken by `latency` and joined by `Profile.timed`.
    """
    counted, uncounted = _count(module, inputs)
    return Profile(
        counted, sum(parameter.numel() for parameter in module.parameters()), bytes, uncounted=uncounted
    )


def layers(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Layer, ...]:
    """Every layer that holds a weight of two or more dimensions, in the order in which they are first called.

    A layer called several times (or shared) appears once, with the MACs of all its calls. Shapes: every input
    (batch, ...).
    """
    names = {part: name or type(module).__name__ for name, part in module.named_modules()}
    counts: dict[nn.Module, int] = {}
    stack: list[list[int]] = []
    handles = []
    counter = _counter()

    def enter(part: nn.Module, _: Any) -> None:
        counts.setdefault(part, 0)
        stack.append([counter.get_total_flops(), 0])

    def leave(part: nn.Module, _: Any, __: Any) -> None:
        start, inside = stack.pop()
        spent = counter.get_total_flops() - start
        counts[part] += spent - inside  # what the children did is theirs
        if stack:
            stack[-1][1] += spent

    try:
        for part in names:
            handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
        batch = _run(module, inputs, counter)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(
        Layer(names[part], type(part).__name__, flops // 2 // batch, *_size(part))
        for part, flops in counts.items()
        if any(weight.dim() >= 2 for weight in part.parameters(recurse=False))
    )


def latency(
    modules: Mapping[str, nn.Module],
    inputs: tuple[Tensor, ...],
    batch_sizes: Sequence[int] = (1, 32),
    seconds: float = 1.0,
    least: int = 5,
    graph: bool = False,
) -> dict[str, Latency]:
    """Time a call of each module, in eval mode without gradients, taking turns call by call.

    Taking turns (and turning the order round every round) lets whatever else the machine does fall on all of
    them alike, so that their ratio means something even where the times themselves are noisy.

    seconds  measured for each batch size, all modules together; warm-up comes on top
    least    rounds to take however long they last
    graph    the inputs are one graph: it is asked whole, and milliseconds are those a node; batch sizes mean nothing
    Shapes: every input (batch, ...); the first sample is repeated to the sizes asked for, in channels_last
    where the module's weights are. Times cover work on the device: it is waited for.
    """
    if not modules:
        raise ValueError("latency was asked to time no module at all: name at least one")
    calls = dict.fromkeys(modules, 0)
    found: dict[str, dict[str, float]] = {name: {} for name in modules}
    with observed(*modules.values()), torch.no_grad():
        for size in (0,) if graph else batch_sizes:
            ready = {name: _call(part, inputs, size) for name, part in modules.items()}
            kind, share = (f"b{size}", 1) if size else ("node", len(inputs[0]))
            for name, samples in _take_turns(ready, seconds, least).items():
                ordered = torch.tensor(samples, dtype=torch.float64) / share
                found[name][f"latency_ms_p50_{kind}"] = float(ordered.quantile(0.5))
                found[name][f"latency_ms_p95_{kind}"] = float(ordered.quantile(0.95))
                calls[name] += len(samples)
    return {
        name: Latency(found[name], calls[name], torch.get_num_threads(), str(_device(part)))
        for name, part in modules.items()
    }


def _take_turns(
    ready: Mapping[str, Callable[[], object]], seconds: float, least: int
) -> dict[str, list[float]]:
    """Milliseconds of every call, by name."""
    taken: dict[str, list[float]] = {name: [] for name in ready}
    order = list(ready)
    for _ in range(3):  # warm-up: kernels chosen, caches filled
        for name in order:
            ready[name]()
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < least or time.perf_counter() < end:
        for name in order:
            start = time.perf_counter()
            ready[name]()
            taken[name].append(1e3 * (time.perf_counter() - start))
        order.reverse()
        rounds += 1
    return taken


def _call(module: nn.Module, inputs: tuple[Tensor, ...], size: int) -> Callable[[], object]:
    """A call without arguments that runs `module` at batch `size` (0: as it is) and waits for its device."""
    device = _device(module)
    last = any(
        w.dim() == 4 and w.is_contiguous(memory_format=torch.channels_last) and not w.is_contiguous()
        for w in module.parameters()
    )
    batch = []
    for tensor in inputs:
        many = (tensor[:1].expand(size, *tensor.shape[1:]) if size else tensor).to(device)
        form = torch.channels_last if last and many.dim() == 4 else torch.contiguous_format
        batch.append(many.contiguous(memory_format=form))

    def call() -> None:
        module(*batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return call


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, skip_unsupported=True, custom_mapping=_FORMULAS)


class _Leaves(TorchDispatchMode):
    """Notes the operators that reach the machine and that neither a formula nor the convention covers."""

    def __init__(self) -> None:
        super().__init__()
        self.uncounted: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = getattr(func, "_overloadpacket", func)
        free = (
            packet in flop_registry
            or packet in _FORMULAS
            or getattr(func, "is_view", False)
            or torch.Tag.pointwise in getattr(func, "tags", ())
            or (func.namespace in ("aten", "prim", "prims") and packet.__name__ in _FREE)
        )
        if not free:
            self.uncounted.add(f"{func.namespace}.{packet.__name__}")
        return func(*args, **(kwargs or {}))


def _count(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[int, tuple[str, ...]]:
    leaves = _Leaves()
    counter = _counter()
    # Entered first, so that it stands below the counter and sees what the counter could not take apart.
    with leaves:
        batch = _run(module, inputs, counter)
    uncounted = leaves.uncounted | set(counter.get_unsupported_ops())
    return counter.get_total_flops() // 2 // batch, tuple(sorted(uncounted))


def _run(module: nn.Module, inputs: tuple[Tensor, ...], counter: FlopCounterMode) -> int:
    """Call the module once under the counter; the batch size."""
    if not inputs or any(tensor.dim() == 0 or len(tensor) == 0 for tensor in inputs):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs) or "none"
        raise ValueError(f"counting needs inputs with a batch of at least one in front, got shapes: {shapes}")
    device = _device(module)
    with observed(module), torch.no_grad(), _plain_attention(), counter:
        module(*(tensor.to(device) for tensor in inputs))
    return len(inputs[0])


@contextmanager
def observed(*modules: nn.Module) -> Iterator[None]:
    """Eval mode for a look, then everything as it was: modes, buffers, random state."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    buffers = [(buffer, buffer.detach().clone()) for module in modules for buffer in module.buffers()]
    cuda = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=cuda):
        try:
            for module in modules:
                module.eval()
            yield
        finally:
            for part, mode in modes:
                part.training = mode
            with torch.no_grad():
                for buffer, before in buffers:
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """PyTorch's fast path for encoder layers is one opaque operator where the plain one is many products."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _device(module: nn.Module) -> torch.device:
    tensors = (*module.parameters(), *module.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


def _size(part: nn.Module) -> tuple[int, int, int]:
    """Own parameters, and the width that goes in and comes out."""
    own = list(part.parameters(recurse=False))
    widest = max(own, key=lambda weight: weight.dim())
    params = sum(weight.numel() for weight in own)
    for before, after in (("in_channels", "out_channels"), ("in_features", "out_features")):
        if hasattr(part, before) and hasattr(part, after):
            return params, int(getattr(part, before)), int(getattr(part, after))
    return params, int(widest.shape[1]), int(widest.shape[0])
