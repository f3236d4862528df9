"""``replay``: run an execution's handler again, here, to look at what it does."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Literal, TypeAlias

import click
import msgspec
from msgspec import Struct, structs

from conductor_protocol.errors import ConductorError, UsageError
from conductor_protocol.operations import Failure
from conductor_protocol.recording import Ending, Manner, Raised, Recording, Returned, Stopped, Unable
from conductor_protocol.units import in_words
from conductor_supervisor.cli import render
from conductor_supervisor.cli.site import Site, json_option, located
from conductor_supervisor.errors import AppError, SupervisorError
from conductor_supervisor.processes.foreground import Account, Replay
from conductor_supervisor.rules.blame import exit_in_words, signal_name

if TYPE_CHECKING:
    from conductor_supervisor.store.recordings import LastRun

NO_APP = (
    "no app is named, and the handler is in it. Write: conductor-supervisor replay ID --app shop.tasks:app\n"
    'or put  app = "shop.tasks:app"  into conductor.toml'
)

SHOWN_OF_RESULT = 2000
"""Characters of a result that are printed for people; ``--json`` prints all."""

STEPS_NAMED = 20
"""Steps that ran which are named for people: the last ones."""

INTERRUPTED = 130

End: TypeAlias = Literal["returned", "raised", "died", "stopped"]


class ReplayView(Struct, frozen=True, kw_only=True):
    """What ``replay --json`` shows."""

    id: str
    task: str
    attempt: int
    ended: End
    """``stopped``: on purpose, by --stop-at-new or from the debugger."""
    result: object = None
    error: Failure | None = None
    cause: str | None = None
    """Where it died or was stopped, in words."""
    signal: str | None = None
    exit_code: int | None = None
    step: str | None = None
    """The step in which it died, or before which it was stopped."""
    answered: int
    """Steps answered from the record."""
    ran: list[str]
    """Steps that were not recorded, and so ran."""


@click.command()
@click.argument("wanted", metavar="ID")
@click.option("--app", metavar="APP", help="The app: module:attribute or path/file.py:attribute.")
@click.option("--pdb", "post_mortem", is_flag=True, help="Start pdb at the line where the handler raises.")
@click.option(
    "--break",
    "breakpoints",
    metavar="STEP",
    multiple=True,
    help="Start pdb before the step of this name; may be repeated.",
)
@click.option("--stop-at-new", is_flag=True, help="Stop before the first step that is not recorded.")
@json_option
@located
def replay(
    site: Site,
    wanted: str,
    post_mortem: bool,
    breakpoints: tuple[str, ...],
    stop_at_new: bool,
    as_json: bool,
) -> None:
    """Run an execution's handler again, in the foreground.

    Its recorded steps are answered from the database, and nothing is written there. Steps that are not
    recorded run for real, with their side effects. Calls of a client in the handler may read; what would
    write raises NotInReplay. Time and memory limits do not count. The execution may be in any state, and the
    supervisor need not run. Exit status: 0 if the handler returned or was stopped on purpose, 1 if it raised
    or its process died. With --json, what the handler prints goes to stderr.
    """
    if site.settings.app is None:
        raise UsageError(NO_APP)
    manner = Manner(stop_at_new=stop_at_new, breakpoints=list(breakpoints), post_mortem=post_mortem)
    with closing(Replay()) as child:
        run = _tell(site, child, site.settings.app, site.find_id(wanted), manner)
        _say_before(run, stop_at_new)
        account = child.run(quiet=as_json)
    view = _view(run, site.settings.app, account)
    if as_json:
        render.show_json(view)
    else:
        _say_after(view, traceback=not post_mortem)
    for missed in [step for step in breakpoints if step not in (*account.answered, *account.ran)]:
        render.remark(f'--break "{missed}": the handler never came to a step of this name')
    click.get_current_context().exit(_status(view))


def _tell(site: Site, child: Replay, app: str, execution: str, manner: Manner) -> LastRun:
    from conductor_supervisor.processes.describe import current_folder
    from conductor_supervisor.store.recordings import last_run, recorded_steps

    with site.reading() as connection:
        run = last_run(connection, execution)
        if run is None:
            raise SupervisorError(f"no execution {execution}; see: conductor-supervisor list")
        recording = Recording(
            app=app,
            paths=current_folder(),
            database=site.url,
            assignment=run.assignment,
            max_result=site.settings.max_result,
            manner=manner,
        )
        child.tell(recording, recorded_steps(connection, execution))
    return run


# Before


def _say_before(run: LastRun, stop_at_new: bool) -> None:
    told = run.assignment
    render.remark(
        f"replaying attempt {told.attempt} of execution {told.execution}, task {told.task}; "
        "nothing is written to the database"
    )
    if run.state == "running":
        render.remark("this execution is running at this moment: what runs here runs beside it")
    render.remark(f"recorded steps, answered from the record: {told.steps_recorded}")
    died = f': first "{run.died_in}", in which the attempt died' if run.died_in is not None else ""
    if stop_at_new:
        render.remark(f"it stops before the first step that is not recorded{died}")
    else:
        render.remark(
            f"steps that are not recorded run for real, with their side effects{died}; "
            "to stop before them, write --stop-at-new"
        )


# After


def _view(run: LastRun, app: str, account: Account) -> ReplayView:
    """Return how the handler ended.

    :raises UsageError: if what the user wrote is wrong.
    :raises AppError: if the handler could not be called.
    """
    if isinstance(account.ending, Unable):
        raise _inability(account.ending)
    if account.began is None:
        if account.returncode == INTERRUPTED:
            raise KeyboardInterrupt
        raise AppError(f"app {app} {exit_in_words(account.returncode)} before the handler could be called")
    told = run.assignment
    view = ReplayView(
        id=told.execution,
        task=told.task,
        attempt=told.attempt,
        ended="died",
        answered=len(account.answered),
        ran=account.ran,
    )
    if account.ending is None or account.returncode:
        return _with_death(view, account, account.began)
    return _with_ending(view, account.ending)


def _inability(ending: Unable) -> ConductorError:
    if ending.misuse:
        return UsageError(ending.message)
    return AppError("\n".join(part for part in (ending.message, ending.traceback.rstrip()) if part))


def _with_ending(view: ReplayView, ending: Ending) -> ReplayView:
    match ending:
        case Returned(result):
            return structs.replace(view, ended="returned", result=msgspec.json.decode(result))
        case Raised(failure):
            return structs.replace(view, ended="raised", error=failure)
        case Stopped(None):
            return structs.replace(view, ended="stopped", cause="from the debugger")
        case Stopped(step):
            cause = f'before step "{step}", which is not recorded'
            return structs.replace(view, ended="stopped", cause=cause, step=step)
        case Unable():
            raise _inability(ending)


def _with_death(view: ReplayView, account: Account, began: float) -> ReplayView:
    code = account.returncode
    if account.ending is not None:
        place = "after the handler had ended, when the lifespan was torn down"
    elif account.step is not None:
        place = f'in step "{account.step}", {in_words(account.ended - account.step_began)} into it'
    else:
        place = f"between steps, {in_words(account.ended - began)} into the attempt"
    return structs.replace(
        view,
        cause=f"{exit_in_words(code)} {place}",
        signal=signal_name(code),
        exit_code=code if code >= 0 else None,
        step=account.step,
    )


def _say_after(view: ReplayView, traceback: bool) -> None:
    match view.ended:
        case "returned":
            result = render.compact_json(view.result)
            more = "... (all of it: --json)" if len(result) > SHOWN_OF_RESULT else ""
            render.say(f"the handler returned {result[:SHOWN_OF_RESULT]}{more}")
        case "raised" if view.error is not None:
            render.say(f"the handler raised {render.failure(view.error)}")
            if traceback and view.error.traceback:
                render.say(view.error.traceback.rstrip())
        case "died":
            render.say(f"the process of the handler {view.cause}")
        case _:
            render.say(f"the handler was stopped {view.cause}")
    render.say(f"steps answered from the record: {view.answered}; steps that ran: {_ran(view.ran)}")


def _ran(names: list[str]) -> str:
    hidden = len(names) - STEPS_NAMED
    shown = ", ".join(names[-STEPS_NAMED:]) or "none"
    return f"{hidden} others, and {shown}" if hidden > 0 else shown


def _status(view: ReplayView) -> int:
    if view.error is not None and view.error.type == "KeyboardInterrupt":
        return INTERRUPTED
    return 0 if view.ended in ("returned", "stopped") else 1
