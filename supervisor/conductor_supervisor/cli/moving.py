"""``copy-to``: from one database to another, as from SQLite to PostgreSQL when machines become several."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import click
from msgspec import Struct

from conductor_protocol.units import counted
from conductor_supervisor.cli import render
from conductor_supervisor.cli.site import Site, json_option, located

if TYPE_CHECKING:
    from rich.progress import TaskID

Show: TypeAlias = Callable[[str, int], None]

DIGITS = 16
"""Of a checksum, in a table for people."""


class TableCopy(Struct, frozen=True, kw_only=True):
    """One table, the same on both sides."""

    table: str
    rows: int
    sha256: str | None
    """Of all rows, read on both sides after the copy; null with ``--dry-run``."""


class CopyView(Struct, frozen=True, kw_only=True):
    """What ``copy-to --json`` shows."""

    source: str
    target: str
    dry_run: bool
    recovered: int
    """Executions that were running when the supervisor of the old database died."""
    obstacle: str | None = None
    """With ``--dry-run``: which supervisor has to be stopped before the copy. Null: none."""
    tables: list[TableCopy]


@click.command("copy-to")
@click.argument("target", metavar="URL")
@click.option("--dry-run", is_flag=True, help="Only count what would be copied; make and change nothing.")
@json_option
@located
def copy_to(site: Site, target: str, dry_run: bool, as_json: bool) -> None:
    """Copy everything into another database, such as postgresql://user@host/database.

    Executions with their steps, attempts and output, schedules and pauses: the new database goes on where the
    old one was, and the old one stays as it is. Supervisors must be stopped on both sides, and the new
    database must have no executions; it gets its tables first. All is copied in one transaction, read again
    on both sides, and compared. Meanwhile clients cannot write: to the old database they wait up to 30 s,
    then fail. Leave a password out of the URL: PGPASSWORD and ~/.pgpass are heeded.
    """
    view = _counted(site, target) if dry_run else _copied(site, target)
    if as_json:
        render.show_json(view)
    else:
        _show(view)


def _counted(site: Site, target: str) -> CopyView:
    from conductor_supervisor.moving import count

    counted = count(site.url, target, site.settings)
    tables = [TableCopy(table=table, rows=rows, sha256=None) for table, rows in counted.rows.items()]
    return _view(site, target, tables, dry_run=True, obstacle=counted.obstacle)


def _copied(site: Site, target: str) -> CopyView:
    from conductor_supervisor.moving import move

    alone = f"until the copy is done nobody else can write to {site.database_for_people}"
    with _progress() as show:
        moved = move(site.url, target, site.settings, site.clock, _after(alone, show))
    tables = [TableCopy(table=each.table, rows=each.rows, sha256=each.sha256) for each in moved.tables]
    return _view(site, target, tables, recovered=moved.recovered)


def _view(
    site: Site,
    target: str,
    tables: list[TableCopy],
    *,
    dry_run: bool = False,
    recovered: int = 0,
    obstacle: str | None = None,
) -> CopyView:
    from conductor_supervisor.store.location import locate

    return CopyView(
        source=site.database_for_people,
        target=locate(target).for_people,
        dry_run=dry_run,
        recovered=recovered,
        obstacle=obstacle,
        tables=tables,
    )


def _show(view: CopyView) -> None:
    if view.dry_run:
        render.table(["TABLE", "ROWS"], [[each.table, str(each.rows)] for each in view.tables])
        first = "" if view.obstacle is None else f"; but first: {view.obstacle}"
        render.say(f"\nnothing was copied; {view.target} can take it{first}")
        return
    render.table(
        ["TABLE", "ROWS", "SHA-256 ON BOTH SIDES"],
        [[each.table, str(each.rows), (each.sha256 or "")[:DIGITS]] for each in view.tables],
    )
    if view.recovered:
        render.say(
            f"\n{counted(view.recovered, 'execution')} had been running when the last supervisor died: taken "
            "back to the queue there, as the next start would have done"
        )
    render.say(
        f"\n{view.source} is copied to {view.target}.\n"
        "Now name the new one, once for all: in the variable CONDUCTOR_DATABASE_URL of the supervisor, its\n"
        "commands, and Python clients. (A database in conductor.toml or in --database is not seen by Python\n"
        "clients; one in the code, Conductor(database=...), has to be changed there.)\n"
        "The old one is as it was. What clients still write to it is not in the new one."
    )


def _after(sentence: str, show: Show) -> Show:
    """Say a sentence before the first thing is shown: a copy that is refused shows nothing."""
    sentences = iter([sentence])

    def say_and_show(what: str, rows: int) -> None:
        for unsaid in sentences:
            render.remark(unsaid)
        show(what, rows)

    return say_and_show


@contextmanager
def _progress() -> Iterator[Show]:
    """Give a function that shows, on a terminal, what is done and how many rows it has got through."""
    if not sys.stderr.isatty():
        yield lambda _what, _rows: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f} rows"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        lines: dict[str, TaskID] = {}

        def show(what: str, rows: int) -> None:
            if what not in lines:
                lines[what] = shown.add_task(what, total=None)
            shown.advance(lines[what], rows)

        yield show
