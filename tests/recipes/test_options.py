"""The options page says what the specs say, and the one that is kept is up to date."""

from pathlib import Path

import pytest

from recipes.__main__ import main
from recipes.names import fields, walk
from recipes.options import options

KEPT = Path(__file__).parents[2] / "reports" / "options.md"


def test_the_kept_page_is_up_to_date() -> None:
    assert KEPT.read_text(encoding="utf-8") == options(), (
        "make it anew: decoct describe --markdown > reports/options.md"
    )


def test_every_field_of_every_spec_is_there() -> None:
    page = options()
    for name, cls in walk().items():
        part = page.partition(f"### {name}\n")[2].partition("\n### ")[0]
        assert part, name
        for field, info in fields(cls).items():
            (line,) = [line for line in part.splitlines() if line.startswith(f"| `{field}` |")]
            cells = line.replace("\\|", "").split("|")
            assert len(cells) == 6, line
            assert bool(cells[3].strip()) != info.is_required(), line
            assert cells[4].strip(), f"{name}.{field} has no docstring"


def test_bounds_and_links() -> None:
    page = options()
    assert "| `macs` | float or null, more than 0, less than 1 |" in page or "more than 0" in page
    anchors = {line[4:].lower().replace(".", "") for line in page.splitlines() if line.startswith("### ")}
    linked = {part.partition(")")[0] for part in page.split("](#")[1:]}
    assert linked == anchors


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--markdown"]) == 0
    assert capsys.readouterr().out == options()
    assert main(["describe", "compress.GAL", "--markdown"]) == 2
    assert "leave 'compress.GAL' out" in capsys.readouterr().err
