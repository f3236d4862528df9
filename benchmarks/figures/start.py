"""From a client's call of ``invoke`` to the first line of the handler, with nothing else to do."""

from __future__ import annotations

import statistics
import time

from benchmarks import sql_floors
from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings, Target, percentile
from benchmarks.site import PATIENCE, PROCESSORS, Site, site


def _seconds_to_handler(here: Site) -> float:
    called = time.monotonic()
    begun: float = here.client.invoke("begun").result(timeout=PATIENCE)
    return begun - called


def run(kind: Kind, quick: bool) -> Readings:
    """Invoke one after another, each when the one before has its result."""
    count = 20 if quick else 300
    with site(kind) as here, here.supervisor(PROCESSORS):
        _seconds_to_handler(here)  # opens the client's database
        waits = [_seconds_to_handler(here) for _ in range(count)]
    return {
        "median": statistics.median(waits),
        "p99": percentile(waits, 99),
        "commit": 1 / sql_floors.commits_per_second(kind, count),
    }


MEDIAN: dict[Kind, Target] = {"PostgreSQL": Target(at_most=0.003), "SQLite": Target(at_most=0.005)}
P99: dict[Kind, Target] = {"PostgreSQL": Target(at_most=0.010), "SQLite": Target(at_most=0.015)}

_FLOOR = "INSERT and COMMIT"

FIGURE = Figure(
    name="start",
    about="invoke to handler start, while idle",
    lines=[
        Line("median", "invoke to handler start, median", "ms", MEDIAN, "commit", _FLOOR),
        Line("p99", "invoke to handler start, p99", "ms", P99, "commit", _FLOOR),
    ],
    run=run,
)
