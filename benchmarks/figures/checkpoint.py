"""One checkpoint: a handler asks "may I continue?" and gets its answer. Nothing else runs."""

from __future__ import annotations

import statistics

from benchmarks import floors
from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings, percentile
from benchmarks.site import PATIENCE, site


def run(kind: Kind, quick: bool) -> Readings:
    """Measure inside the handler."""
    count = 200 if quick else 5_000
    with site(kind) as here, here.supervisor(runners=1):
        asked = here.client.invoke("checkpoints", count).result(timeout=PATIENCE)
    bare = floors.round_trips(count)
    return {
        "median": statistics.median(asked),
        "p99": percentile(asked, 99),
        "bare median": statistics.median(bare),
        "bare p99": percentile(bare, 99),
    }


_FLOOR = "bare ZeroMQ round trip"

FIGURE = Figure(
    name="checkpoint",
    about="checkpoint round trip while idle, measured inside a handler",
    lines=[
        Line("median", "checkpoint, median", "ms", "at most 0.2", "bare median", _FLOOR),
        Line("p99", "checkpoint, p99", "ms", "", "bare p99", _FLOOR),
    ],
    run=run,
    kinds=["SQLite"],
)
