"""The command: decoct plan | run | rank | rehearse | resume | compare | sweep | describe | schema.

Exit codes: 0 done; 1 a failure of ours, with its traceback; 2 wrong input, with one message; 3 a budget that is missed
or out of reach; 130 stopped by Ctrl-C or SIGTERM, with a line that says how to go on.
"""

# PyTorch takes seconds to import: what needs it is imported where it is used, so that `--help` is quick.
import argparse
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recipes.recipe import Recipe, Workshop

HERE = Path(__file__).resolve().parent
BOOK = HERE / "book"
OK, OURS, WRONG, MISSED, STOPPED, PIPE = 0, 1, 2, 3, 130, 141


def main(argv: list[str] | None = None) -> int:
    """Run the command with `argv` (else the process's own) and return its exit code."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as end:  # argparse has said what there is to say
        return end.code if isinstance(end.code, int) else WRONG
    began = time.time()
    try:
        with _terminated_as_interrupted():
            code: int | None = options.work(options)
        return code or OK
    except KeyboardInterrupt as stop:
        print(
            f"\nstopped{f' ({stop})' if str(stop) else ''}; {_how_to_go_on(options, began)}", file=sys.stderr
        )
        return STOPPED
    except BrokenPipeError:
        # Whoever read us has gone, as `head` does; Python must not complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE
    except Exception as problem:
        verdict = sys.modules.get("recipes.verdict")
        if verdict is not None and isinstance(problem, verdict.Infeasible):
            print(f"decoct: {problem}", file=sys.stderr)
            return MISSED
        if not _is_wrong_input(problem):
            traceback.print_exc()
            return OURS
        print(f"decoct: {problem}", file=sys.stderr)
        return WRONG


# -- the commands -----------------------------------------------------------------------------------------


def _plan(options: argparse.Namespace) -> int:
    recipe, workshop = _recipe(options), _workshop(options)
    from recipes.plan import plan

    made = plan(recipe, workshop, probe=not options.no_probe)
    if options.json:
        import json

        print(json.dumps(made.to_dict(), indent=2))
    else:
        print(made)
    return _code(made)


def _run(options: argparse.Namespace) -> int:
    return _go(_recipe(options), _workshop(options), **({"plan": options.plan} if options.plan else {}))


def _rank(options: argparse.Namespace) -> None:
    recipe, workshop = _recipe(options), _workshop(options)
    from recipes.ranking import rank
    from recipes.terminal import Display

    with Display() as display:
        rank(recipe, workshop, display=display)


def _rehearse(options: argparse.Namespace) -> int:
    return _go(_recipe(options), _workshop(options), rehearse=True)


def _resume(options: argparse.Namespace) -> int:
    folder = options.folder or _latest(options.runs or Path("runs"))
    if folder is None:
        raise ValueError(
            f"there is no unfinished run in {options.runs or 'runs'}: name the run's folder, or --runs"
        )
    from recipes.page import read

    if not (folder / "page.yaml").is_file():
        raise ValueError(f"{folder} is no run folder: it has no page.yaml")
    _as_before(options, folder)
    return _go(read(folder / "page.yaml", _trust(options)), _workshop(options))


def _compare(options: argparse.Namespace) -> None:
    from recipes.contest import contest
    from recipes.terminal import Display

    def recipe_of(page: str) -> "Recipe":
        return _recipe(argparse.Namespace(**{**vars(options), "page": page, "seed": None}))

    with Display() as display:
        contest(options, _workshop(options), _trust(options), recipe_of, display)


def _describe(options: argparse.Namespace) -> None:
    if options.markdown:
        if options.name is not None:
            raise ValueError(f"--markdown is the page of all names: leave {options.name!r} out")
        from recipes.options import options as everything

        print(everything(_trust(options)), end="")
        return
    from recipes.schema import describe

    print(describe(options.name, _trust(options)), end="")


def _schema(options: argparse.Namespace) -> None:
    import json

    from recipes.schema import schema

    print(json.dumps(schema(_trust(options)), indent=2))


def _sweep(options: argparse.Namespace) -> int:
    recipe, workshop = _recipe(options), _workshop(options)
    from recipes import goals, space
    from recipes.sweep import Sweep, engine_for, sweep
    from recipes.terminal import Display

    trust = _trust(options)
    over = space.merged(space.read(_space_file(options), trust) if options.space else {}, options.over)
    asked = Sweep(
        recipe,
        space.space(recipe, over, trust),
        goals.objectives(options.maximize, options.minimize),
        goals.of_page(getattr(recipe, "at_most", None), goals.bounds(options.at_most)),
        options.seeds,
    )
    with Display() as display:
        made = sweep(
            asked,
            workshop,
            trials=options.trials,
            batch=options.batch,
            engine=engine_for(
                options.engine,
                options.workers,
                threads=options.threads,
                address=options.ray_address,
                device=workshop.device,
                display=display,
            ),
            storage=options.storage,
            test_best=options.test_best,
            trust=trust,
            display=display,
        )
    return OK if made.front else MISSED


def _space_file(options: argparse.Namespace) -> Path:
    """The space's file: as named, or so named beside the page."""
    beside = find_page(options.page).parent / options.space
    return Path(options.space) if options.space.is_file() or not beside.is_file() else beside


