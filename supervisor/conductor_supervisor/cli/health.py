"""``health``: is the supervisor well? For whoever asks every few seconds: no database, and as few imports as
can be.
"""

from __future__ import annotations

import click
from msgspec import Struct

from conductor_supervisor import control
from conductor_supervisor.cli import render
from conductor_supervisor.cli.site import Site, json_option, located
from conductor_supervisor.errors import NotAnswering, NotRunning, SupervisorError


class HealthView(Struct, frozen=True, kw_only=True):
    """What ``health --json`` shows."""

    healthy: bool
    """As the exit status says."""
    pid: int | None
    """The supervisor's; null: none is running, or nobody knows."""
    state: control.SupervisorState | None
    """Null: none is running, or it does not answer."""
    reason: str
    """Why it is not healthy; empty if it is."""


@click.command()
@click.option("--alive", is_flag=True, help="It need only answer: also while it starts, and while it drains.")
@json_option
@located
def health(site: Site, alive: bool, as_json: bool) -> None:
    """Tell whether a supervisor is running here and takes work.

    Quick, and without the database: for probes. The exit status is 0 if it is so. It is 1 until the first
    runner is ready, from the beginning of a shutdown, and if there is no answer within five seconds.
    """
    view = _look(site, alive)
    if as_json:
        render.show_json(view)
    else:
        render.say(f"supervisor {view.pid} is {view.state}" if view.healthy else view.reason)
    if not view.healthy:
        click.get_current_context().exit(1)


def _look(site: Site, alive: bool) -> HealthView:
    try:
        answer = site.ask(control.AskHealth())
    except NotRunning as error:
        return HealthView(healthy=False, pid=None, state=None, reason=str(error))
    except NotAnswering as error:
        return HealthView(healthy=False, pid=error.pid, state=None, reason=str(error))
    if not isinstance(answer, control.Health):
        raise SupervisorError(f"the supervisor gave an answer of another kind: {answer}")
    healthy = alive or answer.state == "running"
    return HealthView(
        healthy=healthy,
        pid=answer.pid,
        state=answer.state,
        reason="" if healthy else f"supervisor {answer.pid} is {answer.state}",
    )
