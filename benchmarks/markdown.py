"""``python -m benchmarks.markdown JSON PAGE``: write the figures of a run into a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import click

from benchmarks.databases import KINDS
from benchmarks.table import number

Measured: TypeAlias = dict[str, Any]
"""A line of the table, as :func:`benchmarks.table.write` wrote it."""

BEGIN = "<!-- figures: made by benchmarks.markdown, do not edit -->"
END = "<!-- end of figures -->"


@click.command()
@click.argument("report", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("page", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(report: Path, page: Path) -> None:
    """Put the table of a run between the two marks of a page, in the place of the one there."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    table = "\n".join(lines(json.loads(report.read_text(encoding="utf-8"))))
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Return the lines of the table: one for each figure, with its databases beside each other."""
    machine = report["machine"]
    runs = {len(one["runs"]) for one in report["figures"]}
    system = machine["system"].partition("-")[0]
    yield (
        f"{machine['processors']} processors, {system}, Python {machine['python']}, "
        f"SQLite {machine['sqlite']}, PostgreSQL {machine['postgresql']}. "
        f"Runs of each figure: {' or '.join(map(str, sorted(runs)))}."
    )
    yield ""
    yield "| figure | SQLite | of floor | PostgreSQL | of floor | floor | target |"
    yield "| --- | ---: | ---: | ---: | ---: | --- | --- |"
    for label, measured in _by_label(report["figures"]).items():
        cells = [label.strip(), *_values(measured), _floor(measured), _targets(measured)]
        yield f"| {' | '.join(cells)} |"


def _by_label(figures: Sequence[Measured]) -> dict[str, dict[str, Measured]]:
    """Return what was measured by its label, then by its database."""
    found: dict[str, dict[str, Measured]] = {}
    for one in figures:
        found.setdefault(one["figure"], {})[one["database"]] = one
    return found


def _values(measured: dict[str, Measured]) -> Iterator[str]:
    for kind in KINDS:
        one = measured.get(kind)
        yield "" if one is None else _value(one)
        yield "" if one is None or one["of_floor"] is None else f"{one['of_floor']:.2f}"


def _value(one: Measured) -> str:
    unit = one["unit"]
    median, low, high = (number(one[key], unit) for key in ("median", "low", "high"))
    spread = f" ({low} to {high})" if len(one["runs"]) > 1 else ""
    return f"{median} {unit}".rstrip() + spread


def _floor(measured: dict[str, Measured]) -> str:
    floors = [one["floor"]["what"] for one in measured.values() if one["floor"] is not None]
    return floors[0] if floors else ""


def _targets(measured: dict[str, Measured]) -> str:
    """Return what is aimed at, once where it is the same on both databases, and where it is missed."""
    targets = {kind: one["target"] for kind, one in measured.items() if one["target"]}
    if len(set(targets.values())) == 1 and len(targets) == len(measured):
        said = next(iter(targets.values()))
    else:
        said = "; ".join(f"{kind}: {target}" for kind, target in targets.items())
    missed = [kind for kind, one in measured.items() if one["met"] is False]
    return f"{said}; missed on {' and '.join(missed)}" if missed else said


if __name__ == "__main__":
    main()
