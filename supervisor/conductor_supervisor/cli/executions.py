"""What changes executions: ``invoke``, ``cancel``, ``retry``."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from msgspec import Raw, Struct

from conductor_protocol.errors import ConductorError, UsageError
from conductor_protocol.manifest import TASK_NAME, TaskSpec
from conductor_protocol.operations import (
    FINISHED,
    CancelExecution,
    Changed,
    Failure,
    GetOutcome,
    Invoked,
    InvokeMany,
    NewExecution,
    Outcome,
    RetryExecution,
    State,
)
from conductor_protocol.units import Instant, in_words, instant, seconds, size_in_words
from conductor_supervisor.cli import many, render
from conductor_supervisor.cli.site import Site, WholeNumber, json_option, located
from conductor_supervisor.errors import PayloadMismatch, SupervisorError
from conductor_supervisor.readers import suggestion

if TYPE_CHECKING:
    from conductor_supervisor.processes.describe import Fits, Inquiry

FIRST_WAIT = 0.01
LONGEST_WAIT = 0.5
"""Seconds between looks at an execution that is waited for: few at first, then more."""

# Invoking


class InvokedView(Struct, frozen=True, kw_only=True):
    """What ``invoke --json`` shows."""

    id: str
    created: bool
    """False: an unfinished one with the dedupe key was there already."""


class OutcomeView(Struct, frozen=True, kw_only=True):
    """What ``invoke --wait --json`` shows."""

    id: str
    created: bool
    state: State
    result: object
    error: Failure | None


@click.command()
@click.argument("task")
@click.argument("payload", required=False, metavar="[JSON]")
@click.option("--file", metavar="FILE", help='Read the payload from a file, or from stdin with "-".')
@click.option("--delay", metavar="DURATION", help='Not before this time has passed, such as "90s".')
@click.option("--run-at", metavar="MOMENT", help="Not before this moment, such as 2030-01-31T08:00+01:00.")
@click.option(
    "--priority",
    metavar="N",
    type=WholeNumber(-32768, 32767),
    default=0,
    help="Higher first; -32768 to 32767, usually 0.",
)
@click.option(
    "--dedupe-key", metavar="KEY", help="While one with this key is unfinished, that one is given back."
)
@click.option(
    "--concurrency-key", metavar="KEY", help="What it is counted under, where its task limits by key."
)
@click.option("--wait", is_flag=True, help="Wait until it has finished, and print its result.")
@click.option("--timeout", metavar="DURATION", help="With --wait: wait no longer than this.")
@json_option
@located
def invoke(
    site: Site,
    task: str,
    payload: str | None,
    file: str | None,
    delay: str | None,
    run_at: str | None,
    priority: int,
    dedupe_key: str | None,
    concurrency_key: str | None,
    wait: bool,
    timeout: str | None,
    as_json: bool,
) -> None:
    """Create an execution and print its id.

    TASK is a task's name, JSON its payload (by default null). Where the settings name the app, it is asked in
    a child process whether the payload fits. With --wait the result is printed, on one line, and the id goes
    to stderr.
    """
    limit = _wait_limit(wait, timeout)
    json = _payload(payload, file, site.settings.max_payload)
    new = NewExecution(
        task=task,
        payload=Raw(json),
        delay=0.0 if delay is None else seconds(delay, "--delay"),
        run_at=_run_at(run_at, delay),
        priority=priority,
        dedupe_key=dedupe_key,
        concurrency_key=concurrency_key,
    )
    fits = site.payload_check(task, json)
    _check_task(site, task)
    if fits is not None:
        _heed(fits)
    answer = site.perform(InvokeMany([new]), Invoked)
    (execution,), (created,) = answer.ids, answer.created
    if wait:
        _report_outcome(execution, created, _outcome(site, execution, limit), as_json)
    elif as_json:
        render.show_json(InvokedView(id=execution, created=created))
    else:
        render.say(execution)
        if not created:
            render.remark(f"an unfinished execution of {task} has the dedupe key {dedupe_key!r} already")


def _wait_limit(wait: bool, timeout: str | None) -> float | None:
    if timeout is None:
        return None
    if not wait:
        raise UsageError("--timeout says how long to wait; write --wait too")
    return seconds(timeout, "--timeout")


def _payload(text: str | None, file: str | None, limit: int) -> bytes:
    if text is not None and file is not None:
        raise UsageError("the payload is given twice; write either JSON or --file")
    source = _contents(file) if file is not None else (text or "null").encode()
    try:
        payload = msgspec.json.encode(msgspec.json.decode(source))
    except RecursionError as error:
        raise UsageError("the payload: expected JSON that is not nested so deeply") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise UsageError(_not_json(text, file, error)) from error
    if len(payload) > limit:
        raise UsageError(
            f"the payload has {size_in_words(len(payload))}; at most {size_in_words(limit)} are allowed: "
            "store it elsewhere and pass a reference, or raise max_payload in conductor.toml"
        )
    return payload


def _contents(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"--file {file}: cannot be read: {error.strerror}") from error


def _not_json(text: str | None, file: str | None, error: Exception) -> str:
    if text is None:
        return f"--file {file}: not JSON: {error}"
    return (
        f"the payload: expected JSON such as '{{\"id\": 1}}', got {text!r} ({error}); "
        f"if it is meant as text, write: {shlex.quote(render.compact_json(text))}"
    )


def _run_at(text: str | None, delay: str | None) -> Instant | None:
    if text is None:
        return None
    if delay is not None:
        raise UsageError("--delay and --run-at both say when; write one of them")
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"--run-at: expected a moment such as 2030-01-31T08:00+01:00, got {text!r}"
        ) from error
    if when.tzinfo is None:
        raise UsageError(f"--run-at: {text!r} names no time zone; write {text}Z or {text}+01:00")
    return instant(when)


def _check_task(site: Site, name: str) -> None:
    if not TASK_NAME.fullmatch(name):
        raise UsageError(f"TASK: expected letters, digits, -, _ and . (at most 200), got {name!r}")
    known = {spec.name: spec for spec in site.declared()}
    if name not in known and site.manifest is not None:
        known |= {spec.name: spec for spec in site.manifest.tasks}
    if not known:
        render.remark(f"no supervisor has run here yet, so nobody could check that there is a task {name!r}")
    elif name not in known:
        raise UsageError(f"there is no task {name!r}{suggestion(name, known)}")
    elif not known[name].invocable:
        raise UsageError(_not_invocable(known[name]))


def _heed(fits: Inquiry[Fits]) -> None:
    """Refuse a payload that does not fit. An app that cannot be asked is no reason to refuse."""
    try:
        fits.answer()
    except PayloadMismatch:
        raise
    except ConductorError as error:
        render.remark(f"the payload is not checked: {str(error).splitlines()[0]}")


def _not_invocable(spec: TaskSpec) -> str:
    return (
        f"task {spec.name} may not be invoked by name, because it has another trigger. "
        "Declare it with invocable=True to allow it"
    )


def _outcome(site: Site, execution: str, limit: float | None) -> Outcome:
    """Wait until an execution has finished.

    :raises SupervisorError: if it has not within the limit.
    """
    render.remark(execution)
    if (why := site.unattended()) is not None:
        render.remark(why)
    began = time.monotonic()
    wait = FIRST_WAIT
    while True:
        outcome = site.perform(GetOutcome(execution), Outcome)
        if outcome.state in FINISHED:
            return outcome
        if limit is not None and time.monotonic() - began >= limit:
            goes_on = "it goes on" if outcome.state == "running" else "it waits"
            raise SupervisorError(
                f"execution {execution} is {outcome.state}, not finished after {in_words(limit)}; "
                f"{goes_on}: conductor-supervisor show {execution}"
            )
        time.sleep(wait)
        wait = min(LONGEST_WAIT, wait * 1.5)


def _report_outcome(execution: str, created: bool, outcome: Outcome, as_json: bool) -> None:
    if as_json:
        render.show_json(
            OutcomeView(
                id=execution,
                created=created,
                state=outcome.state,
                result=outcome.result,
                error=outcome.error,
            )
        )
        if outcome.state != "completed":
            click.get_current_context().exit(1)
    elif outcome.state != "completed":
        raise SupervisorError(f"execution {execution} {_ended(outcome)}")
    else:
        render.say(render.compact_json(outcome.result))


def _ended(outcome: Outcome) -> str:
    if outcome.state == "cancelled":
        return f"was cancelled{f': {outcome.cancel_reason}' if outcome.cancel_reason else ''}"
    return f"{outcome.state}{f': {render.failure(outcome.error)}' if outcome.error else ''}"


# Changing


class ChangedView(Struct, frozen=True, kw_only=True):
    """What became of one execution that was to be changed."""

    id: str
    state: State
    """What it is now; a running one that was asked to stop is still running."""
    changed: bool
    """False: its state did not allow that."""


yes_option = click.option("--yes", is_flag=True, help="With --task: do not ask whether all are meant.")


@click.command()
@click.argument("execution", required=False, metavar="[ID]")
@click.option("--task", metavar="TASK", help="Instead of an ID: all of this task that wait.")
@click.option(
    "--state",
    metavar="STATE",
    type=click.Choice(["scheduled", "ready"]),
    help="With --task: only those in this state.",
)
@click.option("--reason", metavar="TEXT", help="Why; kept with the execution.")
@yes_option
@json_option
@located
def cancel(
    site: Site,
    execution: str | None,
    task: str | None,
    state: State | None,
    reason: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Cancel an execution, or all of a task that wait.

    A waiting one is cancelled at once; a running one is asked to stop, and stopped if it does not. The exit
    status is 1 if it has finished already. With --task those are cancelled that are scheduled or ready, a
    few at a time; one that has just begun meanwhile is asked to stop.
    """
    many.check_which([] if execution is None else [execution], task, state)
    if task is not None:
        states: list[State] = ["scheduled", "ready"] if state is None else [state]
        many.confirm(site, "cancel", task, states, yes)
        view = many.change_all(site, task, states, lambda each: CancelExecution(each, reason))
        many.show(site, view, "cancelled", as_json)
    if execution is not None:
        _cancel_one(site, execution, reason, as_json)


