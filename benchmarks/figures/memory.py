"""Resident memory of the supervisor, before and after many executions: it must not grow."""

from __future__ import annotations

from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings
from benchmarks.site import PROCESSORS, site

AT_ONCE = 10_000
"""Executions invoked together, so that the client stays small too."""


def run(kind: Kind, quick: bool) -> Readings:
    """Run them all through one supervisor."""
    count = AT_ONCE if quick else 100_000
    with site(kind) as here, here.supervisor(PROCESSORS):
        before = here.status().memory
        for _ in range(0, count, AT_ONCE):
            here.client.invoke_many("empty", [None] * AT_ONCE)
        here.wait_until_finished(count)
        after = here.status().memory
    return {"before": before, "after": after}


FIGURE = Figure(
    name="memory",
    about="resident memory of the supervisor before and after 100,000 executions",
    lines=[
        Line("before", "supervisor's memory at start", "MiB", "at most 90"),
        Line("after", "the same after the executions", "MiB", "at most 90, and flat"),
    ],
    run=run,
    kinds=["SQLite"],
)
