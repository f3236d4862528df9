"""From a runner's death to the start of its execution's next attempt, without backoff."""

from __future__ import annotations

import statistics

from benchmarks import floors
from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings, Target
from benchmarks.site import PATIENCE, PROCESSORS, WORKLOAD, Site, site

RUNNERS = max(PROCESSORS, 2)
"""One that dies, and a spare one."""


def _seconds_to_next_attempt(here: Site, number: int) -> float:
    note = here.folder / f"died-{number}"
    seconds: float = here.client.invoke("crash", str(note)).result(timeout=PATIENCE)
    return seconds


def run(kind: Kind, quick: bool) -> Readings:
    """Crash one runner after another, each when all are ready and idle: so there is always a spare one."""
    count = 3 if quick else 10
    waits = []
    with site(kind) as here, here.supervisor(RUNNERS):
        for number in range(count):
            waits.append(_seconds_to_next_attempt(here, number))
            here.wait_until_idle(RUNNERS)
    return {
        "median": statistics.median(waits),
        "worst": max(waits),
        "interpreter": statistics.median(floors.seconds_to_import(WORKLOAD) for _ in range(count)),
    }


_FLOOR = "fresh interpreter that imports the app"

FIGURE = Figure(
    name="crash",
    about="crash to the start of the next attempt, with a spare runner ready",
    lines=[
        Line("median", "crash to next attempt, median", "ms", Target(at_most=0.050), "interpreter", _FLOOR),
        Line("worst", "crash to next attempt, the longest", "ms", None, "interpreter", _FLOOR),
    ],
    run=run,
)
