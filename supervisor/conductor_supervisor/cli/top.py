"""``top``: what runs where, live."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from conductor_protocol.errors import UsageError
from conductor_protocol.units import in_words, moment, seconds, size_in_words
from conductor_supervisor import control
from conductor_supervisor.cli import render
from conductor_supervisor.cli.operate import (
    StatusView,
    count_table,
    look,
    none_here,
    queue_cells,
    show_work,
    work_lines,
)
from conductor_supervisor.cli.site import SHORTEST_ID, Site, json_option, located
from conductor_supervisor.errors import NotAnswering, NotRunning

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Group

GLIMPSE = 0.5
"""Seconds between the two looks of ``--once``: it takes two to say what is used in a second."""

SHORTEST_INTERVAL = 0.1

BAR = 10
"""Characters of a progress bar."""

WIDE = 120
"""Columns of a terminal that has room for more of an id than its last characters."""

CUT = ("QUEUE", "TASK", "IN STEP", "PROGRESS")
"""Columns that are cut where there is no room."""

TELLING_NOTHING = {"QUEUE": {"default"}, "RESTARTS": {""}}
"""By column: if it holds only this, a terminal does without it."""


class Load(Struct, frozen=True, kw_only=True):
    """What happened in a second, between two looks. Percents are of one processor."""

    supervisor: float
    """Percent that the supervisor itself used."""
    runners: dict[int, float]
    """By the runner's number: percent that it used, with the processes that it has started."""
    ended: float
    """Attempts that ended in a second."""


class TopView(Struct, frozen=True, kw_only=True):
    """What ``top --json`` shows."""

    status: StatusView
    load: Load | None
    """Null: the supervisor has only just come."""


class Look(Struct, frozen=True):
    """What is seen at one moment."""

    at: float
    """``time.monotonic()``."""
    status: StatusView


@click.command()
@click.option("--once", is_flag=True, help="Print it once and end. Into a pipe, that is all that is done.")
@click.option(
    "--interval", metavar="DURATION", default="2s", show_default=True, help="Time between two looks."
)
@json_option
@located
def top(site: Site, once: bool, interval: str, as_json: bool) -> None:
    """Watch what runs where, in which step, and what it uses.

    What runners do is read from their flight recorders: none is asked, so one that hangs is shown too.
    Processor time (percent of one processor) and memory are those of a runner with the processes that it has
    started. End it with q or Ctrl-C. While no supervisor runs it waits for one; with --once it exits with 1.
    While the database is away it shows what runs all the same; with --once it then exits with 1.
    """
    wait = seconds(interval, "--interval")
    if wait < SHORTEST_INTERVAL:
        raise UsageError(f"--interval: expected at least {SHORTEST_INTERVAL} seconds, got {interval!r}")
    if once or as_json or not sys.stdout.isatty():
        _show_once(site, as_json)
    else:
        _watch(site, wait)


# Looking


def _look(site: Site) -> Look:
    status = look(site)
    return Look(time.monotonic(), status)


def load(before: Look | None, now: Look) -> Load | None:
    """Return what happened in a second between two looks; None if they are not at the same supervisor."""
    was = None if before is None else before.status.supervisor
    supervisor = now.status.supervisor
    if before is None or was is None or supervisor is None or was.pid != supervisor.pid:
        return None
    passed = now.at - before.at
    used_before = {runner.pid: runner.cpu_seconds for runner in was.runners if runner.pid is not None}
    runners: dict[int, float] = {}
    for runner in supervisor.runners:
        start = used_before.get(runner.pid or 0)
        if runner.cpu_seconds is not None and start is not None:
            runners[runner.number] = _percent(runner.cpu_seconds - start, passed)
    return Load(
        supervisor=_percent(supervisor.cpu_seconds - was.cpu_seconds, passed),
        runners=runners,
        ended=(supervisor.ended - was.ended) / passed,
    )


def _percent(used: float, passed: float) -> float:
    # A runner's total shrinks when a process that it had started ends without being waited for.
    return max(0.0, 100 * used / passed)


# Once


def _show_once(site: Site, as_json: bool) -> None:
    """
    :raises NotRunning: if no supervisor is.
    :raises NotAnswering: if one is, and does not answer.
    """
    first = _look(site)
    if (silent := first.status.silent) is not None:
        raise NotAnswering(silent.pid, silent.reason)
    if first.status.supervisor is None:
        raise NotRunning(
            "no supervisor is running here; what is stored is shown by: conductor-supervisor status"
        )
    time.sleep(GLIMPSE)
    now = _look(site)
    view = TopView(status=now.status, load=load(first, now))
    if as_json:
        render.show_json(view)
    else:
        _show(view, moment(site.clock.now()))
    if now.status.database_error is not None:
        click.get_current_context().exit(1)


