"""GAL against pruning in one go, on CIFAR-10 ResNets: same MACs, same epochs, several seeds.

    python -m recipes.benchmarks.gal_cifar10 --data DATA --teachers TEACHERS [--depth 20] [--seeds 0 1 2]

DATA holds the image folder `cifar10/{train,test}/<class>/`, TEACHERS the checkpoints of `teachers.zoo`. Rows go to
reports/results/gal-cifar10.jsonl, one a run; a run that is there already is passed over; the table beside it,
gal-cifar10-rows.md, is drawn anew from all rows after each.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from compress.finetune import Finetune
from compress.gal import GAL
from compress.prune import Importance, Prune
from compress.recalibrate import Recalibrate
from compress.session import Precision, Session
from compress.stage import Stage, State
from recipes.benchmarks.rows import Rows, machine, markdown, spread
from reports.evaluate import TestScore, evaluate
from reports.profile import macs as count_macs
from students import compact
from students.files import write_text
from teachers.task import Split, Splits
from teachers.teacher import Teacher
from teachers.zoo import RESNET20_JPEG, RESNET56_JPEG

RESULTS = Path(__file__).parents[2] / "reports" / "results"
ROWS = Rows(
    RESULTS / "gal-cifar10.jsonl",
    ("network", "method", "budget", "round_to", "epochs", "search", "lr", "seed"),
)


@dataclass(frozen=True)
class Remembering(Teacher):
    """A teacher that answers a batch it has had before from memory: its numbers, without the time.

    Runs of one seed are tuned on the same batches in the same order, so all but the first are spared the teacher's
    forward passes.
    """

    answers: dict[tuple[object, ...], Tensor] = field(default_factory=dict)

    def __call__(self, *inputs: Tensor) -> Tensor:
        (images,) = inputs
        key = (*images.shape, images.double().sum().item(), *images.flatten()[::997].tolist())
        if key not in self.answers:
            self.answers[key] = super().__call__(images)
        return self.answers[key]

    def to(self, device: torch.device | str) -> Remembering:
        """As a teacher's, with the same memory."""
        there = super().to(device)
        return Remembering(there.name, there.module, there.signature, self.answers)


def stage_of(method: str, budget: float, round_to: int, search: float) -> Stage:
    """The stage that a row measures: `gal`, `gal-warm`, `gal-block`, `gal-joint`, or a baseline by its importance."""
    if method == "gal":
        return GAL(macs=budget, round_to=round_to, epochs=search)
    if method == "gal-warm":
        return GAL(macs=budget, round_to=round_to, epochs=search, lr=0.03, anneal=False)
    if method == "gal-block":
        return GAL(macs=budget, round_to=round_to, epochs=search, structures=("block",))
    if method == "gal-joint":
        return GAL(macs=budget, round_to=round_to, epochs=search, structures=("channel", "block"))
    importance, _, scope = method.partition("@")
    assert importance in get_args(Importance), f"no method is called {method}"
    return Prune(macs=budget, importance=importance, round_to=round_to, scope=scope or "layer")  # type: ignore[arg-type]


class Bench:
    """One network, its data, and the three measurements of a run."""

    def __init__(
        self, depth: int, data: Path, teachers: Path, precision: Precision, quiet: bool, keep: Path | None
    ) -> None:
        self.depth, self.keep, self.seed = depth, keep, -1
        known = RESNET20_JPEG if depth == 20 else RESNET56_JPEG
        loaded = known.checkpoint.load(teachers)
        self.teacher = Remembering(loaded.name, loaded.module, loaded.signature)
        self.task = known.checkpoint.task
        self.splits: Splits = self.task.open(data)
        self.precision = precision
        self.quiet = quiet
        self.full = count_macs(self.teacher.module, self.teacher.signature.example(1))

    def session(self, stage: Stage, seed: int) -> Session:
        def told(values: Mapping[str, float], epoch: int) -> None:
            if not self.quiet:
                print(
                    f"  {type(stage).__name__} {epoch + 1}",
                    {k: round(v, 4) for k, v in values.items()},
                    flush=True,
                )

        return Session(
            splits=self.splits, sees=stage.sees, precision=self.precision, seed=seed, report=told,
            name=type(stage).__name__,
        )  # fmt: skip

    def score(self, network: nn.Module, split: Split = Split.TEST) -> float:
        """Accuracy on test: read for the table alone, nothing is chosen by it."""
        batches = self.splits.batches(split, torch.device("cpu"))
        context = torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16")
        return evaluate(
            network, batches, self.task.predict, self.task.score, kind=TestScore, autocast=lambda: context
        ).value

    def run(
        self, method: str, budget: float, round_to: int, epochs: int, search: float, lr: float, seed: int
    ) -> dict[str, Any]:
        """Prune, recalibrate, fine-tune for what is left of `epochs`, and measure after each."""
        torch.manual_seed(seed)
        if seed != self.seed:
            self.seed = seed
            self.teacher.answers.clear()
        stage = stage_of(method, budget, round_to, search)
        state = stage(State((self.teacher,)), self.session(stage, seed))
        assert state.student is not None
        row: dict[str, Any] = {"cut": self.score(state.student)}
        fresh = Recalibrate(batches=50)
        state = fresh(state, self.session(fresh, seed + 1000))
        assert state.student is not None
        row["recalibrated"] = self.score(state.student)
        tune = Finetune(epochs=epochs - (search if method.startswith("gal") else 0), lr=lr)
        state = tune(state, self.session(tune, seed + 2000))
        assert state.student is not None
        row["finetuned"] = self.score(state.student)
        row["macs"] = count_macs(state.student, self.teacher.signature.example(1)) / self.full
        row["params"] = sum(p.numel() for p in state.student.parameters())
        convs = {n: m.out_channels for n, m in state.student.named_modules() if isinstance(m, nn.Conv2d)}
        if self.keep is not None:
            place = self.keep / f"resnet{self.depth}-{method}-{budget:g}-{epochs}-{seed}"
            compact.put_away(state.student, place)
        row["widths"] = [width for name, width in convs.items() if name.endswith("conv1") and "." in name]
        return row


