"""How long a comparison of many runs in an MLflow store takes.

    python -m recipes.benchmarks.compare_speed [--recipes 40] [--seeds 5] [--samples 1000] [--repeats 3]

Runs are made up (`made_runs`) and lie in a sqlite store with their artifacts beside it. First reading and comparing in
this process, mlflow imported; then the whole command in a fresh one, imports and all.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from recipes.benchmarks.made_runs import grid, store
from recipes.benchmarks.rows import machine, markdown
from recipes.compare import compare
from recipes.kept import of_experiment
from reports import comparison, comparison_page


def seconds(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Medians of the wall clock and of the processors' time, children's too."""
    taken = []
    for _ in range(repeats):
        wall, spent = time.perf_counter(), sum(os.times()[:4])
        work()
        taken.append((time.perf_counter() - wall, sum(os.times()[:4]) - spent))
    return median(wall for wall, _ in taken), median(spent for _, spent in taken)


def main() -> None:
    """Make the store, time the steps, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (("recipes", 40), ("seeds", 5), ("samples", 1000), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        uri = store(grid(asked.recipes, asked.seeds, asked.samples), home)
        outcomes, notes = of_experiment(uri, "decoct", [], home)
        made = compare(outcomes, (), notes)
        words = [sys.executable, "-m", "recipes", "compare", "--experiment", "decoct", "--tracking", uri]

        def told() -> None:
            comparison.lines(made)
            comparison.csv_text(made)
            comparison_page.write(home / "page.html", made)

        def command() -> None:
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

        steps = (
            ("read from the store", lambda: of_experiment(uri, "decoct", [], home)),
            ("compare", lambda: compare(outcomes, (), notes)),
            ("lines, CSV and page", told),
            ("the whole command, with imports", command),
        )
        rows = [(name, *(f"{taken:.2f}" for taken in seconds(work, asked.repeats))) for name, work in steps]
    print(f"{len(outcomes)} runs, {asked.samples:,} test samples; {machine()}\n")
    print(markdown(("step", "seconds", "of the CPU"), rows))


if __name__ == "__main__":
    main()
