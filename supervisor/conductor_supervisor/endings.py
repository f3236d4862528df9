"""How attempts end: one function an ending, from what is known to what is stored. No input or output here.

Charged: failed, crashed. Not charged: completed, cancelled, released, stopped. The table is in
``docs/architecture.md``; the moves are those of ``rules.lifecycle``.
"""

from __future__ import annotations

import random
from typing import Literal

from msgspec import structs

from conductor_protocol.messages import Failed, Finished, Released
from conductor_protocol.operations import TIMED_OUT, AttemptOutcome, CrashReport, Failure, State
from conductor_protocol.units import MICROSECONDS, Instant
from conductor_supervisor.roster import Held, StopOrder
from conductor_supervisor.rules.retry import after_failure
from conductor_supervisor.store.attempts import CRASHED, Ending
from conductor_supervisor.store.claiming import Claimed

TOO_LARGE = "conductor.TooLarge"
"""``error.type`` of an execution whose payload cannot be sent to a runner."""


def completed(held: Held, report: Finished, now: Instant) -> Ending:
    """The handler returned."""
    keep = held.task.spec.keep_completed
    return Ending(
        execution=held.id,
        claim=held.claim,
        state="completed",
        outcome="completed",
        charged=False,
        started=_started(report.seconds, now),
        ended=now,
        result=report.result,
        expires=_after(now, keep),
    )


def failed(held: Held, report: Failed, now: Instant) -> Ending:
    """The handler raised: tried again after the backoff, unless it was the last attempt."""
    return _charged(
        held,
        now,
        outcome="failed",
        started=_started(report.seconds, now),
        failure=report.failure,
        retryable=report.retryable,
        retry_after=report.retry_after,
    )


def timed_out(held: Held, report: Released, now: Instant) -> Ending:
    """The handler took longer than it may, and unwound when it was told so: a failure like any other."""
    cause = held.overdue.cause if held.overdue is not None else "over its timeout"
    return _charged(
        held,
        now,
        outcome="failed",
        started=_started(report.seconds, now),
        failure=Failure(type=TIMED_OUT, message=f"the attempt was stopped: {cause}"),
    )


def crashed(held: Held, crash: CrashReport, now: Instant) -> Ending:
    """Its runner died with the execution running: by itself, or because we stopped it."""
    was_stopped_for_time = held.overdue is not None and held.overdue.cause in crash.cause
    return _charged(
        held,
        now,
        outcome="crashed",
        started=_started(crash.attempt_seconds or 0.0, now),
        failure=Failure(type=TIMED_OUT if was_stopped_for_time else CRASHED, message=crash.cause),
        crash=crash,
    )


def by_order(held: Held, order: StopOrder, crash: CrashReport, now: Instant) -> Ending:
    """The supervisor had it interrupted, or its runner stopped."""
    if order.outcome == "crashed":
        return crashed(held, crash, now)
    if order.outcome == "cancelled":
        return cancelled(held, now, crash)
    return released(held, order.reason or "stopped", now, "stopped", crash)


def suspected(held: Held, crash: CrashReport, now: Instant) -> Ending:
    """Its shared runner died with several inside: given back uncharged, to be run alone."""
    return structs.replace(released(held, "suspect", now, "stopped", crash), suspect=True)


def unsendable(held: Held, limit: int, now: Instant) -> Ending:
    """Its payload is larger than a runner can be sent: it fails, for no other attempt could begin either."""
    message = (
        f"the payload has {len(held.taken.claimed.payload):,} bytes, and a runner can be sent {limit:,}; "
        "store it elsewhere, as a file or an object, and pass a reference to it"
    )
    return _charged(
        held,
        now,
        outcome="failed",
        started=now,
        failure=Failure(type=TOO_LARGE, message=message),
        retryable=False,
    )


def cancelled(held: Held, now: Instant, crash: CrashReport | None = None) -> Ending:
    """Somebody cancelled it, and it unwound, was stopped (then with a report) or had not begun."""
    return Ending(
        execution=held.id,
        claim=held.claim,
        state="cancelled",
        outcome="cancelled",
        charged=False,
        started=_began(held, now),
        ended=now,
        reason=held.cancelled or None,
        crash=crash,
        expires=_after(now, held.task.spec.keep_completed),
    )


def released(
    held: Held,
    reason: str,
    now: Instant,
    outcome: Literal["released", "stopped"] = "released",
    crash: CrashReport | None = None,
) -> Ending:
    """Given back uncharged, with its steps; for a closed window, until the next opening."""
    if held.cancelled is not None:
        return cancelled(held, now, crash)
    return _given_back(held, now, outcome, reason, crash)


def unbegun(held: Held, now: Instant) -> Ending:
    """Given back before its handler was called: this leaves no attempt behind."""
    if held.cancelled is not None:
        return cancelled(held, now)
    frees_start = held.task.spec.rate is not None and not held.may_have_begun
    return structs.replace(_given_back(held, now, None), frees_start=frees_start)


def unknown(claimed: Claimed, now: Instant) -> Ending:
    """Given back at once: the code has no such task."""
    return Ending(
        execution=claimed.id,
        claim=claimed.claim,
        state="ready",
        outcome=None,
        charged=False,
        started=now,
        ended=now,
        frees_start=True,
    )


def _given_back(
    held: Held,
    now: Instant,
    outcome: AttemptOutcome | None,
    reason: str | None = None,
    crash: CrashReport | None = None,
) -> Ending:
    opening = held.task.windows.next_opening(now)
    waits = opening is not None and opening > now
    return Ending(
        execution=held.id,
        claim=held.claim,
        state="scheduled" if waits else "ready",
        outcome=outcome,
        charged=False,
        started=_began(held, now),
        ended=now,
        due=opening if waits else None,
        waiting_for="window" if waits else None,
        reason=reason,
        crash=crash,
    )


def _charged(
    held: Held,
    now: Instant,
    *,
    outcome: AttemptOutcome,
    started: Instant,
    failure: Failure,
    crash: CrashReport | None = None,
    retryable: bool = True,
    retry_after: float | None = None,
) -> Ending:
    spec = held.task.spec
    delay = after_failure(spec, held.attempt, retryable, retry_after, random.random)
    if held.cancelled is not None and delay is not None:
        return cancelled(held, now, crash)
    state: State = "failed" if delay is None else "scheduled" if delay > 0 else "ready"
    return Ending(
        execution=held.id,
        claim=held.claim,
        state=state,
        outcome=outcome,
        charged=True,
        started=started,
        ended=now,
        failure=failure,
        crash=crash,
        due=_after(now, delay),
        waiting_for="retry" if state == "scheduled" else None,
        expires=_after(now, spec.keep_failed) if state == "failed" else None,
    )


def _began(held: Held, now: Instant) -> Instant:
    return min(held.claimed, now)


def _started(seconds: float, now: Instant) -> Instant:
    return now - int(seconds * MICROSECONDS)


def _after(now: Instant, delay: float | None) -> Instant | None:
    return None if delay is None else now + int(delay * MICROSECONDS)
