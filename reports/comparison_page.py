"""The page of a comparison: one file that needs nothing but a browser, in the frame of a run's report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from string import Template

from reports import plots
from reports.comparison import (
    COLUMNS,
    Against,
    Comparison,
    Row,
    cells,
    chance,
    difference,
    interval,
    lines,
    sentence,
)
from reports.files import write_text
from reports.forest import Branch, forest
from reports.pareto import Spot, Unit, pictures

_READ = (
    "A difference is told only where each test says so: over seeds (Student's t, this test set) and over seeds and "
    "samples together (two-level bootstrap, 4,000 draws); of one seed McNemar's exact test alone. Intervals are of "
    "95 % each; the p among all is Holm's, over all recipes compared here. No difference told does not mean that "
    "there is none."
)


_STYLE = (
    "<style>.stack{overflow-x:auto}details{margin-top:12px}summary{cursor:pointer;color:var(--dim);font-size:13px}"
    "@media (max-width:760px){.stack tr{grid-template-columns:1fr}.stack td{gap:16px;text-align:right!important}"
    ".stack td::before{flex:none;max-width:60%}}</style>"
)


def write(path: Path, made: Comparison) -> None:
    """Write the page, atomically."""
    frame = Template(Path(__file__).with_name("frame.html").read_text(encoding="utf-8"))
    sections = (
        _STYLE + _section("Side by side", _grid(COLUMNS, [cells(row) for row in made.rows]) + _dim(_small())),
        _section("What is paid, and what is had", _pareto(made)),
        _section("Differences", _differences(made)),
        _section("What the recipes do differently", _fields(made)),
        _section("Runs", _runs(made)),
        _section("Notes", "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in made.notes) + "</ul>")
        if made.notes
        else "",
    )
    text = frame.substitute(
        title=escape(made.title), verdict=_verdict(made), tiles=_tiles(made), sections="".join(sections)
    )
    write_text(path, text)


def _verdict(made: Comparison) -> str:
    if len(made.pairs) == 1:
        return escape(sentence(made.pairs[0])) + "."
    first = made.pairs[0].first
    counts = [
        f"{sum(pair.verdict == what for pair in made.pairs)} {word}"
        for what, word in (
            ("better", "better"), ("worse", "worse"), ("equal", "equal"), ("no difference told", "not told apart"),
        )
        if any(pair.verdict == what for pair in made.pairs)
    ]  # fmt: skip
    return escape(f"Of {len(made.pairs)} recipes against {first}: {', '.join(counts)}.")


def _tiles(made: Comparison) -> str:
    """Of two recipes what one has of the other; of more, how many of everything."""
    first, *others = made.rows
    tiles = []
    if len(others) == 1:
        (other,) = others
        tiles.append(
            (
                f"{escape(made.metric)}, test",
                f"{difference(made.pairs[0].found).partition(' ')[0]} <small>points</small>",
                f"{100 * first.score:.2f} → {100 * other.score:.2f} %",
            )
        )
        for label, name, form in (
            ("MACs of one input", "macs", plots.short),
            ("parameters", "params", plots.short),
            ("file", "bytes", lambda value: plots.size(round(value))),
        ):
            old, new = first.cost.get(name), other.cost.get(name)
            if old and new:
                tiles.append((label, f"{new / old:.2f}×", f"{form(old)} → {form(new)}"))
        if first.share and other.share:
            tiles.append(
                (
                    "latency",
                    f"{other.share / first.share:.2f}×",
                    f"{100 * first.share:.0f} → {100 * other.share:.0f} % of the teacher's",
                )
            )
        if first.minutes and other.minutes:
            tiles.append(
                (
                    "time it took",
                    plots.duration(60 * other.minutes),
                    f"{escape(first.label)}: {plots.duration(60 * first.minutes)}",
                )
            )
    else:
        best = max(made.rows, key=lambda row: row.score)
        tiles = [
            ("recipes", str(len(made.rows)), f"all against {escape(first.label)}"),
            ("runs", str(len(made.runs)), f"{_seeds(made.rows)} seeds each"),
            ("test samples", f"{made.samples:,}" if made.samples else "–", escape(made.metric)),
            ("highest mean", f"{100 * best.score:.2f} %", escape(best.label)),
        ]
    return "".join(
        f'<div class="tile"><p>{label}</p><strong>{value}</strong><p class="dim">{more}</p></div>'
        for label, value, more in tiles
    )


def _seeds(rows: Sequence[Row]) -> str:
    counts = sorted({len(row.seeds) for row in rows})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _small() -> str:
    return (
        "Means over seeds. 95 %: of the mean, over seeds and samples. MACs: multiply-accumulates of one input as "
        "executed. Latency: median of a call at batch 1; of teacher: over the teacher's, both taken in turns, which "
        "machines and days have in common. Took: the stages, without measuring."
    )


def _pareto(made: Comparison) -> str:
    def spots(name: str) -> list[Spot]:
        found = [Spot(row.label, row.score, row.cost.get(name), row.low, row.high) for row in made.rows]
        if made.teacher is not None:
            label, score, cost = made.teacher
            found.append(Spot(label, score, cost.get(name), kind="teacher"))
        return found

    drawn = pictures(
        [
            ("MACs of one input", "count", spots("macs")),
            ("bytes of the file", "bytes", spots("bytes")),
            *_latencies(made, spots),
        ],
        made.metric,
    )
    ring = " The ring is the teacher." if made.teacher is not None else ""
    return drawn + _dim(
        "The line is the frontier: what it passes is dominated, costs more and does no better, and is drawn paler. "
        f"Whiskers are 95 % intervals over seeds and samples.{ring}"
    )


def _latencies(made: Comparison, spots: Callable[[str], list[Spot]]) -> list[tuple[str, Unit, list[Spot]]]:
    """Latency as a share of the teacher's where it is known: milliseconds of one day are not those of another."""
    if all(row.share is not None for row in made.rows):
        found = [Spot(row.label, row.score, row.share, row.low, row.high) for row in made.rows]
        if made.teacher is not None:
            found.append(Spot(made.teacher[0], made.teacher[1], 1.0, kind="teacher"))
        return [("latency, of the teacher's", "share", found)]
    return [
        ("latency at batch 1", "ms", spots("latency_ms_p50_b1")),
        ("latency of a node", "ms", spots("latency_ms_p50_node")),
    ]


