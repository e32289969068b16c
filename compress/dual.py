"""The game of the group stack: what teachers ask of generated images and features; a source of them for a student."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.bank import Bank
from compress.course import Streams
from compress.graft import Grafts
from compress.listening import LAST, heard, places
from compress.losses import fine, imbalance, one_hot, relative_gap, soft_answers
from compress.moments import norms_of
from compress.panel import Panel
from compress.priors import Priors
from compress.session import Session
from compress.stack import GroupStack, activation, certainty, dark, doubt, sparsity, unevenness

_DARK = 0.9  # the share of images without a label above which something is done


@dataclass(frozen=True)
class Weights:
    """Of the terms of the generator's loss, see `AmalgamateDataFree`."""

    one_hot: float
    activation: float
    entropy: float
    sparsity: float
    consistency: float
    batch_norm: float
    foreign: float
    disagreement: float


class Game:
    """The stack, its filters, the teachers' tails as its discriminators, and the loss of a batch of latents.

        L = sum_m one_hot L_oh + activation L_a + entropy L_ie + sparsity L_dis          of the images
            + consistency / (B - 1) sum_j l( O(F^j), O(image) )                          of the features, O(image) held

    With ownership each teacher is asked to be sure of its own part of the batch alone, and to doubt the others'.
    """

    def __init__(
        self,
        panel: Panel,
        grafts: Grafts,
        stack: GroupStack,
        weights: Weights,
        session: Session,
        owned: bool,
        batch: int,
    ) -> None:
        self.panel, self.grafts, self.stack, self.weights = panel, grafts, stack, weights
        self.session, self.owned, self.batch = session, owned, batch
        self.priors = [
            Priors(m.teacher, weights.batch_norm if norms_of(m.teacher.module) else 0.0, 0.0, 0.0)
            for m in panel.members
        ]
        if weights.batch_norm and not any(norms_of(m.teacher.module) for m in panel.members):
            raise ValueError(
                f"none of {', '.join(panel.names)} has a batch norm with running statistics: there is nothing that "
                "batch_norm could hold images to. Set it to 0"
            )
        images = panel.given.example(2)[0].to(session.device)
        self.last = [
            places(m.teacher.module, [LAST], (m.fronted(images),), f"teacher {m.name!r}")
            for m in panel.members
        ]
        self.calm = 1.0  # of sparsity: halved whenever the labels went out
        self.gamma = self._gamma()

    def latents(self, count: int | None = None) -> Tensor:
        """(count or batch, latent) numbers from N(0, 1)."""
        drawn = torch.randn((count or self.batch, self.stack.latent), generator=self.session.generator)
        return drawn.to(self.session.device)

    def loss(
        self, z: Tensor, student: nn.Module | None = None, share: float = 1.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's loss, and its terms by name; `student` is paid for being wrong, times `share`."""
        images, features = self.stack(z)
        told: dict[str, Tensor] = {}
        weights = self.weights
        answers = []
        for place, member in enumerate(self.panel.members):
            with (
                self.priors[place].watched() as seen,
                heard(member.teacher.module, self.last[place]) as felt,
            ):
                answer = fine(member.teacher(member.fronted(images)))
            mine = answer[:, list(member.own)]
            answers.append(mine)
            asked, foreign = self._parts(mine, place)
            terms = {
                "one_hot": weights.one_hot
                * (one_hot(asked) if member.kind == "softmax" else certainty(asked)),
                "entropy": weights.entropy
                * (imbalance(asked) if member.kind == "softmax" else unevenness(asked)),
                "activation": weights.activation * activation(felt[LAST]),
            }
            if member.kind == "sigmoid":
                terms["sparsity"] = self.calm * self.gamma * sparsity(asked)
            if weights.batch_norm and seen:
                terms["batch_norm"] = self.priors[place](answer, seen)
            if foreign is not None and len(foreign):
                terms["foreign"] = weights.foreign * doubt(foreign)
            for name, term in terms.items():
                told[name] = told.get(name, torch.zeros_like(term)) + term
        if weights.consistency:
            told["consistency"] = weights.consistency * self._consistency(features, images, answers)
        if student is not None and weights.disagreement:
            told["disagreement"] = -share * weights.disagreement * self._gap(student(images), answers)
        return torch.stack(list(told.values())).sum(), told

    def _parts(self, answer: Tensor, place: int) -> tuple[Tensor, Tensor | None]:
        if not self.owned:
            return answer, None
        mine = torch.arange(len(answer), device=answer.device) % len(self.panel.members) == place
        return answer[mine], answer[~mine]

    def _consistency(self, features: Streams, images: Tensor, answers: list[Tensor]) -> Tensor:
        losses = [
            soft_answers(
                self.grafts.grafted(place, block, feature, images), answers[place].detach(), member.kind
            )
            for block, feature in features.items()
            for place, member in enumerate(self.panel.members)
        ]
        return torch.stack(losses).sum() / len(features)

    def _gap(self, outputs: Tensor, answers: list[Tensor]) -> Tensor:
        gaps = []
        for member, answer in zip(self.panel.members, answers, strict=True):
            mine = fine(outputs[:, list(member.index)])
            if member.kind == "softmax":  # the constant that a softmax leaves open is no disagreement
                mine, answer = mine - mine.mean(1, keepdim=True), answer - answer.mean(1, keepdim=True)
            gaps.append(relative_gap(mine, answer))
        return torch.stack(gaps).mean()

    @torch.no_grad()
    def drawn(self, count: int | None = None) -> tuple[Tensor, dict[int, Tensor]]:
        """Images and features, the stack as it is."""
        images, features = self.stack(self.latents(count))
        return images, features

    @torch.no_grad()
    def _gamma(self) -> float:
        """The weight of sparsity with which its term begins at a given share of the entropy term's."""
        kinds = [m.kind for m in self.panel.members]
        if "sigmoid" not in kinds or not self.weights.sparsity:
            return 0.0
        state = self.session.generator.get_state()
        images, _ = self.drawn()
        self.session.generator.set_state(state)
        ratios = []
        for m, answer in zip(self.panel.members, self.panel.pieces(self.panel.ask(images)), strict=True):
            if m.kind == "sigmoid":
                ratios.append(
                    abs(self.weights.entropy * unevenness(answer).item()) / max(sparsity(answer).item(), 1e-6)
                )
        return self.weights.sparsity * sum(ratios) / len(ratios)

    def watched(self, images: Tensor) -> dict[str, float]:
        """How many images have no label at all, where labels may be true each by itself; answered where it is most."""
        pieces = self.panel.pieces(self.panel.ask(images))
        out = [dark(p) for m, p in zip(self.panel.members, pieces, strict=True) if m.kind == "sigmoid"]
        if not out:
            return {}
        both = torch.cat(
            [p for m, p in zip(self.panel.members, pieces, strict=True) if m.kind == "sigmoid"], 1
        )
        share = dark(both)
        if share > _DARK:
            self.calm /= 2
            self.session.note(
                f"{100 * share:.0f} % of the generated images had no label at all: sparsity was halved, to "
                f"{self.calm:g} of what it was"
            )
        return {"dark": share, "labels an image": float((both > 0).double().sum(1).mean())}

    def state_dict(self) -> dict[str, Any]:
        """What changed on the way besides the networks."""
        return {"calm": self.calm}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.calm = float(state["calm"])


class Drawn:
    """Images of a stack, with their features, in place of a task's: a source for the same methods.

    Every other batch is of images of earlier ages of the stack, where some were kept; these come without features.
    """

    def __init__(self, game: Game, rounds: int, past: Bank | None, streams: bool) -> None:
        self.game, self.rounds, self.past, self.streams = game, rounds, past, streams
        # Chosen by later, learned from never: the same whenever they are asked for.
        self.seed = game.session.generator.initial_seed() % 2**62 + 1

    def batches(self) -> Iterator[tuple[Tensor, Streams]]:
        """So many batches."""
        for number in range(self.rounds):
            past = self.past
            if number % 2 and past is not None and len(past) > self.game.batch:
                yield past.draw(self.game.batch, self.game.session.generator)[0], {}
                continue
            self.game.stack.eval()
            images, features = self.game.drawn()
            yield images, features if self.streams else {}

    @torch.no_grad()
    def held(self) -> Iterator[tuple[Tensor, Streams]]:
        """The same eight batches every time."""
        generator = torch.Generator().manual_seed(self.seed)
        self.game.stack.eval()
        for _ in range(8):
            z = torch.randn((self.game.batch, self.game.stack.latent), generator=generator)
            yield self.game.stack(z.to(self.game.session.device))[0], {}

    def total_steps(self, epochs: float) -> int:
        """Rounds in so many epochs, a part of one counting whole."""
        return max(1, math.ceil(self.game.session.epochs_of(epochs)) * self.rounds)

    def steps(self) -> int:
        """Rounds in one."""
        return self.rounds
