"""What the running code declares, and what operators have paused."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, insert, select

from conductor_protocol.manifest import KeyLimitSpec, TaskSpec
from conductor_protocol.operations import State
from conductor_protocol.units import MICROSECONDS, Instant
from conductor_supervisor.store.dialect import Executor, as_list, insert_unless_there, one_of
from conductor_supervisor.store.schema import executions, pauses, tasks

Kind: TypeAlias = Literal["task", "queue"]

_encode = msgspec.json.Encoder().encode
_spec: msgspec.json.Decoder[TaskSpec] = msgspec.json.Decoder(TaskSpec)


def declare(connection: Connection, specs: Sequence[TaskSpec], now: Instant) -> None:
    """Write down what the running code declares, in place of what was declared before."""
    connection.execute(delete(tasks))
    rows = [{"name": spec.name, "spec": _encode(spec).decode(), "declared_at": now} for spec in specs]
    if rows:
        connection.execute(insert(tasks), rows)


def declared(connection: Connection) -> list[TaskSpec]:
    """Return the tasks that the running code, or the last that ran, declares; by name."""
    return [_spec.decode(text) for text in connection.scalars(select(tasks.c.spec).order_by(tasks.c.name))]


class _Limited(Struct):
    """The part of a :class:`TaskSpec` that says where keys come from."""

    concurrency_by_key: KeyLimitSpec | None = None


_limited: msgspec.json.Decoder[_Limited] = msgspec.json.Decoder(_Limited)


def key_paths(connection: Executor, names: Collection[str]) -> dict[str, str]:
    """Return for each of these tasks that is limited by key the path of the payload's field with the key."""
    if not names:
        return {}
    rows = connection.execute(_SPECS_NAMED, {"names": as_list(sorted(names))})
    limits = {name: _limited.decode(spec).concurrency_by_key for name, spec in rows}
    return {name: by_key.key for name, by_key in limits.items() if by_key is not None}


_SPECS_NAMED = select(tasks.c.name, tasks.c.spec).where(one_of(tasks.c.name, "names"))


def expiry(connection: Connection, execution: str, state: State, now: Instant) -> Instant | None:
    """Return when this execution may be removed if it finishes now in this state; None: never.

    An execution of a task that nobody declares is kept as long as the defaults say.
    """
    spec = connection.scalar(_SPEC_OF_EXECUTION, {"execution": execution})
    task = TaskSpec(name="") if spec is None else _spec.decode(spec)
    keep = task.keep_failed if state == "failed" else task.keep_completed
    return None if keep is None else now + round(keep * MICROSECONDS)


_SPEC_OF_EXECUTION = select(tasks.c.spec).where(
    tasks.c.name
    == select(executions.c.task).where(executions.c.id == bindparam("execution")).scalar_subquery()
)


def pause(connection: Connection, kind: Kind, name: str, now: Instant) -> bool:
    """Pause a task or a queue. False if it was paused already."""
    return connection.execute(_PAUSE, {"kind": kind, "name": name, "since": now}).rowcount > 0


def resume(connection: Connection, kind: Kind, name: str) -> bool:
    """Resume a task or a queue. False if it was not paused."""
    return connection.execute(_RESUME, {"of_kind": kind, "of_name": name}).rowcount > 0


_PAUSE = insert_unless_there(pauses, "kind", "name", "since")
_RESUME = delete(pauses).where(pauses.c.kind == bindparam("of_kind"), pauses.c.name == bindparam("of_name"))


def paused(connection: Connection) -> set[tuple[Kind, str]]:
    """Return what is paused."""
    return {(kind, name) for kind, name in connection.execute(select(pauses.c.kind, pauses.c.name))}
