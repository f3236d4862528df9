"""Figures can be measured: what nobody runs is wrong one day."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.figures import FIGURES
from benchmarks.measure import Figure

ROOT = Path(__file__).parent.parent.parent
SOME = [figure for figure in FIGURES if figure.name in ("depth", "invoke", "start")]
"""One without a supervisor, one with a client alone, one with all. The others take the suite too long."""


@pytest.mark.parametrize("figure", SOME, ids=[figure.name for figure in SOME])
def test_a_figure_can_be_measured(figure: Figure, tmp_path: Path) -> None:
    """With little work: this shows that it works, and nothing of how fast."""
    report = tmp_path / "report.json"
    subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", figure.name, "--quick"),
            *("--on", figure.kinds[0], "--json", str(report)),
        ],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    measured = {line["figure"] for line in json.loads(report.read_text())["figures"]}
    assert measured == {line.label for line in figure.lines}
