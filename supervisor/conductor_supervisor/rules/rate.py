"""A rate: at most so many starts within any period of its length, wherever that period begins.

A supervisor learns of a start a little later than it happens, and never earlier. So a place under the rate is
taken by the claim, it counts from the moment at which the start is known, and it is free again one period
later: however long it took from the claim to the start, two starts that share a place are a period apart.

Between the runner's word that it calls a handler and the handler's first line nobody can look. ``MARGIN``
stands for that: the period is counted longer by so much.
"""

from __future__ import annotations

from conductor_protocol.manifest import RateSpec
from conductor_protocol.units import MICROSECONDS, Instant

MARGIN: Instant = 50_000
"""Microseconds."""

UNKNOWN_FOR: Instant = 1_000_000
"""Microseconds until the next look at a place that is taken by a start which is not known yet."""


def span(rate: RateSpec) -> Instant:
    """Return how long a start counts, in microseconds."""
    return round(rate.seconds * MICROSECONDS) + MARGIN


def forgotten(rate: RateSpec, now: Instant) -> Instant:
    """Return the moment up to which starts do not count any more."""
    return now - span(rate)


def unbelievable(rate: RateSpec, now: Instant) -> Instant:
    """Return the moment after which a start cannot have been noted: the clock has gone back since.

    Clocks of two supervisors differ a little. What lies further ahead than a start counts would hold its
    place for longer than that: it counts from now.
    """
    return now + span(rate)


def room(rate: RateSpec, counted: int) -> int:
    """Return how many may be claimed while so many starts count."""
    return max(0, rate.count - counted)


def in_the_way(rate: RateSpec, counted: int) -> int | None:
    """Return which start, counted from zero in their order, must be forgotten first for a place to be free.

    None: there is a place already.
    """
    return counted - rate.count if counted >= rate.count else None


def free_at(rate: RateSpec, start: Instant | None, now: Instant) -> Instant:
    """Return when to look whether the place of a start is free.

    One that is not known yet (None) may never be: what was claimed for it goes back if no runner has room.
    """
    return now + min(span(rate), UNKNOWN_FOR) if start is None else start + span(rate)
