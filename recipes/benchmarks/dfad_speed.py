"""Seconds of one outer step of DFAD, one thread, random weights: MNIST, batch 128; ResNet-34 to 18 on CIFAR, batch 32.

    python -m recipes.benchmarks.dfad_speed

An outer step is five student steps and one of the generator. The time is the process's own (CPU seconds). Beside
ours, in turns with it, stands the loop as the method's authors published it: fresh images for every step with a graph
through the generator, a teacher whose weights want gradients, fp32, images channel by channel, the large generator.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn
from torchvision.models import resnet18, resnet34

from compress.adversaries import Generator
from compress.dfad import DFAD, Game
from compress.session import Precision, Sees, Session
from recipes.benchmarks.rows import machine, markdown
from teachers.networks import LeNet5
from teachers.signature import Signature
from teachers.teacher import Teacher

TEN = tuple("0123456789")
DIGIT = Signature(((1, 28, 28),), TEN, (0.1307,), (0.3081,))
PHOTO = Signature(((3, 32, 32),), TEN, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def small(network: nn.Module) -> nn.Module:
    """A torchvision ResNet for 32x32 images: a 3x3 stem, no pooling before the stages."""
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


CASES: dict[str, tuple[Signature, Callable[[], nn.Module], Callable[[], nn.Module], int, int, int]] = {
    "MNIST, LeNet-5 to its half, batch 128": (
        DIGIT, LeNet5().build, LeNet5(widths=(3, 8, 60, 42)).build, 128, 100, 16,
    ),
    "CIFAR, ResNet-34 to ResNet-18, batch 32": (
        PHOTO, lambda: small(resnet34(num_classes=10)), lambda: small(resnet18(num_classes=10)), 32, 256, 64,
    ),
}  # fmt: skip


def ours(name: str, precision: Precision, rounds: int) -> list[float]:
    """CPU seconds of the last so many rounds of the default preset."""
    signature, teacher, student, batch, latent, width = CASES[name]
    torch.manual_seed(0)
    known = teacher()
    stage = DFAD(batch=batch, latent=latent, width=width)
    session = Session(sees=Sees.NOTHING, precision=precision)
    game = Game(stage, Teacher("made-up", known, signature).to("cpu"), session.place(student()), session)
    game.begin()
    taken = []
    for _ in range(rounds + 1):
        start = time.process_time()
        game.seek()
        game.teach()
        taken.append(time.process_time() - start)
    return taken[1:]


def published(name: str, rounds: int) -> list[float]:
    """CPU seconds of the last so many outer steps of the published loop."""
    signature, build, student_of, batch, latent, _ = CASES[name]
    torch.manual_seed(0)
    teacher, student = build().eval(), student_of().train()
    generator = Generator(signature, latent, 64, "published")
    learn = torch.optim.SGD(student.parameters(), 0.01, 0.9, weight_decay=5e-4)
    tease = torch.optim.Adam(generator.parameters(), 1e-3)
    taken = []
    for _ in range(rounds + 1):
        start = time.process_time()
        for _ in range(5):
            images = generator(torch.randn(batch, latent)).detach()
            learn.zero_grad()
            (student(images) - teacher(images).detach()).abs().mean().backward()
            learn.step()
        images = generator(torch.randn(batch, latent))
        tease.zero_grad()
        (-(student(images) - teacher(images)).abs().mean()).backward()
        tease.step()
        taken.append(time.process_time() - start)
    return taken[1:]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    body = []
    for name in CASES:
        times: dict[str, list[float]] = {"published loop, fp32": [], "ours, fp32": [], "ours, bf16": []}
        for _ in range(arguments.repeats):
            times["published loop, fp32"] += published(name, arguments.rounds)
            times["ours, fp32"] += ours(name, "fp32", arguments.rounds)
            times["ours, bf16"] += ours(name, "bf16", arguments.rounds)
        body += [(name, loop, *(f"{f(t):.2f}" for f in (median, min, max))) for loop, t in times.items()]
    print(f"One thread, {machine()}\n")
    print(markdown(("networks", "loop", "median, CPU s/outer step", "fastest", "slowest"), body))


if __name__ == "__main__":
    main()
