"""DEPARA: which of several trained networks to start from, by attribution graphs of a few unlabeled images."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, ClassVar, Literal

import torch

from compress.attribution import Attribution, Reduction, Scalar
from compress.attribution_graph import (
    VARIANTS,
    AttributionGraph,
    Edges,
    Name,
    Variant,
    attribution_graphs,
    similarities,
)
from compress.choosing import candidates, in_order, layers_of, narrowed, with_halves
from compress.forecast import Feed, Forecast, Pass, parts
from compress.probe import Preprocess, Probe, drawn
from compress.resampling import halves
from compress.session import Sees, Session
from compress.stage import Ranking, Stage, State
from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.task import Split
from teachers.teacher import Teacher


@spec
class DEPARA(Stage):
    """Keep the teachers whose attribution graph is most like that of a network for the task at hand.

        S = s(V, V') + lambda s(E, E')
        s(V, V') = mean over images of cos(v_k, v'_k),   v = x * d ||F(x)||_2 / dx
        s(E, E') = Spearman of the cosines of all pairs of embeddings, equal ones given their average rank

    F is what a network's last layer takes in, or the output of the module that `embeddings` names for it. Images are
    drawn without their labels, the same for all; each network gets them in its own size, channels and scale, and
    its maps are brought back. Halves of the probe, drawn at random, tell how far the order can be trusted.

    Takes several teachers, leaves a ranking of all but the target, the best `keep` of them, and the target as
    `State.target`. Makes no student. Sees inputs.
    Source: Song et al., CVPR 2020, arXiv 2003.07496. Where the authors' code departs from the paper, `variant` brings
    its ways back by name; its faults (gradients that pile up over layers, a network stored in place of the target, ties
    in an arbitrary order) are not among them.
    """

    target: str
    """the teacher for the task at hand; the others are compared with it"""
    keep: Annotated[int, Field(ge=1)] = 1
    """how many stay in the room, best first"""
    lam: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """lambda, the weight of the edges: the fewer labels there will be to learn from, the more they should count"""
    probe: Annotated[int, Field(ge=3)] = 200
    """images that are asked about, at most"""
    split: Literal["val", "train"] = "val"
    """where they are drawn from; those of train come augmented"""
    embeddings: dict[str, str] = field(default_factory=dict)
    """by teacher, the module whose output is its embedding, where that is not what its last layer takes in"""
    attribution: Attribution = "gradient_x_input"
    """what nodes are made of; "lrp" (Captum) is the same for ReLU networks unless `epsilon` is large"""
    epsilon: Annotated[float, Field(gt=0)] = 1e-9
    """of LRP"""
    variant: Name = "paper"
    """where the fields below are None: the paper's definition, one of the authors' two programs ("taskonomy", "vgg"),
    or KamalEngine's"""
    scalar: Scalar | None = None
    """what is differentiated"""
    reduction: Reduction | None = None
    """of maps over their channels"""
    edges: Edges | None = None
    """cosines of embeddings as they are, or less their mean over the probe; or of attribution maps"""
    size: Annotated[int, Field(ge=1)] = 64
    """maps of more pixels a side are averaged down to so many"""
    resamples: Annotated[int, Field(ge=0)] = 100
    """how often the probe is halved; 0 gives no intervals"""

    sees: ClassVar[Sees] = Sees.INPUTS
    chooses: ClassVar[bool] = True

    def how(self) -> Variant:
        """The variant, with the fields that are set."""
        known = VARIANTS[self.variant]
        return Variant(
            self.scalar or known.scalar, self.reduction or known.reduction, self.edges or known.edges, known.ties,
            known.diagonal,
        )  # fmt: skip

    def plan(self, state: State, signature: Signature) -> list[str]:
        """Who is compared with whom, and where."""
        others, target = candidates(state, self.target, self.keep, "DEPARA")
        layers = layers_of(state.teachers, self.embeddings, "DEPARA")
        assert target is not None
        named = ", ".join(f"{name} at {layer}" for name, layer in layers.items() if layer)
        return [
            f"compares {len(others)} networks with {target.name!r}, keeps {self.keep}: "
            + ", ".join(other.name for other in others),
            f"embeddings: what the last layer takes in{f', but {named}' if named else ''}",
        ]

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """Nobody is chosen; every network sees the probe once, and gradients go back to it."""
        passes = tuple(
            Pass(t.module, parts(self.probe, 64), "inputs", 64, t.signature) for t in state.teachers
        )
        return Forecast(state, tuple(self.plan(state, signature)), passes=passes, batches=1)

    def __call__(self, state: State, session: Session) -> State:
        """Compare. Raises ValueError for a target that is not there, and as `attribution.attribution_maps` does."""
        others, target = candidates(state, self.target, self.keep, "DEPARA")
        assert target is not None
        everyone = (target, *others)
        layers = layers_of(everyone, self.embeddings, "DEPARA")
        probe, _ = drawn(session, self.probe, Split(self.split))
        graphs = [self.graph(teacher, probe, layers[teacher.name], session) for teacher in everyone]
        ranking = self._ranking(graphs, session.generator.initial_seed())
        session.note(
            f"{len(probe)} images (sha256 {probe.hash[:8]}); S = V + {self.lam:g} E, {self.attribution}, {self.variant}"
        )
        if ranking.stability is not None:
            session.note(
                f"two halves of the probe agree on the order by {ranking.stability:.2f} (Spearman); "
                f"{ranking.names[0]!r} came out first in {100 * ranking.first[0]:.0f} % of the halves"
            )
        return narrowed(state, ranking, self.keep, target)

    def graph(self, teacher: Teacher, probe: Probe, layer: str, session: Session) -> AttributionGraph:
        """The graph of one teacher, its zero maps told. Raises ValueError where all of them are zero."""
        graph = attribution_graphs(
            teacher.module, probe, [layer], name=teacher.name, preprocess=Preprocess.of(teacher.signature),
            attribution=self.attribution, variant=self.how(), epsilon=self.epsilon, size=self.size,
        )[layer]  # fmt: skip
        tell_zeros(graph, session)
        return graph

    def _ranking(self, graphs: list[AttributionGraph], seed: int) -> Ranking:
        """Everyone with everyone; the target is the first."""
        V, E = similarities(graphs)
        S = V + self.lam * E
        order = in_order(S[0, 1:].tolist())
        rows = torch.tensor(order) + 1
        ranking = Ranking(
            names=tuple(graphs[row].name for row in rows.tolist()),
            scores=tuple(S[0, rows].tolist()),
            by=f"DEPARA, V + {self.lam:g} E",
            target=graphs[0].name,
            parts={"V": tuple(V[0, rows].tolist()), "E": tuple(E[0, rows].tolist())},
            models=tuple(graph.name for graph in graphs),
            similarity=tuple(tuple(row) for row in S.tolist()),
        )
        if not self.resamples:
            return ranking
        chosen = [graphs[row] for row in rows.tolist()]
        return with_halves(ranking, halves(chosen, graphs[0], self.resamples, seed).scores(self.lam))


def tell_zeros(graph: AttributionGraph, session: Session) -> None:
    """Note how many maps are zero. Raises ValueError where all are: the embedding does not depend on the input."""
    n = len(graph.nodes)
    where = f"layer {graph.layer!r}" if graph.layer else "the embedding"
    if graph.zeros == n:
        raise ValueError(
            f"all {n} attribution maps of {graph.name!r} are zero: {where} does not depend on the input. Leave that "
            "network out, or name another layer of it"
        )
    if graph.zeros:
        session.note(
            f"{graph.zeros} of {n} attribution maps of {graph.name!r} at {where} are zero, and count as unlike"
        )
