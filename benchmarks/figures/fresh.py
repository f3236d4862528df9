"""Empty executions a second, each in a process of its own: forked, told who it is, run, ended, reaped."""

from __future__ import annotations

from benchmarks import floors
from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings
from benchmarks.site import FRESH_WORKLOAD, PROCESSORS, site

MICROSECONDS = 1e6


def run(kind: Kind, quick: bool) -> Readings:
    """Enqueue, then drain; measured from the first claim to the last commit."""
    count = 50 if quick else 1_000
    with site(kind, FRESH_WORKLOAD) as here:
        here.client.invoke_many("fresh", [None] * count)
        here.drain(PROCESSORS)
        finished, processes, first, last = here.row(
            "SELECT count(*), count(DISTINCT result), min(started_at), max(finished_at) "
            "FROM conductor_executions WHERE state = 'completed'"
        )
    assert (finished, processes) == (count, count), f"{finished} of {count} executions, {processes} processes"
    return {
        "attempts": count / ((last - first) / MICROSECONDS),
        "forks": floors.forks_per_second(FRESH_WORKLOAD, count),
    }


FIGURE = Figure(
    name="fresh",
    about="empty executions of a task with isolation='fresh', enqueued beforehand",
    lines=[
        Line(
            key="attempts",
            label="fresh processes, end to end",
            unit="/s",
            target="at least 100",
            floor="forks",
            floor_label="fork and wait, app imported",
        )
    ],
    run=run,
    kinds=["SQLite"],
)
