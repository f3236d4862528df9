"""Throughput while somebody else holds a transaction open, so that PostgreSQL can clear nothing away."""

from __future__ import annotations

import time

import psycopg

from benchmarks.databases import Kind
from benchmarks.load import WAITING, full_load
from benchmarks.measure import Figure, Line, Readings, Target
from benchmarks.site import PROCESSORS, Site, site

HELD = 600.0
"""Seconds for which the transaction is held open."""


def run(kind: Kind, quick: bool) -> Readings:
    """Run empty executions without end; measure before the transaction, and in its last tenth."""
    held = 10.0 if quick else HELD
    with site(kind) as here, here.supervisor(PROCESSORS), full_load(here):
        here.wait_until_ended(WAITING)
        before = _ended_in(here, held / 10)
        with psycopg.connect(here.url) as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.execute("SELECT count(*) FROM conductor.conductor_executions")
            time.sleep(held * 0.9)
            during = _ended_in(here, held / 10)
    return {"before": before, "during": during}


def _ended_in(here: Site, seconds: float) -> float:
    """Return how many executions end in a second, counted over so many."""
    first, began = here.status().ended, time.monotonic()
    time.sleep(seconds)
    return (here.status().ended - first) / (time.monotonic() - began)


FIGURE = Figure(
    name="held",
    about="empty executions while a transaction is held open for ten minutes",
    lines=[
        Line(
            key="during",
            label="empty executions, last minute of ten",
            unit="/s",
            target=Target(of_floor_at_least=0.5),
            floor="before",
            floor_label="without that transaction",
        )
    ],
    run=run,
    kinds=["PostgreSQL"],
    by_itself=True,
)
