"""One checkpoint: a handler asks "may I continue?" and gets its answer, alone and under full load."""

from __future__ import annotations

import statistics

from benchmarks import floors
from benchmarks.databases import Kind
from benchmarks.load import full_load
from benchmarks.measure import Figure, Line, Readings, Target, percentile
from benchmarks.site import PATIENCE, PROCESSORS, Site, site

RUNNERS = max(PROCESSORS, 2)
"""One for the handler that asks, all others for the load."""


def run(kind: Kind, quick: bool) -> Readings:
    """Measure inside the handler: while idle, and while empty executions keep all others busy."""
    count = 200 if quick else 5_000
    with site(kind) as here, here.supervisor(RUNNERS):
        alone = _ask(here, count)
        with full_load(here):
            loaded = _ask(here, count)
    bare = floors.round_trips(count)
    return {
        "median": statistics.median(alone),
        "p99": percentile(alone, 99),
        "loaded median": statistics.median(loaded),
        "loaded p99": percentile(loaded, 99),
        "bare median": statistics.median(bare),
        "bare p99": percentile(bare, 99),
    }


def _ask(here: Site, count: int) -> list[float]:
    """Ask so many times, ahead of all that waits; return the seconds that each answer took."""
    seconds: list[float] = here.client.invoke("checkpoints", count, priority=1).result(timeout=PATIENCE)
    return seconds


_FLOOR = "bare ZeroMQ round trip, idle"

FIGURE = Figure(
    name="checkpoint",
    about="checkpoint round trip, measured inside a handler",
    lines=[
        Line("median", "checkpoint, median", "ms", Target(of_floor_at_most=2), "bare median", _FLOOR),
        Line("p99", "checkpoint, p99", "ms", None, "bare p99", _FLOOR),
        Line("loaded median", "checkpoint under full load, median", "ms", None, "bare median", _FLOOR),
        Line(
            "loaded p99", "checkpoint under full load, p99", "ms", Target(at_most=0.001), "bare p99", _FLOOR
        ),
    ],
    run=run,
)
