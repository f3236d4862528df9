"""The results, for people and for programs."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import databases
from benchmarks.measure import Result, Summary, Target, Unit
from conductor_supervisor.settings import processors

SHOWN: dict[Unit, tuple[float, str]] = {
    "/s": (1, ",.0f"),
    "ms": (1e-3, ",.3f"),
    "MiB": (2**20, ",.1f"),
    "B": (1, ",.0f"),
    "%": (0.01, ",.2f"),
    "": (1, ",.2f"),
}
"""By unit: what one of it is in base units, and how a number of them is written."""


Machine: TypeAlias = dict[str, str | float]


def machine() -> Machine:
    """Say where the figures come from, and how busy it is with other things."""
    return {
        "system": platform.platform(),
        "processors": processors(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "postgresql": databases.server().version,
    }


def show(results: Sequence[Result], console: Console) -> None:
    """Print the table: under each figure its floor, where it has one."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("figure", no_wrap=True)
    table.add_column("on", no_wrap=True)
    for heading in ("median", "range", "of floor", "target", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        line = result.line
        missed = "missed" if result.is_met is False else ""
        target = in_words(result.target, line.unit)
        table.add_row(
            line.label, result.kind, *_numbers(result.value, line.unit), _ratio(result), target, missed
        )
        if result.floor is not None:
            floor = _numbers(result.floor, line.unit)
            table.add_row(f"  floor: {line.floor_label}", "", *floor, style="dim")
    console.print(table)


def in_words(target: Target | None, unit: Unit) -> str:
    """Return a target as people say it."""
    if target is None:
        return ""
    bounds = [
        ("at least", target.at_least, unit, ""),
        ("at most", target.at_most, unit, ""),
        ("at least", target.of_floor_at_least, "", " of floor"),
        ("at most", target.of_floor_at_most, "", " of floor"),
    ]
    return ", ".join(
        f"{bound} {value / SHOWN[unit][0]:,g} {unit}".rstrip() + what
        for bound, value, unit, what in bounds
        if value is not None
    )


def _ratio(result: Result) -> str:
    return "" if result.ratio is None else f"{result.ratio:.2f}"


def _numbers(summary: Summary, unit: Unit) -> tuple[str, str]:
    return (
        f"{number(summary.median, unit)} {unit}".rstrip(),
        f"{number(summary.low, unit)} to {number(summary.high, unit)}",
    )


def number(value: float, unit: Unit) -> str:
    """Return a value in its unit, without it."""
    size, form = SHOWN[unit]
    return format(value / size, form)


def write(results: Sequence[Result], machine: Machine, file: Path) -> None:
    """Write the results as JSON: values in seconds, bytes, parts of one, or a second's count."""
    figures = [
        {
            "name": result.figure.name,
            "figure": result.line.label,
            "unit": result.line.unit,
            "database": result.kind,
            **_summary(result.value),
            "floor": None
            if result.floor is None
            else {"what": result.line.floor_label, **_summary(result.floor)},
            "of_floor": result.ratio,
            "target": in_words(result.target, result.line.unit),
            "met": result.is_met,
        }
        for result in results
    ]
    file.write_text(json.dumps({"machine": machine, "figures": figures}, indent=2) + "\n")


def _summary(summary: Summary) -> dict[str, float | list[float]]:
    return {"median": summary.median, "low": summary.low, "high": summary.high, "runs": summary.runs}
