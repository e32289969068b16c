"""The words that the command understands."""

# What needs PyTorch stays away from here: it takes seconds to import, and `--help` is to be quick.
import argparse
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """All commands, and what each takes; `command` of what it makes is the one asked for."""
    whole = argparse.ArgumentParser(
        prog="decoct",
        description="Turn trained networks into smaller, faster ones that know the same things.",
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="command")
    trust, machine, page = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    trust.add_argument(
        "--trust",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="let the page name specs and factories of this package, too; may be given several times",
    )
    machine.add_argument("--data", metavar="FOLDER", type=Path, help="where data sets and weights lie")
    machine.add_argument("--runs", metavar="FOLDER", type=Path, help="where run folders go (runs)")
    machine.add_argument(
        "--device", help="cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one (auto)"
    )
    machine.add_argument(
        "--tracking",
        metavar="URI",
        help="an MLflow store; off tracks nothing (a sqlite file in the runs' folder)",
    )
    machine.add_argument("--reuse", action="store_true", help="take up stages finished by other code, too")
    machine.add_argument(
        "--threads", metavar="N", type=_positive, help="CPU threads for PyTorch (its own choice)"
    )
    page.add_argument("page", help="a recipe's page: a file, or a name in the book, such as digits")
    page.add_argument("--seed", metavar="N", type=_natural, help="in place of the page's seed")

    def add(name: str, about: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.", parents=parents
        )
        return made

    plan = add("plan", "say what a recipe will touch, read and cost, without training", page, machine, trust)
    plan.add_argument("--json", action="store_true", help="the plan as data, for programs")
    plan.add_argument("--no-probe", action="store_true", help="time no step: no estimate of time and memory")
    register = argparse.ArgumentParser(add_help=False)
    register.add_argument(
        "--register",
        metavar="NAME",
        type=_model_name,
        help="make the student a version of this model in MLflow",
    )
    run = add("run", "do a recipe; what is already done is taken up", page, machine, register, trust)
    run.add_argument(
        "--plan", metavar="HASH", help="refuse where page or network are no longer those of that plan"
    )
    add("rank", "rank a recipe's teachers by the stages it begins with, and stop", page, machine, trust)
    add(
        "rehearse",
        "do a recipe with two batches and one epoch, to find mistakes",
        page,
        machine,
        trust,
    )
    resume = add("resume", "go on with a run that was stopped", machine, register, trust)
    resume.add_argument(
        "folder", metavar="RUN_FOLDER", nargs="?", type=Path, help="(the latest unfinished one)"
    )
    compare = add(
        "compare",
        "compare recipes, paired over seeds and test samples; all against the first",
        machine,
        trust,
    )
    compare.add_argument(
        "what",
        metavar="PAGE_OR_FOLDER",
        nargs="*",
        help="pages, which are run with every seed; folders of finished runs, which are read; with "
        "--experiment, names of its recipes, such as gal or 'kse-*' (all of them)",
    )
    compare.add_argument(
        "--seeds",
        metavar="N",
        type=_seeds,
        help="run pages with seeds 0 to N-1, or with those listed: 3,5 (5)",
    )
    compare.add_argument(
        "--experiment", metavar="NAME", help="compare runs that are in MLflow, and run nothing"
    )
    compare.add_argument("--csv", metavar="FILE", type=Path, help="write the table to a file")
    compare.add_argument("--html", metavar="FILE", type=Path, help="write a page with pictures")
    _sweep_words(add("sweep", "try values for a page's fields, and keep the best", page, machine, trust))
    describe = add("describe", "explain what a page may name; without NAME, list it", trust)
    describe.add_argument("name", metavar="NAME", nargs="?", help="such as compress.GAL")
    describe.add_argument(
        "--markdown", action="store_true", help="all names with all fields, as a page to read"
    )
    add("schema", "print the JSON schema of pages, for editors", trust)
    return whole


def _model_name(text: str) -> str:
    if not text or any(sign in text for sign in "/:'\"%"):
        raise argparse.ArgumentTypeError(f"must be a name without / : % and quotes, not {text!r}")
    return text


def _sweep_words(parser: argparse.ArgumentParser) -> None:
    """What `decoct sweep` takes beside a page and a machine."""
    parser.add_argument(
        "--over",
        metavar="PATH=VALUES",
        action="append",
        default=[],
        help="a field and what it may be: stages.0.l1=log:1e-3..1e-1, stages.1.epochs=1..5 (whole numbers), "
        "stages.0.importance=l1,l2; several times",
    )
    parser.add_argument(
        "--space", metavar="FILE", type=Path, help="the same as YAML, found beside the page, too"
    )
    parser.add_argument(
        "--maximize", metavar="FACT", action="append", default=[], help="score, on val (score)"
    )
    parser.add_argument(
        "--minimize",
        metavar="FACT",
        action="append",
        default=[],
        help="macs, bytes, params, latency_ms_p50, latency_ms_p95 or seconds; several times (macs)",
    )
    parser.add_argument(
        "--at-most",
        metavar="FACT=AMOUNT",
        action="append",
        default=[],
        help="what a trial must keep: macs=40%% (of the teacher's), bytes=300kB, latency_ms_p95=3.0, "
        "accuracy_drop=0.5 (points, on val); several times",
    )
    parser.add_argument(
        "--trials", metavar="N", type=_positive, default=20, help="in all, earlier ones too (20)"
    )
    parser.add_argument(
        "--seeds", metavar="N", type=_positive, default=1, help="runs of each trial, to take the mean of (1)"
    )
    parser.add_argument(
        "--batch", metavar="N", type=_positive, help="trials proposed at a time (as many as workers)"
    )
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="who does trials (local)")
    parser.add_argument("--workers", metavar="N", type=_positive, help="trials done at a time (1; of Ray 2)")
    parser.add_argument(
        "--ray-address", metavar="A", help="of a Ray cluster; auto finds one (one started here)"
    )
    parser.add_argument("--storage", metavar="URL", help="an Optuna storage (sqlite in the runs' folder)")
    parser.add_argument(
        "--test-best",
        action="store_true",
        help="run the best to their end: read test for them, once, and pack their students",
    )


def _natural(text: str) -> int:
    return _at_least(0, text)


def _seeds(text: str) -> tuple[int, ...]:
    if "," not in text:
        return tuple(range(_positive(text)))
    seeds = tuple(_natural(part.strip()) for part in text.split(",") if part.strip())
    if not seeds or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice, or none")
    return seeds


def _positive(text: str) -> int:
    return _at_least(1, text)


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least {least}, not {text!r}")
    return number
