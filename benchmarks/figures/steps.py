"""Durable steps a second: each is acknowledged only after the commit that holds its result."""

from __future__ import annotations

from benchmarks import sql_floors
from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings, Target
from benchmarks.site import PATIENCE, site
from conductor_protocol.units import counted


def _steps_per_second(kind: Kind, runners: int, steps: int) -> float:
    """Run one execution on each runner; measured from the first step's begin to the last acknowledgement."""
    with site(kind) as here, here.supervisor(runners):
        handles = here.client.invoke_many("steps", [steps] * runners)
        spans: list[tuple[float, float]] = [handle.result(timeout=PATIENCE) for handle in handles]
    seconds = max(ended for _, ended in spans) - min(began for began, _ in spans)
    return runners * steps / seconds


def run(kind: Kind, quick: bool) -> Readings:
    """Measure with more and more runners, each time with about as many steps in all; quickly with few."""
    steps, most = (60, 2) if quick else (4_000, 32)
    readings = {
        f"{runners} runners": _steps_per_second(kind, min(runners, most), steps // max(runners, 4))
        for runners in TARGETS
    }
    return readings | {"commits": sql_floors.commits_per_second(kind, steps // 4)}


TARGETS = {1: 0.6, 4: 1.5, 16: 2.5, 32: 3.5}
"""By the number of runners: steps a second, as a part of the floor's commits, on PostgreSQL."""

FIGURE = Figure(
    name="steps",
    about="durable steps, one execution on each runner",
    lines=[
        Line(
            key=f"{runners} runners",
            label=f"durable steps, {counted(runners, 'runner')}",
            unit="/s",
            target=Target(of_floor_at_least=part),
            floor="commits",
            floor_label="INSERT and COMMIT, one connection",
        )
        for runners, part in TARGETS.items()
    ],
    run=run,
    kinds=["PostgreSQL"],
)
