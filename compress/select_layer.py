"""SelectLayer: from which layer of a trained network to transfer; what is below stays, what is above begins anew."""

from __future__ import annotations

from dataclasses import field, replace
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from compress.attribution import EMBEDDING, Attribution, last_layer
from compress.attribution_graph import (
    VARIANTS,
    AttributionGraph,
    Name,
    attribution_graphs,
    edge_similarity,
    node_cosines,
)
from compress.choosing import in_order
from compress.depara import tell_zeros
from compress.forecast import Feed, Forecast, Pass, parts, shapes
from compress.hooks import Point, hooked
from compress.probe import Preprocess, Probe, drawn
from compress.resampling import first_share, halves
from compress.session import Sees, Session
from compress.stage import Stage, State
from compress.transplant import example, transplant
from reports.profile import observed
from teachers.nearest import did_you_mean
from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.task import Split
from teachers.teacher import Teacher


@spec
class SelectLayer(Stage):
    """Take the layer whose attribution graph is most like that of the target's embedding, and begin a student there.

    S as in DEPARA, for each layer of the chosen teacher against the embedding of a network for the task at hand. The
    student (`transplant.transplant`) is a copy of that teacher: up to the layer it is the teacher's, above it every
    layer is drawn anew, and the last one gives as many outputs as the task has classes. Where the teacher was taught on
    images of another size, scale or number of channels, a front that learns nothing (`students.adapt.Adapt`) brings the
    task's images over.

    Takes the only teacher besides the target, leaves the student, not trained, and what lies below the layer as
    `State.freeze`, which `Finetune` keeps still. From then on the target is the teacher in the room, for it alone
    answers for the task. The plain rule, deeper is better, is told beside. Sees inputs.
    Source: Song et al., CVPR 2020, arXiv 2003.07496.
    """

    target: str | None = None
    """the teacher for the task at hand; None takes the one that DEPARA (or Rank) compared with"""
    layers: tuple[str, ...] = ()
    """which layers may be chosen, by patterns of their names: layer?.?; without, all convolutions and linear layers but
    the last"""
    lam: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """lambda, the weight of the edges: about 10 where a hundredth of the labels is left, 1 where a tenth is"""
    probe: Annotated[int, Field(ge=3)] = 200
    """images that are asked about, at most"""
    split: Literal["val", "train"] = "val"
    """where they are drawn from; those of train come augmented"""
    embeddings: dict[str, str] = field(default_factory=dict)
    """by teacher, the module whose output is its embedding, where that is not what its last layer takes in; a student
    of such a teacher ends there, in the mean over pixels and a linear classifier"""
    attribution: Attribution = "gradient_x_input"
    """what nodes are made of"""
    variant: Name = "paper"
    """the definition of maps, edges and ranks, as in DEPARA"""
    anew: bool = True
    """draw what lies above the layer anew; False keeps the teacher's weights there, but for the last layer's"""
    resamples: Annotated[int, Field(ge=0)] = 100
    """how often the probe is halved, to see how often the same layer comes out first"""

    sees: ClassVar[Sees] = Sees.INPUTS

    def plan(self, state: State, signature: Signature) -> list[str]:
        """Which layers may be chosen."""
        source, target = self._pair(state)
        names = candidates_of(source, self.layers, self.embeddings.get(source.name))
        return [
            f"chooses among {len(names)} layers of {source.name!r}, for {target.name!r}: {', '.join(names)}"
        ]

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """A student that begins at the last layer: one that begins at another has the same shape."""
        source, target = self._pair(state)
        end = self.embeddings.get(source.name)
        names = candidates_of(source, self.layers, end)
        with torch.random.fork_rng(devices=[]):
            student, still = transplant(source, names[-1], signature, end, anew=self.anew)
        looks = parts(self.probe, 64)
        passes = (
            Pass(target.module, looks, "inputs", 64, target.signature),
            # Once forward, and back from every layer, which on the mean lies half-way.
            Pass(source.module, looks * (1 + len(names) / 3), "inputs", 64, source.signature),
        )
        made = replace(state, student=student.eval(), freeze=still, teachers=(target,), target=target)
        return Forecast(
            made, tuple(self.plan(state, signature)), fresh=True, passes=passes, batches=1, settled=shapes(student),
        )  # fmt: skip

    def __call__(self, state: State, session: Session) -> State:
        """Compare, and begin a student. Raises ValueError where a pattern matches nothing, or no classifier ends it."""
        source, target = self._pair(state)
        end = self.embeddings.get(source.name)
        names = candidates_of(source, self.layers, end)
        probe, _ = drawn(session, self.probe, Split(self.split))
        (graph,) = self._graphs(target, (self.embeddings.get(target.name, EMBEDDING),), probe)
        tell_zeros(graph, session)
        found = self._graphs(source, names, probe)
        V = [float(node_cosines(one, graph).mean()) for one in found]
        E = [edge_similarity(one, graph) for one in found]
        S = [v + self.lam * e for v, e in zip(V, E, strict=True)]
        for place, one in enumerate(found):
            session.log({"V": V[place], "E": E[place], "S": S[place]}, place)
            if one.zeros:
                session.note(f"{one.zeros} of {len(one.nodes)} attribution maps at {names[place]!r} are zero")
        best = in_order(S)[0]
        for place, name in enumerate(names):
            mark = " <- chosen" if place == best else ""
            session.note(f"{place + 1}. {name}: S {S[place]:.3f} (V {V[place]:.3f}, E {E[place]:.3f}){mark}")
        if self.resamples:
            scores = halves(found, graph, self.resamples, session.generator.initial_seed()).scores(self.lam)
            share = first_share(scores)[best]
            session.note(
                f"{names[best]!r} came out first in {100 * share:.0f} % of {len(scores)} halves of the probe"
            )
        session.note(f"the plain rule, deeper is better, would take {names[-1]!r}")
        wanted = session.signature or target.signature
        student, still = transplant(source, names[best], wanted, end, anew=self.anew)
        student = session.place(student).eval()
        return replace(state, student=student, freeze=still, teachers=(target,), target=target)

    def _pair(self, state: State) -> tuple[Teacher, Teacher]:
        known = {teacher.name: teacher for teacher in state.teachers}
        if (
            self.target is not None
            and self.target not in known
            and getattr(state.target, "name", "") != self.target
        ):
            raise ValueError(
                f"SelectLayer is to compare with {self.target!r}, and there is no such teacher"
                f"{did_you_mean(self.target, known)}; there are {', '.join(known)}"
            )
        target = known.get(self.target or "", state.target)
        if target is None:
            raise ValueError(
                "SelectLayer compares with a network for the task at hand: name it as target, or put compress.DEPARA "
                "in front"
            )
        others = [teacher for teacher in state.teachers if teacher.name != target.name]
        if len(others) != 1:
            raise ValueError(
                f"SelectLayer looks into one teacher, and there are {len(others)} besides {target.name!r}: put "
                "compress.DEPARA with keep: 1 in front"
            )
        return others[0], target

    def _graphs(self, teacher: Teacher, layers: tuple[str, ...], probe: Probe) -> list[AttributionGraph]:
        made = attribution_graphs(
            teacher.module, probe, layers, name=teacher.name, preprocess=Preprocess.of(teacher.signature),
            attribution=self.attribution, variant=VARIANTS[self.variant],
        )  # fmt: skip
        return [made[layer] for layer in layers]


