"""How much of the MACs that were cut is won as time: ResNet-20 and 56 at half their MACs, in turns with the whole.

    python -m recipes.benchmarks.latency [--macs 0.5]

No data and no checkpoint is needed: time does not depend on the weights. The cut is by L2, the same share per layer.
"""

from __future__ import annotations

import argparse

import torch

from compress.prune import Prune
from compress.session import Session
from compress.stage import State
from recipes.benchmarks.rows import machine, markdown
from reports.profile import latency, macs
from teachers.networks import ResNet
from teachers.signature import Signature
from teachers.teacher import Teacher


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--macs", type=float, default=0.5, help="share of the MACs that is left")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing, per batch size")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    body = []
    for network in (ResNet(depth=20), ResNet(depth=56)):
        torch.manual_seed(0)
        signature = Signature(((3, 32, 32),), tuple("0123456789"))
        teacher = Teacher("whole", network.build().eval().requires_grad_(False), signature)
        stage = Prune(macs=arguments.macs)
        student = stage(State((teacher,)), Session(sees=stage.sees)).student
        assert student is not None
        inputs = signature.example(1)
        left = macs(student, inputs) / macs(teacher.module, inputs)
        whole = teacher.to(torch.device("cpu")).module
        times = latency(
            {"whole": whole, "cut": student}, inputs, batch_sizes=(1, 32), seconds=arguments.seconds
        )
        for size in (1, 32):
            before, after = (
                [times[name].ms[f"latency_ms_{p}_b{size}"] for p in ("p50", "p95")]
                for name in ("whole", "cut")
            )
            faster = before[0] / after[0]
            body.append(
                (
                    f"ResNet-{network.depth}", size, f"{left:.1%}",
                    f"{before[0]:.2f} / {before[1]:.2f}", f"{after[0]:.2f} / {after[1]:.2f}",
                    f"{faster:.2f}x", f"{faster * left:.2f}",
                )
            )  # fmt: skip
    print(f"One thread, fp32, channels_last, {machine()}\n")
    head = (
        "network",
        "batch",
        "MACs left",
        "whole, p50 / p95 ms",
        "cut, p50 / p95 ms",
        "faster",
        "of the MACs ratio",
    )
    print(markdown(head, body))


if __name__ == "__main__":
    main()
