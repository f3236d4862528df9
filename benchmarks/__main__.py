"""``python -m benchmarks``: measure, print the table, write JSON."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from benchmarks import table
from benchmarks.databases import KINDS, Kind
from benchmarks.figures import FIGURES
from benchmarks.measure import Result, take

RUNS = 3

WIDTH = 180
"""Characters of a line where the output is no terminal."""

BY_NAME = {figure.name: figure for figure in FIGURES}

_USUAL = [figure for figure in FIGURES if not figure.by_itself]


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice(list(BY_NAME)))
@click.option("--on", "only", type=click.Choice(KINDS, case_sensitive=False), help="Only on this database.")
@click.option("--quick", is_flag=True, help="One short run of each: shows that it works, not how fast.")
@click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures to this file, too.",
)
def main(names: tuple[str, ...], only: Kind | None, quick: bool, file: Path | None) -> None:
    """Measure the figures named, or all of them but for those that take many minutes."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    machine = table.machine()
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()))
    results: list[Result] = []
    for figure in map(BY_NAME.__getitem__, names) if names else _USUAL:
        for kind in figure.kinds:
            if only in (None, kind):
                with console.status(f"{figure.name} on {kind}: {figure.about}"):
                    results += take(figure, kind, 1 if quick or figure.by_itself else RUNS, quick)
            if file is not None:  # each time: what is measured stays if a later figure fails
                table.write(results, machine, file)
    table.show(results, console)


if __name__ == "__main__":
    main()
