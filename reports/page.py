"""report.html: a run on one page that needs nothing but a browser.

No script, no font, no picture from elsewhere: the page forbids itself to load anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from reports import confusion, falls, plots, reads
from reports import ranking as places
from reports import verdict as judged
from reports.files import write_text
from reports.plots import Plain, Points


def write(
    folder: Path,
    *,
    title: str,
    records: Sequence[Plain],
    curves: Mapping[str, Mapping[str, Points]] | None = None,
    widths: Mapping[str, tuple[int, int]] | None = None,
    pictures: Mapping[str, str] | None = None,
    ranking: Plain | None = None,
    notes: Sequence[str] = (),
    environment: Mapping[str, object] | None = None,
    page: str | None = None,
    first: Plain | None = None,
    verdict: str | None = None,
    budget: Plain | None = None,
    ledger: Plain | None = None,
    sensitivity: Plain | None = None,
    decisions: Mapping[str, object] | None = None,
    labels: Sequence[str] = (),
) -> Path:
    """Write `report.html` into the folder, atomically; its path.

    records      as `Record.to_dict` gives them, the teacher's first, the finished student's last
    curves       stage -> metric -> (step, value) pairs
    widths       layer -> (channels before, channels after), 0 for a layer that is gone
    pictures     title -> SVG, as `reports.pictures` draws them
    ranking      of the teachers, where a stage chose among them, as `Ranking.to_dict` gives it
    notes        lines for the reader: groups that were locked, say
    environment  what made it: versions, commit, seed, device
    page         the recipe's text
    first        what the last record is compared with, where that is not the first one
    verdict      the line under the title, where it is not MACs and score of these two
    budget       the verdict on the recipe's budget, as `Verdict.to_dict` gives it
    ledger       who was handed which samples; without, what the records say of the stages
    sensitivity  the score with one layer at a time cut by a share, as `falls.sensitivity` takes it
    decisions    what was true and what teacher and student said of each test sample, as `confusion.section` takes it,
                 and `labels`, the names of the numbers in it
    Raises ValueError where there is no record.
    """
    if not records:
        raise ValueError("a report needs at least one record, the teacher's")
    sections = [
        judged.html(budget) if budget is not None else "",
        *_ranked(ranking, records),
        _section("Stage by stage", _table(records) + _steps(_comparable(records, ranking, first))),
        _section("Channels, before and after", plots.bars(widths)) if widths else "",
        _section("Which layers the score hangs on", falls.sensitivity(sensitivity)) if sensitivity else "",
        _curves(curves or {}),
        _section("What is taken for what", said) if (said := _confused(decisions, labels)) else "",
        _ledger(records, ledger),
        *(_section(title, f'<div class="scrolled">{svg}</div>') for title, svg in (pictures or {}).items()),
        _section("Notes", _list(notes)) if notes else "",
        _section("Made with", _pairs(environment)) if environment else "",
        _section("The recipe", f"<pre>{escape(page)}</pre>") if page else "",
    ]
    frame = Template(Path(__file__).with_name("frame.html").read_text(encoding="utf-8"))
    text = frame.substitute(
        title=escape(title),
        verdict=(
            escape(verdict) if verdict is not None else _verdict(first or records[0], records[-1], ranking)
        )
        + (f" Budget {escape(budget['word'])}." if budget is not None else ""),
        tiles=_tiles(first or records[0], records[-1]) if _compressed(records, ranking) else "",
        sections="".join(sections),
    )
    path = folder / "report.html"
    write_text(path, text)
    return path


def _shared(first: Plain, last: Plain) -> str:
    """The split both were scored on: test where it was read for both, else val."""
    return "test" if first["test"] and last["test"] else "val"


def _comparable(records: Sequence[Plain], ranking: Plain | None, together: Plain | None) -> Sequence[Plain]:
    """Those whose scores are of one task: of several teachers the first, and stages that made a student.

    Where these are set against all teachers together, a teacher's score is of its own labels alone.
    """
    if together is not None:
        return [record for record in records if record["position"]]
    if ranking is None:
        return records
    first, *others = records
    return [first, *(record for record in others if record["position"] and not record.get("chose"))]


def _compressed(records: Sequence[Plain], ranking: Plain | None) -> bool:
    """Whether there is a student to tell of: a stage that ranks makes none, and its record is the best teacher's."""
    return ranking is None or any(record["position"] > 0 and not record.get("chose") for record in records)


def _ranked(ranking: Plain | None, records: Sequence[Plain]) -> list[str]:
    """The ranking's sections."""
    if ranking is None:
        return []
    by_name = {record["stage"]: record for record in records if not record["position"]}
    made = [_section("Ranking", places.section(ranking, by_name))]
    if ranking["models"]:
        drawn = places.heat_map(ranking["models"], ranking["similarity"], ranking["target"], ranking["by"])
        made.append(_section("Similarity of all models", drawn))
    return made


