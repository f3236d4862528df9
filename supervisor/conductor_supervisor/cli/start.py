"""``start``: run the supervisor in the foreground."""

from __future__ import annotations

import click

from conductor_supervisor.cli import logs
from conductor_supervisor.cli.site import Site, located


@click.command()
@click.argument("app", required=False)
@click.option("--drain", is_flag=True, help="Stop when nothing is due.")
@click.option("--runners", metavar="N", help="Child processes that execute tasks.")
@click.option("--shutdown-grace", metavar="DURATION", help='How long a shutdown waits, such as "30s".')
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
@located
def start(site: Site, drain: bool) -> None:
    """Run the supervisor until SIGTERM or SIGINT.

    APP is module:attribute or path/file.py:attribute; the current folder is on the path.
    """
    from conductor_supervisor.supervisor import run

    logs.set_up(site.settings.log_level)
    click.get_current_context().exit(run(site.settings, drain=drain))
