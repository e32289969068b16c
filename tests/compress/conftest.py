"""A teacher trained in a second, and ways to look at what a stage made of it."""

import contextlib
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from compress.session import Session
from reports.profile import macs
from teachers.networks import DigitsCNN
from teachers.task import Split
from teachers.tasks import Toy
from teachers.teacher import Teacher
from teachers.train import Train


@pytest.fixture(scope="session")
def task() -> Toy:
    """180 images to learn from: 10 batches of 16, 18 in val."""
    return Toy(samples=180, batch=16)


@pytest.fixture(scope="session")
def trained(task: Toy) -> Callable[..., Teacher]:
    """Train a network for the task."""

    def train(network: nn.Module, epochs: int = 4) -> Teacher:
        bench = Session.bare(task)
        work = Train(epochs=epochs, lr=0.05, warmup=1)
        module = work(
            network, task.open(None), device=bench.device, autocast=contextlib.nullcontext,
            epochs=bench.epochs, log=bench.log,
        )  # fmt: skip
        return Teacher("toy", module, task.signature())

    return train


@pytest.fixture(scope="session")
def teacher(trained: Callable[..., Teacher]) -> Teacher:
    """Channels 32-64-64 with batch norms, right nearly always."""
    torch.manual_seed(0)
    return trained(DigitsCNN(classes=3).build())


@pytest.fixture(scope="session")
def cost(task: Toy) -> Callable[[nn.Module], int]:
    """MACs of one input, by torch's counter on the real network."""
    return lambda network: macs(network, task.signature().example(1))


@pytest.fixture(scope="session")
def accuracy(task: Toy) -> Callable[[nn.Module], float]:
    """On test."""
    splits = task.open(None)

    def score(network: nn.Module) -> float:
        with torch.no_grad():
            right = sum(
                int((network(*batch.inputs).argmax(1) == batch.target).sum())
                for batch in splits.batches(Split.TEST, torch.device("cpu"))
            )
        return right / splits.samples(Split.TEST)

    return score


@pytest.fixture(scope="session")
def fingerprint() -> Callable[[nn.Module], dict[str, Any]]:
    """All that a stage must leave alone in a network: to be taken before and after, and compared."""

    def take(network: nn.Module) -> dict[str, Any]:
        bits = {name: hash_of(tensor) for name, tensor in network.state_dict().items()}
        modules = dict(network.named_modules())
        return {
            "bits": bits,
            "gradients": {name: (p.requires_grad, p.grad is None) for name, p in network.named_parameters()},
            "modes": {name: module.training for name, module in modules.items()},
            "hooks": {
                name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in modules.items()
            },
        }

    return take


def hash_of(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()).hexdigest()
