"""How long a plan takes: ResNet-56 on images of 32x32, and torchvision's ResNet-50 on images of 224x224.

    python -m recipes.benchmarks.plan_speed --threads 2

Both are planned as the book's page plays GAL and tunes, and with Prune in front, time and memory of every step tried
out. Weights are random, for a plan is of structure.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from compress import GAL, Finetune, Prune, Stage
from recipes.benchmarks.rows import commit, machine, markdown
from recipes.plan import plan
from recipes.recipe import Recipe, Workshop
from students.files import write_text
from teachers.networks import Own, ResNet
from teachers.networks.network import Network
from teachers.tasks import Unseen
from teachers.teacher import Checkpoint

RESULTS = Path(__file__).parents[2] / "reports" / "results"
FIFTY = Own(factory="torchvision.models:resnet50", arguments={"weights": None})
GAME = (GAL(macs=0.5, epochs=10), Finetune(epochs=10))
TWICE = (Prune(macs=0.5), GAL(macs=0.8, epochs=10), Finetune(epochs=10))
SMALL, LARGE = Unseen(shape=(3, 32, 32), classes=10), Unseen(shape=(3, 224, 224), classes=1000)
CASES: dict[str, tuple[Network, Unseen, tuple[Stage, ...]]] = {
    "resnet56": (ResNet(depth=56), SMALL, GAME),
    "resnet56-twice": (ResNet(depth=56), SMALL, TWICE),
    "resnet50": (FIFTY, LARGE, GAME),
    "resnet50-twice": (FIFTY, LARGE, TWICE),
}


def planned(network: Network, task: Unseen, stages: tuple[Stage, ...]) -> tuple[float, float]:
    """Wall and CPU seconds of a plan."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        save_file({name: x.contiguous() for name, x in network.build().state_dict().items()}, weights)
        teacher = Checkpoint(name="random", network=network, task=task, weights=str(weights))
        page = Recipe(name="speed", task=task, teachers=(teacher,), stages=stages)
        began, worked = time.perf_counter(), time.process_time()
        made = plan(page, Workshop(runs=Path(folder), device="cpu", tracking="off"))
        spent = time.perf_counter() - began, time.process_time() - worked
    problems = [stage.problem for stage in made.stages if stage.problem]
    assert not problems, problems
    return spent


def main() -> None:
    """Plan, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    body = []
    for name in arguments.cases:
        network, task, stages = CASES[name]
        wall, cpu = planned(network, task, stages)
        names = ", ".join(type(stage).__name__ for stage in stages)
        body.append((name.partition("-")[0], names, f"{wall:.1f}", f"{cpu:.1f}"))
        print(*body[-1], sep="; ", flush=True)
    head = ("network", "stages", "wall s", "CPU s")
    busy = os.getloadavg()[0]
    command = f"plan_speed --threads {arguments.threads} --cases {' '.join(arguments.cases)}"
    said = (
        f"`python -m recipes.benchmarks.{command}`, commit {commit()}. {machine()}. "
        f"Steps are timed at batch 32; the first row pays for importing "
        f"torch-pruning. The machine's "
        f"load at the end was {busy:.1f} on {os.cpu_count()} cores, so that CPU seconds say more."
    )
    write_text(RESULTS / "plan-speed.md", f"# How long a plan takes\n\n{said}\n\n{markdown(head, body)}\n")


if __name__ == "__main__":
    main()
