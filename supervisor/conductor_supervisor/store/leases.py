"""Which supervisors live, where several share a database.

Each keeps a lease, a row of its own that it renews. One whose lease has run out is taken for dead: any other
removes its lease and takes its executions back to the queue, in one transaction. So that none of its writes
can still be on their way then, each of its transactions holds its lease (:func:`stands`), and one that finds
none left writes nothing for an execution.

Time here is the database's: the clocks of the machines need not agree.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, select

from conductor_protocol.units import Instant
from conductor_supervisor.store.dialect import (
    TRANSACTION,
    AnyRow,
    DatabaseNow,
    Patience,
    TransactionNumber,
    as_list,
    one_of,
)
from conductor_supervisor.store.schema import supervisors


class Member(Struct, frozen=True):
    """A supervisor among those of one database."""

    id: str
    host: str
    pid: int
    app: str
    started: Instant
    """By its own clock."""


def renew(connection: Connection, member: Member, microseconds: int) -> bool:
    """Let a supervisor's lease end so long after now. False if it had none (any more): it has one now."""
    if connection.execute(_RENEW, {"member": member.id, "length": microseconds}).rowcount:
        return True
    connection.execute(
        _REGISTER,
        {
            "id": member.id,
            "host": member.host,
            "pid": member.pid,
            "app": member.app,
            "started": member.started,
            "length": microseconds,
        },
    )
    return False


_RENEW = (
    supervisors.update()
    .where(supervisors.c.id == bindparam("member"))
    .values(expires_at=DatabaseNow() + bindparam("length", type_=supervisors.c.expires_at.type))
)
_REGISTER = supervisors.insert().values(
    id=bindparam("id"),
    host=bindparam("host"),
    pid=bindparam("pid"),
    app=bindparam("app"),
    started_at=bindparam("started"),
    expires_at=DatabaseNow() + bindparam("length", type_=supervisors.c.expires_at.type),
)


# No more than every version of the schema has: a copy looks who lives before it brings the tables up to date.
_MEMBER = select(
    supervisors.c.id,
    supervisors.c.host,
    supervisors.c.pid,
    supervisors.c.app,
    supervisors.c.started_at,
    supervisors.c.expires_at,
)


def end_if_stopped(connection: Connection) -> None:
    """Have the server end this transaction by itself should we be stopped in the middle of it.

    It would keep the others waiting, for as long as we are stopped.
    """
    connection.execute(_END_IF_STOPPED)


class LockTime(enum.IntEnum):
    """Milliseconds that a statement waits for somebody's lock: our other writes have to wait with it."""

    USUAL = 250
    KEPT = 20
    """It is known that somebody keeps a lock."""
    AGAIN = 2
    """It has waited for this lock before."""


def limit(connection: Connection, lock_time: LockTime = LockTime.USUAL) -> None:
    """Do the same, and wait for no lock for long."""
    connection.execute(_LIMIT[lock_time])


def stands(connection: Connection, member: str, lock_time: LockTime = LockTime.USUAL) -> bool:
    """Tell whether nobody has taken a supervisor for dead, and nobody can before this transaction ends.

    It includes :func:`limit`, and tells the transaction's number, which saves whoever commits it a question.
    """
    found, _, number = connection.execute(_STANDS[lock_time], {"member": member}).one()
    connection.info[TRANSACTION] = number
    return found is not None


_PATIENCE = {time: Patience(seconds=5, lock_milliseconds=time) for time in LockTime}
_LIMIT = {time: select(patience) for time, patience in _PATIENCE.items()}
_END_IF_STOPPED = select(Patience(seconds=5, lock_milliseconds=0))
_STANDS = {
    time: select(
        select(supervisors.c.id)
        .where(supervisors.c.id == bindparam("member"))
        # A renewal need not wait, but whoever takes us for dead does.
        .with_for_update(read=True, key_share=True)
        .scalar_subquery(),
        patience,
        TransactionNumber(),
    )
    for time, patience in _PATIENCE.items()
}


def remove_expired(
    connection: Connection, member: str, unchanged: Mapping[str, Instant] | None = None
) -> list[Member]:
    """Remove the leases of others that have run out; return whose they were.

    One whose owner is writing at this moment is left for the next time.

    :param member: our name.
    :param unchanged: leases that were seen to stand still for long, and the ends that they had: only these,
        for where the database's clock jumps, a lease that is renewed all the time has run out too.
    """
    rows = connection.execute(_EXPIRED, {"member": member})
    gone = [_member(row) for row in rows if unchanged is None or unchanged.get(row.id) == row.expires_at]
    if gone:
        connection.execute(_REMOVE, {"members": as_list([member.id for member in gone])})
    return gone


def remove(connection: Connection, member: str) -> None:
    """Remove a lease whose owner has ended."""
    connection.execute(_REMOVE, {"members": as_list([member])})


_EXPIRED = _MEMBER.where(
    supervisors.c.expires_at < DatabaseNow(), supervisors.c.id != bindparam("member")
).with_for_update(skip_locked=True)
_REMOVE = delete(supervisors).where(one_of(supervisors.c.id, "members"))


def members(connection: Connection) -> list[Member]:
    """Return the supervisors with a lease, be it that it has run out; in the order of their starts."""
    return [_member(row) for row in connection.execute(_MEMBERS)]


_MEMBERS = _MEMBER.order_by(supervisors.c.id)


def ends(connection: Connection) -> dict[str, Instant]:
    """Return when each lease ends, by the database's clock."""
    return {row.id: row.expires_at for row in connection.execute(_MEMBERS)}


def living(connection: Connection) -> list[Member]:
    """Return the supervisors whose leases have not run out; in the order of their starts."""
    return [_member(row) for row in connection.execute(_LIVING)]


_LIVING = _MEMBERS.where(supervisors.c.expires_at >= DatabaseNow())


def want_triggers(connection: Connection, member: str, names: Collection[str]) -> None:
    """Note which triggers a supervisor wants, for as long as it has this lease."""
    connection.execute(_WANT_TRIGGERS, {"member": member, "names": as_list(sorted(names))})


def triggers_wanted_by_others(connection: Connection, member: str) -> set[str] | None:
    """Return the triggers that the other living supervisors want. None: one of them might want any."""
    lists = connection.scalars(_OTHERS_TRIGGERS, {"member": member}).all()
    known = [_names.decode(names) for names in lists if names is not None]
    return set().union(*known) if len(known) == len(lists) else None


_names: msgspec.json.Decoder[list[str]] = msgspec.json.Decoder(list[str])
_WANT_TRIGGERS = (
    supervisors.update()
    .where(supervisors.c.id == bindparam("member"))
    .values(triggers=bindparam("names", type_=supervisors.c.triggers.type))
)
_OTHERS_TRIGGERS = select(supervisors.c.triggers).where(
    supervisors.c.id != bindparam("member"), supervisors.c.expires_at >= DatabaseNow()
)


def _member(row: AnyRow) -> Member:
    return Member(row.id, row.host, row.pid, row.app, row.started_at)