def _go(recipe: "Recipe", workshop: "Workshop", *, rehearse: bool = False, **more: str) -> int:
    from recipes.run import run
    from recipes.terminal import Display

    with Display() as display:
        return _code(run(recipe, workshop, display=display, rehearse=rehearse, **more))


def _code(made: object) -> int:
    """What a plan or a run ends with, by its verdict on the budget."""
    verdict = getattr(made, "verdict", None)
    return MISSED if verdict is not None and verdict.failed else OK


# -- what they are given ----------------------------------------------------------------------------------


def _recipe(options: argparse.Namespace) -> "Recipe":
    """The recipe of the page asked for, with weights that lie beside the page found from here."""
    from dataclasses import replace

    from recipes.page import read

    page = find_page(options.page)
    recipe = read(page, _trust(options))
    teachers = tuple(
        replace(teacher, weights=_beside(page, teacher.weights)) if teacher.weights is not None else teacher
        for teacher in recipe.teachers
    )
    seed = recipe.seed if options.seed is None else options.seed
    return replace(recipe, teachers=teachers, seed=seed)


def _beside(page: Path, weights: str) -> str:
    """The whole path of weights that lie beside the page, unless they are found from here as written."""
    beside = page.parent / weights
    if Path(weights).is_absolute() or not beside.exists():
        return weights
    return weights if Path(weights).exists() and beside.samefile(weights) else str(beside.resolve())


def find_page(name: str) -> Path:
    """The file of a page: a path, or a page of our book by name, `digits`.

    Raises ValueError where there is none, with the nearest names of the book.
    """
    written = {
        page.relative_to(BOOK).with_suffix("").as_posix(): page for page in sorted(BOOK.rglob("*.yaml"))
    }
    path = Path(name)
    if path.is_file():
        return path
    if name in written:
        return written[name]
    from teachers.nearest import did_you_mean

    hint = did_you_mean(name, written) or f"; the book has {', '.join(written) or 'no pages'}"
    raise ValueError(f"there is no page {name!r}, neither as a file nor in the book{hint}")


def _workshop(options: argparse.Namespace) -> "Workshop":
    from recipes.recipe import Workshop

    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    if options.data is not None and not options.data.is_dir():
        raise ValueError(f"--data {options.data}: there is no such folder")
    return Workshop(
        runs=options.runs or Path("runs"),
        data=options.data,
        device=options.device or "auto",
        tracking=options.tracking,
        reuse=options.reuse,
        register=getattr(options, "register", None),
        test=getattr(options, "test", True),
    )


