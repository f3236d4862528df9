"""Time zones as pieces of constant offset: the one place that knows when a zone's clocks change.

Within a piece, wall time is the instant plus a constant, so windows and cron need no other arithmetic for
gaps and repeats. Wall times are whole microseconds, counted as if the wall clock showed UTC.
"""

from __future__ import annotations

from datetime import UTC, timedelta
from difflib import get_close_matches
from zoneinfo import ZoneInfo, available_timezones

from msgspec import Struct

from conductor_protocol.errors import UsageError
from conductor_protocol.units import MICROSECONDS, Instant, moment

DAY = 86_400 * MICROSECONDS

_STEP = DAY
"""No zone has changed its offset twice within six days since 1970, so looking once a day misses nothing."""
_REACH = 7 * DAY
"""How far a piece is followed to either side. It must be longer than any jump of a clock, which is a day."""


class Piece(Struct, frozen=True):
    """A time, half-open ``[begin, end)``, in which a zone's offset is the same.

    It may have been cut where the clocks did not change; then ``before`` equals ``offset``.
    """

    begin: Instant
    end: Instant
    offset: int
    """Microseconds by which the zone's clocks are ahead of UTC."""
    before: int
    """The offset that ended at ``begin``: smaller means a gap, larger means repeated wall times."""


def zone(name: str, what: str) -> ZoneInfo:
    """Return an IANA time zone.

    :param what: the setting's name, for the message.
    :raises UsageError: if there is none of this name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        similar = get_close_matches(name, sorted(available_timezones()), n=1) or ["Europe/Berlin"]
        raise UsageError(
            f'{what}: expected an IANA time zone, got "{name}"; write for example "{similar[0]}" or "UTC"'
        ) from None


def offset_at(zone: ZoneInfo, instant: Instant) -> int:
    """Return the microseconds by which the zone's clocks are ahead of UTC."""
    local = moment(instant).astimezone(zone)
    return (local.replace(tzinfo=UTC) - local) // timedelta(microseconds=1)


def piece_at(zone: ZoneInfo, instant: Instant) -> Piece:
    """Return the piece of constant offset that holds an instant."""
    offset = offset_at(zone, instant)
    begin, before = _edge(zone, instant, offset, -_STEP)
    end, _ = _edge(zone, instant, offset, _STEP)
    return Piece(begin, end, offset, before)


def _edge(zone: ZoneInfo, instant: Instant, offset: int, step: int) -> tuple[Instant, int]:
    """Walk in steps until the offset differs or the reach ends; return that edge and the offset beyond it."""
    inside = instant
    while abs(inside - instant) < _REACH:
        beyond = inside + step
        other = offset_at(zone, beyond)
        if other != offset:
            return _change(zone, *sorted((inside, beyond))), other
        inside = beyond
    return inside, offset


def _change(zone: ZoneInfo, early: Instant, late: Instant) -> Instant:
    """Return the first instant that has the offset of ``late``."""
    old = offset_at(zone, early)
    while late - early > 1:
        middle = (early + late) // 2
        if offset_at(zone, middle) == old:
            early = middle
        else:
            late = middle
    return late
