"""KSE on the CIFAR ResNets: sizes and time of the clustering, and accuracy before and after tuning.

    python -m recipes.benchmarks.kse_cifar10 sizes --teachers TEACHERS
    python -m recipes.benchmarks.kse_cifar10 latency --teachers TEACHERS
    python -m recipes.benchmarks.kse_cifar10 resnet50
    python -m recipes.benchmarks.kse_cifar10 accuracy --data DATA --teachers TEACHERS [--depth 20] [--seeds 0 1 2]

TEACHERS holds the checkpoints of `teachers.zoo`, DATA the image folder `cifar10/{train,test}/<class>/`. All but
`accuracy` print their tables; it adds rows to reports/results/kse-cifar10.jsonl, one a run, and passes over those that
are there.
"""

from __future__ import annotations

import argparse
import copy
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from compress.finetune import Finetune
from compress.gal import GAL
from compress.kse import KSE
from compress.recalibrate import Recalibrate
from compress.session import Session
from compress.stage import Stage, State
from recipes.benchmarks.gal_cifar10 import RESULTS, Bench
from recipes.benchmarks.rows import Rows, machine, markdown, of_scores, spread
from reports.profile import latency, macs
from students.files import write_text
from students.fold import folded
from students.kernels import SharedConvolution, densified
from students.structure import stored, stored_bytes
from teachers.place import place
from teachers.signature import Signature
from teachers.task import Split
from teachers.teacher import Teacher
from teachers.zoo import RESNET20_JPEG, RESNET56

ROWS = Rows(
    RESULTS / "kse-cifar10.jsonl",
    ("network", "method", "granularity", "half", "epochs", "lr", "labels", "swa", "seed"),
)


def _into(told: dict[str, float]) -> Callable[[Mapping[str, float], int], None]:
    def take(values: Mapping[str, float], step: int) -> None:
        told.update(values)

    return take


def file_bytes(network: nn.Module) -> int:
    """Size of the weights file, its header with the names of all tensors included."""
    return len(save({name: tensor.contiguous() for name, tensor in stored(network).items()}))


def weight_error(dense: nn.Module, student: nn.Module) -> float:
    """Mean over the layers that share of |W - W'|^2 / |W|^2, channels without a kernel included."""
    parts = []
    for name, layer in student.named_modules():
        if isinstance(layer, SharedConvolution):
            was = dense.get_parameter(f"{name}.weight").detach()
            parts.append(((was - layer.weight().detach()).square().sum() / was.square().sum()).item())
    return sum(parts) / len(parts)


def sizes(teachers: Path) -> None:
    """The published ResNet-56 at G = 4, 5, 6, and what the time goes into."""
    teacher = RESNET56.checkpoint.load(teachers)
    macs(
        teacher.module, teacher.signature.example(1)
    )  # loads what every run has loaded by then: PyTorch's counter
    dense, dense_file = stored_bytes(teacher.module), file_bytes(teacher.module)
    body = []
    variants: list[dict[str, Any]] = [
        {"granularity": granularity, **fields}
        for granularity in (4, 5, 6)
        for fields in (
            {"cut_unread": False},
            {"cut_unread": False, "layout": "released"},
            {"cut_unread": False, "layout": "released", "renormalise": True},
            {"cut_unread": False, "half": True},
            {},
            {"round_to": 1},
        )
    ]
    for fields in (*variants, *({"bytes": share, "cut_unread": False} for share in (0.546, 0.446, 0.43))):
        stage = KSE(**fields)
        told: dict[str, float] = {}
        start = time.process_time()
        student = stage(State((teacher,)), Session(sees=stage.sees, report=_into(told))).student
        spent = time.process_time() - start
        assert student is not None
        off = "–"
        if not fields.get("cut_unread", True):
            off = f"{weight_error(teacher.module, student):.4f}"
        params = sum(m.numbers() for m in student.modules() if isinstance(m, SharedConvolution))
        params += sum(p.numel() for n, p in student.named_parameters() if n.split(".")[-1] != "kernels")
        body.append(
            (
                ", ".join(f"{k}={v}" for k, v in fields.items()),
                f"{params / 1e6:.3f} M", f"{told['kernel_macs'] / 1e6:.1f} M",
                f"{(told['kernel_macs'] + told['gather_adds']) / 1e6:.1f} M",
                f"{told['stored_bytes'] / 1e6:.3f} MB", f"{dense / told['stored_bytes']:.2f}x",
                f"{dense_file / file_bytes(student):.2f}x", f"{told['error']:.4f}", off, f"{spent:.2f}",
            )
        )  # fmt: skip
    head = (
        "KSE", "params, kernels only", "kernel MACs", "+ gather adds", "tensors", "smaller", "file smaller",
        "error", "error by layer", "CPU s",
    )  # fmt: skip
    print(f"ResNet-56 as published, T = 0, one thread, {machine()}\n")
    print(markdown(head, body))


