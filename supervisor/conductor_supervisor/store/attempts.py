"""How attempts end, and what becomes of their executions.

Every write names an execution's id and claim, and moves only a row that is ``running`` under that claim.
What matches no row is a late voice: it changes nothing and is handed back to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct
from sqlalchemy import BigInteger, Connection, Text, bindparam, case, func, insert, select, update

from conductor_protocol.operations import FINISHED, AttemptOutcome, CrashReport, Failure, State
from conductor_protocol.units import Instant
from conductor_supervisor.store import tasks
from conductor_supervisor.store.dialect import AnyRow, JsonRows, as_list, as_rows, one_of
from conductor_supervisor.store.executions import is_held, is_running
from conductor_supervisor.store.queue import still
from conductor_supervisor.store.schema import attempts, executions, supervisors

DEATHS_ALLOWED = 2
"""Supervisor deaths in a row that an execution may live through uncharged; the next one charges it."""

CRASHED = "Crashed"
"""``Failure.type`` of an attempt whose runner died: there was no exception."""

_encode = msgspec.json.Encoder().encode


class Ending(Struct, frozen=True, kw_only=True):
    """How one attempt ended, and what its execution becomes."""

    execution: str
    claim: int
    state: State
    """The execution's new state."""
    outcome: AttemptOutcome | None
    """None: it was given back before its handler was called, and leaves no attempt behind."""
    charged: bool
    """Whether it counts against ``max_attempts``. A completion never does."""
    started: Instant
    ended: Instant
    result: bytes | None = None
    """JSON; of a completion."""
    failure: Failure | None = None
    crash: CrashReport | None = None
    due: Instant | None = None
    """Not to be run before this moment; None: its place in the queue stays."""
    waiting_for: str | None = None
    """For ``scheduled``: ``retry`` or ``window``."""
    reason: str | None = None
    """For people: why it was released, stopped or cancelled."""
    expires: Instant | None = None
    """When a finished execution may be removed; None: never."""
    frees_start: bool = False
    """Of a task with a rate: it has not begun for sure, so its place under the rate is free again."""
    suspect: bool = False
    """From now on it is one; nothing but its end takes that away."""


def end(connection: Connection, endings: Sequence[Ending]) -> list[Ending]:
    """Write how attempts ended. Return the late voices, which have changed nothing.

    An execution that would be run again is cancelled instead if somebody has asked for that meanwhile.
    """
    first = {_held_by(ending): ending for ending in reversed(endings)}
    completions = [ending for ending in first.values() if ending.state == "completed"]
    others = [ending for ending in first.values() if ending.state != "completed"]
    landed = _complete(connection, completions) | _end_otherwise(connection, others)
    if len(landed) == len(endings):
        return []
    return [
        ending
        for ending in endings
        if _held_by(ending) not in landed or first[_held_by(ending)] is not ending
    ]


def _held_by(ending: Ending) -> tuple[str, int]:
    return ending.execution, ending.claim


def _complete(connection: Connection, endings: Sequence[Ending]) -> set[tuple[str, int]]:
    """One statement for all: this is how nearly every attempt ends. Return those that were still ours."""
    if not endings:
        return set()
    rows = [
        (
            ending.execution,
            ending.claim,
            (ending.result or b"null").decode(),
            ending.started,
            ending.ended,
            ending.expires,
        )
        for ending in endings
    ]
    landed = connection.execute(_COMPLETE, {"rows": as_rows(rows)}).all()
    return {(execution, claim) for execution, claim in landed}


_completion = JsonRows("rows", Text, BigInteger, Text, BigInteger, BigInteger, BigInteger)
_COMPLETE = (
    update(executions)
    .where(executions.c.id == _completion[0], executions.c.claim == _completion[1], still("running"))
    .values(
        state="completed",
        supervisor=None,
        lost=0,
        error=None,
        result=_completion[2],
        started_at=_completion[3],
        finished_at=_completion[4],
        expires_at=_completion[5],
    )
    .returning(executions.c.id, executions.c.claim)
)