def _as_before(options: argparse.Namespace, folder: Path) -> None:
    """Fill in what the run was started with, where nothing else was asked for this time."""
    import json

    options.runs = folder.resolve().parent.parent
    note = folder / "workshop.json"
    if not note.is_file():
        return
    try:
        before = json.loads(note.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(
            f"{note} is damaged ({problem}): delete it, and name --data and --device anew"
        ) from problem
    options.data = options.data or (Path(before["data"]) if before.get("data") else None)
    options.device = options.device or before.get("device")
    options.tracking = options.tracking or before.get("tracking")
    options.reuse = options.reuse or bool(before.get("reuse"))
    options.register = options.register or before.get("register")
    options.test = bool(before.get("test", True))  # a sweep's trial stays one


def _trust(options: argparse.Namespace) -> tuple[str, ...]:
    # An installed command does not look for modules where it is called; whoever trusts one there wants it.
    if options.trust and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    return tuple(options.trust)


def _latest(runs: Path, since: float = 0.0) -> Path | None:
    """The run begun last, of those that did not end, if it was begun since then (seconds of the clock)."""
    pages = [page for page in runs.glob("*/*/page.yaml") if not (page.parent / "result.json").exists()]
    times = {page.parent: page.stat().st_mtime for page in pages}
    latest = max(times, key=times.__getitem__, default=None)
    return latest if latest is not None and times[latest] >= since else None


# -- how they end -----------------------------------------------------------------------------------------


def _is_wrong_input(problem: Exception) -> bool:
    """Whether a person can put it right: files, and what our own code refuses. The rest is our fault."""
    if isinstance(problem, OSError):
        return True
    session = sys.modules.get("compress.session")
    if session is not None and isinstance(problem, session.Diverged):
        return True
    # A ValueError that rises out of somebody else's code was never meant for the eyes of a user.
    last = [frame.filename for frame in traceback.extract_tb(problem.__traceback__)][-1:]
    from recipes.names import HOUSE

    ours = [HERE.parent / package for package in HOUSE]
    # A training that came apart is an ArithmeticError; a division by zero is one too, but ours to mend.
    refused = isinstance(problem, ValueError | ArithmeticError) and not isinstance(problem, ZeroDivisionError)
    return refused and any(Path(file).resolve().is_relative_to(folder) for file in last for folder in ours)


def _how_to_go_on(options: argparse.Namespace, began: float) -> str:
    if options.command == "compare":
        return "what is done is kept: the same command goes on where it stopped"
    if options.command == "sweep":
        return "the same command goes on where it stopped"
    if options.command not in ("run", "rank", "resume"):
        return "nothing was left unfinished"
    # The runner writes a run's page when it begins or goes on; file systems keep time coarsely.
    folder = _latest(options.runs or Path("runs"), since=began - 2)
    if folder is None:
        return "the same command goes on where it stopped"
    trust = "".join(f" --trust {shlex.quote(package)}" for package in options.trust)
    return f"go on with: decoct resume {shlex.quote(str(folder))}{trust}"


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM stop us as Ctrl-C does, and put the old handler back."""

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(signum).name)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever started it handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# -- the words it understands -----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="decoct",
        description="Turn trained networks into smaller, faster ones that know the same things.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
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

    def add(
        name: str, work: object, about: str, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.", parents=parents
        )
        made.set_defaults(work=work)
        return made

    plan = add(
        "plan", _plan, "say what a recipe will touch, read and cost, without training", page, machine, trust
    )
    plan.add_argument("--json", action="store_true", help="the plan as data, for programs")
    plan.add_argument("--no-probe", action="store_true", help="time no step: no estimate of time and memory")
    register = argparse.ArgumentParser(add_help=False)
    register.add_argument(
        "--register",
        metavar="NAME",
        type=_model_name,
        help="make the student a version of this model in MLflow",
    )
    run = add("run", _run, "do a recipe; what is already done is taken up", page, machine, register, trust)
    run.add_argument(
        "--plan", metavar="HASH", help="refuse where page or network are no longer those of that plan"
    )
    add(
        "rank", _rank, "rank a recipe's teachers by the stages it begins with, and stop", page, machine, trust
    )
    add(
        "rehearse",
        _rehearse,
        "do a recipe with two batches and one epoch, to find mistakes",
        page,
        machine,
        trust,
    )
    resume = add("resume", _resume, "go on with a run that was stopped", machine, register, trust)
    resume.add_argument(
        "folder", metavar="RUN_FOLDER", nargs="?", type=Path, help="(the latest unfinished one)"
    )
    compare = add(
        "compare",
        _compare,
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
    _sweep_words(
        add("sweep", _sweep, "try values for a page's fields, and keep the best", page, machine, trust)
    )
    describe = add("describe", _describe, "explain what a page may name; without NAME, list it", trust)
    describe.add_argument("name", metavar="NAME", nargs="?", help="such as compress.GAL")
    describe.add_argument(
        "--markdown", action="store_true", help="all names with all fields, as a page to read"
    )
    add("schema", _schema, "print the JSON schema of pages, for editors", trust)
    return parser


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


if __name__ == "__main__":
    sys.exit(main())
