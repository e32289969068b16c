"""Seconds and memory of attribution graphs: of one network, and of comparing many.

    python -m recipes.benchmarks.depara_speed [--cases blocks resnet56 resnet50 pairs loops lrp] [--threads 1]

Every case runs in a process of its own, on random weights and images: neither changes the work. The table goes to
reports/results/depara-speed-rows.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from compress.attribution import EMBEDDING, scalar_of
from compress.attribution_graph import AttributionGraph, attribution_graphs, ranks, similarities
from compress.probe import Probe
from recipes.benchmarks.gal_cifar10 import RESULTS
from recipes.benchmarks.rows import commit, machine, markdown
from students.files import write_text
from teachers.networks import Blocks, Own, ResNet

_PLAIN = 4  # batches of the plain loop that a graph is compared with


def of_network(
    network: Any, shape: tuple[int, ...], layers: tuple[str, ...], probes: int = 200, **more: Any
) -> dict[str, Any]:
    """CPU seconds and memory of the graphs of some layers, beside one forward and one backward pass for each batch."""
    torch.manual_seed(0)
    module = network.build().eval().requires_grad_(False)
    probe = Probe(torch.rand(probes, *shape))

    def plain() -> None:
        inputs = probe.images[:50].clone().requires_grad_()
        torch.autograd.grad(scalar_of(module(inputs).flatten(1), "norm"), inputs)

    plain()
    before, start = _memory(), time.process_time()
    for _ in range(_PLAIN):
        plain()
    pass_seconds = (time.process_time() - start) / _PLAIN * probes / 50
    start = time.process_time()
    attribution_graphs(module, probe, layers, **more)
    return {
        "seconds": time.process_time() - start,
        "pass": pass_seconds,
        "memory": _memory() - before,
        "layers": len(layers),
    }


def pairs(models: int = 20, probes: int = 1000, width: int = 3072) -> dict[str, Any]:
    """CPU seconds of ranking the edges of 20 networks and comparing all 190 pairs."""
    generator = np.random.default_rng(0)
    edges = [generator.random(probes * (probes - 1) // 2) for _ in range(models)]
    nodes = [torch.nn.functional.normalize(torch.randn(probes, width), dim=1) for _ in range(models)]
    before, start = _memory(), time.process_time()
    ranked = [ranks(row) for row in edges]
    ranking = time.process_time() - start
    graphs = [AttributionGraph(str(m), "", "", (), nodes[m], ranked[m], 0) for m in range(models)]
    V, E = similarities(graphs)
    assert V.shape == E.shape == (models, models)
    return {
        "seconds": time.process_time() - start,
        "ranking": ranking,
        "memory": _memory() - before,
        "layers": 1,
    }


def loops(models: int = 20, probes: int = 1000) -> dict[str, Any]:
    """The published way, edges alone: for every pair both are ranked anew and summed up in Python; two pairs of 190."""
    generator = np.random.default_rng(0)
    edges = [generator.random(probes * (probes - 1) // 2) for _ in range(3)]
    start = time.process_time()
    for one, other in ((0, 1), (0, 2)):
        places = [np.argsort(np.argsort(edges[m])) for m in (one, other)]
        total = 0.0
        for a, b in zip(*places, strict=True):
            total += float(a - b) ** 2
        m = len(edges[0])
        assert abs(1 - 6 * total / (m**3 - m)) <= 1
    return {
        "seconds": (time.process_time() - start) / 2 * models * (models - 1) / 2,
        "memory": 0,
        "layers": 1,
    }


SMALL = (3, 32, 32)
BLOCKS = tuple(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(9))
FIFTY = Own(factory="torchvision.models:resnet50", arguments={"weights": None})
CASES: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "blocks": ("a CNN of 24 k parameters, 200 probes of 32x32", lambda: of_network(Blocks(), SMALL, (EMBEDDING,))),
    "lrp": (
        "the same by epsilon-LRP (Captum)", lambda: of_network(Blocks(), SMALL, (EMBEDDING,), attribution="lrp"),
    ),
    "resnet56": ("ResNet-56, all 27 blocks, 200 probes of 32x32", lambda: of_network(ResNet(depth=56), SMALL, BLOCKS)),
    "resnet50": (
        "ResNet-50, its embedding, 200 probes of 224x224", lambda: of_network(FIFTY, (3, 224, 224), (EMBEDDING,)),
    ),
    "pairs": ("190 pairs of networks, 1,000 probes of 3x32x32, ranking included", pairs),
    "loops": ("the same as published, edges alone, from two pairs", loops),
}  # fmt: skip


def _memory() -> int:
    """The most that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measure the cases, each in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--here", action="store_true", help="one case in this process; its numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.here:
        print(json.dumps(CASES[arguments.cases[0]][1]()))
        return
    body = []
    for name in arguments.cases:
        words = [sys.executable, "-m", "recipes.benchmarks.depara_speed", "--here", "--cases", name]
        done = subprocess.run(
            [*words, "--threads", str(arguments.threads)], capture_output=True, text=True, check=True
        )
        row = json.loads(done.stdout.splitlines()[-1])
        passes = f"{row['seconds'] / row['layers'] / row['pass']:.2f}" if "pass" in row else "-"
        body.append((CASES[name][0], f"{row['seconds']:.2f}", f"{row['memory'] / 2**20:.0f}", passes))
        print(*body[-1], sep="; ", flush=True)
    head = ("what", "CPU s", "memory on top, MiB", "times a forward and a backward pass, a layer")
    said = f"{arguments.threads} thread(s), commit {commit()}. {machine()}."
    write_text(RESULTS / "depara-speed-rows.md", f"{said}\n\n{markdown(head, body)}\n")


if __name__ == "__main__":
    main()
