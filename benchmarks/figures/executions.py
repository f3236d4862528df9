"""Empty executions a second, end to end: claimed, sent to an isolated runner, run, committed."""

from __future__ import annotations

from benchmarks import floors
from benchmarks.measure import Figure, Line, Readings
from benchmarks.site import PROCESSORS, site

MICROSECONDS = 1e6


def run(quick: bool) -> Readings:
    """Enqueue, then drain; measured from the first claim to the last commit."""
    count = 2_000 if quick else 30_000
    with site() as here:
        here.client.invoke_many("empty", [None] * count)
        here.drain(PROCESSORS)
        finished, first, last = here.row(
            "SELECT count(*), min(started_at), max(finished_at) FROM conductor_executions "
            "WHERE state = 'completed'"
        )
    assert finished == count, f"{finished} of {count} executions have completed"
    return {
        "executions": count / ((last - first) / MICROSECONDS),
        "floor": floors.jobs_per_second(count),
    }


FIGURE = Figure(
    name="executions",
    about="empty executions, enqueued beforehand by invoke_many",
    lines=[
        Line(
            key="executions",
            label="empty executions, end to end",
            unit="/s",
            target="at least 5,000",
            floor="floor",
            floor_label="SQL loop: claim 100, finish 100",
        )
    ],
    run=run,
)
