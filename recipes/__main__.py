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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.words import parser

if TYPE_CHECKING:
    from recipes.recipe import Recipe, Workshop

HERE = Path(__file__).resolve().parent
BOOK = HERE / "book"
OK, OURS, WRONG, MISSED, STOPPED, PIPE = 0, 1, 2, 3, 130, 141


def main(argv: list[str] | None = None) -> int:
    """Run the command with `argv` (else the process's own) and return its exit code."""
    try:
        options = parser().parse_args(argv)
    except SystemExit as end:  # argparse has said what there is to say
        return end.code if isinstance(end.code, int) else WRONG
    began = time.time()
    try:
        with _terminated_as_interrupted():
            code: int | None = _WORK[options.command](options)
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


_WORK: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "plan": _plan, "run": _run, "rank": _rank, "rehearse": _rehearse, "resume": _resume, "compare": _compare,
    "sweep": _sweep, "describe": _describe, "schema": _schema,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
