"""How much of a flood of like lines a log shows: the first of each period, then how many more there were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")


@dataclass(slots=True)
class _Period:
    since: float
    shown: int = 0
    left_out: int = 0


class Flood(Generic[K]):
    """Counts lines by key. Time is passed in, in seconds, and never runs backwards."""

    def __init__(self, at_most: int, period: float) -> None:
        """
        :param at_most: lines of one key that are shown in one period.
        :param period: seconds; a key's period begins with its first line.
        """
        self._at_most = at_most
        self._period = period
        self._periods: dict[K, _Period] = {}

    def shows(self, key: K, now: float) -> bool:
        """Count a line, and tell whether it is to be shown."""
        period = self._periods.setdefault(key, _Period(now))
        if self._is_over(period, now):
            period.since, period.shown = now, 0
        if period.shown < self._at_most:
            period.shown += 1
            return True
        period.left_out += 1
        return False

    def left_out(self, now: float) -> list[tuple[K, int]]:
        """Return how many lines of each key were left out in periods that are over, and forget those."""
        return self._forget([key for key, period in self._periods.items() if self._is_over(period, now)])

    def all_left_out(self) -> list[tuple[K, int]]:
        """Return what was left out so far and has not been told, and forget everything."""
        return self._forget(list(self._periods))

    def _forget(self, keys: list[K]) -> list[tuple[K, int]]:
        counts = [(key, self._periods.pop(key).left_out) for key in keys]
        return [(key, count) for key, count in counts if count]

    def _is_over(self, period: _Period, now: float) -> bool:
        return now - period.since >= self._period
