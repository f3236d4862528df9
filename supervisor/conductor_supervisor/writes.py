"""Every change and question that the loop may hand to the store thread, and how a group of them is applied.

A write carries what is to be stored and ``then``, what the loop does once it is committed. A group is applied
in one transaction of set-based statements, in an order that lets each kind see the ones before: steps first,
for a step that came before the end of its attempt is done; endings free places under a limit, so claims come
last and fill them in the same commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar, cast

from sqlalchemy import Connection

from conductor_protocol.manifest import TaskSpec
from conductor_protocol.messages import RecordedStep
from conductor_protocol.operations import MAX_PAYLOAD, Answer, Operation, ProgressView
from conductor_protocol.units import Instant
from conductor_supervisor.store import (
    attempts,
    changes,
    claiming,
    executions,
    leases,
    output,
    schedules,
    starts,
    steps,
    tasks,
)
from conductor_supervisor.store.attempts import Ending, Recovered
from conductor_supervisor.store.claiming import Claimed, Wanted
from conductor_supervisor.store.dialect import ALL_TASKS, lock_tasks
from conductor_supervisor.store.front import Front
from conductor_supervisor.store.glance import glance
from conductor_supervisor.store.leases import LockTime, Member
from conductor_supervisor.store.output import Chunk
from conductor_supervisor.store.perform import is_write, perform
from conductor_supervisor.store.schedules import Firing
from conductor_supervisor.store.steps import NewStep

PAGE_BYTES = 256 * 1024
"""How much of an execution's recorded steps travels to its runner at once."""

SWEEP_ROWS = 1000
"""How many expired executions one sweep removes at most."""

Effect: TypeAlias = Callable[[], None]
"""What the loop does after a commit."""


@dataclass(slots=True)
class EndAttempt:
    """Store how an attempt ended. ``then`` hears whether it came too late: its claim was no longer live."""

    ending: Ending
    then: Callable[[bool], None]
    refused: Callable[[str], None]


@dataclass(slots=True)
class RecordStep:
    """Record a step's result. ``then`` hears whether it came too late."""

    step: NewStep
    then: Callable[[bool], None]
    refused: Callable[[str], None]


@dataclass(slots=True)
class LoadPage:
    """Read the recorded steps after the one named, or from the first."""

    execution: str
    after: str | None
    then: Callable[[list[RecordedStep]], None]
    refused: Callable[[str], None]


@dataclass(slots=True)
class Perform:
    """Perform a client's operation."""

    operation: Operation
    then: Callable[[Answer], None]
    refused: Callable[[str], None]
    max_payload: int = MAX_PAYLOAD
    max_answer: int | None = None


@dataclass(slots=True)
class Fire:
    """Create the executions of cron firings. ``then`` hears how many are new."""

    firings: Sequence[Firing]
    then: Callable[[int], None]
    refused: Callable[[str], None]


@dataclass(slots=True)
class NoteStart:
    """Write down that an execution of a task with a rate has started by now."""

    execution: str
    claim: int
    then: Callable[[], None]
    refused: Callable[[str], None]


@dataclass(slots=True)
class KeepProgress:
    """Store what handlers last said of their progress."""

    progress: Sequence[tuple[str, int, ProgressView]]
    then: Callable[[], None]
    refused: Callable[[str], None]


@dataclass(slots=True)
class KeepOutput:
    """Store what executions have printed, of each the last ``limit`` bytes: the same in all these writes."""

    chunks: Sequence[Chunk]
    limit: int
    then: Callable[[], None]
    refused: Callable[[str], None]


@dataclass(slots=True)
class Sweep:
    """Remove finished executions whose time is over. ``then`` hears how many."""

    then: Callable[[int], None]
    refused: Callable[[str], None]


@dataclass(slots=True)
class RenewLease:
    """Let our lease begin anew. ``then`` hears whether we had one until now."""

    member: Member
    microseconds: int
    then: Callable[[bool], None]
    refused: Callable[[str], None]


@dataclass(slots=True)
class GiveUpLease:
    """Give our lease up: what is still running under it is anybody's."""

    member: str
    then: Callable[[], None]
    refused: Callable[[str], None]


@dataclass(slots=True)
class TakenOver:
    """What became of the executions of supervisors that are gone."""

    gone: list[Member]
    recovered: Recovered
    ours: set[tuple[str, int]]
    """Every (execution, claim) that is running under our own name."""
    ends: Mapping[str, Instant]
    """When the lease of each supervisor that is left ends."""


