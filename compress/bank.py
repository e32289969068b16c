"""Generated images that are kept, each with the teacher's answer: to learn from again, and to choose by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Bank:
    """A reservoir: of all samples ever offered, `capacity` are held, each with the same chance.

    Images are held in fp16, answers in fp32, on `device`. Its state is saved and resumes to the bit.
    """

    def __init__(self, capacity: int, device: torch.device | str = "cpu") -> None:
        if capacity < 1:
            raise ValueError(f"a bank holds at least one sample, not {capacity}")
        self.capacity, self.device = capacity, torch.device(device)
        self.seen = 0
        self.images: Tensor | None = None
        self.answers: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self.images is None else len(self.images)

    @torch.no_grad()
    def add(self, images: Tensor, answers: Tensor, generator: torch.Generator) -> None:
        """Offer samples: images (n, ...), answers (n, ...)."""
        images, answers = images.detach().to(self.device).half(), answers.detach().to(self.device).float()
        free = min(self.capacity - len(self), len(images))
        if free:
            self.images = images[:free] if self.images is None else torch.cat([self.images, images[:free]])
            self.answers = (
                answers[:free] if self.answers is None else torch.cat([self.answers, answers[:free]])
            )
        self.seen += free
        rest = len(images) - free
        if rest:
            assert self.images is not None
            assert self.answers is not None
            # The sample that comes as number t stays with chance capacity / t, in a place drawn from all of them.
            numbers = torch.arange(self.seen + 1, self.seen + rest + 1, dtype=torch.float64)
            places = (torch.rand(rest, generator=generator, dtype=torch.float64) * numbers).long()
            for sample in (places < self.capacity).nonzero()[:, 0].tolist():
                self.images[places[sample]] = images[free + sample]
                self.answers[places[sample]] = answers[free + sample]
        self.seen += rest

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Samples drawn with replacement: images in fp32 and answers."""
        assert self.images is not None, "nothing was added yet"
        assert self.answers is not None
        places = torch.randint(len(self), (count,), generator=generator).to(self.device)
        return self.images[places].float(), self.answers[places]

    def all(self, batch: int = 256) -> list[tuple[Tensor, Tensor]]:
        """Everything, in order, in batches."""
        if self.images is None or self.answers is None:
            return []
        return [
            (images.float(), answers)
            for images, answers in zip(self.images.split(batch), self.answers.split(batch), strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """What is held."""
        return {"seen": self.seen, "images": self.images, "answers": self.answers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold what `state_dict` gave."""
        self.seen = int(state["seen"])
        self.images, self.answers = (
            None if state[name] is None else state[name].to(self.device) for name in ("images", "answers")
        )