def _show(view: TopView, now: datetime) -> None:
    render.say(_header(view, now))
    if view.status.supervisor is not None:
        render.say()
        render.table(*_table(view, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    show_work(view.status)


def _header(view: TopView, now: datetime) -> str:
    supervisor = view.status.supervisor
    if view.status.silent is not None:
        return f"supervisor  not answering: {view.status.silent.reason}"
    if supervisor is None:
        return f"supervisor  {none_here(view.status)}"
    facts = [
        f"supervisor  {supervisor.state} {supervisor.app}",
        f"process {supervisor.pid}",
        f"for {render.took(supervisor.started, now)}",
        size_in_words(supervisor.memory),
    ]
    if view.load is not None:
        facts += [f"{view.load.supervisor:.0f}% of a processor", f"{view.load.ended:.1f} attempts/s ended"]
    return ", ".join(facts)


def _table(view: TopView, width: int | None) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the table of runners.

    :param width: columns of the terminal; None: into a pipe goes everything.
    """
    runners = view.status.supervisor.runners if view.status.supervisor is not None else []
    used = view.load.runners if view.load is not None else {}
    queues = queue_cells(runners)
    rows = [_row(runner, queues[runner.number], used.get(runner.number), width) for runner in runners]
    headings = [
        heading
        for heading in (rows[0] if rows else {})
        if width is None or {row[heading] for row in rows} != TELLING_NOTHING.get(heading)
    ]
    return headings, [[row[heading] for heading in headings] for row in rows]


def _row(
    runner: control.RunnerStatus, queue: str, percent: float | None, width: int | None
) -> dict[str, str]:
    bar = "" if width is None else _bar(runner)
    progress = render.progress(runner.done, runner.total, runner.message)
    step_time = "" if runner.step_seconds is None else in_words(runner.step_seconds)
    return {
        "RUNNER": str(runner.number),
        "PID": "" if runner.pid is None else str(runner.pid),
        "QUEUE": queue,
        "STATE": runner.state,
        "TASK": runner.task or "",
        "EXECUTION": _id(runner.execution or "", width),
        "FOR": "" if runner.seconds is None else in_words(runner.seconds),
        "IN STEP": " ".join(part for part in (step_time, runner.step) if part),
        "CPU": "" if percent is None else f"{percent:.0f}%",
        "MEMORY": "" if runner.memory is None else size_in_words(runner.memory),
        "RESTARTS": str(runner.restarts or ""),
        "PROGRESS": " ".join(part for part in (bar, progress, runner.note) if part),
    }


def _id(execution: str, width: int | None) -> str:
    return execution[-SHORTEST_ID:] if width is not None and width < WIDE else render.short_id(execution)


def _bar(runner: control.RunnerStatus) -> str:
    """Return how far a handler is as a bar."""
    if runner.done is None or not runner.total or runner.total < 0:
        return ""
    full = round(BAR * min(1.0, max(0.0, runner.done / runner.total)))
    done, left = ("━", "╌") if "utf" in sys.stdout.encoding.lower() else ("#", "-")
    return done * full + left * (BAR - full)


# Live


def _watch(site: Site, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    before: Look | None = None
    now = _look(site)
    live = Live(
        console=Console(highlight=False),
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,  # its stand-in for stdout knows no encoding
        redirect_stderr=False,
    )
    with _ended_by_signals(), live as screen, _keys() as keys:
        while True:
            view = TopView(status=now.status, load=load(before, now))
            screen.update(_frame(view, moment(site.clock.now()), live.console.width), refresh=True)
            if keys.pressed("q", within=interval if before is not None else min(GLIMPSE, interval)):
                return
            before, now = now, _look(site)


def _frame(view: TopView, now: datetime, width: int) -> Group:
    from rich.console import Group, RenderableType
    from rich.text import Text

    parts: list[RenderableType] = [Text(render.printable(_header(view, now))), ""]
    if view.status.supervisor is not None:
        parts += [render.drawn_table(*_table(view, width), cut=CUT), ""]
    if view.status.counts:
        parts += [render.drawn_table(*count_table(view.status)), ""]
    parts += [Text(render.printable(line)) for line in work_lines(view.status)]
    return Group(*parts)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End quietly at Ctrl-C, and leave the terminal as it was at a SIGTERM too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


class _Keys:
    """The keys that are pressed while something else is shown."""

    def __init__(self, descriptor: int | None) -> None:
        """:param descriptor: None: there is no keyboard."""
        self._descriptor = descriptor

    def pressed(self, wanted: str, within: float) -> bool:
        """Wait so many seconds, less if this key is pressed; tell whether it was."""
        deadline = time.monotonic() + within
        while (left := deadline - time.monotonic()) > 0:
            if self._descriptor is None:
                time.sleep(left)
            elif select.select([self._descriptor], [], [], left)[0]:
                typed = os.read(self._descriptor, 100)
                if not typed:
                    self._descriptor = None  # the terminal is gone
                elif wanted.encode() in typed.lower():
                    return True
        return False


@contextmanager
def _keys() -> Iterator[_Keys]:
    """Let keys be read as they are pressed, and not be shown."""
    import termios
    import tty

    if not sys.stdin.isatty():
        yield _Keys(None)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield _Keys(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
