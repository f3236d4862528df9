"""A folder of its own for each test of the command line, with nothing set by the world outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from workplace import Workplace

from conductor_supervisor.clock import CLOCK_FILE


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """An empty folder, which is the current one; the clock stands at noon."""
    for name in os.environ:
        if name.startswith("CONDUCTOR_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    with Workplace(tmp_path) as workplace:
        monkeypatch.setenv("CONDUCTOR_RUNTIME", str(workplace.runtime))
        monkeypatch.setenv(CLOCK_FILE, str(workplace.clock))
        yield workplace
