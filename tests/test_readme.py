"""What the README shows really runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

from recipes.page import read

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_examples(tmp_path: Path) -> None:
    example, loading = blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    where = "import os, torch\ntorch.set_num_threads(1)\n"
    then = "\nos.chdir(result.folder)\n"
    answer = "\nassert network(torch.randn(3, 1, 8, 8)).shape == (3, 10)\n"
    done = subprocess.run(
        [sys.executable, "-c", where + example + then + loading + answer],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout


def test_page_example() -> None:
    (page,) = blocks("yaml")
    assert read(page, trust=("my_package",)).name == "mine"


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