def _cancel_one(site: Site, execution: str, reason: str | None, as_json: bool) -> None:
    whole = site.find_id(execution)
    answer = site.perform(CancelExecution(whole, reason), Changed)
    if as_json:
        is_cancelled = answer.changed and answer.state != "running"
        now: State = "cancelled" if is_cancelled else answer.state
        render.show_json(ChangedView(id=whole, state=now, changed=answer.changed))
        click.get_current_context().exit(0 if answer.changed else 1)
    if not answer.changed:
        raise SupervisorError(f"execution {whole} is {answer.state} already; there is nothing to cancel")
    if answer.state == "running":
        render.say(f"{whole} is asked to stop; it ends at its next checkpoint or step")
    else:
        render.say(f"{whole} is cancelled")


@click.command()
@click.argument("given", nargs=-1, metavar="[ID...]")
@click.option("--task", metavar="TASK", help="Instead of IDs: all of this task that have failed.")
@click.option(
    "--state",
    metavar="STATE",
    type=click.Choice(["failed", "cancelled"]),
    help="With --task: those in this state.",
)
@yes_option
@json_option
@located
def retry(
    site: Site, given: tuple[str, ...], task: str | None, state: State | None, yes: bool, as_json: bool
) -> None:
    """Retry failed or cancelled executions.

    They get all their attempts anew; their recorded steps stay. The exit status is 1 if one of them is
    neither failed nor cancelled; the others are retried all the same. With --task all are retried that have
    failed, or, with --state cancelled, were cancelled, a few at a time.
    """
    many.check_which(given, task, state)
    if task is not None:
        states: list[State] = ["failed" if state is None else state]
        many.confirm(site, "retry", task, states, yes)
        many.show(site, many.change_all(site, task, states, RetryExecution), "ready again", as_json)
    else:
        _retry_these(site, given, as_json)


def _retry_these(site: Site, given: Sequence[str], as_json: bool) -> None:
    views = [_retried(site, whole) for whole in [site.find_id(execution) for execution in given]]
    if as_json:
        render.show_json(views)
        click.get_current_context().exit(0 if all(view.changed for view in views) else 1)
    for view in views:
        if view.changed:
            render.say(f"{view.id} is ready again")
    if refused := [view for view in views if not view.changed]:
        raise SupervisorError(
            "\n".join(
                f"execution {view.id} is {view.state}; only a failed or cancelled one can be retried"
                for view in refused
            )
        )


def _retried(site: Site, execution: str) -> ChangedView:
    answer = site.perform(RetryExecution(execution), Changed)
    now: State = "ready" if answer.changed else answer.state
    return ChangedView(id=execution, state=now, changed=answer.changed)
