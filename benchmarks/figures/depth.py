"""What a claim takes while any number of executions stand beside what is claimed.

So many are ready: a third of them of the claimed task, behind in the queue, and the others of tasks that are
paused or outside their window. As many again are scheduled.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import databases
from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings, Target
from conductor_protocol.operations import NewExecution
from conductor_protocol.units import MICROSECONDS
from conductor_supervisor.store import claiming, executions
from conductor_supervisor.store.claiming import Wanted
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.dialect import sql

NOW = 1_800_000_000 * MICROSECONDS

BATCH = 20
"""Executions in one claim."""

WANTED = [Wanted("empty", BATCH)]


def run(kind: Kind, quick: bool) -> Readings:
    """Claim with nothing beside, then with more and more; each time after the database has looked at it."""
    claims = 20 if quick else 300
    depths = {"some": 1_000, "many": 10_000} if quick else {"some": 10_000, "many": 1_000_000}
    with (
        tempfile.TemporaryDirectory(prefix="conductor-bench-") as folder,
        databases.new(kind, Path(folder)) as url,
    ):
        database = Database.open(url)
        try:
            database.migrate()
            readings = {"none": _seconds_for_a_claim(database, claims)}
            stand = 0
            for name, depth in depths.items():
                _put_beside(database, stand, depth)
                stand = depth
                readings[name] = _seconds_for_a_claim(database, claims)
        finally:
            database.close()
    return readings


def _seconds_for_a_claim(database: Database, claims: int) -> float:
    """Return the median of the claims, each with the look at what is due that goes with it."""
    with database.writing() as connection:
        executions.insert(connection, [NewExecution(task="empty") for _ in range(claims * BATCH)], NOW)
    with database.writing() as connection:
        connection.execute(sql("ANALYZE"))
    taken = []
    for _ in range(claims):
        with database.writing() as connection:
            began = time.perf_counter()
            executions.promote(connection, NOW)
            executions.next_due(connection)
            found = claiming.claim(connection, WANTED, BATCH, "bench", NOW)
            taken.append(time.perf_counter() - began)
        assert len(found.claimed) == BATCH
    with database.writing() as connection:
        connection.execute(sql("DELETE FROM conductor_executions WHERE state = 'running'"))
    return statistics.median(taken)


def _put_beside(database: Database, first: int, end: int) -> None:
    """Make executions with these numbers that are not claimed, of tasks on both sides in the alphabet."""
    for state, due, waiting in (("ready", 1, "NULL"), ("scheduled", 2 * NOW, "'delay'")):
        with database.writing() as connection:
            connection.execute(
                sql(
                    f"""
                    WITH RECURSIVE numbers(number) AS
                        (SELECT {first} UNION ALL SELECT number + 1 FROM numbers WHERE number + 1 < {end})
                    INSERT INTO conductor_executions
                        (id, task, state, priority, event, payload, created_at, due_at, attempt, claim, lost,
                         suspect, waiting_for)
                    SELECT '{state}-' || number,
                           CASE number % 3 WHEN 0 THEN 'asleep' WHEN 1 THEN 'empty' ELSE 'paused' END,
                           '{state}', -1, 'conductor.invoke', 'null', 1, {due}, 0, 0, 0, 0, {waiting}
                    FROM numbers
                    """
                )
            )


_FLOOR = "a claim with nothing beside"
_TARGET = Target(of_floor_at_most=1.2)

FIGURE = Figure(
    name="depth",
    about="a claim of 20 beside as many ready and as many scheduled executions",
    lines=[
        Line("some", "a claim beside 10,000 and 10,000", "ms", _TARGET, "none", _FLOOR),
        Line("many", "a claim beside 1,000,000 and 1,000,000", "ms", _TARGET, "none", _FLOOR),
    ],
    run=run,
)
