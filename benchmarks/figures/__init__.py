"""One module for each figure; :data:`FIGURES` is the order of the table."""

from __future__ import annotations

from benchmarks.figures import checkpoint, crash, executions, fresh, memory, start, steps
from benchmarks.measure import Figure

FIGURES: tuple[Figure, ...] = (
    executions.FIGURE,
    steps.FIGURE,
    checkpoint.FIGURE,
    start.FIGURE,
    crash.FIGURE,
    fresh.FIGURE,
    memory.FIGURE,
)
