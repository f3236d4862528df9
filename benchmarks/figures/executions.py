"""Executions a second, end to end: claimed, sent to an isolated runner, run, committed."""

from __future__ import annotations

from benchmarks import sql_floors
from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings, Target
from benchmarks.site import PROCESSORS, site


def run(kind: Kind, quick: bool) -> Readings:
    """Enqueue, then drain; measured from the first claim to the last commit."""
    count = 500 if quick else 30_000
    return {
        "executions": _a_second(kind, "empty", count),
        "printing": _a_second(kind, "prints", count // 2),
        "floor": sql_floors.jobs_per_second(kind, count),
    }


def _a_second(kind: Kind, task: str, count: int) -> float:
    with site(kind) as here:
        here.client.invoke_many(task, [None] * count)
        return here.drain_rate(count, PROCESSORS)


FIGURE = Figure(
    name="executions",
    about="empty executions, enqueued beforehand by invoke_many",
    lines=[
        Line(
            key="executions",
            label="empty executions, end to end",
            unit="/s",
            target={
                "PostgreSQL": Target(at_least=25_000, of_floor_at_least=0.6),
                "SQLite": Target(at_least=25_000),
            },
            floor="floor",
            floor_label="SQL loop: claim 100, finish 100",
        ),
        Line(key="printing", label="executions that print one line each", unit="/s"),
    ],
    run=run,
)
