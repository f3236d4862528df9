"""Empty executions a second by several supervisors that share a PostgreSQL database, on this one machine.

They share its processors too, so this shows what sharing costs, and not what more machines bring.
"""

from __future__ import annotations

from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings
from benchmarks.site import site

SUPERVISORS = (1, 2, 4)
"""Each with one runner."""


def run(kind: Kind, quick: bool) -> Readings:
    """Drain by one, then by more."""
    count = 2_000 if quick else 10_000
    return {f"{supervisors}": _a_second(kind, supervisors, count) for supervisors in SUPERVISORS}


def _a_second(kind: Kind, supervisors: int, count: int) -> float:
    """Enqueue, then drain."""
    with site(kind) as here:
        here.client.invoke_many("empty", [None] * count)
        return here.drain_rate(count, 1, supervisors)


FIGURE = Figure(
    name="supervisors",
    about="empty executions by several supervisors with one runner each, enqueued beforehand",
    lines=[
        Line(
            f"{supervisors}", f"empty executions, {supervisors} supervisors", "/s", None, "1", "1 supervisor"
        )
        for supervisors in SUPERVISORS[1:]
    ],
    run=run,
    kinds=["PostgreSQL"],
)
