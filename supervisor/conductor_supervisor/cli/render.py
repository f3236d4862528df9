"""How answers look: tables and lines for people, JSON for programs.

On a terminal tables have colours and fit its width; into a pipe they are plain aligned text, never cut.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click
import msgspec

from conductor_protocol.operations import Failure
from conductor_protocol.units import in_words

if TYPE_CHECKING:
    from rich.table import Table

SHORT_ID = 12
"""Characters of an id's end that a terminal shows: ids begin with the time, so their ends differ most."""

STYLES = {
    "completed": "green",
    "ok": "green",
    "failed": "red",
    "crashed": "red",
    "problem": "red",
    "warning": "yellow",
    "running": "cyan",
    "busy": "cyan",
    "cancelled": "magenta",
    "paused": "yellow",
}
"""By a cell's text: its colour."""


def say(line: str = "", *, dim: bool = False) -> None:
    """Write one line to stdout; on a terminal it may be dim."""
    if dim and _is_terminal() and not os.environ.get("NO_COLOR"):
        click.echo(click.style(printable(line), dim=True), color=True)
    else:
        click.echo(printable(line))


def remark(line: str) -> None:
    """Write one line to stderr: what is not the answer itself."""
    click.echo(printable(line), err=True)


def show_json(value: object) -> None:
    """Write a value as JSON that people can read too."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def compact_json(value: object) -> str:
    """Return a value as JSON on one line."""
    return msgspec.json.encode(value).decode()


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to stdout."""
    if _is_terminal():
        from rich.console import Console

        Console(highlight=False).print(drawn_table(headings, rows))
    else:
        for line in _plain_lines([list(headings), *_cells(rows)]):
            click.echo(line)


def _is_terminal() -> bool:
    return sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))


def drawn_table(headings: Sequence[str], rows: Sequence[Sequence[str]], cut: Collection[str] = ()) -> Table:
    """Return a table for a terminal.

    :param cut: headings of columns whose cells are cut where there is no room, so that each row is one line;
        without any, all cells are folded.
    """
    from rich.table import Table
    from rich.text import Text

    cells = _cells(rows)
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column, heading in enumerate(headings):
        drawn.add_column(
            heading,
            overflow="ellipsis" if cut else "fold",
            no_wrap=bool(cut) and heading not in cut,
            justify="right" if _is_numeric(cells, column) else "left",
        )
    for row in cells:
        drawn.add_row(*(Text(cell, style=STYLES.get(cell, ""), no_wrap=bool(cut) or None) for cell in row))
    return drawn


def _cells(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[printable(cell).replace("\n", " ") for cell in row] for row in rows]


def _plain_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = [_is_numeric(rows[1:], column) for column in range(len(widths))]
    return [
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]


def _is_numeric(rows: Sequence[Sequence[str]], column: int) -> bool:
    return all(row[column].strip("+-").replace(",", "").isdecimal() or not row[column] for row in rows)


def printable(text: str) -> str:
    """Return text in which control characters are spelled out: what tasks write must not steer a terminal."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else _spelled_out(character)
        for character in text
    )


def _spelled_out(character: str) -> str:
    return character.encode("unicode_escape").decode()


def short_id(execution: str) -> str:
    """Return an id for a table: whole into a pipe, its end on a terminal. Commands accept either."""
    return execution[-SHORT_ID:] if sys.stdout.isatty() else execution


def local(moment: datetime | None) -> str:
    """Return a moment in the zone of whoever looks, which is named, to the second; nothing for None."""
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def took(start: datetime | None, end: datetime | None) -> str:
    """Return the time between two moments in words; nothing if one is unknown."""
    return "" if start is None or end is None else in_words(max(0.0, (end - start).total_seconds()))


def number(value: float) -> str:
    """Return a number without a needless fraction."""
    return f"{value:g}" if value != int(value) else f"{int(value)}"


def progress(done: float | None, total: float | None, message: str) -> str:
    """Return how far something is, such as ``41/100 (41%) resizing``."""
    if done is None:
        return ""
    share = f"/{number(total)} ({done / total:.0%})" if total else ""
    return f"{number(done)}{share} {message}".rstrip()


def failure(why: Failure) -> str:
    """Return why something failed, such as ``ValueError: too wide``."""
    return f"{why.type}: {why.message}" if why.message else why.type