@dataclass(slots=True)
class TakeOver:
    """Take the executions of supervisors whose leases have run out back to the queue."""

    member: str
    max_attempts: Mapping[str, int]
    unchanged: Mapping[str, Instant]
    """The leases that stand still, and the ends that they have had for long."""
    then: Callable[[TakenOver], None]
    refused: Callable[[str], None]


@dataclass(slots=True)
class Declare:
    """Write down what the code declares now."""

    specs: Sequence[TaskSpec]
    then: Callable[[], None]
    refused: Callable[[str], None]


@dataclass(slots=True)
class Seen:
    """What a look at the database found."""

    promoted: int
    next_due: Instant | None
    """When the next execution is due, but for those that are held up."""
    cancels: list[tuple[str, int, str | None]]
    paused: set[tuple[tasks.Kind, str]]
    held_up: bool = False
    """Nothing but executions that somebody has locked is due."""


@dataclass(slots=True)
class Look:
    """Make ready what has become due, and see what clients have changed."""

    supervisor: str
    then: Callable[[Seen], None]
    refused: Callable[[str], None]


@dataclass(slots=True)
class Taken:
    """One execution claimed, with the first page of its recorded steps."""

    claimed: Claimed
    steps: list[RecordedStep]
    steps_recorded: int


@dataclass(slots=True)
class Brought:
    """What a claim has brought."""

    taken: list[Taken]
    full_until: dict[str, Instant]
    """Tasks that have used up their rate, and when the next of each can start at the earliest."""
    look_again_at: float | None = None
    """See :class:`claiming.Claims`."""


@dataclass(slots=True)
class Claim:
    """Claim up to ``count`` executions of the tasks wanted, in the queue's order."""

    wanted: Sequence[Wanted]
    count: int
    supervisor: str
    then: Callable[[Brought], None]
    refused: Callable[[str], None]


Write: TypeAlias = (
    EndAttempt
    | RecordStep
    | NoteStart
    | Fire
    | Perform
    | KeepProgress
    | KeepOutput
    | Sweep
    | Declare
    | Look
    | LoadPage
    | RenewLease
    | TakeOver
    | GiveUpLease
    | Claim
)

SPEAK_OF_EXECUTIONS: set[type[object]] = {RecordStep, EndAttempt, Claim}
"""Writes that need a lease, where there are leases: they say something of what runs, or take more."""

W = TypeVar("W")


def apply(
    connection: Connection,
    group: Sequence[Write],
    now: Instant,
    member: str | None = None,
    front: Front | None = None,
    lock_time: LockTime = LockTime.USUAL,
) -> list[Effect]:
    """Make all writes of a group in the caller's transaction; return what to do after its commit.

    :param member: our name among the supervisors, where we need a lease: without one, whatever we say of an
        execution comes too late, and we claim none.
    :param front: what earlier claims have found out of where the queues begin.
    :param lock_time: how long to wait for somebody's lock.
    """
    kinds = _by_kind(group)
    speaks = not kinds.keys().isdisjoint(SPEAK_OF_EXECUTIONS)
    if member is not None and (RenewLease in kinds or not speaks):
        leases.limit(connection, lock_time)
    renewed = [
        partial(w.then, leases.renew(connection, w.member, w.microseconds)) for w in _of(kinds, RenewLease)
    ]
    stands = member is None or not speaks or leases.stands(connection, member, lock_time)
    return [
        *renewed,
        *_record(connection, _of(kinds, RecordStep), stands),
        *_note_starts(connection, _of(kinds, NoteStart), now),
        *_end(connection, _of(kinds, EndAttempt), stands),
        *(partial(w.then, schedules.fire(connection, w.firings, now)) for w in _of(kinds, Fire)),
        *(partial(w.then, _perform(connection, w, now)) for w in _of(kinds, Perform)),
        *_keep_progress(connection, _of(kinds, KeepProgress)),
        *_keep_output(connection, _of(kinds, KeepOutput)),
        *(partial(w.then, executions.remove_expired(connection, now, SWEEP_ROWS)) for w in _of(kinds, Sweep)),
        *(effect for w in _of(kinds, Declare) for effect in _declare(connection, w, now, member)),
        *(partial(w.then, _look(connection, w.supervisor, now)) for w in _of(kinds, Look)),
        *(
            partial(w.then, steps.page_after(connection, w.execution, w.after, PAGE_BYTES))
            for w in _of(kinds, LoadPage)
        ),
        *(partial(w.then, _take_over(connection, w, now)) for w in _of(kinds, TakeOver)),
        *(
            partial(w.then, _claim(connection, w, now, front) if stands else Brought([], {}))
            for w in _of(kinds, Claim)
        ),
        *(effect for w in _of(kinds, GiveUpLease) for effect in _give_up(connection, w)),
    ]


