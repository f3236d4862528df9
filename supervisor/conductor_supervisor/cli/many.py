"""Changes of all executions of a task at once: ``cancel --task``, ``retry --task``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

import click
from msgspec import Struct

from conductor_protocol.errors import UsageError
from conductor_protocol.operations import (
    CancelExecution,
    Changed,
    Listed,
    ListExecutions,
    RetryExecution,
    State,
)
from conductor_protocol.units import counted
from conductor_supervisor.cli import render
from conductor_supervisor.cli.looking import doubt_task
from conductor_supervisor.cli.site import Site

BATCH = 200
"""Executions that are changed in one transaction: others who write have to wait for no more."""

Change = Callable[[str], CancelExecution | RetryExecution]


class ManyView(Struct, frozen=True, kw_only=True):
    """What ``cancel --task T --json`` and ``retry --task T --json`` show."""

    task: str
    changed: int
    """Executions that were cancelled, asked to stop, or retried."""
    refused: int
    """Those whose state, or dedupe key, did not allow it any more."""


def check_which(given: Sequence[str], task: str | None, state: State | None) -> None:
    """Make sure that either ids or a task are named.

    :raises UsageError: if both, or neither, say what is meant.
    """
    if given and task is not None:
        raise UsageError("an ID and --task both say what is meant; write one of them")
    if not given and task is None:
        raise UsageError("Missing argument: name executions by ID, or all of a task by --task")
    if state is not None and task is None:
        raise UsageError("--state chooses among the executions of a task; write --task too")


def confirm(site: Site, verb: str, task: str, states: Sequence[State], yes: bool) -> None:
    """Ask whether all these are meant, unless that was said already.

    :raises UsageError: if nobody can be asked.
    :raises click.Abort: if they are not meant.
    """
    if yes:
        return
    if not can_be_asked():
        raise UsageError(f"to {verb} all of a task, write --yes too: there is nobody to ask")
    click.confirm(f"{verb} {_how_many(site, task, states)} of {task}?", abort=True, err=True)


def can_be_asked() -> bool:
    """Tell whether somebody sits before us."""
    return sys.stdin.isatty()


def _how_many(site: Site, task: str, states: Sequence[State]) -> str:
    from conductor_supervisor.store import executions

    with site.reading() as connection:
        counts = executions.counts(connection).get(task, {})
    number = sum(counts.get(state, 0) for state in states)
    more = number >= executions.COUNTED_AT_MOST and not {"ready", "scheduled"}.issuperset(states)
    return f"{'at least ' if more else ''}{counted(number, 'execution')}"


def change_all(site: Site, task: str, states: Sequence[State], change: Change) -> ManyView:
    """Change all executions of a task that are in these states, a few in each transaction.

    What was changed stays so if it is interrupted; it can be called again.
    """
    changed = refused = 0
    for state in states:
        for ids in _batches(site, task, state):
            done = _changed(site, [change(each) for each in ids])
            changed += done
            refused += len(ids) - done
    return ManyView(task=task, changed=changed, refused=refused)


def _batches(site: Site, task: str, state: State) -> Iterator[list[str]]:
    """Give the ids, the newest first; what was changed before may have left the state."""
    before: str | None = None
    while found := site.perform(ListExecutions(task, state, BATCH, before), Listed).executions:
        before = found[-1].id
        yield sorted(one.id for one in found)  # all who lock several do so in this order


def _changed(site: Site, operations: Sequence[CancelExecution | RetryExecution]) -> int:
    from conductor_supervisor.store.perform import perform

    now = site.clock.now()
    with site.writing() as connection:
        answers = [perform(connection, operation, now) for operation in operations]
    return sum(isinstance(answer, Changed) and answer.changed for answer in answers)


def show(site: Site, view: ManyView, done: str, as_json: bool) -> None:
    """Print what was changed."""
    if as_json:
        render.show_json(view)
        return
    render.say(f"{done}: {counted(view.changed, 'execution')} of {view.task}")
    if view.refused:
        render.remark(f"not changed, for they are in another state, or their key is taken: {view.refused:,}")
    if not view.changed:
        doubt_task(site, view.task)