def _end_otherwise(connection: Connection, endings: Sequence[Ending]) -> set[tuple[str, int]]:
    if not endings:
        return set()
    standing = _standing(connection, endings)
    ours = [
        (_unless_cancelled(connection, ending, row), row)
        for ending in endings
        if (row := standing.get(_held_by(ending)))
    ]
    if ours:
        connection.execute(_END, [_ending(ending) for ending, _ in ours])
    if begun := [_attempt(ending, row.attempt + 1) for ending, row in ours if ending.outcome is not None]:
        connection.execute(_NOTE_ATTEMPT, begun)
    return {_held_by(ending) for ending, _ in ours}


class _Standing(NamedTuple):
    """What :func:`end` needs to know of a running row."""

    attempt: int
    cancel_requested_at: Instant | None
    cancel_reason: str | None


_STANDING = (
    select(
        executions.c.id,
        executions.c.claim,
        executions.c.attempt,
        executions.c.cancel_requested_at,
        executions.c.cancel_reason,
    )
    .where(one_of(executions.c.id, "ids"), still("running"))
    .order_by(executions.c.id)
    .with_for_update(key_share=True)
)
_END = (
    update(executions)
    .where(is_held)
    .values(
        state=bindparam("becomes"),
        supervisor=None,
        attempt=executions.c.attempt + bindparam("charge"),
        lost=executions.c.lost * bindparam("deaths_stay") + bindparam("supervisor_died"),
        error=func.coalesce(bindparam("failure"), executions.c.error),
        due_at=func.coalesce(bindparam("due"), executions.c.due_at),
        waiting_for=bindparam("waits_for"),
        started_at=bindparam("started"),
        finished_at=bindparam("finished"),
        expires_at=bindparam("expires"),
        suspect=case((bindparam("suspected") == 1, 1), else_=executions.c.suspect),
    )
)
_NOTE_ATTEMPT = insert(attempts)


def _standing(connection: Connection, endings: Sequence[Ending]) -> dict[tuple[str, int], _Standing]:
    rows = connection.execute(_STANDING, {"ids": as_list([ending.execution for ending in endings])})
    return {(key, claim): _Standing(*rest) for key, claim, *rest in rows}


def _unless_cancelled(connection: Connection, ending: Ending, row: _Standing) -> Ending:
    if row.cancel_requested_at is None or ending.state in FINISHED:
        return ending
    return msgspec.structs.replace(
        ending,
        state="cancelled",
        waiting_for=None,
        due=None,
        expires=tasks.expiry(connection, ending.execution, "cancelled", ending.ended),
    )


def _ending(ending: Ending) -> dict[str, object]:
    finished = ending.state in FINISHED
    return {
        "execution": ending.execution,
        "held": ending.claim,
        "becomes": ending.state,
        "charge": int(ending.charged),
        "deaths_stay": int(ending.outcome in ("lost", None)),
        "supervisor_died": int(ending.outcome == "lost"),
        "failure": _json(_failure(ending)),
        "due": ending.due,
        "waits_for": ending.waiting_for,
        "started": None if ending.outcome is None else ending.started,  # it has not been
        "finished": ending.ended if finished else None,
        "expires": ending.expires if finished else None,
        "suspected": int(ending.suspect),
    }


def _attempt(ending: Ending, number: int) -> dict[str, object]:
    return {
        "execution_id": ending.execution,
        "claim": ending.claim,
        "number": number,
        "outcome": ending.outcome,
        "started_at": ending.started,
        "ended_at": ending.ended,
        "error": _json(ending.failure),
        "crash": _json(ending.crash),
        "reason": ending.reason,
    }


