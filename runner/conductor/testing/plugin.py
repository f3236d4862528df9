"""Conductor's pytest plugin: a database, a clock and a drain for each test.

pytest loads it wherever Conductor is installed, so it imports little; what a fixture needs is imported when a
test first asks for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from conductor import Conductor
    from conductor.testing import FakeClock, Report
    from conductor_protocol.units import Duration

DATABASE_VARIABLE = "CONDUCTOR_DATABASE_URL"


@pytest.fixture
def conductor_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh SQLite database for this test; the URL of it.

    Apps that name no database use it: for clients as for drains.
    """
    url = f"sqlite:///{tmp_path}/conductor.db"
    monkeypatch.setenv(DATABASE_VARIABLE, url)
    return url


@pytest.fixture
def conductor_clock() -> Iterator[FakeClock]:
    """A clock that stands still until the test moves it, for clients and drains alike."""
    from conductor.testing import FakeClock

    with FakeClock() as clock:
        yield clock


class Drain(Protocol):
    """What ``conductor_drain`` is: see :func:`conductor.testing.drain`."""

    def __call__(
        self,
        app: Conductor,
        *,
        clock: FakeClock | None = ...,
        timeout: Duration = ...,
        runners: int = ...,
        config: Path | str | None = ...,
    ) -> Report:
        """Run until nothing is due."""


@pytest.fixture
def conductor_drain(conductor_database: str) -> Iterator[Drain]:  # noqa: ARG001 - wanted for its effect
    """Runs what is due on this test's database; what was written is shown if the test fails."""
    from conductor.testing import drain

    drained: list[Conductor] = []

    def drain_and_show(app: Conductor, **options: Any) -> Report:
        drained.append(app)
        report = drain(app, **options)
        sys.stderr.write(report.log)
        return report

    yield drain_and_show
    for app in drained:
        app.close()
