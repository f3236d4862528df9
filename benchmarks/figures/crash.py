"""From a runner's death to the start of its execution's next attempt, without backoff."""

from __future__ import annotations

import statistics

from benchmarks import floors
from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings
from benchmarks.site import PATIENCE, PROCESSORS, WORKLOAD, Site, site


def _seconds_to_next_attempt(here: Site, number: int) -> float:
    note = here.folder / f"died-{number}"
    seconds: float = here.client.invoke("crash", str(note)).result(timeout=PATIENCE)
    return seconds


def run(kind: Kind, quick: bool) -> Readings:
    """Crash one runner after another, each when all are at work again."""
    count = 3 if quick else 20
    waits = []
    with site(kind) as here, here.supervisor(PROCESSORS):
        for number in range(count):
            waits.append(_seconds_to_next_attempt(here, number))
            here.wait_until_idle(PROCESSORS)
    return {
        "median": statistics.median(waits),
        "interpreter": statistics.median(floors.seconds_to_import(WORKLOAD) for _ in range(count)),
    }


FIGURE = Figure(
    name="crash",
    about="crash to the start of the next attempt, another runner being idle",
    lines=[
        Line(
            key="median",
            label="crash to next attempt, median",
            unit="ms",
            floor="interpreter",
            floor_label="fresh interpreter that imports the app",
        )
    ],
    run=run,
    kinds=["SQLite"],
)
