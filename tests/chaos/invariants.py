"""What must be true after a story, whatever has happened in it: by the diary, the database and the system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import diary
import psutil
from diary import Line

from conductor_protocol.operations import ExecutionView

CHARGED = frozenset({"failed", "crashed"})
"""Outcomes that count against ``max_attempts``: the table in docs."""

ENDS_AS = {"fails": "failed", "gives-up": "failed", "lingering": "cancelled", "stubborn": "cancelled"}
"""Tasks that do not end as completed."""

THIRD_DEATH = "was running at three supervisor deaths in a row"


def violations(
    lines: Sequence[Line],
    views: Sequence[ExecutionView],
    invoked: Iterable[str],
    struck: frozenset[int],
    supervisors_lived: bool,
) -> list[str]:
    """Return every sentence of the design that the story has shown to be untrue.

    :param invoked: the executions that clients were told of.
    :param struck: processes of runners to which something has happened.
    :param supervisors_lived: nothing has happened to any supervisor.
    """
    told = diary.by_execution(lines)
    found = [
        *(f"{line.task} {line.execution} {line.detail}" for line in lines if line.what == "violation"),
        *_lost(views, invoked),
        *_fired_otherwise(views),
        *_children(views),
        *_crashed_too_often(lines, views, struck),
    ]
    for view in views:
        mine = told.get(view.id, [])
        checks = (
            _ended_otherwise(view),
            _repeated(mine),
            _overlapping(mine),
            _charged_otherwise(view, mine, struck, supervisors_lived),
        )
        found += [f"{view.task} {view.id}: {what}" for check in checks for what in check]
    return found


def _lost(views: Sequence[ExecutionView], invoked: Iterable[str]) -> Iterator[str]:
    for lost in set(invoked) - {view.id for view in views}:
        yield f"execution {lost}, of which a client was told, is lost"


def _ended_otherwise(view: ExecutionView) -> Iterator[str]:
    if view.state == "running":
        yield "is running, and nobody is left to run it"
    elif view.task != "ticks" and view.state != ENDS_AS.get(view.task, "completed"):
        yield f"ended as {view.state}: {view.error}"


def _repeated(lines: Sequence[Line]) -> Iterator[str]:
    """An acknowledged step never runs again."""
    acked = set()
    for line in lines:
        if line.what == "acked":
            acked.add(line.detail)
        elif line.what == "run" and line.detail in acked:
            yield f"{line.detail} ran again though it was acknowledged"


def _overlapping(lines: Sequence[Line]) -> Iterator[str]:
    """Whatever another attempt has begun, the one before says nothing more."""
    newest = None
    for line in lines:
        if line.what == "begin":
            newest = line.attempt
        elif line.attempt != newest:
            yield f"attempt {line.attempt} still said {line.what!r} beside attempt {newest}"


def _charged_otherwise(
    view: ExecutionView, lines: Sequence[Line], struck: frozenset[int], supervisors_lived: bool
) -> Iterator[str]:
    outcomes = Counter(attempt.outcome for attempt in view.attempts)
    noted = Counter(line.what for line in lines)
    charged = sum(outcomes[outcome] for outcome in CHARGED)
    if view.attempt != charged:
        yield f"{view.attempt} attempts are charged, of {dict(outcomes)}"
    # When a supervisor dies, nothing need be left of an attempt whose end it had heard of and not committed.
    cut_off = len(diary.unfinished(lines))
    if cut_off > len(view.attempts):
        yield f"it began {cut_off} times and did not end, and there are {len(view.attempts)} attempts"
    if outcomes["failed"] > noted["raise"]:
        yield f"it raised {noted['raise']} times, and has failed {outcomes['failed']} times"
    if noted["begin"] > len(view.attempts) and supervisors_lived:
        yield f"it began {noted['begin']} times, and there are {len(view.attempts)} attempts"
    if view.task == "crashes" and view.state == "completed" and not outcomes["crashed"]:
        yield f"it crashed, and {dict(outcomes)} came of it"
    yield from _crashed_without_cause(view, lines, struck)


def _crashed_without_cause(
    view: ExecutionView, lines: Sequence[Line], struck: frozenset[int]
) -> Iterator[str]:
    """Whoever is charged for a crash was running in the process that crashed."""
    begun = [line.pid for line in lines if line.what == "begin"]
    culprits = (set(begun) & struck) | {line.pid for line in lines if line.what == "crash"}
    # A process may die between the moment at which it is said to have begun and its first line.
    unseen = max(0, len(view.attempts) - len(begun))
    if len(crashes := _crashes(view)) > len(culprits) + unseen:
        yield f"it is charged for {crashes}, and only processes {culprits} crashed under it"


def _crashed_too_often(
    lines: Sequence[Line], views: Sequence[ExecutionView], struck: frozenset[int]
) -> Iterator[str]:
    """No crash charges two."""
    processes = struck | {line.pid for line in lines if line.what == "crash"}
    crashes = [crash for view in views for crash in _crashes(view)]
    if len(crashes) > len(processes):
        yield f"{len(crashes)} attempts are charged for the crashes of {len(processes)} processes: {crashes}"


def _crashes(view: ExecutionView) -> list[str]:
    """Return what the attempts crashed of, but for those that were charged at the third death."""
    causes = [a.crash.cause if a.crash else "nothing" for a in view.attempts if a.outcome == "crashed"]
    return [cause for cause in causes if cause != THIRD_DEATH]


def _fired_otherwise(views: Sequence[ExecutionView]) -> Iterator[str]:
    """Every firing made one execution, and none was left out."""
    fired = sorted(
        view.scheduled_for for view in views if view.task == "ticks" and view.scheduled_for is not None
    )
    for before, after in pairwise(fired):
        if (after - before).total_seconds() != 60:
            yield f"the firing after {before} is that of {after}"


def _children(views: Sequence[ExecutionView]) -> Iterator[str]:
    """Each execution that invokes another has done so; again in a later attempt, if the first has ended."""
    children: Mapping[str | None, int] = Counter(v.dedupe_key for v in views if v.task == "quick")
    for view in views:
        if view.task == "invokes" and view.state == "completed" and not children[f"child of {view.id}"]:
            yield f"execution {view.id} invoked nobody"


def leftovers(folder: Path, runtimes: Iterable[str]) -> list[str]:
    """Return what is left of supervisors that have all been stopped: processes, and files but for locks.

    :param runtimes: the runtime folders of those that were stopped.
    """
    left = [f"process {pid} lives: {command}" for pid, command in _living(f"{folder}/")]
    for runtime in runtimes:
        left += [f"{path} is left" for path in (folder / runtime).iterdir() if path.name != "lock"]
    return left


def _living(mark: str) -> Iterator[tuple[int, list[str]]]:
    """Return the processes that have inherited an environment with this mark."""
    for process in psutil.process_iter():
        try:
            mine = any(value.startswith(mark) for value in process.environ().values())
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid, process.cmdline()
        except psutil.Error:  # it has just ended, or is another user's
            continue
