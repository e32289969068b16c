"""LSP: distilling graph networks by preserving local structure, in a form that works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from compress.affinity import PRESETS, Kernel, Preset
from compress.answers import Answers
from compress.distillation import Distillation, Hint
from compress.losses import Direction, Over, local_structure, log_structure
from compress.neighbours import Neighbours, SelfLoops
from compress.noted import Noted, Seen
from compress.session import Session
from reports.pictures import scatter, shares
from teachers.spec import Field, spec
from teachers.task import Batch, Split

_SHOWN = 8  # nodes whose local structure is drawn


@spec
class LSP(Distillation):
    """Teach a student to keep, around every node, the teacher's sense of who is near (`losses.local_structure`).

        labels * cross-entropy  +  soft_targets * T^2 KL( teacher || student )  +  weight * L_LSP

    For every pair of layers each network gives each node a distribution over its neighbours, by how near their features
    lie; L_LSP is the mean divergence of the two. Widths may differ, and no parameter is added. Where networks build
    their graphs as they go, both distributions run over the union of both edge sets. A student that takes no edges
    needs the graph for this loss alone, and is used without one.

    Published with L1 / 100 under an exponential (`kernel="official"`), whose gradient is some 1e-5 of the labels', with
    labels alone, and given up after 30 epochs: the same student comes out without it. Here the kernel knows no scale
    (cosine / 0.2), and the weight follows the gradients (`balance`); `published()` is the form in which it was
    released.

    Takes the only teacher, whose scores are kept where its graph stays as it is; leaves the student of the epoch
    that was best on val. Without labels it sees inputs only.
    Source: Yang et al. 2020, arXiv 2003.10477; the union Bahri et al. 2021 (BinaryGNN); negatives Guo et al. 2023
    (LLP).
    """

    kernel: Preset | Kernel = "cosine"
    """how near two nodes are: the name of a published kernel, or one with numbers of its own"""
    direction: Direction = "teacher_student"
    """KL(teacher || student), as released, or the paper's equation, the other way"""
    reduction: Over = "mean"
    """over all nodes, nodes with neighbours, edges, or none"""
    self_loops: SelfLoops = "drop"
    """whether a node is among its own neighbours: as given, never, or always, as in the released code's data"""
    strangers: Annotated[int, Field(ge=0)] = 0
    """random nodes, drawn anew at every step, that join the neighbours of each node"""
    embedding: Annotated[int, Field(ge=0)] = 300
    """nodes whose features are drawn on a plane by t-SNE, teacher beside student; 0 draws none"""

    @classmethod
    def published(cls, **more: Any) -> LSP:
        """The released code's arithmetic: labels and L1 / 100 with self loops, weight 1, in the first 30 epochs."""
        fields: dict[str, Any] = {
            "kernel": "official",
            "self_loops": "add",
            "weight": 1.0,
            "soft_targets": 0.0,
        }
        fields |= {"hint_epochs": 30, "dropout": True}  # features are those of the step itself
        return cls(**{**fields, **more})

    def hint(self, mine: int, theirs: int) -> Hint:
        """Local structure, whatever the widths."""
        return LocalStructure(self)

    def draw(
        self, student: nn.Module, answers: Answers, noted: Noted, pairs: Mapping[str, str], session: Session
    ) -> None:
        """The local structure of a few nodes, and both embeddings, of the last pair of layers."""
        if not pairs:
            return
        batch = next(iter(session.batches(Split.VAL)))
        name = list(pairs)[-1]
        again = Answers(
            answers.teacher, pairs, self.features, {}, session
        )  # what is remembered holds no features
        with torch.no_grad(), noted.watching() as seen:
            student(*batch.inputs)
        mine, theirs = seen[name], again.of(batch)[1][pairs[name]]
        outputs, _ = again.of(batch)
        near = LocalStructure(self).near(mine, theirs, batch)
        if not len(near):
            return  # a part of a graph whose seeds have no neighbour
        kernel = PRESETS[self.kernel] if isinstance(self.kernel, str) else self.kernel
        logs = [log_structure(kernel.scores(s.the_features().float(), near), near) for s in (theirs, mine)]
        divergence = torch.zeros(near.nodes, device=near.centre.device)
        divergence.index_add_(0, near.centre, logs[0].exp() * (logs[0] - logs[1]))
        part = batch.part
        mean = float(divergence.sum()) / (near.nodes if part is None or part.complete else part.seeds)
        session.log({"structure": mean}, max(session.finished_epochs - 1, 0))
        said = near.said()
        session.note(
            f"local structure of '{name}' and the teacher's '{pairs[name]}': KL {mean:.4f} a "
            f"node, over "
            f"{said['edges']} edges of {said['nodes']} nodes ({said['isolated']} with no neighbour, "
            f"{said['duplicates']} edges that were given twice)"
        )
        session.picture(
            "LSP: who is near, teacher above student", _structure(near, *(log.exp() for log in logs))
        )
        if self.embedding and len(outputs) == near.nodes:
            session.picture(
                "LSP: features of the teacher and of the student, by t-SNE",
                _planes(theirs.the_features(), mine.the_features(), outputs.argmax(1), self.embedding),
            )


