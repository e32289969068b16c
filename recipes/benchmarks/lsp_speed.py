"""What one step of local structure costs: CPU milliseconds and memory, forward and backward, one thread.

    python -m recipes.benchmarks.lsp_speed [--repeats 7] [--edges 100000 1000000 10000000]

First at PPI's size (2,245 nodes, 63,563 edges, teacher 1,024 wide, student 136), kernel by kernel; beside ours stands
the published way, which gathers both ends of every edge. Then the default kernel and L1 on ever larger random graphs,
64 and 32 wide. Each row is measured in a fresh process: memory is what the step added to it at most.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from compress.affinity import PRESETS, Kernel
from compress.losses import local_structure, log_structure
from compress.neighbours import Neighbours
from recipes.benchmarks.rows import machine, markdown

PPI = (2245, 63563, 1024, 136)
KERNELS = ("dot", "cosine", "poly2", "l2", "paper_rbf", "official")


def graph(nodes: int, edges: int, wide: int, narrow: int) -> tuple[Neighbours, Tensor, Tensor]:
    """A random graph without duplicates, the teacher's features and the student's."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randint(nodes, (edges,), generator=generator)
    # Steps between 1 and nodes - 1, so that nobody is his own neighbour; a few edges come up twice and go.
    neighbour = (centre + torch.randint(1, nodes, (edges,), generator=generator)) % nodes
    near = Neighbours.of(torch.stack([neighbour, centre]), nodes)
    return (
        near,
        torch.randn(nodes, wide, generator=generator),
        torch.randn(nodes, narrow, generator=generator),
    )


def gathered(features: Tensor, near: Neighbours, kernel: Kernel) -> Tensor:
    """Scores as the released code makes them: both ends of every edge side by side, (E, D)."""
    one, other = features[near.centre], features[near.neighbour]
    if kernel.measure == "l1":
        return torch.exp(-kernel.gamma * (one - other).abs().sum(1))
    return torch.exp(-kernel.gamma * (one - other).square().sum(1))


def step(way: str, name: str, near: Neighbours, teacher: Tensor, student: Tensor) -> None:
    """One loss and its gradient to the student."""
    student = student.detach().requires_grad_()
    kernel = PRESETS[name]  # type: ignore[index]
    if way == "gathered":
        with torch.no_grad():
            wanted = log_structure(gathered(teacher, near, kernel), near)
        given = log_structure(gathered(student, near, kernel), near)
        loss = (wanted.exp() * (wanted - given)).sum() / near.nodes
    else:
        loss = local_structure(student, teacher, near, kernel=kernel)
    loss.backward()


def resident(field: str) -> float:
    """MB of this process: VmRSS is what it holds, VmHWM the most it held since the mark was last put back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def measure(way: str, name: str, sizes: tuple[int, int, int, int], repeats: int) -> dict[str, float]:
    """CPU ms of a step, the median of several, and MB that the first one added."""
    torch.set_num_threads(1)
    step(way, name, *graph(100, 1000, 8, 8))  # compiled, and libraries loaded
    near, teacher, student = graph(*sizes)
    _ = near.compressed, near._columns, near.degree  # made once for a graph that stays
    cached = PRESETS[name].scores(teacher, near) if way == "cached" else teacher  # type: ignore[index]
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    step(way, name, near, cached, student)
    most = resident("VmHWM")
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        step(way, name, near, cached, student)
        taken.append(1e3 * (time.process_time() - start))
    return {"ms": median(taken), "least": min(taken), "mb": most - before}


def apart(*arguments: object) -> dict[str, float]:
    """`measure` in a fresh process."""
    program = "import json, sys; from recipes.benchmarks.lsp_speed import measure\n"
    program += "print(json.dumps(measure(*json.loads(sys.argv[1]))))"
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(arguments)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--edges", type=int, nargs="*", default=[100_000, 1_000_000, 10_000_000])
    arguments = parser.parse_args()
    show: Callable[[dict[str, float]], tuple[str, ...]] = lambda row: (  # noqa: E731
        f"{row['ms']:.1f}", f"{row['least']:.1f}", f"{row['mb']:.0f}",
    )  # fmt: skip
    body = []
    for name in KERNELS:
        for way in ("ours", "cached", *(("gathered",) if name in ("paper_rbf", "official") else ())):
            body.append((name, way, *show(apart(way, name, PPI, arguments.repeats))))
    print(f"PPI's size, one thread. {machine()}.\n")
    print(markdown(("kernel", "way", "CPU ms, median", "least", "MB added"), body), "\n")
    body = []
    for name in ("cosine", "official"):
        for edges in arguments.edges:
            row = apart("ours", name, (max(edges // 10, 100), edges, 64, 32), min(arguments.repeats, 3))
            body.append((name, f"{edges:,}", *show(row), f"{1e6 * row['mb'] / edges:.0f}"))
    print(f"Random graphs of ten edges a node, teacher 64 wide, student 32. {machine()}.\n")
    print(markdown(("kernel", "edges", "CPU ms, median", "least", "MB added", "bytes an edge"), body))


if __name__ == "__main__":
    main()
