"""Layer-wise feature amalgamation: every layer learns a code of the teachers' features by itself, then all together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.adapters import Codes, pointwise, resized
from compress.course import Streams, Terms
from compress.forecast import Feed, Pass
from compress.listening import Choir, heard, places
from compress.losses import fine
from compress.method import Method, Work, asking, needed
from compress.panel import Panel
from students.trace import trace
from teachers.spec import Field, spec

_STATISTICS = 10  # batches that a folded norm's statistics are measured on


@spec
class LayerWise(Method):
    """Code the teachers' features at some layers, teach each layer its code from the code before it, then all together.

        1  R^l = E^l [F_1^l; ...; F_M^l] with D^l R^l ~ [F_1^l; ...; F_M^l]                                  (`Codes`)
        2  MSE( S^l( ... FAM^{l-1}(R^{l-1}) ), R^l ) for all l at once, R held; the last layer learns the merged answer
        3  FAM^l, one linear map for every place, follows S^l at once and is folded into it
        4  the whole student learns the merged answer

    In step 2 the network runs as it is, but what each of these layers gives is replaced by its code: every stretch
    between two of them is taught at the same time, in one pass. The student ends with exactly its own layers.
    Source: Shen et al., AAAI 2019, in the four steps of its first code; the normalisation of R is ours.
    """

    taps: Annotated[tuple[str, ...], Field(min_length=1)]
    """the student's convolutions, linear layers, or batch norms right behind them"""
    teacher_taps: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """by teacher, the modules that stand for these, in the same order; without, those of the same names"""
    code_epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """passes in which the codes are learned"""
    layer_epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3.0
    """passes in which the layers learn them"""

    def plan(self, panel: Panel) -> list[str]:
        """Which layers are coded."""
        return [f"layers: {', '.join(self.taps)}; adapters are folded away"]

    def passes(self, panel: Panel, student: nn.Module, feed: Feed, epochs: float) -> tuple[Pass, ...]:
        """Teachers in all three rounds, the student in the last two."""
        taught = feed.total(self.layer_epochs) + feed.total(epochs)
        return (
            feed.through(student, taught, "weights"),
            *asking(panel, feed, feed.total(self.code_epochs) + taught),
        )

    def __call__(self, work: Work, student: nn.Module | None, epochs: float) -> nn.Module:
        """Teach. Raises ValueError for a layer that is not there, or into which nothing can be folded."""
        student = needed(student, "LayerWise")
        images = work.panel.given.example(2)[0].to(work.session.device)
        mine = places(student, self.taps, (images,), "the student")
        before = [foldable(student, tap) for tap in self.taps]
        choir = Choir(work.panel, self.taps, self.teacher_taps)
        with heard(student, mine) as features, torch.no_grad():
            student.eval()(images)
        shapes = [features[tap].shape for tap in self.taps]
        codes = nn.ModuleList(
            Codes(widths, shape[1], len(shape) > 2)
            for widths, shape in zip(choir.widths, shapes, strict=True)
        )
        codes = work.session.place(codes)
        grids = [tuple(shape[2:]) for shape in shapes]

        def coded(images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
            answers, felt = choir.ask(images)
            pairs = [
                code([resized(f, grid) for f in row])
                for code, row, grid in zip(codes, felt, grids, strict=True)
            ]
            return answers, [pair[0] for pair in pairs], [pair[1] for pair in pairs]

        def codes_terms(images: Tensor, _: Streams) -> Terms:
            return dict(zip((f"{tap} code" for tap in self.taps), coded(images)[2], strict=True))

        work.course.phase(codes_terms, self.code_epochs, [], [codes], name="codes")

        tapped = insert(student, self.taps, shapes)

        def layer_terms(images: Tensor, _: Streams) -> Terms:
            codes.eval()
            with torch.no_grad():
                answers, wanted, _losses = coded(images)
            for tap, code in zip(tapped, wanted, strict=True):
                tap.forced = code
            outputs = student(images)
            losses = [fine(t.given - code).square().mean() for t, code in zip(tapped, wanted, strict=True)]
            return {**work.imitated(outputs, answers), **dict(zip(self.taps, losses, strict=True))}

        work.course.phase(layer_terms, self.layer_epochs, [student], name="layers")
        student.eval()
        fold(student, self.taps, tapped, before, self._some(work))
        work.course.phase(
            lambda images, _: work.imitated(student(images), work.panel.ask(images)), epochs, [student]
        )
        return student

    @staticmethod
    def _some(work: Work) -> list[Tensor]:
        found = []
        for images, _ in work.course.source.batches():
            found.append(images)
            if len(found) == _STATISTICS:
                break
        return found


class Tapped(nn.Module):
    """A layer, and behind it one linear map for every place, which begins as the identity and is folded in later.

    forced  what goes on in place of the layer's own output; None lets that pass
    given   the layer's own output at the last call
    """

    def __init__(self, inner: nn.Module, channels: int, grid: bool, bias: bool) -> None:
        super().__init__()
        self.inner = inner
        self.adapt = pointwise(channels, channels, grid, bias)
        with torch.no_grad():
            eye = torch.eye(channels)
            self.adapt.weight.copy_(eye[:, :, None, None] if grid else eye)  # type: ignore[operator]
            if bias:
                self.adapt.bias.zero_()  # type: ignore[operator]
        self.forced: Tensor | None = None
        self.given = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, then the map."""
        self.given = self.inner(x)
        passed: Tensor = self.adapt(self.given if self.forced is None else self.forced)
        return passed


def foldable(student: nn.Module, tap: str) -> str | None:
    """The layer whose outputs a batch norm `tap` reads; None where `tap` is such a layer itself.

    Raises ValueError where a linear map behind it could not become part of it.
    """
    part = student.get_submodule(tap)
    if (isinstance(part, nn.Conv2d) and part.groups == 1) or isinstance(part, nn.Linear):
        return None
    node = next(
        (n for n in trace(student, training=False)[0].nodes if n.op == "call_module" and n.target == tap),
        None,
    )
    source = node.args[0] if node is not None and node.args else None
    if isinstance(part, _BatchNorm) and part.affine and part.track_running_stats and source is not None:
        name = str(getattr(source, "target", ""))
        inner = student.get_submodule(name) if getattr(source, "op", "") == "call_module" else None
        alone = len(getattr(source, "users", ())) == 1
        if alone and (isinstance(inner, nn.Linear) or (isinstance(inner, nn.Conv2d) and inner.groups == 1)):
            return name
    raise ValueError(
        f"an adapter behind {tap!r}, a {type(part).__name__}, cannot be folded into it: take convolutions (of one "
        "group), linear layers, or batch norms that alone read one"
    )


def insert(student: nn.Module, taps: Sequence[str], shapes: Sequence[torch.Size]) -> list[Tapped]:
    """Put a `Tapped` around each of these layers, in place."""
    made = []
    for tap, shape in zip(taps, shapes, strict=True):
        inner = student.get_submodule(tap)
        bias = inner.bias is not None
        tapped = Tapped(inner, shape[1], len(shape) > 2, bias).to(next(inner.parameters()).device)
        student.set_submodule(tap, tapped)
        made.append(tapped)
    return made


@torch.no_grad()
def fold(
    student: nn.Module,
    taps: Sequence[str],
    tapped: Sequence[Tapped],
    before: Sequence[str | None],
    images: Sequence[Tensor],
) -> None:
    """Make each map part of the layer before it; in use the student answers as it did, to rounding.

    layer:       W' = A W,  b' = A b + a
    batch norm:  W' = A diag(g / s) W of the layer before it, and a norm whose mean and variance are those of W' x
                 over `images`, so that it does in training, too, what it does in use
    """
    for tap in tapped:
        tap.forced = None
    moments = _moments(student, tapped, images) if any(name is not None for name in before) else []
    for number, (name, tap, layer) in enumerate(zip(taps, tapped, before, strict=True)):
        inner, adapt = tap.inner, tap.adapt
        assert isinstance(adapt, nn.Conv2d | nn.Linear)
        matrix = adapt.weight.flatten(1)
        shift = adapt.bias if adapt.bias is not None else torch.zeros(len(matrix), device=matrix.device)
        if layer is None:
            assert isinstance(inner, nn.Conv2d | nn.Linear)
            _multiply(inner, matrix)
            if inner.bias is not None:
                inner.bias.copy_(matrix @ inner.bias + shift)
        else:
            assert isinstance(inner, _BatchNorm)
            source = student.get_submodule(layer)
            assert isinstance(source, nn.Conv2d | nn.Linear)
            assert inner.running_mean is not None
            assert inner.running_var is not None
            factor = inner.weight / (inner.running_var + inner.eps).sqrt()
            still = matrix @ (inner.bias - factor * inner.running_mean) + shift
            _multiply(source, matrix * factor)
            if source.bias is not None:
                source.bias.copy_(matrix @ (factor * source.bias))
            mean, variance = moments[number]
            inner.running_mean.copy_(mean - still)
            inner.running_var.copy_(variance)
            inner.weight.copy_((variance + inner.eps).sqrt())
            inner.bias.copy_(mean)
        student.set_submodule(name, inner)


def _multiply(layer: nn.Conv2d | nn.Linear, matrix: Tensor) -> None:
    layer.weight.copy_((matrix @ layer.weight.flatten(1)).view_as(layer.weight))


def _moments(
    student: nn.Module, tapped: Sequence[Tapped], images: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance, per channel, of what each map gives in use."""
    sums: list[list[Tensor]] = [[] for _ in tapped]
    for batch in images:
        student(batch)
        for kept, tap in zip(sums, tapped, strict=True):
            passed: Tensor = tap.adapt(tap.given)
            kept.append(passed.transpose(0, 1).flatten(1).double())
    joined = [torch.cat(kept, 1) for kept in sums]
    return [(j.mean(1).float(), j.var(1, correction=0).float()) for j in joined]
