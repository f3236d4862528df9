"""Before the loop: a start meets others on the same database."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from holdings import NOW
from sqlalchemy.exc import DBAPIError

from conductor_supervisor import preparing
from conductor_supervisor.clock import SystemClock
from conductor_supervisor.intake import Schedule
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.leases import Member


def test_a_start_that_met_anothers_transaction_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was rolled back as if it had not been."""
    begin, tries = preparing.begin, 0

    def begin_in_a_deadlock(*arguments: object) -> list[Schedule]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise DBAPIError("SELECT 1", None, psycopg.errors.DeadlockDetected())
        return begin(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(preparing, "begin", begin_in_a_deadlock)
    database = Database.open(f"sqlite:///{tmp_path}/a.db")
    me = Member("me", "here", 1, "app", NOW)
    assert preparing.prepare(database, tmp_path, None, {}, "UTC", SystemClock(), me, 30.0) == []
    assert tries == 2
    database.close()
