"""Durable steps a second: each is acknowledged only after the commit that holds its result."""

from __future__ import annotations

from benchmarks import sql_floors
from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings
from benchmarks.site import PATIENCE, site


def _steps_per_second(kind: Kind, runners: int, steps: int) -> float:
    """Run one execution on each runner; measured from the first step's begin to the last acknowledgement."""
    with site(kind) as here, here.supervisor(runners):
        handles = here.client.invoke_many("steps", [steps] * runners)
        spans: list[tuple[float, float]] = [handle.result(timeout=PATIENCE) for handle in handles]
    seconds = max(ended for _, ended in spans) - min(began for began, _ in spans)
    return runners * steps / seconds


def run(kind: Kind, quick: bool) -> Readings:
    """Measure with one runner and with eight."""
    steps = 50 if quick else 1_000
    return {
        "one": _steps_per_second(kind, 1, steps),
        "eight": _steps_per_second(kind, 8, steps),
        "commits": sql_floors.commits_per_second(kind, steps),
    }


_FLOOR = "INSERT and COMMIT, one connection"

FIGURE = Figure(
    name="steps",
    about="durable steps, one execution on each runner",
    lines=[
        Line("one", "durable steps, 1 runner", "/s", floor="commits", floor_label=_FLOOR),
        Line("eight", "durable steps, 8 runners", "/s", "at least 2,000", "commits", _FLOOR),
    ],
    run=run,
)
