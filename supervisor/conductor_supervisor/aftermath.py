"""What a supervisor that died has left in its runtime folder: the flight recorders of its runners.

A prefetched execution is ``running`` from its claim on. Only the recorders tell which had begun when the
supervisor died, and how those ended whose reports had not been committed. They are read before anything else
is started, acted upon in the transaction that recovers the executions, and then removed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from sqlalchemy import Connection

from conductor_protocol.messages import Failed, Finished, Report
from conductor_protocol.recorder import Reading, RecorderReader, places_in
from conductor_protocol.units import Instant
from conductor_supervisor import endings
from conductor_supervisor.processes.spawn import RECORDER_PREFIX
from conductor_supervisor.roster import Held, Task
from conductor_supervisor.store import attempts, executions
from conductor_supervisor.store.attempts import Ending
from conductor_supervisor.store.database import is_damaged, is_transient
from conductor_supervisor.store.executions import Claimed
from conductor_supervisor.writes import Taken

Final = Finished | Failed
"""Reports on handlers that ran to their end."""

log = logging.getLogger(__name__)


class Aftermath(Struct, frozen=True):
    """What the recorders of dead runners tell."""

    begun: frozenset[tuple[str, int]] = frozenset()
    """Executions, with their claims, whose handlers had been called and had not ended."""
    complete: bool = False
    """There were recorders, and all could be read: nothing else had begun."""
    supervisor: str | None = None
    """Whose runners they were, where that is known."""
    reports: tuple[Report, ...] = ()
    """How attempts ended that had ended, as far as the supervisor may not have heard of it."""

    def may_have_begun(self, supervisor: str, held: tuple[str, int]) -> bool:
        """Tell whether the handler of a supervisor's (execution, claim) may have been called."""
        return held in self.begun or not self.complete or supervisor != self.supervisor


def read(folder: Path, supervisor: str | None) -> Aftermath:
    """Read every recorder in a runtime folder. No runner that writes there may be alive any more.

    :param supervisor: the one that was there last.
    """
    return understood([page for recorder in _recorders(folder) for page in _read_one(recorder)], supervisor)


def understood(
    pages: Sequence[tuple[Reading | None, list[Report]]], supervisor: str | None = None
) -> Aftermath:
    """Return what the pages of all dead runners tell together, each with the reports that it keeps."""
    readings = [reading for reading, _ in pages]
    return Aftermath(
        frozenset((one.execution, one.claim) for one in readings if one and one.execution is not None),
        complete=bool(readings) and None not in readings,
        supervisor=supervisor,
        reports=tuple(report for _, kept in pages for report in kept),
    )


def sweep(folder: Path) -> None:
    """Remove the recorders, once what they tell is committed."""
    for recorder in _recorders(folder):
        recorder.unlink(missing_ok=True)


def _recorders(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{RECORDER_PREFIX}*"))


def _read_one(recorder: Path) -> list[tuple[Reading | None, list[Report]]]:
    """Return what a recorder says and which reports it keeps; what cannot be trusted is unknown.

    That of a shared runner tells of several executions: the reports come with the first.
    """
    try:
        page = RecorderReader(recorder, places_in(recorder))
    except (OSError, ValueError):  # not to be opened, or shorter than a page
        return [(None, [])]
    try:
        if page.is_blank():
            return [(Reading(phase="idle"), [])]
        beside = page.read_places()
        readings: list[Reading | None] = [page.read(), *([None] if beside is None else beside)]
        return [(reading, [] if number else page.outbox()) for number, reading in enumerate(readings)]
    finally:
        page.close()


def act_on_reports(
    connection: Connection, reports: Iterable[Report], tasks: Mapping[str, Task], now: Instant
) -> int:
    """End the executions whose handlers had returned or raised, as if the reports had arrived in time.

    Those that were released need nothing: they are recovered like all others.

    :param tasks: what is known by now; executions of other tasks are recovered like all others.
    :return: how many have ended so.
    """
    ended = {(report.execution, report.claim): report for report in reports if isinstance(report, Final)}
    found = executions.claimed(connection, list(ended))
    stored = 0
    for claimed in found:
        if claimed.task not in tasks:
            continue
        try:
            ending = _ending(claimed, tasks[claimed.task], ended[claimed.id, claimed.claim], now)
            with connection.begin_nested():
                stored += not attempts.end(connection, [ending])
        except Exception as error:
            if is_transient(error) or is_damaged(error):
                raise
            log.exception("execution %s: its report cannot be stored; it is run again", claimed.id)
    return stored


def _ending(claimed: Claimed, task: Task, report: Finished | Failed, now: Instant) -> Ending:
    held = Held(Taken(claimed, [], 0), task, claimed.attempt + 1, now)
    if isinstance(report, Finished):
        return endings.completed(held, report, now)
    return endings.failed(held, report, now)
