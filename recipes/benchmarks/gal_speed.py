"""Seconds of one GAL search iteration: ResNet-56, batch 128, one thread, made-up images.

    python -m recipes.benchmarks.gal_speed

The time is the thread's own (CPU seconds), so that a busy machine does not count; an iteration is the difference of
two searches of different length, so that the start (groups, curvature) does not count either.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch

from compress.gal import GAL
from compress.session import Precision, Session
from compress.stage import State
from recipes.benchmarks.rows import machine, markdown
from teachers.networks import ResNet
from teachers.signature import Signature
from teachers.task import Batch, Split, Splits
from teachers.teacher import Teacher


class Noise(Splits):
    """So many batches of standard normal images, made once."""

    def __init__(self, batches: int, size: int) -> None:
        self.count, self.size = batches, size
        images = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        self.batch = Batch((images.contiguous(memory_format=torch.channels_last),))

    def samples(self, split: Split) -> int:
        return self.count * self.size

    def steps(self, split: Split) -> int:
        return self.count

    def batches(
        self, split: Split, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        for _ in range(self.count):
            yield self.batch


def seconds(depth: int, batches: int, size: int, precision: Precision) -> float:
    """CPU seconds of a search of so many batches."""
    torch.manual_seed(0)
    module = ResNet(depth=depth).build().eval().requires_grad_(False)  # type: ignore[arg-type]
    teacher = Teacher("made-up", module, Signature(((3, 32, 32),), tuple("0123456789")))
    stage = GAL(macs=0.5, epochs=1, lr=1e-3)
    session = Session(splits=Noise(batches, size), sees=stage.sees, precision=precision)
    start = time.process_time()
    stage(State((teacher,)), session)
    return time.process_time() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    body = []
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in precisions:
        seconds(20, 2, 8, precision)  # warm-up: kernels are chosen when first used
        times = []
        for _ in range(arguments.repeats):
            short = seconds(arguments.depth, 10, arguments.batch, precision)
            long = seconds(arguments.depth, 10 + arguments.iterations, arguments.batch, precision)
            times.append((long - short) / arguments.iterations)
        body.append((precision, f"{min(times):.2f}", f"{max(times):.2f}"))
    print(f"ResNet-{arguments.depth}, batch {arguments.batch}, one thread, {machine()}\n")
    print(markdown(("precision", "fastest, CPU s/iteration", "slowest"), body))


if __name__ == "__main__":
    main()
