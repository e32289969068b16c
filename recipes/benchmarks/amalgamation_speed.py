"""What a training step with two teachers costs: a ResNet-20 student on 128 images, against a step by labels alone.

    python -m recipes.benchmarks.amalgamation_speed [--threads 1] [--seconds 20] [--precision fp32 bf16]

Both kinds of step take turns, so that whatever else the machine does falls on both alike; the medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F

from compress.amalgamate import Amalgamate
from compress.calibration import fit
from compress.course import Course, Loaded
from compress.method import Work, merged
from compress.panel import Panel
from compress.session import Session
from recipes.benchmarks.rows import machine
from teachers.networks import ResNet
from teachers.place import place
from teachers.signature import Signature
from teachers.teacher import Teacher

TEN = tuple("0123456789")
TASK = Signature(((3, 32, 32),), TEN, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))


def steps(precision: str) -> dict[str, Callable[[], None]]:
    """One step by labels, and one by the merged answers of two teachers of five classes each."""
    torch.manual_seed(0)
    teachers = [
        Teacher(name, place(ResNet(classes=5).build(), "cpu"), replace(TASK, labels=labels))
        for name, labels in (("first", TEN[:5]), ("second", TEN[5:]))
    ]
    panel = Panel(teachers, TASK)
    images = torch.rand(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    truth = torch.randint(10, (128,))
    rows = panel.ask(images)
    made, _ = fit(rows, panel.names, [space.names for space in panel.spaces])
    session = Session()
    stage = Amalgamate(student=ResNet())
    work = Work(session, panel, merged(panel, "auto", made), made, Course(stage, session, Loaded(session)))

    def taking(teach: bool) -> Callable[[], None]:
        student = place(ResNet().build(), "cpu").train()
        learn = torch.optim.SGD(student.parameters(), 0.01, 0.9, weight_decay=5e-4, nesterov=True)

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                outputs = student(images)
                terms = work.imitated(outputs, panel.ask(images)) if teach else {}
            loss = terms["imitation"] if teach else F.cross_entropy(outputs.float(), truth)
            learn.zero_grad()
            loss.backward()
            learn.step()

        return step

    return {"labels": taking(False), "two teachers": taking(True)}


def main() -> None:
    """Take turns, and tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{machine()}, {arguments.threads} threads")
    for precision in arguments.precision:
        ready = steps(precision)
        for step in ready.values():
            step()
        taken: dict[str, list[float]] = {name: [] for name in ready}
        end = time.monotonic() + arguments.seconds
        while time.monotonic() < end or len(taken["labels"]) < 5:
            for name, step in ready.items():
                # CPU time of this process: a machine that is busy elsewhere does not count.
                start = time.process_time()
                step()
                taken[name].append(time.process_time() - start)
        median = {name: statistics.median(times) for name, times in taken.items()}
        said = ", ".join(f"{name} {1e3 * value:.0f} ms" for name, value in median.items())
        ratio = median["two teachers"] / median["labels"]
        print(f"{precision}: {said}, {ratio:.2f} times ({len(taken['labels'])} steps each)", flush=True)


if __name__ == "__main__":
    main()
