"""One module for each figure; :data:`FIGURES` is the order of the table."""

from __future__ import annotations

from benchmarks.figures import (
    checkpoint,
    cost,
    crash,
    depth,
    executions,
    fresh,
    held,
    invoke,
    memory,
    start,
    steps,
)
from benchmarks.measure import Figure

FIGURES: tuple[Figure, ...] = (
    executions.FIGURE,
    cost.FIGURE,
    invoke.FIGURE,
    steps.FIGURE,
    checkpoint.FIGURE,
    start.FIGURE,
    crash.FIGURE,
    fresh.FIGURE,
    memory.FIGURE,
    depth.FIGURE,
    held.FIGURE,
)