def _failure(ending: Ending) -> Failure | None:
    """A crash has no exception; whoever waits for the result reads its cause instead.

    What was stopped or cancelled has not failed, though its runner was killed for it.
    """
    if ending.failure is None and ending.crash is not None and ending.outcome == "crashed":
        return Failure(type=CRASHED, message=ending.crash.cause)
    return ending.failure


def _json(value: Struct | None) -> str | None:
    return None if value is None else _encode(value).decode()


# After a supervisor's death


class Recovered(Struct, frozen=True):
    """Ids of executions that were running when the last supervisor died, by what became of them."""

    returned: list[str]
    charged: list[str]
    cancelled: list[str]


def recover(
    connection: Connection,
    now: Instant,
    max_attempts: Mapping[str, int],
    may_have_begun: Callable[[str, tuple[str, int]], bool] = lambda supervisor, held: True,  # noqa: ARG005
) -> Recovered:
    """Take every running execution from supervisors that are dead, those without a lease, uncharged.

    Where supervisors need no lease there is one at most: to be called before it begins. An execution that was
    begun at three supervisor deaths in a row is charged, so that it cannot take a machine down for ever. One
    that had not begun counts for nothing.

    Where nobody can say which had begun, a death counts for all that were in hand. That charges no innocent
    one all the same, for what has lived through a death is run alone from then on (``Claimed.deaths``): at
    the third death it was the only one in its runner's hands.

    :param max_attempts: by task; a task that is missing here keeps its executions.
    :param may_have_begun: tells of a supervisor's (execution, claim) whether its handler may have begun.
    """
    recovered = Recovered([], [], [])
    endings = []
    orphans = connection.execute(_ORPHANS).all()
    # Looked at once more, now that they are locked: one may have been claimed meanwhile by somebody new.
    living = set(connection.scalars(_LIVING)) if orphans else set()
    for row in orphans:
        if row.supervisor in living:
            continue
        begun = may_have_begun(row.supervisor, (row.id, row.claim))
        ending = _orphan_ending(connection, row, now, max_attempts.get(row.task), begun)
        endings.append(ending)
        if ending.charged:
            recovered.charged.append(row.id)
        elif ending.state == "cancelled":
            recovered.cancelled.append(row.id)
        else:
            recovered.returned.append(row.id)
    end(connection, endings)
    return recovered


_LIVING = select(supervisors.c.id)
_ORPHANS = (
    select(
        executions.c.id,
        executions.c.claim,
        executions.c.task,
        executions.c.attempt,
        executions.c.lost,
        executions.c.started_at,
        executions.c.cancel_requested_at,
        executions.c.cancel_reason,
        executions.c.supervisor,
    )
    .where(is_running, executions.c.supervisor.not_in(select(supervisors.c.id)))
    .order_by(executions.c.id)
    # Whom a client keeps is taken at the next look.
    .with_for_update(of=executions, key_share=True, skip_locked=True)
)


def _orphan_ending(
    connection: Connection, row: AnyRow, now: Instant, max_attempts: int | None, begun: bool
) -> Ending:
    lost = Ending(
        execution=row.id,
        claim=row.claim,
        state="ready",
        outcome="lost",
        charged=False,
        started=row.started_at,
        ended=now,
        reason="its supervisor died",
    )
    if row.cancel_requested_at is not None:
        return msgspec.structs.replace(
            lost,
            state="cancelled",
            outcome="cancelled",
            reason=row.cancel_reason,
            expires=tasks.expiry(connection, row.id, "cancelled", now),
        )
    if not begun:
        return msgspec.structs.replace(lost, outcome=None, reason=None)
    if row.lost < DEATHS_ALLOWED:
        return lost
    last = max_attempts is not None and row.attempt + 1 >= max_attempts
    return msgspec.structs.replace(
        lost,
        state="failed" if last else "ready",
        outcome="crashed",
        charged=True,
        reason=None,
        crash=CrashReport(cause="was running at three supervisor deaths in a row"),
        expires=tasks.expiry(connection, row.id, "failed", now) if last else None,
    )
