"""Attribution maps and embeddings of a network for a probe: one forward a batch, one backward a batch and layer."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compress.hooks import Point, hooked
from compress.probe import Preprocess, Probe
from reports.profile import observed
from teachers.nearest import did_you_mean

Attribution = Literal["gradient_x_input", "saliency", "lrp"]
Scalar = Literal["norm", "squared_norm", "sum", "mean"]
Reduction = Literal["flatten", "mean_channel", "abs_mean_channel"]

EMBEDDING = ""
"""in place of a layer's name: what the last layer with weights takes in"""
BATCH = 50
_MEMORY = 2**30  # bytes of embeddings that are held in memory; what is more goes to a file


@dataclass(frozen=True)
class Maps:
    """What one layer of a network says of a probe.

    maps        (n, d) attribution of each input, in the probe's geometry, reduced and laid flat
    embeddings  (n, D) the layer's output, laid flat; in a file where it is large
    """

    maps: Tensor
    embeddings: Tensor


def attribution_maps(
    module: nn.Module,
    probe: Probe,
    layers: Sequence[str] = (EMBEDDING,),
    *,
    name: str = "the network",
    preprocess: Preprocess | None = None,
    attribution: Attribution = "gradient_x_input",
    scalar: Scalar = "norm",
    reduction: Reduction = "flatten",
    epsilon: float = 1e-9,
    size: int = 64,
    batch: int = BATCH,
) -> dict[str, Maps]:
    """For every layer, map and embedding of every input of the probe.

        gradient_x_input   x * d s(F(x)) / dx        saliency   | d s(F(x)) / dx |
        lrp                epsilon-LRP of F * dS/dF, through Captum (`relevance.relevance_of`)

    F(x) is the layer's output for x, s one of  "norm" ||F||_2  (the paper's),  "squared_norm",  "sum",  "mean".

    layers      modules, by name; EMBEDDING is what the last layer with weights takes in
    name        the network's, for messages
    preprocess  how the probe becomes the network's input; None takes it as it is
    reduction   "flatten" keeps all values, "mean_channel" takes the mean over channels, "abs_mean_channel" that of
                the absolute values
    epsilon     of LRP
    size        maps with more pixels a side are averaged down to so many
    batch       inputs at a time; the result does not depend on it

    In eval mode, without gradients of weights; the network is as before when this returns or raises, and no hook is
    left on it. In memory are one batch's graph, the maps, and up to 1 GiB of embeddings (the rest lies in a file that
    has no name). Raises ValueError for a layer that is not there or not called, for one without gradient to the input
    (no_grad, a quantised network) and for embeddings that are not finite.
    Source: Song et al., CVPR 2020, arXiv 2003.07496. The released loop lets gradients pile up from layer to layer.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    ready = preprocess or Preprocess(tuple(probe.images.shape[1:]))
    filled: dict[str, _Rows] = {}
    maps: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with observed(module), _frozen(module):
        points = {layer: _point(module, layer, ready(probe.images[:2].to(device)), name) for layer in layers}
        follow = {}
        if attribution == "lrp":
            from compress.relevance import relevance_of  # Captum takes a second to import

            follow = {at: relevance_of(module, points[at], scalar, epsilon, name) for at in layers}
        for images in probe.images.split(batch):
            inputs = ready(images.to(device)).detach().requires_grad_()
            with torch.enable_grad(), _features(module, points, name) as features:
                _call(module, inputs, name)
            for place, layer in enumerate(layers):
                embedding = _found(features, layer, points, name).flatten(1)
                _finite(embedding, layer, name)
                if layer not in filled:
                    filled[layer] = _Rows(len(probe), embedding.shape[1], _MEMORY // len(layers))
                filled[layer].add(embedding.detach())
                if attribution == "lrp":
                    flat = follow[layer](inputs)
                else:
                    last = place == len(layers) - 1
                    slope = _slope(scalar_of(embedding, scalar), inputs, last)
                    flat = slope.abs() if attribution == "saliency" else slope * inputs.detach()
                maps[layer].append(_reduced(flat, ready, tuple(images.shape[1:]), reduction, size).cpu())
            del features
    made = {layer: Maps(torch.cat(maps[layer]), filled[layer].rows) for layer in layers}
    for layer in layers:
        _moved(made[layer], points[layer], name)
    return made


def embeddings(
    module: nn.Module,
    images: Tensor,
    layer: str = EMBEDDING,
    *,
    name: str = "the network",
    preprocess: Preprocess | None = None,
    pool: int | None = None,
    batch: int = 256,
) -> tuple[Tensor, Tensor]:
    """A layer's output for every image (n, D), laid flat, and the network's own (n, ...): forward passes alone.

    images  (n, ...) as in a `Probe`
    pool    average features that have pixels down to so many a side before they are laid flat
    Raises as `attribution_maps` does.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    ready = preprocess or Preprocess(tuple(images.shape[1:]))
    rows: list[Tensor] = []
    answers: list[Tensor] = []
    with observed(module), torch.no_grad():
        point = _point(module, layer, ready(images[:2].to(device)), name)
        for part in images.split(batch):
            with _features(module, {layer: point}, name) as features:
                answers.append(_call(module, ready(part.to(device)), name).cpu())
            found = _found(features, layer, {layer: point}, name)
            if pool is not None and found.dim() == 4:
                found = F.adaptive_avg_pool2d(found, pool)
            _finite(found, layer, name)
            rows.append(found.flatten(1).cpu())
    return torch.cat(rows), torch.cat(answers)


