"""What the app declares: ``tasks``, ``schedules``."""

from __future__ import annotations

from datetime import datetime

import click
from msgspec import Struct

from conductor_protocol.limits import limits_in_words, rate_in_words
from conductor_protocol.manifest import (
    Isolation,
    KeyLimitSpec,
    RateSpec,
    ScheduleSpec,
    TaskSpec,
    WindowSpec,
)
from conductor_protocol.units import Instant, in_words, moment, size_in_words
from conductor_supervisor.cli import render
from conductor_supervisor.cli.site import Site, json_option, located

NOTHING = (
    'no tasks: start a supervisor here, or name the app in conductor.toml, as in  app = "shop.tasks:app"'
)

OLD = "as the last supervisor that was started has declared; the next start reads the code anew"

HEADINGS = (
    *("TASK", "QUEUE", "TRIGGERS", "WINDOW", "CONCURRENCY", "RATE", "ATTEMPTS", "TIMEOUT", "MEMORY"),
    "ISOLATION",
    "",
)


class TaskView(Struct, frozen=True, kw_only=True):
    """One task, as ``tasks --json`` shows it. Durations are seconds; null means no limit."""

    name: str
    queue: str
    invocable: bool
    schedules: list[str]
    """Their names."""
    events: list[str]
    """Changes to tables that make an execution, such as ``public.contact.insert``."""
    windows: tuple[WindowSpec, ...]
    concurrency: int | None
    concurrency_by_key: KeyLimitSpec | None
    rate: RateSpec | None
    max_attempts: int
    timeout: float | None
    memory: int | None
    """Bytes."""
    hang_after: float | None
    isolation: Isolation
    keep_completed: float | None
    keep_failed: float | None
    paused: bool
    """It, or its queue."""


@click.command()
@json_option
@located
def tasks(site: Site, as_json: bool) -> None:
    """List the app's tasks, with the operators' settings.

    As the supervisor that was started or reloaded last has declared them; before the first start, as the code
    does.
    """
    paused = _paused(site)
    views = [_task_view(spec, paused) for spec in site.declared()]
    if as_json:
        render.show_json(views)
    elif not views:
        render.say(NOTHING)
    else:
        _say_if_old(site)
        render.table(
            HEADINGS,
            [
                [
                    view.name,
                    view.queue,
                    ", ".join((["invoke"] if view.invocable else []) + view.schedules + view.events),
                    ", ".join(_window_in_words(window) for window in view.windows) or "always",
                    limits_in_words(view.concurrency, view.concurrency_by_key),
                    "" if view.rate is None else rate_in_words(view.rate),
                    str(view.max_attempts),
                    in_words(view.timeout) if view.timeout is not None else "",
                    size_in_words(view.memory) if view.memory is not None else "",
                    view.isolation,
                    "paused" if view.paused else "",
                ]
                for view in views
            ],
        )


def _say_if_old(site: Site) -> None:
    """Say beside a list whose it is, if nobody runs that code now: it may have changed since."""
    if site.declared_last() and not site.is_attended():
        render.remark(OLD)


def _paused(site: Site) -> set[tuple[str, str]]:
    from conductor_supervisor.store import tasks

    if not site.has_database():
        return set()
    with site.reading() as connection:
        return {(kind, name) for kind, name in tasks.paused(connection)}


def _task_view(spec: TaskSpec, paused: set[tuple[str, str]]) -> TaskView:
    return TaskView(
        name=spec.name,
        queue=spec.queue,
        invocable=spec.invocable,
        schedules=[schedule.name for schedule in spec.schedules],
        events=list(dict.fromkeys(c.event(operation) for c in spec.changes for operation in c.operations)),
        windows=spec.windows,
        concurrency=spec.concurrency,
        concurrency_by_key=spec.concurrency_by_key,
        rate=spec.rate,
        max_attempts=spec.max_attempts,
        timeout=spec.timeout,
        memory=spec.memory,
        hang_after=spec.hang_after,
        isolation=spec.isolation,
        keep_completed=spec.keep_completed,
        keep_failed=spec.keep_failed,
        paused=("task", spec.name) in paused or ("queue", spec.queue) in paused,
    )


def _window_in_words(window: WindowSpec) -> str:
    days = f" {' '.join(window.days)}" if window.days else ""
    return f"{window.start} to {window.end}{days} {window.tz or ''}".rstrip()


class ScheduleView(Struct, frozen=True, kw_only=True):
    """One schedule, as ``schedules --json`` shows it."""

    task: str
    name: str
    expression: str
    tz: str
    catch_up: str
    next: datetime
    last: datetime | None
    """The last firing; null before the first."""
    paused: bool
    """Its task, or the task's queue: firings go on making executions, which wait."""


@click.command()
@json_option
@located
def schedules(site: Site, as_json: bool) -> None:
    """List the cron schedules with their next firings.

    As the supervisor that was started or reloaded last has declared them; before the first start, as the code
    does.
    """
    paused = _paused(site)
    last = _last_firings(site)
    now = site.clock.now()
    views = [
        _schedule_view(_task_view(spec, paused), schedule, last.get((spec.name, schedule.name)), now)
        for spec in site.declared()
        for schedule in spec.schedules
    ]
    if as_json:
        render.show_json(views)
        return
    _say_if_old(site)
    if not views:
        render.say("no schedules")
    else:
        render.table(
            ["TASK", "SCHEDULE", "CRON", "ZONE", "NEXT", "IN", ""],
            [
                [
                    view.task,
                    view.name,
                    view.expression,
                    view.tz,
                    render.local(view.next),
                    render.took(moment(now), view.next),
                    "paused" if view.paused else "",
                ]
                for view in sorted(views, key=lambda view: view.next)
            ],
        )


def _last_firings(site: Site) -> dict[tuple[str, str], Instant]:
    from conductor_supervisor.store import schedules

    if not site.has_database():
        return {}
    with site.reading() as connection:
        return schedules.last_firings(connection)


def _schedule_view(
    task: TaskView, schedule: ScheduleSpec, last: Instant | None, now: Instant
) -> ScheduleView:
    """
    :param last: the last firing, or the moment since which firings count.
    """
    from conductor_supervisor.rules.cron import Cron

    zone = schedule.tz or "UTC"
    cron = Cron(schedule.expression, zone)
    return ScheduleView(
        task=task.name,
        name=schedule.name,
        expression=schedule.expression,
        tz=zone,
        catch_up=schedule.catch_up,
        next=moment(cron.next_firing(now)),
        last=moment(last) if last is not None and cron.fires_at(last) else None,
        paused=task.paused,
    )
