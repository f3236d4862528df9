"""What concerns the supervisor as a whole: ``status``, ``pause``, ``resume``, ``stop``, ``reload``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import click
from msgspec import Struct, structs

from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import TaskSpec
from conductor_protocol.operations import FINISHED, State
from conductor_protocol.units import Instant, counted, in_words, moment, size_in_words
from conductor_supervisor import control
from conductor_supervisor.cli import render
from conductor_supervisor.cli.site import Site, is_away, json_option, located
from conductor_supervisor.cli.waiting import Full, Waiting, waiting
from conductor_supervisor.errors import NotAnswering, NotRunning, StoreError, SupervisorError
from conductor_supervisor.readers import suggestion
from conductor_supervisor.runtime import LOCK, holder_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from conductor_supervisor.store.tasks import Kind

R = TypeVar("R")

DEFAULT_QUEUE = "default"

PATIENCE = 10.0
"""Seconds beyond the time that the app may take to import in which the supervisor must answer."""
BESIDE_SHOWN = 10
"""Executions of a shared runner that ``status`` shows below the first."""

HEADINGS = (
    *("RUNNER", "PID", "QUEUE", "STATE", "TASK", "EXECUTION", "STEP", "FOR", "MEMORY", "CPU", "RESTARTS"),
    "PROGRESS",
)
"""Of the table of runners that ``status`` shows; RESTARTS only where there were any."""


# status


class SupervisorView(Struct, frozen=True, kw_only=True):
    """The running supervisor."""

    pid: int
    app: str
    state: control.SupervisorState
    started: datetime
    memory: int
    """Resident bytes of the supervisor itself."""
    cpu_seconds: float
    """Processor time of the supervisor itself since it was started."""
    ended: int
    """Attempts that have ended since it was started."""
    runners: list[control.RunnerStatus]


class Silent(Struct, frozen=True):
    """A supervisor that holds the lock, and does not answer."""

    pid: int | None
    """Null: the lock does not tell."""
    reason: str


class Paused(Struct, frozen=True):
    """A task or a queue that is paused."""

    kind: Kind
    name: str


class Sharing(Struct, frozen=True):
    """A supervisor among those that share the database, on whatever machine."""

    host: str
    pid: int
    app: str
    started: datetime
    lease: Literal["held", "over"]
    """Over: others take its executions, as soon as there are any."""
    here: bool = False
    """It is the one that is running in this runtime folder."""


class StatusView(Struct, frozen=True, kw_only=True):
    """What ``status --json`` shows."""

    database: str
    database_error: str | None = None
    """Why the database cannot be used just now; what it would tell is empty then. Null: it is there."""
    runtime: str = ""
    """The runtime folder: the supervisor is the one that is running there."""
    supervisor: SupervisorView | None
    """Null: none is running, or it is silent."""
    silent: Silent | None
    """Null: none is running, or it answers."""
    sharing: list[Sharing] = []
    """The supervisors that share the database; none where it is SQLite's."""
    counts: dict[str, dict[State, int]]
    """Executions by task and state; finished ones are counted to 10,000."""
    paused: list[Paused]
    waiting: list[Waiting]


@click.command()
@json_option
@located
def status(site: Site, as_json: bool) -> None:
    """Show what runs and what waits.

    Which runner does what, how many executions there are in each state, and why ready ones do not run. The
    exit status is 1 if a supervisor is running, but does not answer, or if the database is away; what can be
    seen is shown all the same.
    """
    view = look(site)
    if as_json:
        render.show_json(view)
    else:
        _show_supervisor(view, moment(site.clock.now()))
        show_work(view)
    if view.silent is not None or view.database_error is not None:
        click.get_current_context().exit(1)


def show_work(view: StatusView) -> None:
    """Print how many executions there are, and what waits for what."""
    render.say()
    if view.counts:
        render.table(*count_table(view))
    for line in work_lines(view):
        render.say(line)


def look(site: Site) -> StatusView:
    """Return what runs and what waits at this moment; the former also while the database is away.

    :raises StoreError: if the database cannot be used, whenever one tries.
    """
    supervisor, silent = _supervisor(site)
    running = StatusView(
        database=site.database_for_people,
        runtime=str(site.folder),
        supervisor=supervisor,
        silent=silent,
        counts={},
        paused=[],
        waiting=[],
    )
    try:
        return running if site.is_new() else _with_stored(running, site)
    except StoreError as error:
        if not is_away(error):
            raise
        return structs.replace(running, database_error=str(error))


