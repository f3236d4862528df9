"""The clock that goes on while the machine sleeps: what a lease is worth is measured by it.

All processes of a machine read the same, so a moment by it can be told to another process. It is never set,
and it stands still only where the whole machine does, as a virtual machine that is paused.
"""

from __future__ import annotations

import time

CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux has one of its own for this; elsewhere, as on macOS, CLOCK_MONOTONIC counts sleep itself."""


def uptime() -> float:
    """Return the seconds since the machine was started, sleep included."""
    return time.clock_gettime(CLOCK)


def has_passed(moment: float | None) -> bool:
    """Tell whether a moment by this clock has come; None never does."""
    return moment is not None and uptime() >= moment
