"""Generate: images made from a teacher's weights alone, for stages that would otherwise need the task's inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from compress.adversaries import Generator, Rows
from compress.album import Album
from compress.bank import Bank
from compress.drawing import Drawing
from compress.forecast import Feed, Forecast, Pass, drawn, latents, parts
from compress.losses import fine
from compress.priors import Priors
from compress.session import Sees, Session
from compress.stage import State
from compress.watch import class_entropy, collapsed, largest_share, variety
from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.teacher import Teacher

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@spec
class Generate(Drawing):
    """Teach a generator what the teacher remembers of its inputs, and keep images of all its ages after the first half.

        min over G   E_z  batch_norm * statistics_gap + one_hot * one_hot + balance * imbalance      (`losses`)

    No student takes part. Stages that follow with `generated: true` learn from these images, in place of the task's.
    Where the teacher has no batch norm, the two other priors are all that there is, and the images will be strange.

    Takes the only teacher, leaves images in the state. Sees nothing. That a network does well on them says nothing
    of how well it does on the task.
    Source: the priors of Chen et al. 2019 (DAFL, arXiv 1904.01186), Yin et al. 2020 (DeepInversion, arXiv 1912.08795).
    """

    images: Annotated[int, Field(ge=1)] = 4096
    """how many are kept"""
    epochs: Annotated[int, Field(ge=2)] = 20
    """a run resumes at the last; from the second half of them, as many images each"""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    """of the generator's Adam"""
    batch_norm: Weight = 1.0
    """weight of the prior that the teacher's batch norms see what they remember"""
    one_hot: Weight = 0.0
    """weight of the prior that the teacher is sure"""
    balance: Weight = 1.0
    """weight of the prior that all classes come up alike"""

    sees: ClassVar[Sees] = Sees.NOTHING

    def __post_init__(self) -> None:
        if not (self.batch_norm or self.one_hot or self.balance):
            raise ValueError("Generate has nothing to go by: set batch_norm, one_hot or balance above 0")

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """Images, and no student."""
        teacher = state.teacher()
        takes, gives = latents(self.latent), self.drawn(teacher.signature)
        with torch.random.fork_rng(devices=[]):
            generator = self.generator(teacher.signature)
        steps, kept = (
            self.epochs * self.rounds,
            parts(self.images / (self.epochs - self.epochs // 2), self.batch),
        )
        passes = (
            Pass(generator, steps, "weights", self.batch, takes),
            Pass(teacher.module, steps, "inputs", self.batch, gives),
            Pass(generator, self.epochs * kept, "nothing", self.batch, takes),
            Pass(teacher.module, self.epochs * kept, "nothing", self.batch, gives),
        )
        line = f"draws {self.images:,} images after {steps:,} steps of a generator"
        return Forecast(drawn(state, self.images, gives), (line,), passes=passes)

    def __call__(self, state: State, session: Session) -> State:
        """Teach the generator, keep images. Raises ValueError where it does not fit the teacher, or it collapsed."""
        teacher = state.teacher().to(session.device)
        priors = Priors(teacher, self.batch_norm, self.one_hot, self.balance)
        generator = session.place(self.generator(teacher.signature))
        learn = torch.optim.Adam(generator.parameters(), self.lr)
        kept, album = Bank(self.images, session.device), Album()
        epochs = session.epochs_of(self.epochs)
        late = epochs - epochs // 2
        for epoch in session.epochs(self.epochs, generator=generator, learn=learn, kept=kept, album=album):
            sums = 0.0
            for _ in range(self.rounds):
                with priors.watched() as seen, session.autocast():
                    answers = teacher(generator(self.latents(session)))
                loss = priors(fine(answers), seen)
                learn.zero_grad()
                loss.backward()
                learn.step()
                sums += loss.item()
            images, answers = self._draw(generator, teacher, session, -(-self.images // late))
            session.log(
                {
                    "prior": sums / self.rounds, "class_entropy": class_entropy(answers),
                    "largest_share": largest_share(answers), "variety": variety(images),
                },
                epoch,
            )  # fmt: skip
            if epoch >= epochs - late:
                kept.add(images, answers, session.generator)
            if not isinstance(generator, Rows) and epoch in Album.moments(epochs):
                album.put(epoch, generator.pixels(images[: 10 * self.batch]), answers[: 10 * self.batch])
        return replace(state, generated=self._proven(kept, album, teacher, session))

    @torch.no_grad()
    def _draw(
        self, generator: Generator | Rows, teacher: Teacher, session: Session, count: int
    ) -> tuple[Tensor, Tensor]:
        """New images, in batches as the generator was taught: its norms see a batch at a time."""
        drawn = []
        for _ in range(-(-count // self.batch)):
            with session.autocast():
                images = generator(self.latents(session))
                drawn.append((images, fine(teacher(images))))
        images, answers = (torch.cat(parts)[:count] for parts in zip(*drawn, strict=True))
        return images, answers

    def _proven(self, kept: Bank, album: Album, teacher: Teacher, session: Session) -> Tensor:
        """The images, with the pictures and a note. Raises ValueError where they are all of a class, or all alike."""
        images, answers = kept.images, kept.answers
        assert images is not None
        assert answers is not None
        for title, svg in album.pictures("Generate", teacher.signature).items():
            session.picture(title, svg)
        session.note(
            f"{len(images)} images were generated from the weights of {teacher.name} alone: class entropy "
            f"{class_entropy(answers):.2f} of 1, the most frequent class takes {largest_share(answers):.0%}"
        )
        if collapsed(images, answers):
            raise ValueError(
                f"the generator collapsed: class entropy {class_entropy(answers):.2f} of 1, largest share "
                f"{largest_share(answers):.0%}, variety {variety(images):.3f}. Give balance a larger weight, or lr a "
                "smaller one"
            )
        return images