def times(teachers: Path, seconds: float = 5.0) -> None:
    """Calls of the dense network and of its students in evaluation mode, taking turns, one thread."""
    body = []
    for known in (RESNET20_JPEG, RESNET56):
        teacher = known.checkpoint.load(teachers)
        forms = {"dense": place(copy.deepcopy(teacher.module), "cpu")}
        for granularity in (4, 6):
            stage = KSE(granularity=granularity)
            student = stage(State((teacher,)), Session(sees=stage.sees)).student
            assert student is not None
            forms[f"G = {granularity}"] = student
            forms[f"G = {granularity}, model.pt2"] = place(folded(densified(student)), "cpu")
        inputs = teacher.signature.example(1)
        found = latency(forms, inputs, batch_sizes=(1, 32), seconds=seconds * len(forms))
        for size in (1, 32):
            p50 = {name: found[name].ms[f"latency_ms_p50_b{size}"] for name in forms}
            cells = [
                f"{p50[name]:.2f} ({p50['dense'] / p50[name]:.2f}x)" for name in forms if name != "dense"
            ]
            body.append((teacher.name, size, f"{p50['dense']:.2f}", *cells))
    names = [name for name in forms if name != "dense"]
    print(f"Milliseconds (times faster than dense), medians, one thread, fp32, {machine()}\n")
    print(markdown(("network", "batch", "dense", *names), body))


def wide(shapes: str = "resnet50") -> None:
    """The shapes of ResNet-50 with random weights: time and peak memory."""
    from torchvision.models import resnet50

    torch.manual_seed(0)
    network = resnet50().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            with torch.no_grad():
                module.weight.mul_(torch.rand(1, module.weight.shape[1], 1, 1) ** 2)
    signature = Signature(((3, 224, 224),), tuple(str(i) for i in range(1000)))
    teacher = Teacher(shapes, network, signature)
    stage = KSE(granularity=5, shift=1, cut_unread=False)
    told: dict[str, float] = {}
    start = time.process_time()
    stage(State((teacher,)), Session(sees=stage.sees, report=_into(told)))
    spent = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{shapes}, G = 5, T = 1: {spent:.1f} CPU s, peak memory of the process {peak:.2f} GiB, {told}")


def run(bench: Bench, method: str, granularity: int, half: bool, tune: Finetune, seed: int) -> dict[str, Any]:
    """Cluster (after GAL, where the method says so), recalibrate, tune; accuracy on test after each.

    `budget` spends the bytes that `granularity` takes where they are worth most, layer by layer; `tune` leaves the
    teacher as it is and tunes a copy all the same: what the tuning alone is worth.
    """
    torch.manual_seed(seed)
    state = State((bench.teacher,))
    row: dict[str, Any] = {}

    def do(stage: Stage, offset: int, state: State) -> State:
        return stage(state, bench.session(stage, seed + offset))

    if "gal" in method:
        state = do(GAL(macs=0.6, epochs=1), 0, state)
        state = do(replace(tune, lr=0.05, swa=0.0), 1000, state)
        assert state.student is not None
        row["gal"] = bench.score(state.student)
        row["gal_smaller"] = stored_bytes(bench.teacher.module) / stored_bytes(state.student)
    if "kse" in method or method == "budget":
        shared = do(KSE(granularity=granularity, half=half), 2000, state)
        if method == "budget":
            assert shared.student is not None
            share = stored_bytes(shared.student) / stored_bytes(bench.teacher.module)
            shared = do(KSE(bytes=share, half=half), 2000, state)
        state = shared
        assert state.student is not None
        row["clustered"] = bench.score(state.student)
        state = do(Recalibrate(batches=50), 3000, state)
        assert state.student is not None
        row["recalibrated"] = bench.score(state.student)
    if method != "gal":
        state = do(tune, 4000, state)
    assert state.student is not None
    row["finetuned"], row["val"] = bench.score(state.student), bench.score(state.student, Split.VAL)
    row["bytes"] = stored_bytes(state.student)
    row["smaller"] = stored_bytes(bench.teacher.module) / row["bytes"]
    return row


