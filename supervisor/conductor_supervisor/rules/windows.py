"""When a task may run: the one rule behind claim, ask and release.

A window is half-open ``[start, end)`` in its zone's wall time, and an instant is inside if its wall time is:
an hour that the clocks repeat counts twice, one that they skip not at all. A window that a skipped hour
covers whole does not open that day. ``days`` names the days on which a window opens; one that crosses
midnight ends on the day after.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import get_args

from msgspec import Struct

from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import Day, WindowSpec
from conductor_protocol.units import MICROSECONDS, Instant
from conductor_supervisor.rules import zones
from conductor_supervisor.rules.zones import DAY

_WEEK = 7 * DAY
_MINUTE = 60 * MICROSECONDS
_EPOCH_WEEKDAY = 3
"""1970-01-01 was a Thursday; weeks are counted from Monday."""
_HORIZON = 28 * DAY
"""A window opens every week, but for those that a change of the clocks swallows."""
_DAYS: tuple[Day, ...] = get_args(Day)
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


class _Span(Struct, frozen=True):
    """A time, half-open, in which open or closed does not change. None: no such change within weeks."""

    since: Instant | None
    until: Instant | None
    is_open: bool
    grace: float | None = None
    """Of the window that closed last, in seconds; None: no limit, or open."""

    def holds(self, now: Instant) -> bool:
        return (self.since is None or self.since <= now) and (self.until is None or now < self.until)


_ALWAYS_OPEN = _Span(None, None, True)
_NOTHING = _Span(0, 0, False)


class Windows:
    """The windows of one task: open when any of them is; with none at all, always open.

    :param specs: as declared.
    :param default_zone: IANA name, for those that name none.
    :raises UsageError: if a window cannot be meant; the message says what to write.
    """

    def __init__(self, specs: tuple[WindowSpec, ...], default_zone: str) -> None:
        self._windows = [_Window(spec, default_zone) for spec in specs]
        # Asks come by the thousand, changes twice a day: what was found last holds for nearly all of them.
        self._span = _NOTHING if specs else _ALWAYS_OPEN

    def is_open(self, now: Instant) -> bool:
        """Say whether the task may run."""
        return self._span_at(now).is_open

    def next_opening(self, now: Instant) -> Instant | None:
        """Return the first instant at or after now at which the task may run; None if there is none."""
        span = self._span_at(now)
        return now if span.is_open else span.until

    def next_change(self, now: Instant) -> Instant | None:
        """Return the first instant after now at which open turns to closed or closed to open; None: never."""
        return self._span_at(now).until

    def closed_since(self, now: Instant) -> Instant | None:
        """Return when the last open window closed; None if one is open now, or none was for weeks."""
        span = self._span_at(now)
        return None if span.is_open else span.since

    def grace(self, now: Instant) -> float | None:
        """Return the grace, in seconds, of the window that closed last; None: no limit, or open now.

        Of windows that closed together, the longest grace counts.
        """
        return self._span_at(now).grace

    def _span_at(self, now: Instant) -> _Span:
        if not self._span.holds(now):
            self._span = self._find_span(now)
        return self._span

    def _find_span(self, now: Instant) -> _Span:
        is_open = self._is_open(now)
        since = self._changed(now)
        closed = None if is_open else since
        return _Span(since, self._changes(now), is_open, None if closed is None else self._grace_at(closed))

    def _changes(self, now: Instant) -> Instant | None:
        """Return the first instant after now at which open or closed is not what it is now."""
        is_open = self._is_open(now)
        instant = now
        while instant < now + _HORIZON:
            instant = min(window.constant_until(instant) for window in self._windows)
            if self._is_open(instant) != is_open:
                return instant
        return None

    def _changed(self, now: Instant) -> Instant | None:
        """Return the instant, now or earlier, since which open or closed has been what it is now."""
        is_open = self._is_open(now)
        instant = now
        while instant > now - _HORIZON:
            begin = max(window.constant_since(instant) for window in self._windows)
            if self._is_open(begin - 1) != is_open:
                return begin
            instant = begin - 1
        return None

    def _grace_at(self, closing: Instant) -> float | None:
        graces = [window.grace for window in self._windows if window.is_open(closing - 1)]
        limits = [grace for grace in graces if grace is not None]
        return max(limits) if len(limits) == len(graces) else None

    def _is_open(self, now: Instant) -> bool:
        return any(window.is_open(now) for window in self._windows)


class _Window:
    """One window, as the places in a week of its wall clock at which it opens and closes."""

    def __init__(self, spec: WindowSpec, default_zone: str) -> None:
        start, end = _hours(spec)
        self.grace = _grace(spec)
        self._zone = zones.zone(spec.tz or default_zone, "window")
        openings = {day * DAY + start for day in _opening_days(spec)}
        closings = {(opening + end - start) % _WEEK for opening in openings}
        self._openings = openings
        # Where one day's window ends as the next day's begins, the place counts as an opening.
        self._edges = sorted(openings | closings)

    def is_open(self, now: Instant) -> bool:
        place = self._place(now, zones.offset_at(self._zone, now))
        return self._edges[bisect_right(self._edges, place) - 1] in self._openings

    def constant_until(self, now: Instant) -> Instant:
        """Return an instant after now, before which nothing changes."""
        piece = zones.piece_at(self._zone, now)
        place = self._place(now, piece.offset)
        following = bisect_right(self._edges, place)
        edge = self._edges[following] if following < len(self._edges) else self._edges[0] + _WEEK
        return min(piece.end, now + edge - place)

    def constant_since(self, now: Instant) -> Instant:
        """Return an instant, now or earlier, since which nothing has changed."""
        piece = zones.piece_at(self._zone, now)
        place = self._place(now, piece.offset)
        return max(piece.begin, now - (place - self._edges[bisect_right(self._edges, place) - 1]) % _WEEK)

    @staticmethod
    def _place(instant: Instant, offset: int) -> int:
        """Return how far into the week the wall clock is."""
        return (instant + offset + _EPOCH_WEEKDAY * DAY) % _WEEK


def _hours(spec: WindowSpec) -> tuple[int, int]:
    """Return start and end, in microseconds after the opening day's midnight; the end is the later."""
    start = _time_of_day(spec.start, "start")
    end = DAY if spec.end == "24:00" else _time_of_day(spec.end, "end")
    if start == end:
        raise UsageError(
            f'window: expected start and end to differ, got "{spec.start}" twice; '
            'for the whole day write start "00:00" and end "24:00"'
        )
    return start, end if end > start else end + DAY


def _time_of_day(text: str, what: str) -> int:
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    if not match:
        example = "00:00" if text == "24:00" else "22:00"
        raise UsageError(f'window: expected {what} as "HH:MM", got {text!r}; write for example "{example}"')
    hours, minutes = match.groups()
    return (int(hours) * 60 + int(minutes)) * _MINUTE


def _opening_days(spec: WindowSpec) -> set[int]:
    if spec.days is None:
        return set(range(7))
    wrong = [day for day in spec.days if day not in _DAYS]
    if wrong or not spec.days:
        raise UsageError(
            f"window: expected days out of {', '.join(_DAYS)}, got {wrong or 'none'}; "
            'write for example days=("mon", "fri"), or leave days out for every day'
        )
    return {_DAYS.index(day) for day in spec.days}


def _grace(spec: WindowSpec) -> float | None:
    if spec.grace is not None and not 0 <= spec.grace < float("inf"):
        raise UsageError(
            f'window: expected a grace of zero or more, got {spec.grace!r}; write for example "5m"'
        )
    return spec.grace
