"""How a run looks while it runs: bars on a terminal, one flushed line an epoch where there is none."""

import re
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from reports.units import count

_COUNTS = re.compile(r"(^|[/_])(macs|flops|params)($|_)")
_SHARES = re.compile(r"(^|[/_])(accuracy|score)($|_)")


class Display:
    """What the runner tells, shown to a person.

    A terminal gets a bar for each stage with the numbers that matter beside it; anything else, a file or a
    scheduler's log, gets plain lines that are there as soon as they are written.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console if console is not None else Console(highlight=False)
        self._bars: Progress | None = None
        self._bar: TaskID | None = None
        self._head = ""
        self._began = time.monotonic()
        self._first: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stage(self, name: str, position: int, total: int) -> None:
        """A stage begins: the `position`th of `total`; position 0 are the teachers."""
        self._head = f"[{position}/{total}] {name}"
        self._first = None
        if not self.console.is_terminal:
            self._line(self._head)
            return
        if self._bars is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[said]}"),
            )
            self._bars = Progress(*columns, console=self.console, refresh_per_second=4)
            self._bars.start()
        self._bar = self._bars.add_task(escape(self._head), total=None, said="")

    def epoch(self, done: int, total: int, values: Mapping[str, float]) -> None:
        """So many epochs of the stage are done; `values` are its latest numbers, by name."""
        left = self._left(done, total)
        numbers = "  ".join(f"{name} {amount(name, value)}" for name, value in values.items())
        said = "  ".join(filter(None, [f"epoch {done}/{total}", numbers, f"{left} left" if left else ""]))
        if self._bars is None or self._bar is None:
            self._line(f"{self._head}  {said}")
        else:
            self._bars.update(self._bar, completed=done, total=total, said=escape(said))

    def note(self, text: str) -> None:
        """A line of its own, above the bars."""
        if self._bars is None:
            self._line(text)
        else:
            self._bars.console.print(escape(text))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; columns after the first hold numbers and stand to the right."""
        self.close()
        # Without lines and with one space between columns, a run's ten columns fit 80 characters.
        table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
        for place, column in enumerate(columns):
            table.add_column(escape(column), justify="right" if place else "left", no_wrap=True)
        for row in rows:
            table.add_row(*map(escape, row))
        if not self.console.is_terminal:
            self.console.width = 160  # a file has no width of its own: a table is cut to fit a screen only
        self.console.print(table)
        self.console.file.flush()

    def close(self) -> None:
        """Take the bars down and leave the terminal as it was; more may follow."""
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._bar = None

    def _left(self, done: int, total: int) -> str:
        # A resumed stage begins in the middle, and a first epoch pays for preparations: both are left out.
        if self._first is None:
            self._began, self._first = time.monotonic(), done
        seen = done - self._first
        if seen < 1 or done >= total:
            return ""
        return duration((time.monotonic() - self._began) / seen * (total - done))

    def _line(self, text: str) -> None:
        print(text, file=self.console.file, flush=True)


def amount(name: str, value: float) -> str:
    """A number as one says it: counts of MACs, FLOPs and parameters with k, M, G; scores in per cent.

    >>> amount("cost/macs", 20_450_000), amount("accuracy", 0.8812), amount("gap", 0.031415)
    ('20.4 M', '88.12 %', '0.03142')
    """
    if _COUNTS.search(name) and abs(value) >= 1:
        return count(value)
    if _SHARES.search(name) and 0 <= value <= 1:
        return f"{100 * value:.2f} %"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
