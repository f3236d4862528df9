"""What shows executions: ``list`` and ``show``."""

from __future__ import annotations

from datetime import datetime
from typing import get_args

import click

from conductor_protocol.operations import (
    ExecutionView,
    Found,
    GetExecution,
    Listed,
    ListExecutions,
    State,
)
from conductor_protocol.units import counted, moment
from conductor_supervisor.cli import render
from conductor_supervisor.cli.sentences import RETRIED, attempt_in_words, counted_anew
from conductor_supervisor.cli.site import Site, WholeNumber, json_option, located
from conductor_supervisor.readers import suggestion

STEPS_SHOWN = 50
"""Steps that ``show`` prints unless asked for all: the last ones."""


@click.command(name="list")
@click.option("--task", metavar="TASK", help="Only of this task.")
@click.option("--state", metavar="STATE", type=click.Choice(get_args(State)), help="Only in this state.")
@click.option(
    "--limit",
    metavar="N",
    type=WholeNumber(1, 1000),
    default=100,
    show_default=True,
    help="At most so many; 1 to 1000.",
)
@click.option("--before", metavar="ID", help="Only older than this one: the last of the page before.")
@json_option
@located
def list_(
    site: Site, task: str | None, state: State | None, limit: int, before: str | None, as_json: bool
) -> None:
    """List executions, newest first."""
    if site.is_new():
        found = []
    else:
        older_than = None if before is None else site.find_id(before)
        found = site.perform(ListExecutions(task, state, limit, older_than), Listed).executions
    if as_json:
        render.show_json(found)
    elif not found:
        render.say("no executions")
        if task is not None:
            doubt_task(site, task)
    else:
        now = moment(site.clock.now())
        render.table(
            ["ID", "TASK", "STATE", "CREATED", "TOOK", "ATTEMPTS", "NOTE"],
            [
                [
                    render.short_id(one.id),
                    one.task,
                    one.state,
                    render.local(one.created),
                    _time_taken(one, now),
                    str(_attempts(one)),
                    _note(one),
                ]
                for one in found
            ],
        )


def doubt_task(site: Site, name: str) -> None:
    """Say beside an empty answer that the task may be misspelt, if the code has none of the name."""
    known = [spec.name for spec in site.declared_last()]
    if known and name not in known:
        code = "the running code" if site.is_attended() else "the code that ran last"
        render.remark(f"{code} has no task {name!r}{suggestion(name, known)}")


def _attempts(execution: ExecutionView) -> int:
    """Return how many attempts were made, as ``show`` numbers them: with one that runs or has completed."""
    return execution.attempt + (execution.state in ("running", "completed"))


def _time_taken(execution: ExecutionView, now: datetime) -> str:
    if execution.state == "running":
        return render.took(execution.started, now)
    return render.took(execution.started, execution.finished)


def _note(execution: ExecutionView) -> str:
    """Return what is worth knowing of an execution beside its state, in a few words."""
    if execution.state == "scheduled":
        return f"{execution.waiting_for}, due {render.local(execution.due)}"
    if execution.state == "running" and execution.cancel_requested:
        return "asked to stop"
    if execution.state == "running" and execution.progress is not None:
        said = execution.progress
        return render.progress(said.done, said.total, said.message)
    if execution.state == "cancelled":
        return execution.cancel_reason or ""
    if execution.error is not None:
        return render.failure(execution.error).partition("\n")[0]
    return ""


@click.command()
@click.argument("wanted", metavar="ID")
@click.option("--all-steps", is_flag=True, help=f"Not only the last {STEPS_SHOWN} steps.")
@json_option
@located
def show(site: Site, wanted: str, all_steps: bool, as_json: bool) -> None:
    """Show one execution: attempts, steps, result, crash report."""
    answer = site.perform(GetExecution(site.find_id(wanted)), Found)
    execution = answer.execution
    if as_json:
        render.show_json(execution)
        return
    now = moment(site.clock.now())
    _show_facts(execution)
    _show_attempts(execution, now)
    _show_steps(execution, None if all_steps else STEPS_SHOWN)


def _show_facts(execution: ExecutionView) -> None:
    facts = [
        ("id", execution.id),
        ("task", execution.task),
        ("state", _state_in_words(execution)),
        ("event", execution.event),
        ("scheduled for", render.local(execution.scheduled_for)),
        ("payload", render.compact_json(execution.payload)),
        ("metadata", "" if execution.metadata is None else render.compact_json(execution.metadata)),
        ("priority", str(execution.priority) if execution.priority else ""),
        ("dedupe key", execution.dedupe_key or ""),
        ("concurrency key", execution.concurrency_key or ""),
        ("created", render.local(execution.created)),
        ("due", render.local(execution.due) if execution.due != execution.created else ""),
        ("finished", render.local(execution.finished)),
        ("result", render.compact_json(execution.result) if execution.state == "completed" else ""),
        ("error", render.failure(execution.error) if execution.error else ""),
    ]
    width = max(len(name) for name, _ in facts) + 2
    for name, value in facts:
        if value:
            render.say(f"{name:<{width}}{value}")
    if execution.error is not None and execution.error.traceback:
        _show_block("traceback", execution.error.traceback, indent="  ")


def _state_in_words(execution: ExecutionView) -> str:
    note = _note(execution) if execution.error is None else ""
    return f"{execution.state} ({note})" if note else execution.state


def _show_attempts(execution: ExecutionView, now: datetime) -> None:
    if execution.attempts:
        render.say("\nattempts")
    for before, attempt in zip([None, *execution.attempts], execution.attempts, strict=False):
        if before is not None and counted_anew(before, attempt):
            render.say(f"  {RETRIED}")
        render.say(f"  {render.local(attempt.started)}  {attempt_in_words(attempt, now)}")
        if attempt.crash is not None:
            crash = attempt.crash
            for name, text in (("stacks", crash.stacks), ("stderr", crash.stderr), ("stdout", crash.stdout)):
                _show_block(name, text, indent="     ")


def _show_block(name: str, text: str, indent: str) -> None:
    if text.strip():
        render.say(f"{indent}{name}:")
        for line in text.rstrip().splitlines():
            render.say(f"{indent}  {line}")


def _show_steps(execution: ExecutionView, at_most: int | None) -> None:
    if not execution.steps:
        return
    shown = execution.steps if at_most is None else execution.steps[-at_most:]
    hidden = len(execution.steps) - len(shown)
    render.say(
        f"\n{counted(len(execution.steps), 'step')}"
        + (f", the last {len(shown)}; --all-steps" if hidden else "")
    )
    render.table(
        ["STEP", "TOOK", "ENDED", "ATTEMPT"],
        [
            [step.name, render.took(step.started, step.ended), render.local(step.ended), str(step.attempt)]
            for step in shown
        ],
    )