def _with_stored(running: StatusView, site: Site) -> StatusView:
    """Add what the database tells."""
    from conductor_supervisor.store import executions, tasks

    specs = site.declared()
    with site.reading() as connection:
        counts = executions.counts(connection)
        paused = sorted(tasks.paused(connection))
        sharing = _sharing(connection, _name_here(running))
        now = site.clock.now()
        full = {spec.name: _full(connection, spec, now) for spec in specs if spec.name in counts}
    return structs.replace(
        running,
        sharing=sharing,
        counts={task: counts[task] for task in sorted(counts)},
        paused=[Paused(kind, name) for kind, name in paused],
        waiting=waiting(specs, counts, paused, now, full),
    )


def _name_here(running: StatusView) -> str | None:
    """Return what the supervisor of this runtime folder is called among those of its database."""
    holder = holder_of(Path(running.runtime) / LOCK)
    is_running = running.supervisor is not None or running.silent is not None
    return holder.name if holder is not None and is_running else None


def _sharing(connection: Connection, here: str | None) -> list[Sharing]:
    from conductor_supervisor.store import leases

    alive = {member.id for member in leases.living(connection)}
    return [
        Sharing(
            member.host,
            member.pid,
            member.app,
            moment(member.started),
            "held" if member.id in alive else "over",
            here=member.id == here,
        )
        for member in leases.members(connection)
    ]


def _full(connection: Connection, spec: TaskSpec, now: Instant) -> Full:
    from conductor_supervisor.store import keys, starts

    by_key, rate = spec.concurrency_by_key, spec.rate
    return Full(
        *((0, 0) if by_key is None else keys.held_back(connection, spec.name, by_key.most)),
        None if rate is None else starts.full_until(connection, spec.name, rate, now),
    )


def _supervisor(site: Site) -> tuple[SupervisorView | None, Silent | None]:
    """Return what the supervisor answers, or that it does not; neither, if none is running."""
    try:
        return _ask_status(site), None
    except NotRunning:
        return None, None
    except NotAnswering as error:
        return None, Silent(error.pid, str(error))


def _ask_status(site: Site) -> SupervisorView:
    """Ask the supervisor. Raises as :meth:`Site.ask`."""
    answer = site.ask(control.AskStatus())
    if not isinstance(answer, control.Status):
        raise SupervisorError(f"the supervisor gave an answer of another kind: {answer}")
    return SupervisorView(
        pid=answer.pid,
        app=answer.app,
        state=answer.state,
        started=moment(answer.started),
        memory=answer.memory,
        cpu_seconds=answer.cpu_seconds,
        ended=answer.ended,
        runners=answer.runners,
    )


def _show_supervisor(view: StatusView, now: datetime) -> None:
    supervisor = view.supervisor
    render.say(f"database    {view.database}")
    for one in view.sharing:
        render.say(f"shared by   {_sharing_in_words(one, view)}")
    if view.silent is not None:
        render.say(f"supervisor  not answering: {view.silent.reason}")
        return
    if supervisor is None:
        render.say(f"supervisor  {none_here(view)}")
        return
    render.say(
        f"supervisor  {supervisor.state} {supervisor.app}, process {supervisor.pid}, "
        f"for {render.took(supervisor.started, now)}, {size_in_words(supervisor.memory)}, "
        f"{in_words(supervisor.cpu_seconds)} of processor time"
    )
    render.say()
    queues = queue_cells(supervisor.runners)
    rows = [row for runner in supervisor.runners for row in _runner_rows(runner, queues[runner.number])]
    headings = [
        heading
        for column, heading in enumerate(HEADINGS)
        if heading != "RESTARTS" or any(row[column] for row in rows)
    ]
    columns = [HEADINGS.index(heading) for heading in headings]
    render.table(headings, [[row[column] for column in columns] for row in rows])


def queue_cells(runners: Sequence[control.RunnerStatus]) -> dict[int, str]:
    """Return what tables say of the runners' queues, by their numbers.

    A queue that has runners of several isolations is named with that, or they would look alike.
    """
    kinds: dict[str, set[str]] = {}
    for runner in runners:
        kinds.setdefault(runner.queue, set()).add(runner.isolation)
    return {
        runner.number: f"{runner.queue}, {runner.isolation}" if len(kinds[runner.queue]) > 1 else runner.queue
        for runner in runners
    }