def table() -> str:
    """All rows, seeds together: accuracy on test straight after the cut, recalibrated, and fine-tuned."""
    rows = ROWS.all()
    settings = sorted({(r["network"], -r["budget"], r["round_to"], r["epochs"], r["lr"]) for r in rows})
    parts = [f"Mean ± standard deviation over seeds (how many), accuracy on test in %. {machine()}."]
    for network, less, round_to, epochs, lr in settings:
        mine = [r for r in rows if (r["network"], -r["budget"], r["round_to"], r["epochs"], r["lr"])
                == (network, less, round_to, epochs, lr)]  # fmt: skip
        parts.append(
            f"**{network} at {-less:.0%} of its MACs**, widths in multiples of {round_to}, {epochs} epochs in all "
            f"(search counted), fine-tuned with soft targets at lr {lr:g}"
        )
        body = []
        for method, search in dict.fromkeys((r["method"], r["search"]) for r in mine):
            of = [r for r in mine if (r["method"], r["search"]) == (method, search)]
            shown = [spread(r[step] for r in of) for step in ("macs", "cut", "recalibrated", "finetuned")]
            widths = ", ".join(str(width) for width in of[0]["widths"])
            body.append((method, f"{search:g}", *shown, f"{of[0]['params'] / 1e3:.0f} k", widths))
        head = (
            "method",
            "of which search",
            "MACs left, %",
            "after the cut",
            "recalibrated",
            "fine-tuned",
            "params",
            "inner widths, first seed",
        )
        parts.append(markdown(head, body))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure what is asked for and not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds cifar10/")
    parser.add_argument("--teachers", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--depth", type=int, choices=(20, 56), default=20)
    parser.add_argument("--methods", nargs="+", default=["gal", "l2", "bn_scale", "taylor", "random"])
    parser.add_argument(
        "--budgets", nargs="+", default=["0.5:8", "0.3:4"], help="share of the MACs : round_to"
    )
    parser.add_argument("--epochs", type=int, default=5, help="in all, the search counted")
    parser.add_argument("--search", type=float, default=1, help="of which GAL searches")
    parser.add_argument("--lr", type=float, default=0.05, help="of the fine-tuning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--keep", type=Path, help="folder to put the students into")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench: Bench | None = None
    for seed in arguments.seeds:
        for budget, round_to in (text.split(":") for text in arguments.budgets):
            for method in arguments.methods:
                key = {
                    "network": f"resnet{arguments.depth}",
                    "method": method,
                    "budget": float(budget),
                    "round_to": int(round_to),
                    "epochs": arguments.epochs,
                    "search": arguments.search if method.startswith("gal") else 0,
                    "lr": arguments.lr,
                    "seed": seed,
                }
                if ROWS.has(**key):
                    continue
                if bench is None:
                    bench = Bench(
                        arguments.depth,
                        arguments.data,
                        arguments.teachers,
                        arguments.precision,
                        arguments.quiet,
                        arguments.keep,
                    )
                print(key, flush=True)
                row = bench.run(
                    method,
                    float(budget),
                    int(round_to),
                    arguments.epochs,
                    arguments.search,
                    arguments.lr,
                    seed,
                )
                ROWS.add({**key, **row, "precision": arguments.precision})
                write_text(RESULTS / "gal-cifar10-rows.md", table())
                print({k: v for k, v in row.items() if k != "widths"}, flush=True)


if __name__ == "__main__":
    main()
