"""Empty executions a second, each in a process of its own: forked, told who it is, run, ended, reaped."""

from __future__ import annotations

from benchmarks import floors
from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings, Target
from benchmarks.site import FRESH_WORKLOAD, PROCESSORS, site


def run(kind: Kind, quick: bool) -> Readings:
    """Enqueue, then drain; measured from the first claim to the last commit."""
    count = 50 if quick else 1_000
    with site(kind, FRESH_WORKLOAD) as here:
        here.client.invoke_many("fresh", [None] * count)
        attempts = here.drain_rate(count, PROCESSORS)
        (processes,) = here.row("SELECT count(DISTINCT result) FROM conductor_executions")
    assert processes == count, f"{count} executions in {processes} processes"
    return {
        "attempts": attempts,
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
            target=Target(of_floor_at_least=0.5),
            floor="forks",
            floor_label="fork and wait, app imported",
        )
    ],
    run=run,
    kinds=["SQLite"],
)