def _differences(made: Comparison) -> str:
    branches = [
        Branch(
            pair.other,
            100 * pair.found.value,
            None if pair.found.seed is None else (100 * pair.found.seed.low, 100 * pair.found.seed.high),
            None if pair.found.both is None else (100 * pair.found.both.low, 100 * pair.found.both.high),
            [100 * one for one in pair.found.apart],
            pair.verdict in ("better", "worse"),
        )
        for pair in made.pairs
    ]
    head = ("recipe", "verdict", "points", "over seeds", "p", "seeds and samples", "p", "p among all")
    rows = [
        (
            pair.other, pair.verdict, difference(pair.found), interval(pair.found.seed),
            chance(pair.found.seed.p if pair.found.seed else None), interval(pair.found.both),
            chance(pair.found.both.p if pair.found.both else None), chance(pair.p),
        )
        for pair in made.pairs
    ]  # fmt: skip
    picture = forest(branches, made.metric, made.pairs[0].first)
    said = _dim(
        "Dot: mean difference. Thick: 95 % over seeds; thin: over seeds and samples. Small rings: single seeds. "
        f"Paler where no difference is told. {_READ}"
    )
    notes = [line for line in lines(made)[len(made.pairs) :] if line not in made.notes]
    return picture + _grid(head, rows) + said + "".join(map(_dim, notes)) + _swaps(made.pairs)


def _swaps(pairs: Sequence[Against]) -> str:
    rows = [
        (
            pair.other,
            "pooled" if one.seed is None else str(one.seed),
            f"{one.better:,}",
            f"{one.worse:,}",
            chance(one.p),
        )
        for pair in pairs
        for one in (
            *pair.found.swaps,
            *((pair.found.pooled,) if len(pair.found.swaps) > 1 and pair.found.pooled else ()),
        )
    ]
    if not rows:
        return ""
    head = (
        "recipe",
        "seed",
        "right where the first is wrong",
        "wrong where the first is right",
        "McNemar, exact p",
    )
    body = _grid(head, rows) + _dim(
        "Pooled treats the samples of all seeds as if they were so many different ones. They are not, so it "
        "decides nothing."
    )
    return f"<details><summary>Samples that one alone has right, seed by seed</summary>{body}</details>"


def _fields(made: Comparison) -> str:
    body = ""
    for pair in made.pairs:
        if len(made.pairs) > 1:
            body += f"<h3>{escape(pair.other)}</h3>"
        if pair.fields:
            body += _grid(("field", pair.first, pair.other), pair.fields, wide=True)
        else:
            body += _dim(
                next(
                    (line for line in made.unread if pair.other in line),
                    "Nothing but its name, or not even that.",
                )
            )
    return body


def _runs(made: Comparison) -> str:
    rows = [(label, str(seed), f"{100 * score:.2f} %", where) for label, seed, score, where in made.runs]
    return f"<details><summary>{len(rows)} runs</summary>{_grid(('recipe', 'seed', 'test', 'where'), rows)}</details>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], *, wide: bool = False) -> str:
    left = ' style="text-align:left"' if wide else ""
    top = "".join(f"<th{left}>{escape(cell)}</th>" for cell in head)
    style = ' style="white-space:normal;overflow-wrap:anywhere;text-align:left"' if wide else ""
    body = "".join(
        "<tr>"
        + "".join(
            f'<td data-label="{escape(name)}"{style}>{escape(cell)}</td>'
            for name, cell in zip(head, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="stack"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _dim(text: str) -> str:
    return f'<p class="dim">{escape(text)}</p>'