def table() -> str:
    """All rows, seeds together."""
    rows = ROWS.all()
    names = ("network", "method", "granularity", "half", "epochs", "lr", "labels", "swa")
    keys = sorted({tuple(r[name] for name in names) for r in rows})
    body = []
    for key in keys:
        of = [r for r in rows if tuple(r[name] for name in names) == key]
        steps = [
            spread(r[s] for r in of if s in r) if any(s in r for r in of) else "–"
            for s in ("gal", "clustered", "recalibrated", "finetuned", "val")
        ]
        by_gal = f"{of[0]['gal_smaller']:.2f}x" if "gal_smaller" in of[0] else "–"
        body.append(
            (*key[:3], "16" if key[3] else "32", *key[4:], *steps, by_gal, f"{of[0]['smaller']:.2f}x")
        )
    head = (
        "network", "method", "G", "bits", "epochs", "lr", "labels", "SWA", "GAL, tuned", "clustered", "recalibrated",
        "fine-tuned", "on val", "smaller by GAL", "file smaller",
    )  # fmt: skip
    return of_scores(head, body)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("sizes", "latency", "resnet50", "accuracy"))
    parser.add_argument("--teachers", type=Path, help="folder of the checkpoints")
    parser.add_argument("--data", type=Path, help="folder that holds cifar10/")
    parser.add_argument("--depth", type=int, choices=(20, 56), default=20)
    parser.add_argument(
        "--methods", nargs="+", default=["kse"], choices=("kse", "budget", "gal", "gal-kse", "tune")
    )
    parser.add_argument("--granularities", type=int, nargs="+", default=[4, 6])
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--epochs", type=float, default=5, help="of tuning, after each method")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument(
        "--labels", type=float, default=1.0, help="weight of cross-entropy beside soft targets"
    )
    parser.add_argument(
        "--swa", type=float, default=0.0, help="share of the steps over whose weights is averaged"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.what == "resnet50":
        return wide()
    if arguments.teachers is None or (arguments.what == "accuracy" and arguments.data is None):
        parser.error("say where the checkpoints lie (--teachers), and for accuracy the images (--data)")
    if arguments.what == "sizes":
        return sizes(arguments.teachers)
    if arguments.what == "latency":
        return times(arguments.teachers)
    tune = Finetune(epochs=arguments.epochs, lr=arguments.lr, labels=arguments.labels, swa=arguments.swa)
    bench = Bench(arguments.depth, arguments.data, arguments.teachers, "bf16", True, None)
    for seed in arguments.seeds:
        for granularity in arguments.granularities:
            for method in arguments.methods:
                key: Mapping[str, Any] = {
                    "network": f"resnet{arguments.depth}", "method": method, "granularity": granularity,
                    "half": arguments.half, "epochs": tune.epochs, "lr": tune.lr, "labels": tune.labels,
                    "swa": tune.swa, "seed": seed,
                }  # fmt: skip
                if ROWS.has(**key):
                    continue
                row = run(bench, method, granularity, arguments.half, tune, seed)
                ROWS.add({**key, **row})
                write_text(RESULTS / "kse-cifar10-rows.md", table())
                print({**key, **row}, flush=True)
    return None


if __name__ == "__main__":
    main()
