"""One module for each figure; :data:`FIGURES` is the order of the table."""

from __future__ import annotations

from benchmarks.figures import (
    checkpoint,
    cost,
    crash,
    depth,
    executions,
    fairness,
    fresh,
    growth,
    held,
    invoke,
    memory,
    start,
    steps,
    supervisors,
    work,
)
from benchmarks.measure import Figure

FIGURES: tuple[Figure, ...] = (
    executions.FIGURE,
    work.FIGURE,
    cost.FIGURE,
    invoke.FIGURE,
    steps.FIGURE,
    checkpoint.FIGURE,
    start.FIGURE,
    crash.FIGURE,
    fresh.FIGURE,
    fairness.FIGURE,
    memory.FIGURE,
    depth.FIGURE,
    growth.FIGURE,
    supervisors.FIGURE,
    held.FIGURE,
)