class LocalStructure(Hint):
    """The loss of a pair of layers."""

    def __init__(self, settings: LSP) -> None:
        super().__init__()
        self.settings = settings
        self.kernel = PRESETS[settings.kernel] if isinstance(settings.kernel, str) else settings.kernel
        self._kept: tuple[Tensor, Neighbours] | None = None

    def forward(self, mine: Seen, theirs: Seen, batch: Batch) -> Tensor:
        """The divergence over the edges of the batch, of its seeds where it is a part of a graph."""
        features = mine.the_features()
        part = batch.part
        whole = part is None or part.complete
        near = self.near(mine, theirs, batch)
        if not len(near):
            return features.sum() * 0.0
        if self.settings.strangers:
            near = near.with_strangers(self.settings.strangers)
        static = theirs.scores is not None and not self.settings.strangers and mine.edges is None
        teacher = theirs.scores[near.place] if static and theirs.scores is not None else theirs.the_features()
        centres = None
        if part is not None and not whole:
            centres = torch.arange(len(features), device=features.device) < part.seeds
        return local_structure(
            features, teacher, near, kernel=self.kernel, direction=self.settings.direction,
            reduction=self.settings.reduction, centres=centres,
        )  # fmt: skip

    def remember(self, theirs: Seen, batch: Batch) -> Seen:
        """A score an edge, in the order of the batch's edges, where nothing more will be asked."""
        settings, part = self.settings, batch.part
        steady = part is not None and part.complete and len(batch.inputs) > 1
        if not steady or theirs.edges is not None or settings.strangers or settings.self_loops == "add":
            return theirs
        near = self.near(theirs, theirs, batch)
        scores = theirs.the_features().new_zeros(batch.inputs[1].shape[1], dtype=torch.float32)
        scores[near.place] = self.kernel.scores(theirs.the_features().float(), near)
        # A student that builds a graph of its own needs the features; of one graph they are there anyway.
        assert part is not None
        return Seen(theirs.features if part.nodes is None else None, None, scores)

    def near(self, mine: Seen, theirs: Seen, batch: Batch) -> Neighbours:
        """Who is compared with whom: the graph's edges, or the union of those that networks built for themselves."""
        nodes = len(mine.the_features())
        loops = self.settings.self_loops
        built = [seen.edges for seen in (mine, theirs) if seen.edges is not None]
        given = batch.inputs[1] if len(batch.inputs) > 1 else None
        if not built and given is None:
            raise ValueError(
                "LSP compares a node with its neighbours, but the task gives no edges and neither network builds a "
                "graph of "
                "its own: take a task of graphs, or networks that look for the nearest (DGCNN)"
            )
        if built:
            more = [given] if given is not None and len(built) == 1 else []
            return Neighbours.union(*built, *more, nodes=nodes, self_loops=loops)
        assert given is not None
        if batch.part is not None and not batch.part.complete:
            # Only of the seeds all neighbours are there.
            arriving = given[:, given[1] < batch.part.seeds]
            if not arriving.shape[1]:
                return Neighbours(nodes, arriving[1], arriving[0], arriving[1])
            return Neighbours.of(arriving, nodes, loops)
        if self._kept is None or self._kept[0] is not given:
            self._kept = (given, Neighbours.of(given, nodes, loops))
        return self._kept[1]


# -- pictures -------------------------------------------------------------------------------------------------


def _structure(near: Neighbours, teacher: Tensor, student: Tensor) -> str:
    """Shares of a few nodes' neighbours: those with most neighbours up to twelve, spread over the graph."""
    degree = near.degree
    able = ((degree >= 3) & (degree <= 12)).nonzero().flatten()
    able = able if len(able) else (degree > 0).nonzero().flatten()
    chosen = able[torch.linspace(0, len(able) - 1, min(_SHOWN, len(able))).round().long()].tolist()
    rows = []
    for node in chosen:
        some = slice(int(near.start[node]), int(near.start[node + 1]))
        order = teacher[some].argsort(descending=True)[:24]
        rows.append((f"node {node}", teacher[some][order].tolist(), student[some][order].tolist()))
    return shares(
        rows,
        "each bar a neighbour's share, the teacher's largest first; grey the teacher, coloured the student",
    )


def _planes(teacher: Tensor, student: Tensor, answers: Tensor, most: int) -> str:
    """Both embeddings on a plane, a node's colour the class that the teacher gives it."""
    from sklearn.manifold import TSNE  # seconds, and only pictures need it

    count = len(teacher)
    chosen = torch.linspace(0, count - 1, min(most, count)).round().long()
    panels = []
    for name, features in (("teacher", teacher), ("student", student)):
        rows = features[chosen.to(features.device)].cpu().double().numpy()
        perplexity = min(30.0, (len(rows) - 1) / 3)
        plane = TSNE(perplexity=perplexity, max_iter=500, init="pca", random_state=0).fit_transform(rows)
        panels.append((name, plane.tolist()))
    colours = answers[chosen.to(answers.device)].cpu().tolist()
    return scatter(panels, colours, "a dot is a node, its colour the class that the teacher gives it")