def candidates_of(teacher: Teacher, patterns: tuple[str, ...], end: str | None = None) -> tuple[str, ...]:
    """Layers that may be chosen, in the order in which they are done when the network answers.

    end  a module after which the student is to end; None leaves the last layer out, which is made anew in any case
    Raises ValueError for a pattern that matches nothing, or only what comes after the end.
    """
    module = teacher.module
    done: list[str] = []
    every = {name: Point(name) for name, _ in module.named_modules() if name}
    inputs = example(module, teacher.signature)
    with hooked(module, every, lambda name, _: done.append(name)), observed(module), torch.no_grad():
        module(*inputs)
    called = list(dict.fromkeys(done))
    last = last_layer(module, inputs[0], teacher.name)
    if end is not None:
        if end not in called:
            raise ValueError(f"{teacher.name!r} has no layer {end!r} to end at{did_you_mean(end, called)}")
        called = called[: called.index(end) + 1]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in called):
            raise ValueError(
                f"{pattern!r} matches no layer of {teacher.name!r}{did_you_mean(pattern, called)}"
            )
    parts = dict(module.named_modules())
    if patterns:
        chosen = [name for name in called if any(fnmatchcase(name, pattern) for pattern in patterns)]
    else:
        chosen = [name for name in called if isinstance(parts[name], nn.Linear | _ConvNd)]
    found = tuple(name for name in chosen if name != last and not last.startswith(f"{name}."))
    if not found:
        raise ValueError(
            f"no layer of {teacher.name!r} is left to choose but the last, {last!r}: it is made anew anyway"
        )
    return found
