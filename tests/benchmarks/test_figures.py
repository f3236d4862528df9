"""Figures can be measured: what nobody runs is wrong one day."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import markdown
from benchmarks.figures import FIGURES
from benchmarks.markdown import BEGIN, END
from benchmarks.measure import Figure, Target, take

ROOT = Path(__file__).parent.parent.parent

SOME = [figure for figure in FIGURES if figure.name not in {"held", "steps", "supervisors"}]
"""The others start many processes, or last for minutes: that takes the suite too long."""


@pytest.mark.parametrize("figure", SOME, ids=[figure.name for figure in SOME])
def test_a_figure_can_be_measured(figure: Figure) -> None:
    """With little work, on one database: this shows that it works, and nothing of how fast."""
    results = take(figure, figure.kinds[0], times=1, quick=True)
    assert [result.line for result in results] == list(figure.lines)
    assert all(result.value.median >= 0 for result in results)
    assert all((result.is_met is None) == (result.target is None) for result in results)


def test_the_command_writes_what_it_measured(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = ["invoke", "--quick", "--on", "sqlite", "--json", str(report)]
    subprocess.run(
        [sys.executable, "-m", "benchmarks", *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    measured = json.loads(report.read_text())["figures"]
    assert [line["figure"] for line in measured] == ["invoke", "invoke_many, 1,000 at once"]


def test_a_bound_may_be_on_the_value_and_on_its_part_of_the_floor() -> None:
    target = Target(at_least=25_000, of_floor_at_least=0.6)
    assert target.is_met(25_000, 0.6)
    assert not target.is_met(24_999, 0.6)
    assert not target.is_met(25_000, 0.59)
    assert Target(at_most=0.001).is_met(0.001, None)


def test_a_run_becomes_the_table_of_a_page(tmp_path: Path) -> None:
    """Both databases stand in one line; what the page says before and behind stays."""
    report = {
        "machine": {"processors": 2, "system": "Linux", "python": "3.11", "sqlite": "3", "postgresql": 18},
        "figures": [measured("SQLite", 0.004, met=True), measured("PostgreSQL", 0.002, met=False)],
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nBehind\n")
    for _ in range(2):  # the second time puts it in the place of the first
        done = CliRunner().invoke(markdown.main, [str(tmp_path / "report.json"), str(page)])
        assert done.exit_code == 0, done.output
    spread, target = "ms (3.000 to 5.000)", "at most 3 ms; missed on PostgreSQL"
    assert page.read_text().splitlines() == [
        "# Before",
        "",
        BEGIN,
        "",
        "2 processors, Linux, Python 3.11, SQLite 3, PostgreSQL 18. Runs of each figure: 3.",
        "",
        "| figure | SQLite | of floor | PostgreSQL | of floor | floor | target |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- |",
        f"| a wait | 4.000 {spread} | 2.00 | 2.000 {spread} | 2.00 | a bare one | {target} |",
        "",
        END,
        "",
        "Behind",
    ]


def measured(database: str, median: float, *, met: bool) -> dict[str, Any]:
    return {
        "figure": "a wait",
        "unit": "ms",
        "database": database,
        "median": median,
        "low": 0.003,
        "high": 0.005,
        "runs": [0.003, median, 0.005],
        "floor": {"what": "a bare one"},
        "of_floor": 2.0,
        "target": "at most 3 ms",
        "met": met,
    }
