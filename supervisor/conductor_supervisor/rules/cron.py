"""When a schedule fires. croniter reads the expression; the rule for gaps and repeats is ours.

* A wall time that the clocks skip fires once, at the first instant after the gap, together with whatever
  else the gap skipped.
* A wall time that the clocks repeat fires at its first occurrence only; at both if the hour field is a
  wildcard (``*`` or ``*/n``), for such a schedule means "again and again", not "at this time of day".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice, takewhile

from croniter import CroniterBadDateError, CroniterError, croniter

from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import CatchUp
from conductor_protocol.units import MICROSECONDS, Instant
from conductor_supervisor.rules import zones
from conductor_supervisor.rules.zones import DAY, Piece

MOST_CAUGHT_UP = 10_000
"""Missed firings that ``catch_up="all"`` makes up for at most; the newest are kept."""

_HOUR = 3600 * MICROSECONDS
_HOUR_FIELD = 1
_WILDCARD = re.compile(r"\*(/\d+)?")
_RANDOM = re.compile(r"r(\(.*\))?(/\d+)?")
_WHAT_TO_WRITE = (
    'write five fields, minute hour day month weekday, such as "0 2 * * *"; '
    'or six, with seconds last; or an alias such as "@daily"'
)


class Cron:
    """One cron expression in one zone.

    :param expression: five fields, six with seconds last, or an alias such as ``@daily``.
    :param tz: IANA name.
    :raises UsageError: if the expression cannot be read or can never fire, or the zone is unknown.
    """

    def __init__(self, expression: str, tz: str) -> None:
        self._expression = expression
        self._zone = zones.zone(tz, "cron")
        fields = _fields(expression)
        self._hourly = bool(_WILDCARD.fullmatch(fields[_HOUR_FIELD]))
        self.next_firing(0)

    @property
    def key(self) -> tuple[str, str]:
        """What makes two of them the same: expression and zone."""
        return self._expression, self._zone.key

    def next_firing(self, after: Instant) -> Instant:
        """Return the first firing strictly after an instant.

        :raises UsageError: if there is none within 50 years.
        """
        for firing in self._after(after):
            return firing
        raise UsageError(f'cron: "{self._expression}" never fires: no such date exists; {_WHAT_TO_WRITE}')

    def fires_at(self, moment: Instant) -> bool:
        """Tell whether an instant is a firing."""
        return self.next_firing(moment - 1) == moment

    def firings(self, after: Instant, until: Instant, limit: int) -> list[Instant]:
        """Return the firings after one instant, up to and including another: the first ``limit`` of them."""
        return list(islice(self._between(after, until), limit))

    def catch_up(self, policy: CatchUp, last: Instant, now: Instant) -> list[Instant]:
        """Return which of the firings after ``last``, up to and including now, are to be made up for.

        ``latest``: the newest. ``all``: each, but at most the newest :data:`MOST_CAUGHT_UP`. ``skip``: none
        but one that is due at this very instant.

        :param last: the newest firing that was made, or when the schedule was first declared.
        """
        if policy == "latest":
            return self._newest(last, now, 1)
        if policy == "all":
            return self._newest(last, now, MOST_CAUGHT_UP)
        return self.firings(max(last, now - 1), now, 1)

    def _newest(self, after: Instant, until: Instant, limit: int) -> list[Instant]:
        """Look back in growing spans, so that years of missed seconds cost no more than what is kept."""
        span = _HOUR
        while True:
            begin = max(after, until - span)
            found = list(self._between(begin, until))
            if len(found) >= limit or begin == after:
                return found[-limit:]
            span *= 2

    def _between(self, after: Instant, until: Instant) -> Iterator[Instant]:
        return takewhile(lambda firing: firing <= until, self._after(after))

    def _after(self, after: Instant) -> Iterator[Instant]:
        """Give every firing strictly after an instant, in order."""
        ticks = croniter(self._expression, 0)
        last = after
        begin: Instant | None = after + 1
        while begin is not None:
            piece = zones.piece_at(self._zone, begin)
            for firing in self._within(piece, begin, ticks):
                if firing > last:
                    last = firing
                    yield firing
            begin = _next_worth_a_look(ticks, piece)

    def _within(self, piece: Piece, begin: Instant, ticks: croniter[float]) -> Iterator[Instant]:
        """Give the firings in the part of a piece that starts at ``begin``; one may come twice."""
        if begin == piece.begin and any(_walls(ticks, begin + piece.before, begin + piece.offset)):
            yield begin
        first = begin + piece.offset
        if not self._hourly:
            first = max(first, piece.begin + piece.before)
        for wall in _walls(ticks, first, piece.end + piece.offset):
            yield wall - piece.offset


def _walls(ticks: croniter[float], begin: int, end: int) -> Iterator[int]:
    """Give the wall times in ``[begin, end)`` that an expression names."""
    wall = _next_wall(ticks, begin)
    while wall is not None and wall < end:
        yield wall
        wall = _next_wall(ticks, wall + 1)


def _next_wall(ticks: croniter[float], begin: int) -> int | None:
    """Return the first wall time at or after another that an expression names; None: there is none."""
    second_before = -(-begin // MICROSECONDS) - 1
    try:
        return round(ticks.get_next(float, start_time=second_before)) * MICROSECONDS
    except CroniterBadDateError:
        return None


def _next_worth_a_look(ticks: croniter[float], piece: Piece) -> Instant | None:
    """Return where to look on after a piece: years may be empty. None: nothing will ever fire again."""
    # A day back, for the clocks may repeat that much. Two days ahead of the wall time, for offsets and gaps
    # are a day at most.
    wall = _next_wall(ticks, piece.end + piece.offset - DAY)
    return None if wall is None else max(piece.end, wall - 2 * DAY)


def _fields(expression: str) -> list[str]:
    """Return an expression's fields, in lower case and with its alias resolved."""
    try:
        fields = croniter(expression, 0).expressions
    except (CroniterError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"cron: {expression!r} cannot be read ({error}); {_WHAT_TO_WRITE}") from error
    if len(fields) > 6:
        raise UsageError(
            f'cron: expected five or six fields, got {len(fields)} in "{expression}"; {_WHAT_TO_WRITE}'
        )
    if any(_RANDOM.fullmatch(field) for field in fields):
        raise UsageError(
            f'cron: "{expression}" asks for a random time, another one after each restart; {_WHAT_TO_WRITE}'
        )
    return fields
