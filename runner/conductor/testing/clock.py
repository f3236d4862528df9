"""A clock that stands still until the test moves it, for every process that is told of it."""

from __future__ import annotations

import os
import struct
import tempfile
import weakref
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from conductor_protocol.errors import UsageError
from conductor_protocol.units import MICROSECONDS, Duration, instant, moment, seconds

CLOCK_FILE = "CONDUCTOR_CLOCK"
"""Environment variable that names the clock's file to supervisors and clients."""

_INSTANT = struct.Struct("<q")
"""The whole file: microseconds since 1970, little-endian."""


class FakeClock:
    """A clock in the test's hands: windows, delays, retries and schedules go by it.

    Inside ``with clock:`` the clients of this process use it too, and so does every drain. Code in handlers
    that asks Python for the time gets the machine's own.
    """

    def __init__(self, start: datetime | None = None) -> None:
        """
        :param start: an aware datetime; None: the present moment.
        :raises UsageError: if it is naive, or no datetime.
        """
        start = _checked(datetime.now(UTC) if start is None else start)
        descriptor, name = tempfile.mkstemp(prefix="conductor-clock-")
        os.close(descriptor)
        self.file = Path(name)
        """Where other processes read the time."""
        self._outer: list[str | None] = []
        weakref.finalize(self, self.file.unlink, missing_ok=True)
        self.set(start)

    @property
    def now(self) -> datetime:
        """The moment at which the clock stands, in UTC."""
        (microseconds,) = _INSTANT.unpack(self.file.read_bytes())
        return moment(microseconds)

    def set(self, now: datetime) -> None:
        """Move the clock to this moment, forward or back.

        :raises UsageError: if it is naive, or no datetime.
        """
        microseconds = instant(_checked(now))
        # All at once: a supervisor may be reading.
        fresh = self.file.with_name(f"{self.file.name}.new")
        fresh.write_bytes(_INSTANT.pack(microseconds))
        fresh.replace(self.file)

    def advance(self, duration: Duration) -> None:
        """Move the clock forward by seconds, a ``timedelta``, or text such as ``"1h30m"``.

        :raises UsageError: if that is not a duration.
        """
        microseconds = round(seconds(duration, "advance") * MICROSECONDS)
        self.set(moment(instant(self.now) + microseconds))

    def __enter__(self) -> Self:
        self._outer.append(os.environ.get(CLOCK_FILE))
        os.environ[CLOCK_FILE] = str(self.file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outer = self._outer.pop()
        if outer is None:
            del os.environ[CLOCK_FILE]
        else:
            os.environ[CLOCK_FILE] = outer

    def __repr__(self) -> str:
        return f"FakeClock({self.now.isoformat()})"


def _checked(now: object) -> datetime:
    if isinstance(now, datetime) and now.tzinfo is not None:
        return now
    raise UsageError(
        "FakeClock: expected a datetime with a time zone, such as datetime(2030, 1, 31, 8, tzinfo=UTC), "
        f"got {now!r}"
    )
