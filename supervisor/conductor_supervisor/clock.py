"""The only clock that counts: windows, schedules, retries and deadlines all take their time from here.

Durations of attempts and graces that protect the machine are measured by ``time.monotonic()`` instead; a
wall clock that jumps must not kill a handler.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Protocol

from conductor_protocol.errors import UsageError
from conductor_protocol.units import Instant

CLOCK_FILE = "CONDUCTOR_CLOCK"
"""Environment variable that names a :class:`FileClock`'s file; tests set it."""

_INSTANT = struct.Struct("<q")


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> Instant:
        """Return the present moment."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> Instant:
        """Return the present moment."""
        return time.time_ns() // 1000


class FileClock:
    """A clock that stands still until somebody writes another moment into its file.

    The file holds one instant: eight bytes, little-endian, signed. Tests set the time so, across processes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def now(self) -> Instant:
        """Return the moment that the file holds.

        :raises UsageError: if the file cannot be read.
        """
        try:
            (instant,) = _INSTANT.unpack(self._path.read_bytes())
        except (OSError, struct.error) as error:
            raise UsageError(
                f"{CLOCK_FILE} names {self._path}, which is not a clock file: {error}"
            ) from error
        return int(instant)

    def set(self, instant: Instant) -> None:
        """Write another moment, all at once."""
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(_INSTANT.pack(instant))
        fresh.replace(self._path)


def clock_from_environment() -> Clock:
    """Return the clock that this process should use."""
    path = os.environ.get(CLOCK_FILE)
    return FileClock(Path(path)) if path else SystemClock()
