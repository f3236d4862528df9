"""Executions a second that each wait for 1 or 10 ms, as if for another machine, on 2 and on 8 runners.

The work leaves the processor free: see :func:`benchmarks.workload.work`.
"""

from __future__ import annotations

from benchmarks import floors
from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings, Target
from benchmarks.site import site

CASES = [(milliseconds, runners) for milliseconds in (1, 10) for runners in (2, 8)]


def run(kind: Kind, quick: bool) -> Readings:
    """Measure each case for about a second, and as long its work in processes that do nothing else.

    Quickly: with two runners at most.
    """
    readings = {}
    for milliseconds, runners in CASES:
        for_each = (100 if quick else 1_000) // milliseconds
        key = _key(milliseconds, runners)
        at_work = min(runners, 2) if quick else runners
        readings[key] = _a_second(kind, milliseconds, at_work, for_each * at_work)
        readings[f"{key}, alone"] = floors.work_per_second(milliseconds, at_work, for_each)
    return readings


def _a_second(kind: Kind, milliseconds: int, runners: int, count: int) -> float:
    """Enqueue, then drain."""
    with site(kind) as here:
        here.client.invoke_many("work", [milliseconds] * count)
        return here.drain_rate(count, runners)


def _key(milliseconds: int, runners: int) -> str:
    return f"{milliseconds} ms, {runners} runners"


FIGURE = Figure(
    name="work",
    about="executions that wait for 1 or 10 ms, enqueued beforehand by invoke_many",
    lines=[
        Line(
            key=_key(*case),
            label=f"executions with work: {_key(*case)}",
            unit="/s",
            target=Target(of_floor_at_least=0.9),
            floor=f"{_key(*case)}, alone",
            floor_label="the work alone, in as many processes",
        )
        for case in CASES
    ],
    run=run,
)
