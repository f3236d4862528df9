"""What all tests share: a project folder with a tasks module, and a real supervisor to run it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Project


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A folder of its own with a database, in which supervisors can be started; none outlives the test."""
    with Project(tmp_path) as project:
        yield project
