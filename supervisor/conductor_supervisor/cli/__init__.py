"""The command ``conductor-supervisor``.

``site``        where a command works: settings, database, supervisor
``render``      how answers look: tables, moments, durations, JSON
``start``       run the supervisor
``executions``  invoke, cancel, retry
``many``        cancel and retry all of a task
``looking``     list, show
``replay``      replay
``top``         top
``output``      logs
``declared``    tasks, schedules
``health``      health
``operate``     status, pause, resume, stop
``upkeep``      migrate, completion
``moving``      copy-to
``doctor``      is everything in place?
``demo``        a tour
``reference``   prints docs/reference.md from all of these

Exit status: 0 done, 1 failure, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys

import click

from conductor_protocol.errors import ConductorError, UsageError

COMMANDS = {
    "start": "start",
    "stop": "operate",
    "reload": "operate",
    "status": "operate",
    "health": "health",
    "top": "top",
    "invoke": "executions",
    "cancel": "executions",
    "retry": "executions",
    "list": "looking",
    "show": "looking",
    "replay": "replay",
    "logs": "output",
    "tasks": "declared",
    "schedules": "declared",
    "pause": "operate",
    "resume": "operate",
    "migrate": "upkeep",
    "copy-to": "moving",
    "doctor": "doctor",
    "demo": "demo",
    "completion": "upkeep",
    "reference": "reference",
}
"""By command, in the order of the help: the module that holds it. A module is imported when it is needed, so
that ``invoke`` does not pay for ``demo``."""

FUNCTIONS = {"list": "list_", "copy-to": "copy_to"}
"""Commands whose functions are named otherwise."""

HIDDEN = {"reference"}
"""Commands that the help does not list, and so need not import: it describes all others."""


class _Misuse(click.ClickException):
    exit_code = 2


class _Commands(click.Group):
    """Imports a command's module when it is wanted, and words every error as one message."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return [name for name in COMMANDS if name not in HIDDEN]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, FUNCTIONS.get(cmd_name, cmd_name))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            from conductor_supervisor.readers import suggestion

            ctx.fail(f"No such command {name!r}{suggestion(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ConductorError as error:
            kind = _Misuse if isinstance(error, UsageError) else click.ClickException
            raise kind(str(error)) from error
        except KeyboardInterrupt:
            ctx.exit(130)


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="conductor-supervisor", message="%(prog)s %(version)s")
def cli() -> None:
    """Durable, interruptible background tasks, each isolated in a process of its own."""


def main() -> None:
    """Run the command."""
    if sys.platform == "win32":
        sys.exit("Conductor needs Linux or macOS; on Windows, run it in WSL.")
    cli.main(prog_name="conductor-supervisor")
