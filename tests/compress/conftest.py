"""A teacher trained in a second, and ways to look at what a stage made of it."""

import contextlib
from collections.abc import Callable

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


@pytest.fixture
def untouched() -> Callable[[nn.Module], Callable[[], None]]:
    """Look at a network now; what comes back looks again, and fails where one bit of it changed."""

    def look(network: nn.Module) -> Callable[[], None]:
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        flags = [(p.requires_grad, p.grad is None) for p in network.parameters()]
        modes = [module.training for module in network.modules()]
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()]

        def again() -> None:
            after = network.state_dict()
            assert list(after) == list(before)
            assert all(torch.equal(before[name], after[name]) for name in before)
            assert [(p.requires_grad, p.grad is None) for p in network.parameters()] == flags
            assert [module.training for module in network.modules()] == modes
            assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()] == hooks

        return again

    return look
