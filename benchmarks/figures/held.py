"""Throughput while somebody else holds a transaction open, so that PostgreSQL can clear nothing away."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings
from benchmarks.site import PROCESSORS, Site, site
from conductor import Conductor

HELD = 600.0
"""Seconds for which the transaction is held open."""

AT_ONCE = 1_000

WAITING = 10_000
"""Executions that wait for the supervisor, all the time."""


def run(kind: Kind, quick: bool) -> Readings:
    """Run empty executions without end; measure before the transaction, and in its last tenth."""
    held = 10.0 if quick else HELD
    with site(kind) as here, here.supervisor(PROCESSORS), _fed(here):
        here.wait_until_finished(WAITING)
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


@contextmanager
def _fed(here: Site) -> Iterator[None]:
    """Keep as many executions waiting, by a thread and a client of its own."""
    enough = threading.Event()

    def feed() -> None:
        with Conductor(here.url) as client:
            invoked = 0
            while not enough.wait(0.05):
                while invoked - here.status().ended < WAITING and not enough.is_set():
                    client.invoke_many("empty", [None] * AT_ONCE)
                    invoked += AT_ONCE

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


FIGURE = Figure(
    name="held",
    about="empty executions while a transaction is held open for ten minutes",
    lines=[
        Line(
            key="during",
            label="empty executions, last minute of ten",
            unit="/s",
            target="at least 0.5",
            floor="before",
            floor_label="without that transaction",
        )
    ],
    run=run,
    kinds=["PostgreSQL"],
    by_itself=True,
)
