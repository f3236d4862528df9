"""Whether one waits for others' work: beside a flood of another task, and behind a long execution."""

from __future__ import annotations

import statistics
import time

from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings, Target
from benchmarks.site import PATIENCE, PROCESSORS, Site, site

RUNNERS = max(PROCESSORS, 2)
"""One for a long execution, and one that is idle."""

LONG = 300
"""Milliseconds of the execution behind which others must not wait."""

BEHIND = 20
"""Executions that come together with it: so few that both runners have them in hand at once."""


def run(kind: Kind, quick: bool) -> Readings:
    """Measure one after the other, each with a supervisor of its own."""
    return {**_beside_a_flood(kind, quick), **_behind_a_long_one(kind, quick)}


def _beside_a_flood(kind: Kind, quick: bool) -> Readings:
    """Invoke one after another: first while all is idle, then for as long as the flood is being worked off.

    The flood is one call of ``invoke_many``, so that all of it waits from the first moment on.
    """
    flood, count = (3_000, 5) if quick else (100_000, 20)
    with site(kind) as here, here.supervisor(RUNNERS):
        idle = [_invoke(here) for _ in range(count)]
        here.client.invoke_many("empty", [None] * flood)
        beside = [_invoke(here)]
        while len(beside) < count and here.status().ended < flood:
            beside.append(_invoke(here))
    return {
        "flood median": statistics.median(start for start, _ in beside),
        "flood worst": max(start for start, _ in beside),
        "flood call": max(call for _, call in beside),
        "idle": max(start for start, _ in idle),
        "idle call": max(call for _, call in idle),
    }


def _invoke(here: Site) -> tuple[float, float]:
    """Return the seconds until the handler was begun, and those that the call itself took."""
    called = time.monotonic()
    handle = here.client.invoke("begun")
    returned = time.monotonic()
    begun: float = handle.result(timeout=PATIENCE)
    return begun - called, returned - called


def _behind_a_long_one(kind: Kind, quick: bool) -> Readings:
    """Invoke a long execution and short ones of the same task together, which are known to be short.

    So a runner has the long one and short ones behind it, while another has short ones only and is idle soon.
    """
    rounds = 1 if quick else 10
    with site(kind) as here, here.supervisor(RUNNERS):
        last_starts: list[float] = []
        for _ in range(rounds):
            _run(here, [0] * 200)  # from now on the task's executions are taken to be short
            long, *short = _run(here, [LONG] + [0] * BEHIND)
            last_starts.append(max(short) - long)
    return {"behind median": statistics.median(last_starts), "behind worst": max(last_starts)}


def _run(here: Site, milliseconds: list[int]) -> list[float]:
    """Run so much work; return when each began."""
    handles = here.client.invoke_many("work", milliseconds)
    spans: list[tuple[float, float]] = [handle.result(timeout=PATIENCE) for handle in handles]
    return [began for began, _ in spans]


FIGURE = Figure(
    name="fairness",
    about="how long an execution waits beside a flood of 100,000 of another task, and behind a long one",
    lines=[
        Line(
            "flood median", "invoke to start beside a flood, median", "ms", None, "idle", "idle, the longest"
        ),
        Line(
            key="flood worst",
            label="invoke to start beside a flood, the longest",
            unit="ms",
            target=Target(at_most=0.100),
            floor="idle",
            floor_label="idle, the longest",
        ),
        Line(
            key="flood call",
            label="  the call of invoke alone, the longest",
            unit="ms",
            floor="idle call",
            floor_label="idle, the longest",
        ),
        Line("behind median", "last start behind a long execution, median", "ms"),
        Line("behind worst", "last start behind a long execution, the longest", "ms", Target(at_most=0.050)),
    ],
    run=run,
)