def _sharing_in_words(one: Sharing, view: StatusView) -> str:
    which = "this one, " if one.here else ""
    facts = f"{which}process {one.pid} on {one.host}, {one.app}, since {render.local(one.started)}"
    if one.lease == "held":
        return facts
    if _anybody_lives(view):
        return f"{facts}; its lease is over, others take its executions"
    return f"{facts}; its lease is over, its executions wait for a supervisor to take them"


def _anybody_lives(view: StatusView) -> bool:
    return any(one.lease == "held" for one in view.sharing)


def none_here(view: StatusView) -> str:
    """Say that no supervisor is running, and where one would have been found."""
    start = "" if _anybody_lives(view) else "; start one: conductor-supervisor start"
    return f"none is running here (runtime folder {view.runtime}){start}"


def _runner_rows(runner: control.RunnerStatus, queue: str) -> Iterator[Sequence[str]]:
    """One row for each runner; below a shared one, one for each execution beside the first."""
    yield _runner_row(runner, queue)
    for one in runner.beside[:BESIDE_SHOWN]:
        said = render.progress(one.done, one.total, one.message)
        yield ["", "", "", "", *_execution_cells(one), "", "", "", said]
    if (hidden := len(runner.beside) - BESIDE_SHOWN) > 0:
        yield ["", "", "", "", f"and {hidden} more; --json", *[""] * 7]


def _execution_cells(one: control.RunnerStatus | control.Beside) -> Sequence[str]:
    return [
        one.task or "",
        render.short_id(one.execution) if one.execution else "",
        one.step or "",
        "" if one.seconds is None else in_words(one.seconds),
    ]


def _runner_row(runner: control.RunnerStatus, queue: str) -> Sequence[str]:
    return [
        str(runner.number),
        "" if runner.pid is None else str(runner.pid),
        queue,
        runner.state,
        *_execution_cells(runner),
        "" if runner.memory is None else size_in_words(runner.memory),
        "" if runner.cpu_seconds is None else in_words(runner.cpu_seconds),
        str(runner.restarts or ""),
        render.progress(runner.done, runner.total, runner.message) or runner.note,
    ]


def count_table(view: StatusView) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of a table of executions by task and state."""
    states = [state for state in get_args(State) if any(state in of_task for of_task in view.counts.values())]
    return (
        ["TASK", *(state.upper() for state in states)],
        [
            [task, *(_count(of_task.get(state, 0), state) for state in states)]
            for task, of_task in view.counts.items()
        ],
    )


def _count(number: int, state: State) -> str:
    from conductor_supervisor.store import executions

    if state in FINISHED and number >= executions.COUNTED_AT_MOST:
        return f"{number:,}+"
    return f"{number:,}" if number else ""


def work_lines(view: StatusView) -> Iterator[str]:
    """Say what the table of executions does not: what is paused, and what waits for what."""
    if view.database_error is not None:
        yield f"the database is away: {view.database_error}"
    elif not view.counts:
        yield "no executions"
    for paused in view.paused:
        again = f"conductor-supervisor resume {paused.name}"
        yield f"{paused.kind} {paused.name} is paused; let it go on: {again}"
    if view.waiting:
        yield "\nwaiting"
    for one in view.waiting:
        until = f", which opens {render.local(one.until)}" if one.until is not None else ""
        yield f"  {one.executions} of {one.task}: {one.reason}{until}"


# pause and resume


def of_kind(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options that say what NAME is, and their meaning as its parameter ``kind``."""

    @click.option("--task", "is_task", is_flag=True, help="NAME is a task.")
    @click.option("--queue", "is_queue", is_flag=True, help="NAME is a queue.")
    @functools.wraps(command)
    def with_kind(*, is_task: bool, is_queue: bool, **given: object) -> R:
        if is_task and is_queue:
            raise UsageError("--task and --queue both say what NAME is; write one of them")
        kind: Kind | None = "task" if is_task else "queue" if is_queue else None
        return command(kind=kind, **given)

    return with_kind


class PauseView(Struct, frozen=True, kw_only=True):
    """What ``pause --json`` and ``resume --json`` show."""

    kind: Kind
    name: str
    paused: bool
    """As it is now."""
    changed: bool
    """False: it was so already."""


