"""What a figure is, and how its runs are summed up.

Values are in seconds, bytes, parts of one, or a second's count.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from benchmarks.databases import KINDS, Kind

Unit: TypeAlias = Literal["/s", "ms", "MiB", "B", "%", ""]
"""How a value is shown; the values themselves are in base units."""

Readings: TypeAlias = dict[str, float]
"""What one run has measured, by the lines' keys."""


@dataclass(frozen=True)
class Target:
    """What a median is to be, in base units or as a part of its floor's median; every bound holds."""

    at_least: float | None = None
    at_most: float | None = None
    of_floor_at_least: float | None = None
    of_floor_at_most: float | None = None

    def is_met(self, value: float, of_floor: float | None) -> bool:
        """Tell whether a median, and its part of the floor, lie within."""
        return _is_within(value, self.at_least, self.at_most) and _is_within(
            of_floor, self.of_floor_at_least, self.of_floor_at_most
        )


def _is_within(value: float | None, low: float | None, high: float | None) -> bool:
    if value is None:
        assert low is None, "there is no floor to compare with"
        assert high is None, "there is no floor to compare with"
        return True
    return (low is None or value >= low) and (high is None or value <= high)


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    key: str
    label: str
    unit: Unit
    target: Target | Mapping[Kind, Target] | None = None
    floor: str = ""
    """Key of the reading that this one is compared with."""
    floor_label: str = ""


@dataclass(frozen=True)
class Figure:
    """Something that is measured in one go."""

    name: str
    about: str
    lines: Sequence[Line]
    run: Callable[[Kind, bool], Readings]
    """Measures once, on one database; True: quickly, with little work."""
    kinds: Sequence[Kind] = KINDS
    """The databases for which it says something."""
    by_itself: bool = False
    """It takes many minutes: only where it is named, and once."""


@dataclass(frozen=True)
class Summary:
    """The runs of one reading."""

    runs: list[float]

    @property
    def median(self) -> float:
        """The figure that counts."""
        return statistics.median(self.runs)

    @property
    def low(self) -> float:
        """The smallest."""
        return min(self.runs)

    @property
    def high(self) -> float:
        """The largest."""
        return max(self.runs)


@dataclass(frozen=True)
class Result:
    """One line of the table, measured."""

    figure: Figure
    line: Line
    kind: Kind
    value: Summary
    floor: Summary | None

    @property
    def ratio(self) -> float | None:
        """The value's part of the floor, median by median."""
        return None if self.floor is None else self.value.median / self.floor.median

    @property
    def target(self) -> Target | None:
        """What the value is to be, on this database."""
        target = self.line.target
        return target if target is None or isinstance(target, Target) else target.get(self.kind)

    @property
    def is_met(self) -> bool | None:
        """Whether it is so; None where there is no target."""
        return None if self.target is None else self.target.is_met(self.value.median, self.ratio)


def take(figure: Figure, kind: Kind, times: int, quick: bool) -> list[Result]:
    """Measure a figure so many times on one database."""
    runs = [figure.run(kind, quick) for _ in range(times)]

    def summed_up(key: str) -> Summary:
        return Summary([run[key] for run in runs])

    return [
        Result(figure, line, kind, summed_up(line.key), summed_up(line.floor) if line.floor else None)
        for line in figure.lines
    ]


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value below which so many percent of the others lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
