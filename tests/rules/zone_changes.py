"""When the clocks of a zone change, found without the code under test. All times are whole seconds."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import strategies as st

DAY = 86_400
STEP = 6 * DAY
"""``test_zones`` shows that no zone changes its offset twice in this time."""
ZONES = sorted(available_timezones() - {"localtime"})
FIRST = int(datetime(1970, 1, 2, tzinfo=UTC).timestamp())
LAST = int(datetime(2037, 12, 1, tzinfo=UTC).timestamp())

ODD_CHANGES = [
    ("Pacific/Apia", datetime(2011, 12, 30, 10, 0, tzinfo=UTC)),  # a whole day skipped
    ("Pacific/Kwajalein", datetime(1993, 8, 21, 12, 0, tzinfo=UTC)),  # the same
    ("Africa/Monrovia", datetime(1972, 1, 7, 0, 44, 30, tzinfo=UTC)),  # not on a whole minute
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, 0, tzinfo=UTC)),  # half an hour repeated
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),  # half an hour skipped
    ("Antarctica/Troll", datetime(2026, 3, 29, 1, 0, tzinfo=UTC)),  # two hours skipped
    ("Asia/Kathmandu", datetime(1985, 12, 31, 18, 30, tzinfo=UTC)),  # a quarter of an hour skipped
    ("America/St_Johns", datetime(1988, 4, 3, 3, 31, tzinfo=UTC)),  # two hours, one minute after midnight
    ("America/Sao_Paulo", datetime(2018, 11, 4, 3, 0, tzinfo=UTC)),  # midnight skipped
    ("America/Havana", datetime(2026, 11, 1, 5, 0, tzinfo=UTC)),  # the hour after midnight repeated
    ("Europe/Berlin", datetime(2026, 3, 29, 1, 0, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 25, 1, 0, tzinfo=UTC)),
]


def wall(zone: ZoneInfo, second: int) -> datetime:
    """Return what the zone's wall clock shows."""
    return datetime.fromtimestamp(second, zone).replace(tzinfo=None, fold=0)


def listed_changes(name: str) -> list[int]:
    """Read from a zone's compiled file (RFC 8536) the seconds at which its offset becomes another.

    What a rule says of the years after the last entry is not in the list.
    """
    data = files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
    header = struct.Struct(">4s c 15x 6L")
    _, _, utc, std, leap, times, kinds, chars = header.unpack_from(data)
    start = header.size + times * 5 + kinds * 6 + chars + leap * 8 + std + utc
    _, _, _, _, _, times, kinds, _ = header.unpack_from(data, start)
    start += header.size
    seconds = struct.unpack_from(f">{times}q", data, start)
    indices = struct.unpack_from(f">{times}B", data, start + 8 * times)
    offsets = [struct.unpack_from(">l", data, start + 9 * times + 6 * kind)[0] for kind in range(kinds)]
    walked = pairwise(zip(seconds, [offsets[index] for index in indices], strict=True))
    return [second for (_, old), (second, new) in walked if old != new]


@cache
def changes(name: str) -> tuple[int, ...]:
    """Return every second from 1970 to 2037 at which the zone's offset becomes another."""
    zone = ZoneInfo(name)
    return tuple(
        _change(zone, start, start + STEP)
        for start in range(FIRST, LAST, STEP)
        if _offset(zone, start) != _offset(zone, start + STEP)
    )


def _offset(zone: ZoneInfo, second: int) -> timedelta | None:
    return datetime.fromtimestamp(second, zone).utcoffset()


def _change(zone: ZoneInfo, early: int, late: int) -> int:
    while late - early > 1:
        middle = (early + late) // 2
        if _offset(zone, middle) == _offset(zone, early):
            early = middle
        else:
            late = middle
    return late


@st.composite
def near_a_change(draw: st.DrawFn) -> tuple[str, int]:
    """Choose a zone and a second within two days of one of its changes."""
    if draw(st.booleans()):
        name, change = draw(st.sampled_from([(name, int(at.timestamp())) for name, at in ODD_CHANGES]))
    else:
        name = draw(st.sampled_from(ZONES))
        change = draw(st.sampled_from(changes(name) or (FIRST + 20_000 * DAY // 2,)))
    return name, change + draw(st.integers(-2 * DAY, 2 * DAY))