@click.command()
@click.argument("name")
@of_kind
@json_option
@located
def pause(site: Site, name: str, kind: Kind | None, as_json: bool) -> None:
    """Pause a task or a queue.

    No more of its executions are started; what runs goes on.
    """
    from conductor_supervisor.store import tasks

    kind = _kind(site, name, kind)
    with site.writing() as connection:
        changed = tasks.pause(connection, kind, name, site.clock.now())
    if as_json:
        render.show_json(PauseView(kind=kind, name=name, paused=True, changed=changed))
        return
    render.say(f"{kind} {name} is paused" if changed else f"{kind} {name} was paused already")


@click.command()
@click.argument("name")
@of_kind
@json_option
@located
def resume(site: Site, name: str, kind: Kind | None, as_json: bool) -> None:
    """Let a paused task or queue go on."""
    from conductor_supervisor.store import tasks

    with site.reading() as connection:
        paused = [paused_kind for paused_kind, paused_name in tasks.paused(connection) if paused_name == name]
    kind = kind or (paused[0] if len(paused) == 1 else _kind(site, name, None))
    with site.writing() as connection:
        changed = tasks.resume(connection, kind, name)
    if as_json:
        render.show_json(PauseView(kind=kind, name=name, paused=False, changed=changed))
        return
    render.say(f"{kind} {name} goes on" if changed else f"{kind} {name} was not paused")


def _kind(site: Site, name: str, said: Kind | None) -> Kind:
    """Return whether a name is a task or a queue.

    :raises UsageError: if it is neither, or both and nobody said which.
    """
    specs = site.declared()
    names: dict[Kind, set[str]] = {
        "task": {spec.name for spec in specs},
        "queue": {spec.queue for spec in specs} | {DEFAULT_QUEUE},
    }
    fitting = [kind for kind in names if name in names[kind] and said in (None, kind)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"there are a task and a queue named {name!r}; write --task or --queue")
    known = names[said] if said else names["task"] | names["queue"]
    raise UsageError(f"there is no {said or 'task or queue'} {name!r}{suggestion(name, known)}")


# stop


class StopView(Struct, frozen=True, kw_only=True):
    """What ``stop --json`` shows."""

    pid: int
    """The supervisor's."""
    ended: bool
    """False: it is about to, for nobody has waited."""


@click.command()
@click.option("--now", is_flag=True, help="Do not wait for checkpoints; nothing is lost either way.")
@click.option("--wait", is_flag=True, help="Return only when the supervisor has ended.")
@json_option
@located
def stop(site: Site, now: bool, wait: bool, as_json: bool) -> None:
    """Stop the running supervisor.

    What runs goes back to the queue with its steps.
    """
    try:
        supervisor = _ask_status(site)
    except NotRunning as error:
        raise NotRunning("no supervisor is running here") from error
    answer = site.ask(control.AskStop(now=now))
    if isinstance(answer, control.Rejected):
        raise SupervisorError(answer.message)
    if wait:
        _wait_for_end(supervisor.pid)
    if as_json:
        render.show_json(StopView(pid=supervisor.pid, ended=wait))
    else:
        render.say(f"supervisor {supervisor.pid} {'has stopped' if wait else 'is stopping'}")


def _wait_for_end(pid: int) -> None:
    import psutil

    try:
        psutil.Process(pid).wait()
    except psutil.NoSuchProcess:
        return


# reload


class ReloadView(Struct, frozen=True, kw_only=True):
    """What ``reload --json`` shows."""

    tasks: int
    """How many the new code declares."""
    retiring: int
    """Runners that are still at work with the old code."""


@click.command()
@json_option
@located
def reload(site: Site, as_json: bool) -> None:
    """Have the running supervisor read the code anew.

    New runners run the new code; the old ones finish what they run. If the new code does not import, the old
    goes on. Tables [tasks.NAME] of conductor.toml are read anew too; other settings need a restart.
    """
    answer = site.ask(control.AskReload(), timeout=site.settings.import_timeout + PATIENCE)
    if isinstance(answer, control.Rejected):
        raise SupervisorError(f"the old code goes on: {answer.message}")
    if not isinstance(answer, control.Reloaded):
        raise SupervisorError(f"the supervisor gave an answer of another kind: {answer}")
    if as_json:
        render.show_json(ReloadView(tasks=answer.tasks, retiring=answer.retiring))
    else:
        old = f"; still at work with the old code: {counted(answer.retiring, 'runner')}"
        render.say(f"reloaded: {counted(answer.tasks, 'task')}{old if answer.retiring else ''}")
