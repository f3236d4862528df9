"""``start``: run the supervisor in the foreground."""

from __future__ import annotations

import faulthandler
import logging
import os

import click

from conductor_protocol.errors import UsageError
from conductor_supervisor.cli import logs
from conductor_supervisor.cli.site import Site, located
from conductor_supervisor.notify import ServiceManager
from conductor_supervisor.starting import stoppable

NO_APP = (
    "no app is named. Write: conductor-supervisor start shop.tasks:app\n"
    'or put  app = "shop.tasks:app"  into conductor.toml'
)

log = logging.getLogger(__name__)


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
    from conductor_supervisor.cautions import cautions
    from conductor_supervisor.processes.describe import current_folder, description
    from conductor_supervisor.processes.leftovers import Leftovers, adopt_orphans

    logs.set_up(site.settings.log_level)
    if site.settings.app is None:
        raise UsageError(NO_APP)
    faulthandler.enable()  # of a supervisor that hung and was ended by SIGABRT the log says where
    manager = ServiceManager.of(os.environ)
    manager.status(f"importing {site.settings.app}")
    paths = current_folder()
    status = 0
    leftovers = Leftovers()
    adopt_orphans()  # also those of the app's import, which are ended when it is over
    with stoppable() as loop_begins:
        with description(site.settings.app, paths) as inquiry:
            from conductor_supervisor.supervisor import run  # meanwhile, for it takes as long

            manifest = inquiry.answer(site.settings.import_timeout)
        leftovers.end_orphans(())
        for caution in cautions(site.settings, manifest, os.environ):
            log.warning("%s", caution)
        status = run(
            site.settings,
            manifest,
            paths,
            drain=drain,
            read_settings=site.read_settings,
            loop_begins=loop_begins,
            manager=manager,
        )
    manager.close()
    click.get_current_context().exit(status)
