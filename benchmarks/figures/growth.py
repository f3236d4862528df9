"""How the cost of a step grows: with the number of steps of one execution, and with the size of results."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import ParamSpec

from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings
from benchmarks.site import PATIENCE, Site, site

SMALL = 100
"""Characters of a result."""

SIZES = {"10 KB": 10_000, "100 KB": 100_000, "1 MB": 1_000_000}

COUNTS = (100, 1_000)
"""Steps of one execution, beside one with :data:`FEW`."""

FEW = 10

AT_ONCE = 10
"""Steps of one execution, where the size of results counts."""

P = ParamSpec("P")


def run(kind: Kind, quick: bool) -> Readings:
    """Run one execution after another, on one runner. Quickly: with a tenth of the steps."""
    times, part = (1, 10) if quick else (3, 1)
    with site(kind) as here, here.supervisor(runners=1):
        _seconds_for_a_step(here, 50, SMALL)  # a new database and a new runner are slower
        readings = {
            "few": _median(5 * times, _seconds_for_a_step, here, FEW, SMALL),
            "again few": _median(times, _seconds_to_go_on, here, FEW),
        }
        for count in COUNTS:
            readings[f"{count}"] = _median(times, _seconds_for_a_step, here, count // part, SMALL)
            readings[f"again {count}"] = _median(times, _seconds_to_go_on, here, count // part)
        readings["small"] = _median(times, _seconds_for_a_step, here, AT_ONCE, SMALL)
        for name, size in SIZES.items():
            readings[name] = _median(times, _seconds_for_a_step, here, AT_ONCE, size)
    return readings


def _median(times: int, measure: Callable[P, float], *args: P.args, **kwargs: P.kwargs) -> float:
    return statistics.median(measure(*args, **kwargs) for _ in range(times))


def _seconds_for_a_step(here: Site, count: int, size: int) -> float:
    seconds: float = here.client.invoke("large-steps", [count, size]).result(timeout=PATIENCE)
    return seconds / count


def _seconds_to_go_on(here: Site, count: int) -> float:
    """Have an execution fail behind so many steps; return when its next attempt is as far."""
    note = here.folder / "failed"
    seconds: float = here.client.invoke("goes-on", [count, str(note)]).result(timeout=PATIENCE)
    return seconds


FIGURE = Figure(
    name="growth",
    about="seconds for a step, by number of steps and size of results; going on behind recorded steps",
    lines=[
        *(
            Line(f"{count}", f"a step, {count:,} in the execution", "ms", None, "few", "10 in the execution")
            for count in COUNTS
        ),
        *(Line(name, f"a step with a result of {name}", "ms", None, "small", "100 bytes") for name in SIZES),
        *(
            Line(
                key=f"again {count}",
                label=f"failure to next attempt behind {count:,} steps",
                unit="ms",
                floor="again few",
                floor_label="behind 10",
            )
            for count in COUNTS
        ),
    ],
    run=run,
)