def scalar_of(embedding: Tensor, scalar: Scalar) -> Tensor:
    """What is differentiated, summed over the batch: inputs do not meet in eval mode, so each gets its own gradient.

    embedding (n, D). The norm's gradient at 0 is 0.
    """
    match scalar:
        case "norm":
            lengths: Tensor = torch.linalg.vector_norm(embedding, dim=1)
            return lengths.sum()
        case "squared_norm":
            return embedding.square().sum()
        case "sum":
            return embedding.sum()
        case "mean":
            return embedding.mean(1).sum()


# -- where a layer is ----------------------------------------------------------------------------------------


def last_layer(module: nn.Module, inputs: Tensor, name: str = "the network") -> str:
    """The name of the convolution or linear layer that is called last. Raises ValueError where there is none."""
    called: list[str] = []
    layers = {
        part: Point(part) for part, found in module.named_modules() if isinstance(found, nn.Linear | _ConvNd)
    }
    with hooked(module, layers, lambda part, _: called.append(part)), torch.no_grad():
        _call(module, inputs, name)
    if not called:
        raise ValueError(
            f"{name!r} calls no convolution and no linear layer: name the one that gives its embedding"
        )
    return called[-1]


def _point(module: nn.Module, layer: str, inputs: Tensor, name: str) -> Point:
    if layer != EMBEDDING:
        names = [known for known, _ in module.named_modules() if known]
        if layer not in names:
            raise ValueError(f"{name!r} has no layer {layer!r}{did_you_mean(layer, names)}")
        return Point(layer)
    return Point(last_layer(module, inputs, name), before=True)


@contextmanager
def _features(module: nn.Module, points: Mapping[str, Point], name: str) -> Iterator[dict[str, Tensor]]:
    """Keep what passes the points in one forward pass; no hook outlives it."""
    kept: dict[str, Tensor] = {}

    def keep(layer: str, value: Any) -> None:
        tensor = _tensor(value)
        if tensor is None:
            raise ValueError(
                f"layer {points[layer]} of {name!r} gives a {type(value).__name__}, and no tensor"
            )
        # A module after it may work in place; its gradient still comes to what was there before.
        kept[layer] = tensor.clone()

    with hooked(module, points, keep):
        yield kept


def _tensor(value: Any) -> Tensor | None:
    """The first tensor in what a module gives."""
    if isinstance(value, Tensor):
        return value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return next((found for part in inner if (found := _tensor(part)) is not None), None)


