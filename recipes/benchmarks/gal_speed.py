"""Seconds of one GAL search iteration: ResNet-56, batch 128, one thread, made-up images.

    python -m recipes.benchmarks.gal_speed

The time is the process's own (CPU seconds), so that waiting for a busy machine does not count, and it is taken from
batch to batch, so that the start (groups, curvature) does not count either. Beside it, in turns with it, stands the
loop as the method's authors published it, here on the same network: the teacher in train mode with a graph of its
own, a mask behind every block, two backward passes over the student, fp32, images channel by channel.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.adversaries import Discriminator
from compress.gal import GAL
from compress.losses import discriminator_loss, generator_loss, output_matching
from compress.session import Precision, Session
from compress.stage import State
from recipes.benchmarks.rows import machine, markdown
from teachers.networks import ResNet
from teachers.signature import Signature
from teachers.task import Batch, Split, Splits
from teachers.teacher import Teacher


class Noise(Splits):
    """So many batches of standard normal images, made once; tells when each was taken."""

    def __init__(self, batches: int, size: int) -> None:
        self.count, self.size = batches, size
        images = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        self.batch = Batch((images.contiguous(memory_format=torch.channels_last),))
        self.taken: list[float] = []

    def samples(self, split: Split) -> int:
        return self.count * self.size

    def steps(self, split: Split) -> int:
        return self.count

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        for _ in range(self.count):
            self.taken.append(time.process_time())
            yield self.batch
        self.taken.append(time.process_time())


def seconds(depth: int, iterations: int, size: int, precision: Precision) -> list[float]:
    """CPU seconds of each of the last so many iterations of a search."""
    torch.manual_seed(0)
    module = ResNet(depth=depth).build().eval().requires_grad_(False)  # type: ignore[arg-type]
    teacher = Teacher("made-up", module, Signature(((3, 32, 32),), tuple("0123456789")))
    stage = GAL(macs=0.5, epochs=1, lr=1e-3)
    noise = Noise(iterations + 1, size)
    stage(State((teacher,)), Session(splits=noise, sees=stage.sees, precision=precision))
    return [after - before for before, after in pairwise(noise.taken[-iterations - 1 :])]


class Masked(nn.Module):
    """A block of a ResNet with a scalar behind its last norm, as a module on the way: the published form."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.mask = nn.Parameter(torch.randn(1))

    def forward(self, x: Tensor) -> Tensor:
        """The block, its residual path times the mask."""
        block: Any = self.block
        residual = functional.relu(block.bn1(block.conv1(x)))
        residual = self.mask * block.bn2(block.conv2(residual))
        return functional.relu(residual + block.bypass(x))


def published_seconds(depth: int, iterations: int, size: int) -> list[float]:
    """CPU seconds of each of the last so many iterations of the published loop."""
    torch.manual_seed(0)
    spec = ResNet(depth=depth)  # type: ignore[arg-type]
    teacher, student = spec.build().train(), spec.build().train()
    for stage in ("layer1", "layer2", "layer3"):
        setattr(student, stage, nn.Sequential(*(Masked(block) for block in getattr(student, stage))))
    discriminator = Discriminator(10, official=True)
    masks = [p for name, p in student.named_parameters() if name.endswith(".mask")]
    weights = [p for name, p in student.named_parameters() if not name.endswith(".mask")]
    learn = torch.optim.SGD(weights, 1e-2, 0.9, weight_decay=2e-4)
    tell = torch.optim.SGD(discriminator.parameters(), 1e-2, 0.9, weight_decay=2e-4)
    images = torch.randn(size, 3, 32, 32)
    taken = []
    for _ in range(iterations + 1):
        taken.append(time.process_time())
        wanted, given = teacher(images), student(images)
        tell.zero_grad()
        discriminator_loss(discriminator(wanted.detach()), discriminator(given.detach())).backward()
        tell.step()
        learn.zero_grad()
        for mask in masks:
            mask.grad = None
        output_matching(given, wanted.detach(), "mean").backward(retain_graph=True)
        generator_loss(discriminator(given)).backward()
        learn.step()
    taken.append(time.process_time())
    return [after - before for before, after in pairwise(taken[1:])]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    body: dict[str, list[float]] = {"published loop, fp32": [], "fp32": [], "bf16": []}
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for _ in range(arguments.repeats):
        body["published loop, fp32"] += published_seconds(
            arguments.depth, arguments.iterations, arguments.batch
        )
        for precision in precisions:
            body[precision] += seconds(arguments.depth, arguments.iterations, arguments.batch, precision)
    print(f"ResNet-{arguments.depth}, batch {arguments.batch}, one thread, {machine()}\n")
    print(
        markdown(
            ("loop", "median, CPU s/iteration", "fastest", "slowest"),
            [(n, *(f"{f(t):.2f}" for f in (median, min, max))) for n, t in body.items()],
        )
    )


if __name__ == "__main__":
    main()
