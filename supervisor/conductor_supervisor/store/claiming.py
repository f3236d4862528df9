"""Claiming: taking ready executions for a supervisor's runners, within the limits of their tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from sqlalchemy import Connection, bindparam, func, select, update

from conductor_protocol.manifest import RateSpec
from conductor_protocol.units import Instant
from conductor_supervisor.store import keys, starts
from conductor_supervisor.store.dialect import AnyRow, as_list, lock_tasks, one_of
from conductor_supervisor.store.executions import is_running
from conductor_supervisor.store.front import Front
from conductor_supervisor.store.queue import FIRST_READY, still
from conductor_supervisor.store.schema import executions


class Wanted(Struct, frozen=True):
    """A task of which work is wanted."""

    task: str
    at_most: int
    """Executions to claim at most, this time."""
    concurrency: int | None = None
    """Executions that may run at once, over all supervisors."""
    by_key: int | None = None
    """Executions with the same key that may run at once, over all supervisors."""
    rate: RateSpec | None = None
    """Executions that may start within a period, over all supervisors."""
    suspects: bool | None = None
    """Only executions that are suspects, or only such that are not; None: any."""
    served: int = 0
    """The number of the last claim that has brought some of it; 0: none, of late."""

    @property
    def limited(self) -> bool:
        """Whether other supervisors must wait while we decide about it."""
        return self.concurrency is not None or self.by_key is not None or self.rate is not None


class Claimed(Struct, frozen=True):
    """An execution that is now ours."""

    id: str
    claim: int
    task: str
    attempt: int
    """Attempts charged before this one."""
    event: str
    scheduled_for: Instant | None
    payload: bytes
    suspect: bool = False
    """It may have brought a shared runner down."""
    deaths: int = 0
    """Deaths of supervisors in a row at which it was, or may have been, running."""

    @property
    def first_claim(self) -> bool:
        """Nobody has run it before, so it has no steps."""
        return self.claim == 1


class Claims(NamedTuple):
    """What a claim has brought."""

    claimed: list[Claimed]
    full_until: dict[str, Instant]
    """Tasks that have used up their rate, and when the next of each can start at the earliest."""
    look_again_at: float | None = None
    """Monotonic moment at which there may be more, if nothing was found: not all was looked at, or somebody
    has it locked.
    """


FEW = 2
"""Tasks wanted up to which a look at each takes less than to find out first which of them have work."""

SHARES = 2
"""How many times its share of a claim a task is asked for first."""

LEAST_ASKED = 50
"""What it is asked for at least, then."""

MORE = 4
"""How many times as much it is asked for next."""

LOCKED_FOR = 1.0
"""Seconds until the next look at what somebody has locked."""


def claim(
    connection: Connection,
    wanted: Sequence[Wanted],
    count: int,
    supervisor: str,
    now: Instant,
    front: Front | None = None,
) -> Claims:
    """Take up to ``count`` ready executions: highest priority first.

    Of one priority tasks take turns, one execution each, so that no number of one task's executions keeps
    another's waiting; first comes the task that was served longest ago, then what is due longest. Of one task
    what is due longest comes first, then the oldest.

    Looks only at the tasks wanted, each through its own stretch of the index: any number of ready rows of
    other tasks costs nothing. What runs and what has started is counted here, in the claiming transaction and
    under the task's lock, so no task runs above its limits, not by one.

    :param front: what earlier claims have found out of where the queues begin.
    """
    if count < 1:
        return Claims([], {})
    front = Front() if front is None else front
    tasks = _open_tasks(connection, front, wanted, now)
    candidates = _candidates(connection, front, tasks, count)
    claimed = _take(connection, [row.id for row in candidates], supervisor, now) if candidates else []
    look_again_at = None if claimed else _look_again_at(connection, front, tasks)
    full_until = _note_starts(connection, [want for want, _ in tasks], claimed, now)
    return Claims(claimed, full_until, look_again_at)


def _take(connection: Connection, ids: Sequence[str], supervisor: str, now: Instant) -> list[Claimed]:
    rows = connection.execute(_CLAIM, {"ids": as_list(ids), "by": supervisor, "now": now}).all()
    claimed = {one.id: one for one in map(_as_claimed, rows)}
    return [claimed[key] for key in ids]


def _look_again_at(connection: Connection, front: Front, tasks: Sequence[tuple[Wanted, int]]) -> float | None:
    spared = front.spared_until([want.task for want, _ in tasks])
    if spared is None and any(room > 0 and _may_start(connection, want) for want, room in tasks):
        return front.now() + LOCKED_FOR
    return spared


def _may_start(connection: Connection, want: Wanted) -> bool:
    """Tell whether an execution is there that could be claimed if nobody had it locked."""
    if want.by_key is not None:
        return keys.any_has_room(connection, want.task, want.by_key, want.suspects)
    return connection.scalar(FIRST_READY[want.suspects], {"task": want.task}) is not None


def _note_starts(
    connection: Connection, wanted: Sequence[Wanted], claimed: Sequence[Claimed], now: Instant
) -> dict[str, Instant]:
    """Count what is claimed of tasks with a rate; return which of them are full, and until when."""
    rates = {want.task: want.rate for want in wanted if want.rate is not None}
    if not rates:
        return {}
    starts.note_claims(connection, [(one.task, one.id, one.claim) for one in claimed if one.task in rates])
    full = {task: starts.full_until(connection, task, rate, now) for task, rate in rates.items()}
    return {task: until for task, until in full.items() if until is not None}


_RUNNING_BY_TASK = select(executions.c.task, func.count()).where(is_running).group_by(executions.c.task)
_CLAIMED_COLUMNS = (
    executions.c.id,
    executions.c.claim,
    executions.c.task,
    executions.c.attempt,
    executions.c.event,
    executions.c.scheduled_for,
    executions.c.payload,
    executions.c.suspect,
    executions.c.lost,
)
_CLAIM = (
    update(executions)
    .where(one_of(executions.c.id, "ids"), still("ready"))
    .values(
        state="running",
        claim=executions.c.claim + 1,
        supervisor=bindparam("by"),
        started_at=bindparam("now"),
        progress=None,
    )
    .returning(*_CLAIMED_COLUMNS)
)


def _open_tasks(
    connection: Connection, front: Front, wanted: Sequence[Wanted], now: Instant
) -> list[tuple[Wanted, int]]:
    """Return which of the wanted tasks have ready rows, with how many may be claimed of each."""
    # Whoever takes a task's lock keeps others waiting: not for a task without work.
    if len(wanted) > FEW or any(want.limited for want in wanted):
        have_work = front.may_have_work(connection, [want.task for want in wanted])
        wanted = [want for want in wanted if want.task in have_work]
    running: dict[str, int] = {}
    if limited := [want.task for want in wanted if want.limited]:
        lock_tasks(connection, limited)
    if any(want.concurrency is not None for want in wanted):
        running = dict(connection.execute(_RUNNING_BY_TASK).all())
    return [(want, _room(connection, want, running.get(want.task, 0), now)) for want in wanted]


def _room(connection: Connection, want: Wanted, running: int, now: Instant) -> int:
    room = want.at_most
    if want.concurrency is not None:
        room = min(room, want.concurrency - running)
    if want.rate is not None:
        room = min(room, starts.room(connection, want.task, want.rate, now))
    return room


def _candidates(
    connection: Connection, front: Front, tasks: Sequence[tuple[Wanted, int]], count: int
) -> list[AnyRow]:
    """Return the first in the queue, of all the tasks together.

    Fifty tasks with work need not each name as many as are wanted in all, and lock them. So each is asked for
    a share first, and for more only if all that it has named is among the first.
    """
    most = {want: min(room, count) for want, room in tasks if room > 0}
    share = max(LEAST_ASKED, SHARES * count // max(1, len(most)))
    asked = {want: bound if want.by_key is not None else min(bound, share) for want, bound in most.items()}
    rows = {want: _of_task(connection, front, want, number) for want, number in asked.items()}
    found = _in_turns(rows)[:count]
    while more := _who_may_have_more(most, asked, rows, found):
        for want in more:
            asked[want] = min(most[want], asked[want] * MORE)
            rows[want] = _of_task(connection, front, want, asked[want])
        found = _in_turns(rows)[:count]
    for want, last in {want.task: (want, row) for want, row in found}.values():
        front.claimed(want.task, want.suspects, last)
    return [row for _, row in found]


def _who_may_have_more(
    most: Mapping[Wanted, int],
    asked: Mapping[Wanted, int],
    rows: Mapping[Wanted, Sequence[AnyRow]],
    found: Sequence[tuple[Wanted, AnyRow]],
) -> list[Wanted]:
    """Return the tasks that were asked for less than they may have, and of which all came among the first."""
    held_short = [want for want in most if len(rows[want]) == asked[want] < most[want]]
    if not held_short:
        return []
    chosen = Counter(want.task for want, _ in found)
    return [want for want in held_short if chosen[want.task] == asked[want]]


def _in_turns(rows: Mapping[Wanted, Sequence[AnyRow]]) -> list[tuple[Wanted, AnyRow]]:
    """Put the candidates of several tasks, each in its own order, into one."""
    found = [(want, row) for want, of_task in rows.items() for row in of_task]
    if len(rows) > 1:
        turns = Counter[tuple[str, int]]()
        places = {}
        for want, row in found:
            turns[want.task, row.priority] += 1
            places[row.id] = (-row.priority, turns[want.task, row.priority], want.served, row.due_at, row.id)
        found.sort(key=lambda one: places[one[1].id])
    return found


def _of_task(connection: Connection, front: Front, want: Wanted, most: int) -> Sequence[AnyRow]:
    if want.by_key is not None:
        return keys.candidates(connection, want.task, want.by_key, want.suspects, most)
    return front.candidates(connection, want.task, want.suspects, most)


def claimed(connection: Connection, held: Sequence[tuple[str, int]]) -> list[Claimed]:
    """Return what is still running under these very claims."""
    wanted = set(held)
    rows = connection.execute(_CLAIMED, {"ids": as_list([execution for execution, _ in held])})
    return [one for one in map(_as_claimed, rows) if (one.id, one.claim) in wanted]


def _as_claimed(row: AnyRow) -> Claimed:
    key, claim, task, attempt, event, scheduled_for, payload, suspect, deaths = row
    return Claimed(key, claim, task, attempt, event, scheduled_for, payload.encode(), suspect == 1, deaths)


_CLAIMED = select(*_CLAIMED_COLUMNS).where(one_of(executions.c.id, "ids"), still("running"))
