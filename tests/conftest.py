"""What all tests share: a project folder with a tasks module, and a real supervisor to run it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from harness import Project

# A slow machine is no failure: no test measures time.
settings.register_profile("conductor", deadline=None)
settings.load_profile("conductor")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A folder of its own with a database, in which supervisors can be started; none outlives the test."""
    with Project(tmp_path) as project:
        yield project
