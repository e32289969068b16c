"""A graph of a million nodes and ten million edges, by parts around seeds: seconds an epoch, and memory.

    python -m recipes.benchmarks.lsp_large [--nodes 1000000] [--edges 10000000] [--seeds 200000] [--epochs 2]

Made on the spot: nodes of 16 kinds, nine of ten edges within a kind, 64 numbers a node. A GraphSAGE 128 wide, with
random weights, teaches one 32 wide by LSP and soft targets; time does not depend on what it knows. Each batch is
1,024 seeds, ten neighbours of each and ten of each of those.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch

from compress.lsp import LSP
from compress.session import Session
from compress.stage import State
from recipes.benchmarks.rows import machine, markdown
from teachers.networks import GraphSAGE
from teachers.signature import Signature
from teachers.task import Split
from teachers.tasks.graph_splits import Graph, NodeSplits
from teachers.teacher import Teacher

WIDTH, KINDS = 64, 16


def made(nodes: int, edges: int, seeds: int) -> Graph:
    """The graph."""
    dice = torch.Generator().manual_seed(0)
    kind = torch.randint(KINDS, (nodes,), generator=dice)
    receive = torch.randint(nodes, (edges,), generator=dice)
    send = torch.randint(nodes, (edges,), generator=dice)
    # Nodes in the order of their kinds: a sender of the same kind lies in the same stretch.
    order = kind.argsort(stable=True)
    start = torch.searchsorted(kind[order].contiguous(), torch.arange(KINDS))
    size = torch.bincount(kind, minlength=KINDS)
    own = order[start[kind[receive]] + send % size[kind[receive]]]
    within = torch.rand(edges, generator=dice) < 0.9
    centres = torch.randn(KINDS, WIDTH, generator=dice)
    features = torch.randn(nodes, WIDTH, generator=dice).mul_(2.0).add_(centres[kind])
    rows = torch.randperm(nodes, generator=dice)
    held = min(10_000, (nodes - seeds) // 2)
    parts = {
        Split.TRAIN: rows[:seeds], Split.VAL: rows[seeds : seeds + held], Split.TEST: rows[seeds + held : seeds + 2 *
        held],
    }  # fmt: skip
    return Graph(features, torch.stack([torch.where(within, own, send), receive]), kind, parts)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--edges", type=int, default=10_000_000)
    parser.add_argument("--seeds", type=int, default=200_000, help="nodes that are taught")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    graph = made(arguments.nodes, arguments.edges, arguments.seeds).tidy("it")
    ready = time.process_time() - start
    splits = NodeSplits(graph, arguments.batch, arguments.batch, (10, 10))
    signature = Signature(
        ((WIDTH,), (2,)), tuple(map(str, range(KINDS))), nodes=arguments.nodes, edges=graph.edges.shape[1]
    )
    torch.manual_seed(0)
    teacher = Teacher("sage", GraphSAGE(inputs=WIDTH, classes=KINDS, widths=(128,)).build(), signature)
    stage = LSP(
        student=GraphSAGE(inputs=WIDTH, classes=KINDS, widths=(32,)),
        epochs=arguments.epochs,
        patience=None,
        embedding=0,
    )
    marks = [time.process_time()]
    walls = [time.perf_counter()]

    def report(values: object, _: int) -> None:
        marks.append(time.process_time())
        walls.append(time.perf_counter())

    stage(State((teacher,)), Session(splits=splits, report=report))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    spent = [(b - a, d - c) for a, b, c, d in zip(marks, marks[1:], walls, walls[1:], strict=False)][
        : arguments.epochs
    ]
    body = [
        (
            epoch + 1,
            f"{cpu:.0f}",
            f"{wall:.0f}",
            f"{1e3 * cpu / splits.steps(Split.TRAIN):.0f}",
            f"{memory:.1f}",
        )
        for epoch, (cpu, wall) in enumerate(spent)
    ]
    print(
        f"{len(graph.features):,} nodes, {graph.edges.shape[1]:,} edges, {arguments.seeds:,} seeds an epoch, val "
        f"included; "
        f"made and sorted in {ready:.0f} CPU s. One thread, {machine()}.\n"
    )
    print(markdown(("epoch", "CPU s", "wall s", "CPU ms a batch", "peak memory, GB"), body))


if __name__ == "__main__":
    main()