def makes_work(write: Write) -> bool:
    """Tell whether a write may leave something to do for other supervisors."""
    if isinstance(write, EndAttempt):
        return write.ending.state == "ready"
    return isinstance(write, Perform) and is_write(write.operation)


def _by_kind(group: Sequence[Write]) -> dict[type[object], list[Write]]:
    kinds: dict[type[object], list[Write]] = {}
    for write in group:
        kinds.setdefault(type(write), []).append(write)
    return kinds


def _of(kinds: Mapping[type[object], list[Write]], kind: type[W]) -> list[W]:
    return cast("list[W]", kinds.get(kind, []))


def _end(connection: Connection, writes: list[EndAttempt], stands: bool) -> list[Effect]:
    if not writes:
        return []
    endings = [w.ending for w in writes]
    late = {id(ending) for ending in (attempts.end(connection, endings) if stands else endings)}
    unbegun = [e for e in endings if e.frees_start and id(e) not in late]
    starts.forget(connection, [(e.execution, e.claim) for e in unbegun])
    return [partial(w.then, id(w.ending) in late) for w in writes]


def _record(connection: Connection, writes: list[RecordStep], stands: bool) -> list[Effect]:
    if not writes:
        return []
    new = [w.step for w in writes]
    late = {(s.execution, s.claim) for s in (steps.record(connection, new) if stands else new)}
    return [partial(w.then, (w.step.execution, w.step.claim) in late) for w in writes]


def _note_starts(connection: Connection, writes: list[NoteStart], now: Instant) -> list[Effect]:
    starts.note(connection, [(w.execution, w.claim) for w in writes], now)
    return [write.then for write in writes]


def _perform(connection: Connection, write: Perform, now: Instant) -> Answer:
    return perform(connection, write.operation, now, write.max_payload, write.max_answer)


def _keep_progress(connection: Connection, writes: list[KeepProgress]) -> list[Effect]:
    for write in writes:
        executions.set_progress(connection, write.progress)
    return [write.then for write in writes]


def _keep_output(connection: Connection, writes: list[KeepOutput]) -> list[Effect]:
    if writes:
        chunks = [chunk for write in writes for chunk in write.chunks]
        output.keep(connection, chunks, writes[0].limit)
    return [write.then for write in writes]


def _declare(connection: Connection, write: Declare, now: Instant, member: str | None) -> list[Effect]:
    lock_tasks(connection, ALL_TASKS)
    tasks.declare(connection, write.specs, now)
    schedules.declare(connection, write.specs, now)
    changes.declare(connection, write.specs, member)
    starts.forget_others(connection, [spec.name for spec in write.specs if spec.rate is not None], now)
    executions.reopen_windows(connection)
    return [write.then]


def _look(connection: Connection, supervisor: str, now: Instant) -> Seen:
    seen = glance(connection, supervisor)
    due = seen.next_due is not None and seen.next_due <= now
    promoted = executions.promote(connection, now) if due else 0
    next_due = executions.next_due(connection) if promoted else seen.next_due
    held_up = due and promoted == 0
    return Seen(
        promoted=promoted,
        next_due=executions.next_due(connection, after=now) if held_up else next_due,
        cancels=executions.cancel_requests(connection, supervisor) if seen.cancels else [],
        paused=tasks.paused(connection) if seen.pauses else set(),
        held_up=held_up,
    )


def _take_over(connection: Connection, write: TakeOver, now: Instant) -> TakenOver:
    gone = leases.remove_expired(connection, write.member, write.unchanged)
    if gone:
        changes.remove_unwanted(connection)
    return TakenOver(
        gone,
        attempts.recover(connection, now, write.max_attempts),
        executions.running_under(connection, write.member),
        leases.ends(connection),
    )


def _give_up(connection: Connection, write: GiveUpLease) -> list[Effect]:
    leases.remove(connection, write.member)
    changes.remove_unwanted(connection)
    return [write.then]


def _claim(connection: Connection, write: Claim, now: Instant, front: Front | None) -> Brought:
    claims = claiming.claim(connection, write.wanted, write.count, write.supervisor, now, front)
    resumed = [c.id for c in claims.claimed if not c.first_claim]
    pages = steps.first_page(connection, resumed, PAGE_BYTES) if resumed else {}
    taken = [Taken(c, *pages.get(c.id, ([], 0))) for c in claims.claimed]
    return Brought(taken, claims.full_until, claims.look_again_at)
