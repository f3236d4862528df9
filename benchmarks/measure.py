"""What a figure is, and how its runs are summed up. Values are in seconds, bytes, or a second's count."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from benchmarks.databases import KINDS, Kind

Unit: TypeAlias = Literal["/s", "ms", "MiB", "B", ""]
"""How a value is shown; the values themselves are in base units."""

Readings: TypeAlias = dict[str, float]
"""What one run has measured, by the lines' keys."""


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    key: str
    label: str
    unit: Unit
    target: str | Mapping[Kind, str] = ""
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

    line: Line
    kind: Kind
    value: Summary
    floor: Summary | None

    @property
    def ratio(self) -> float | None:
        """The value's part of the floor, median by median."""
        return None if self.floor is None else self.value.median / self.floor.median

    @property
    def target(self) -> str:
        """What the value is to be."""
        target = self.line.target
        return target if isinstance(target, str) else target.get(self.kind, "")


def take(figure: Figure, kind: Kind, times: int, quick: bool) -> list[Result]:
    """Measure a figure so many times on one database."""
    runs = [figure.run(kind, quick) for _ in range(times)]

    def summed_up(key: str) -> Summary:
        return Summary([run[key] for run in runs])

    return [
        Result(line, kind, summed_up(line.key), summed_up(line.floor) if line.floor else None)
        for line in figure.lines
    ]


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value below which so many percent of the others lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
