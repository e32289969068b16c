"""KSE: kernel clustering by sparsity and entropy; no data is looked at, and nothing is trained."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, ClassVar

from compress.clustering import RESTARTS
from compress.forecast import Feed, Forecast
from compress.indicator import Indicator, Layout
from compress.session import Sees, Session
from compress.sharers import Work
from compress.stage import Stage, State
from students.structure import stored_bytes
from teachers.signature import Signature
from teachers.spec import Field, spec


@spec
class KSE(Stage):
    """Let the kernels of every input channel that deserve it less be shared among its output channels.

    An input channel c of a layer with N outputs keeps q_c of its N kernels: by its indicator v_c
    (`indicator.indicator`, from the channel's sparsity and the entropy of its kernels) it falls on one of
    `granularity` levels, q = 0, then N / 2^(G-2+T) and its doubles, up to all N (`indicator.kernels_of_level`).
    Where 0 < q < N the kernels are clustered (`clustering.cluster`) and the outputs share the q centroids.

    The layer becomes a `students.kernels.SharedConvolution`. Channels with q = 0 are not stored; where every reader
    of a channel drops it, the filter that makes it goes as well. Left alone, and told: the first convolution, the
    classifier, layers with too few channels or outputs, and layers that would not get smaller.

    With a budget (`bytes` or `kernel_macs`) every layer gets a granularity and shift of its own: the ones that keep
    the sum of the relative reconstruction errors least.

    Takes the student so far (or a copy of the only teacher), leaves it not trained: Recalibrate or Finetune come
    next, and train the centroids. Sees nothing.
    Source: Li et al., CVPR 2019, arXiv 1812.04368. The released code measures the entropy on a scrambled layout
    and normalises the indicator twice: `layout="released"` and `renormalise` bring that back.
    """

    granularity: Annotated[int, Field(ge=2)] = 4
    """G, the number of levels"""
    shift: Annotated[int, Field(ge=0)] = 0
    """T, halves the kernels of all levels but the lowest and the highest that often"""
    bytes: Annotated[float, Field(gt=0, lt=1)] | None = None
    """a budget in place of G and T: at most this share of the weights' bytes"""
    kernel_macs: Annotated[float, Field(gt=0, lt=1)] | None = None
    """a budget in place of G and T: at most this share of the multiply-accumulates, counted as the paper does"""
    indicator: Indicator = "kse"
    """what ranks channels: both measures, or one alone"""
    layout: Layout = "intended"
    """of the kernels whose entropy is measured; "released" is what the published code does"""
    renormalise: bool = False
    """bring the indicator to [0, 1] once more, as the published code does"""
    spare: tuple[str, ...] = ()
    """layers to leave as they are, by patterns of their names: layer1.*"""
    transposed: bool = False
    """take transposed convolutions as well"""
    linear: bool = False
    """take linear layers as well, as 1x1 convolutions; the classifier stays"""
    half: bool = False
    """store kernels in 16 bits"""
    cut_unread: bool = True
    """where every reader of a channel drops it, cut the filter that makes it; False is the paper's accounting"""
    round_to: Annotated[int, Field(ge=1)] = 8
    """widths that are multiples of this stay so when filters go: odd widths make a network slower, not faster"""
    restarts: Annotated[int, Field(ge=1)] = RESTARTS
    """how often k-means begins anew"""

    sees: ClassVar[Sees] = Sees.NOTHING

    def __post_init__(self) -> None:
        if self.bytes is not None and self.kernel_macs is not None:
            raise ValueError("KSE takes one budget: bytes or kernel_macs, not both")

    def plan(self, state: State, signature: Signature) -> list[str]:
        """Which layers would share kernels, how many, and which are left alone and why."""
        work = Work(self, state.draft(), signature.example(2))
        work.assign()
        return work.describe()

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """The network with as many kernels as the indicator asks for, none clustered; time by a few channels."""
        began = time.perf_counter()
        draft = state.draft()
        work = Work(self, draft, state.teachers[0].signature.example(2))
        names = (*(item.name for item in work.items), *(f"left {name}" for name in work.left))
        least, refused = work.least(), None
        try:
            work.assign()
        except ValueError as problem:
            if not work.items or (self.bytes is None and self.kernel_macs is None):
                raise
            refused = str(problem)
        lines, seconds = () if refused else tuple(work.describe()), 0.0
        if refused is None:
            work.drop_unread()
            seconds = work.seconds_of_clustering()
            work.hollow(draft)
        return Forecast(
            replace(state, student=draft.eval()), lines, work.reasons(), "weights", least=least.eval(),
            blocks=work.blocking(), refused=refused, seconds=time.perf_counter() - began + seconds, settled=names,
        )  # fmt: skip

    def __call__(self, state: State, session: Session) -> State:
        """Cluster. Raises ValueError where weights are not finite, a budget cannot be met, or nothing can change."""
        draft = state.draft()
        work = Work(self, draft, state.teachers[0].signature.example(2))
        work.assign()
        for line in work.describe():
            session.note(line)
        before = stored_bytes(draft)
        work.drop_unread()
        for title, svg in work.pictures().items():
            session.picture(title, svg)
        error = work.share()
        after = stored_bytes(draft)
        session.log(
            {
                "kernel_macs": work.kernel_macs(), "gather_adds": work.gather_adds(),
                "stored_bytes": float(after), "stored_share": after / before, "error": error,
            },
            0,
        )  # fmt: skip
        return replace(state, student=session.place(draft).eval())