def _verdict(first: Plain, last: Plain, ranking: Plain | None = None) -> str:
    if ranking is not None and last.get("chose"):
        best, count = escape(ranking["names"][0]), len(ranking["names"])
        sure = (
            f" It came first in {100 * ranking['first'][0]:.0f} % of the resamples."
            if ranking["first"]
            else ""
        )
        return f"{best} is the one to start from, of {count}.{sure}"
    if last is first:
        return "The teacher alone: nothing was compressed yet."
    before, after = first["profile"]["macs"], last["profile"]["macs"]
    cost = f"{100 * after / before:.1f} % of the MACs" if before else "MACs unknown"
    split = _shared(first, last)
    if not (first[split] and last[split]):
        return f"{cost}. UNVERIFIED: there was no sample of the task to score teacher and student on."
    points = 100 * (last[split]["value"] - first[split]["value"])
    metric = escape(last["metric"])
    return f"{cost} at {points:+.2f} points of {metric} ({split}).".replace("-", "−")


def _steps(records: Sequence[Plain]) -> str:
    """What each stage did to score and cost, and the way through the plane of both."""
    return f'<div class="overview">{falls.waterfall(records)}{plots.tradeoff(records)}</div>'


def _confused(decisions: Mapping[str, object] | None, labels: Sequence[str]) -> str:
    return confusion.section(decisions, labels) if decisions and "student" in decisions else ""


def _ledger(records: Sequence[Plain], ledger: Plain | None) -> str:
    """Which samples every stage was handed; and what to beware of where none of the task was among them."""
    stages = [record for record in records if record["position"]]
    if not stages:
        return ""
    if ledger is not None:
        said = f"<p>What that leaves open:</p>{_list(_RISKS)}" if ledger["closed"] else ""
        return _section("What was read", reads.section(ledger) + said)
    lines = [
        (
            record["stage"],
            ", ".join(f"{count:,} {split}" for split, count in record["read"].items()) or "nothing",
        )
        for record in stages
    ]
    body = _pairs({f"{place} {stage}": what for place, (stage, what) in enumerate(lines, start=1)})
    if any(split != "generated" for record in stages for split in record["read"]):
        return _section("What the stages saw", body)
    said = "<p>No stage was handed a sample of the task. What that leaves open:</p>"
    return _section("What the stages saw", body + said + _list(_RISKS))


_RISKS = (
    "Nothing that was learned says how well the student does on the task: agreement on generated images is no "
    "accuracy. Score it on whatever you may, unlabeled images included (do teacher and student agree?).",
    "What the teacher does wrong is passed on: its biases, its misplaced confidence, and any backdoor in it.",
    "Classes that the task seldom shows are seldom generated, and suffer most.",
    "Away from what was generated the student's answers are held to nothing.",
    "Without batch norm in the teacher the strongest hint of what its inputs look like is missing.",
    "Generated images can resemble what the teacher was trained on: to work without data is not yet to protect it.",
)


def _tiles(first: Plain, last: Plain) -> str:
    split = _shared(first, last)
    old, new = first["profile"], last["profile"]
    tiles = []
    if last[split]:
        low, high = 100 * last[split]["low"], 100 * last[split]["high"]
        tiles.append(
            (
                f"{escape(last['metric'])}, {split}",
                plots.percent(last[split]),
                f"teacher {plots.percent(first[split])}<br>95&nbsp;%: {low:.1f} to {high:.1f}&nbsp;%",
            )
        )
    for label, name, form in (
        ("MACs of one input", "macs", plots.short),
        ("parameters", "params", plots.short),
        ("file", "bytes", plots.size),
    ):
        if new[name] and old[name]:
            tiles.append(
                (label, _times(old[name], new[name], "smaller"), f"{form(old[name])} → {form(new[name])}")
            )
    for batch in (1, 32):
        name = f"latency_ms_p50_b{batch}"
        if new[name] and old[name]:
            was, now = plots.milliseconds(old[name]), plots.milliseconds(new[name])
            tiles.append(
                (f"latency, batch {batch}", _times(old[name], new[name], "faster"), f"{was} → {now} ms")
            )
    return "".join(
        f'<div class="tile"><p>{label}</p><strong>{value}</strong><p class="dim">{more}</p></div>'
        for label, value, more in tiles
    )


def _times(old: float, new: float, word: str) -> str:
    return f"{old / new:.2f}× <small>{word}</small>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _table(records: Sequence[Plain]) -> str:
    head = "".join(f"<th>{column}</th>" for column in plots.COLUMNS)
    body = ""
    for record in records:
        cells = zip(plots.COLUMNS, plots.row(record, records[0]), strict=True)
        body += (
            "<tr>" + "".join(f'<td data-label="{name}">{escape(cell)}</td>' for name, cell in cells) + "</tr>"
        )
    uncounted = sorted({name for record in records for name in record["profile"]["uncounted"]})
    small = (
        "MACs: multiply-accumulates of one input as executed (FLOPs are twice that). ms: median of a call."
    )
    if threads := records[-1]["profile"]["threads"]:
        small += f" {threads} thread{'s' if threads > 1 else ''}."
    if uncounted:
        small += f" Not counted: {', '.join(uncounted)}."
    made = f'<table class="stages"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'{made}<p class="dim">{escape(small)}</p>'


def _curves(curves: Mapping[str, Mapping[str, Points]]) -> str:
    body = ""
    for stage, metrics in curves.items():
        panels = "".join(plots.curve(name, points) for name, points in metrics.items() if points)
        if panels:
            body += f'<h3>{escape(stage)}</h3><div class="panels">{panels}</div>'
    return _section("Training", body) if body else ""


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _pairs(data: Mapping[str, object]) -> str:
    items = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in data.items()
    )
    return f"<dl>{''.join(items)}</dl>"
