"""``migrate`` and ``completion``."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete
from msgspec import Struct

from conductor_protocol.errors import UsageError
from conductor_supervisor.cli import render
from conductor_supervisor.cli.site import Site, json_option, located

PROGRAM = "conductor-supervisor"
COMPLETE_VARIABLE = "_CONDUCTOR_SUPERVISOR_COMPLETE"
"""What the shell's script sets to ask this program for completions; click makes the name."""

SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


class MigrateView(Struct, frozen=True, kw_only=True):
    """What ``migrate --json`` shows."""

    database: str
    changed: bool
    """False: it had the newest schema already."""


@click.command()
@json_option
@located
def migrate(site: Site, as_json: bool) -> None:
    """Make or update the database's schema.

    Every start does this too.
    """
    from conductor_supervisor.store.database import Database

    database = Database.open(site.url)
    try:
        changed = database.migrate()
    finally:
        database.close()
    if as_json:
        render.show_json(MigrateView(database=database.url_for_people, changed=changed))
        return
    done = "has the newest schema now" if changed else "had the newest schema already"
    render.say(f"{database.url_for_people} {done}")


@click.command()
@click.argument("shell", required=False, metavar="[bash|zsh|fish]", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str | None) -> None:
    """Print a completion script for a shell.

    By default for yours. For bash, put this into ~/.bashrc:  eval "$(conductor-supervisor completion bash)"
    """
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise UsageError(f"expected one of {', '.join(SHELLS)}, got {name!r}")
    root = context.find_root().command
    click.echo(SHELLS[name](root, {}, PROGRAM, COMPLETE_VARIABLE).source())