# -- pieces --------------------------------------------------------------------------------------------------


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradient of weights, which would cost a third of the time."""
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _call(module: nn.Module, inputs: Tensor, name: str) -> Tensor:
    try:
        output = _tensor(module(inputs))
    except (RuntimeError, NotImplementedError) as problem:
        line = str(problem).strip().splitlines()[0]
        raise ValueError(
            f"{name!r} does not take inputs of {tuple(inputs.shape[1:])} in floating point ({line}): name the shape it "
            "takes; a quantised network has to be dequantised first"
        ) from problem
    assert output is not None
    return output


def _found(features: Mapping[str, Tensor], layer: str, points: Mapping[str, Point], name: str) -> Tensor:
    if layer not in features:
        raise ValueError(
            f"layer {points[layer]} of {name!r} is not called when the network answers: name another"
        )
    return features[layer]


def _finite(embedding: Tensor, layer: str, name: str) -> None:
    if bad := int((~embedding.isfinite()).sum()):
        raise ValueError(
            f"{bad} of the {embedding.numel()} features that {name!r} gives at {layer or 'its embedding'!r} are NaN or "
            "infinite: look at its weights, and at how its inputs are normalised"
        )


def _slope(value: Tensor, inputs: Tensor, last: bool) -> Tensor:
    """The gradient to the inputs, zero where there is no way back to them."""
    if not value.requires_grad:
        return torch.zeros_like(inputs)
    (slope,) = torch.autograd.grad(value, inputs, retain_graph=not last, allow_unused=True)
    return torch.zeros_like(inputs) if slope is None else slope


def _moved(made: Maps, point: Point, name: str) -> None:
    """Raises ValueError where embeddings follow the input, and no gradient says so."""
    if bool(made.maps.any()) or torch.equal(made.embeddings[0], made.embeddings[-1]):
        return
    raise ValueError(
        f"no gradient comes from {point} of {name!r} to its input, though the features there change with it: the "
        "network works under no_grad, detaches, rounds, or is quantised. Take its floating point form"
    )


def _reduced(
    maps: Tensor, ready: Preprocess, shape: tuple[int, ...], reduction: Reduction, size: int
) -> Tensor:
    maps = ready.back(maps, shape)
    if reduction != "flatten":
        maps = (maps.abs() if reduction == "abs_mean_channel" else maps).mean(1, keepdim=True)
    if maps.dim() == 4 and max(maps.shape[2:]) > size:
        maps = F.adaptive_avg_pool2d(maps, (min(maps.shape[2], size), min(maps.shape[3], size)))
    return maps.flatten(1)


class _Rows:
    """Rows as they come, in memory, or in a file where they are many: it is gone with the last who looks at it."""

    def __init__(self, count: int, width: int, limit: int) -> None:
        if 4 * count * width > limit:
            with tempfile.TemporaryFile() as file:  # the mapping keeps it after it is closed
                file.truncate(4 * count * width)
                self.rows = torch.from_numpy(np.memmap(file, np.float32, "r+", shape=(count, width)))
        else:
            self.rows = torch.empty((count, width))
        self.filled = 0

    def add(self, rows: Tensor) -> None:
        self.rows[self.filled : self.filled + len(rows)] = rows
        self.filled += len(rows)


def cosines(rows: Tensor, center: bool = False, chunk: int = 2**22) -> Tensor:
    """Cosine of every two rows of (n, D), float64 (n, n); 0 with a row of zeros.

    center  takes the mean row away first
    chunk   numbers that are made float64 at a time
    """
    n, width = rows.shape
    products = torch.zeros((n, n), dtype=torch.float64)
    step = max(1, math.ceil(chunk / n))
    for start in range(0, width, step):
        part = rows[:, start : start + step].double()
        part = part - part.mean(0) if center else part
        products += part @ part.T
    lengths = products.diagonal().clamp_min(0).sqrt()
    scale = torch.where(lengths > 0, 1 / lengths, torch.zeros_like(lengths))
    return products * scale[:, None] * scale
