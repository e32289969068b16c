"""The data ledger as a section of the report: who was handed what, and what a run without data proves by it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

Plain = Mapping[str, Any]
COLUMNS = ("who", "what for", "data", "split", "labels", "handed out", "different ones")


def section(ledger: Plain) -> str:
    """A table of all rows, stages whose feed was closed among them, and under it the proof where there is one."""
    lines = [_cells(row) for row in ledger["reads"]]
    known = {row["who"] for row in ledger["reads"] if row["split"] != "generated"}
    lines += [
        (feed["who"], "sees nothing", "feed closed", "–", "–", "nothing", "–")
        for feed in ledger["feeds"]
        if not feed["open"] and feed["who"] not in known
    ]
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td data-label="{name}">{escape(cell)}</td>' for name, cell in zip(COLUMNS, line, strict=True)
        )
        + "</tr>"
        for line in lines
    )
    table = f'<table class="ledger"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    small = (
        '<p class="dim">Counted where data go out, not by what stages say of themselves. A sample that comes in every '
        "epoch is handed out as often; of a graph, its nodes are counted.</p>"
    )
    return table + (f'<p class="proof">{escape(ledger["proof"])}</p>' if ledger["proof"] else "") + small


def _cells(row: Plain) -> tuple[str, ...]:
    if row["distinct"] is None:
        different = f"at most {min(row['samples'], row['of']):,}"
    else:
        different = f"{row['distinct']:,}"
        different += f" of {row['of']:,}" if row["distinct"] <= row["of"] else ""
    return (
        row["who"],
        row["why"],
        row["source"].removeprefix("teachers.tasks."),
        row["split"],
        "with" if row["labels"] else "without",
        f"{row['samples']:,}",
        different,
    )


def told(ledger: Plain) -> str:
    """In a few words, what stages were handed: for a tag, or a line."""
    stages = {feed["who"] for feed in ledger["feeds"]}
    rows = [row for row in ledger["reads"] if row["who"] in stages and row["split"] != "generated"]
    if not rows:
        return "no sample of the task"
    splits = ", ".join(dict.fromkeys(row["split"] for row in rows))
    return f"{splits} {'with' if any(row['labels'] for row in rows) else 'without'} labels"
