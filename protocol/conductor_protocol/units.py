"""How people write durations, sizes and moments, in code, in ``conductor.toml`` and on the command line."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from conductor_protocol.errors import UsageError

Duration: TypeAlias = int | float | timedelta | str
"""Seconds, a ``timedelta``, or text such as ``"90s"``, ``"1h30m"``, ``"7d"``."""

Instant: TypeAlias = int
"""A moment: whole microseconds since 1970-01-01T00:00:00Z. Integers compare and store alike everywhere."""

MICROSECONDS = 1_000_000
"""Microseconds in a second."""

_LARGEST = 1e11
"""Seconds: some 3,000 years. Added to the present moment, it is still a date."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_DURATION = re.compile(rf"(?:{_PART.pattern}\s*)+")
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def seconds(value: Duration, what: str = "duration") -> float:
    """Return a duration in seconds.

    :param what: the setting's name, for the message.
    :raises UsageError: if it is negative, not finite, or not a duration.
    """
    if isinstance(value, timedelta):
        number = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value) if abs(value) < _LARGEST else float("inf")
    elif isinstance(value, str):
        number = _seconds_of_text(value.strip().lower(), what)
    else:
        raise UsageError(f'{what}: expected seconds, a timedelta or text such as "90s", got {value!r}')
    if not 0 <= number < _LARGEST:
        raise UsageError(f"{what}: expected a duration from zero to 3,000 years, got {value!r}")
    return number


def _seconds_of_text(text: str, what: str) -> float:
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise UsageError(
            f'{what}: expected a duration such as "90s", "15m", "2h", "1h30m" or "7d", got {text!r}'
        )
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def size_in_bytes(value: int | str, what: str = "size") -> int:
    """Return a size in bytes: a whole number, or text such as ``"512MiB"`` or ``"1.5 GB"``.

    :raises UsageError: if it is not a size.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip().lower())):
        number, unit = match.groups()
        size = float(number) * _BYTES.get(unit, math.nan)
        if math.isfinite(size):
            return int(size)
    raise UsageError(f'{what}: expected bytes or text such as "512MiB" or "2GB", got {value!r}')


def in_words(duration: float) -> str:
    """Return seconds as people say them: ``0.004`` is ``"4 ms"``, ``5400`` is ``"1h30m"``."""
    if duration < 0.9995:
        return f"{duration * 1000:.0f} ms"
    if duration < 59.95:
        return f"{duration:.1f} s"
    whole = round(duration)
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, whole = divmod(whole, int(_SECONDS[unit]))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


def size_in_words(size: int) -> str:
    """Return bytes as people say them: ``812 MiB``."""
    number = float(size)
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def counted(number: int, what: str) -> str:
    """Return a number with what it counts: ``1 step``, ``2 steps``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def instant(moment: datetime) -> Instant:
    """Return an aware datetime as an instant.

    :raises UsageError: if the datetime is naive: nobody could say which moment it means.
    """
    if moment.tzinfo is None:
        raise UsageError(
            f"expected a datetime with a time zone, got {moment!r}; "
            "write datetime(..., tzinfo=ZoneInfo('Europe/Berlin')) or datetime.now(UTC)"
        )
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment(instant: Instant) -> datetime:
    """Return an instant as an aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=instant)
