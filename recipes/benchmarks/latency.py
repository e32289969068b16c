"""How much of the MACs that were cut is won as time: ResNet-20 and 56, in turns with the whole.

    python -m recipes.benchmarks.latency [--macs 0.5] [--students FOLDER ...]

Without students the cut is by L2, the same share per layer: no data and no checkpoint is needed, since time does not
depend on the weights. A student is a folder with structure.json and weights.safetensors, named after its network
(resnet56-gal-block). Two forms are timed: as trained, and as delivered in model.pt2, where the batch norms are folded
into the convolutions; the whole network in both forms too, so that like can be compared with like.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from compress.prune import Prune
from compress.session import Session
from compress.stage import State
from recipes.benchmarks.rows import machine, markdown
from reports.profile import latency, macs
from students import compact
from students.fold import folded
from teachers.networks import ResNet
from teachers.signature import Signature
from teachers.teacher import Teacher

SIGNATURE = Signature(((3, 32, 32),), tuple("0123456789"))


def cut_by_l2(depth: int, macs: float) -> nn.Module:
    """A ResNet with random weights, pruned."""
    module = ResNet(depth=depth).build().eval().requires_grad_(False)  # type: ignore[arg-type]
    stage = Prune(macs=macs)
    student = stage(State((Teacher("whole", module, SIGNATURE),)), Session(sees=stage.sees)).student
    assert student is not None
    return student


def measure(name: str, depth: int, cut: nn.Module, seconds: float) -> list[tuple[object, ...]]:
    """Rows of the table, for batch 1 and 32."""
    inputs = SIGNATURE.example(1)
    whole = ResNet(depth=depth).build().eval()  # type: ignore[arg-type]
    left = macs(cut, inputs) / macs(whole, inputs)
    forms = {"whole": whole, "cut": cut, "whole folded": folded(whole), "cut folded": folded(cut)}
    forms = {key: form.eval().to(memory_format=torch.channels_last) for key, form in forms.items()}  # type: ignore[call-overload]
    times = latency(forms, inputs, batch_sizes=(1, 32), seconds=seconds)
    rows: list[tuple[object, ...]] = []
    for size in (1, 32):
        p50 = {key: times[key].ms[f"latency_ms_p50_b{size}"] for key in forms}
        pairs = (("whole", "cut"), ("whole folded", "cut folded"), ("whole", "cut folded"))
        won = (f"{p50[a] / p50[b]:.2f}x, {p50[a] / p50[b] * left:.2f}" for a, b in pairs)
        rows.append((name, size, f"{left:.1%}", *(f"{p50[key]:.2f}" for key in forms), *won))
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--macs", type=float, default=0.5, help="share of the MACs that is left")
    parser.add_argument("--students", type=Path, nargs="+", default=[], help="folders of cut networks")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing, per batch size")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cuts = [
        (f.name, 56 if f.name.startswith("resnet56") else 20, compact.load(f)) for f in arguments.students
    ]
    cuts = cuts or [(f"resnet{depth}-l2", depth, cut_by_l2(depth, arguments.macs)) for depth in (20, 56)]
    body = [row for name, depth, cut in cuts for row in measure(name, depth, cut, arguments.seconds)]
    head = (
        "network", "batch", "MACs left", "whole, ms", "cut", "whole folded", "cut folded",
        "as trained: faster, of the MACs ratio", "both folded", "delivered against whole as trained",
    )  # fmt: skip
    print(f"One thread, fp32, channels_last, medians, {machine()}\n")
    print(markdown(head, body))


if __name__ == "__main__":
    main()
