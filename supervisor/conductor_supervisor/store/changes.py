"""Triggers on an application's tables, which make an execution for each change: in PostgreSQL alone.

Each calls a function of its own (:mod:`telling`), which has its name. By that we know which triggers are
ours; and the name is made from all that the trigger says, so one that has its name already is as it should
be. So a start that changes nothing locks nothing of the application's.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import ChangeOperation, ChangeSpec, TaskSpec
from conductor_supervisor.errors import StoreError
from conductor_supervisor.store import leases, telling
from conductor_supervisor.store.database import is_transient, reason
from conductor_supervisor.store.dialect import AnyRow, lock_tasks, schema_of
from conductor_supervisor.store.schema import VERSION_TABLE, metadata
from conductor_supervisor.store.telling import Column, columns_of, identifier, literal

LOCK_PATIENCE = 3
"""Seconds to wait for an application's table: for so long everybody else who writes to it waits with us."""

FUNCTION = "conductor_on_change"
"""With this begin the names of all our functions, and triggers."""

_LOCK = "changes of tables"
"""No task's name, which has no spaces: the supervisors declare their triggers one after another."""

_LACKS_RIGHTS = "42501"
_IS_LOCKED = "55P03"

_encode = msgspec.json.Encoder().encode

log = logging.getLogger(__name__)


class Trigger(Struct, frozen=True):
    """What one operation on a table calls for."""

    task: str
    change: ChangeSpec
    operation: ChangeOperation
    key_path: str
    """Of the payload's field by which the task limits what runs; empty: it has no such limit."""


def declare(connection: Connection, specs: Sequence[TaskSpec], me: str | None) -> None:
    """Make the triggers that these tasks want, and remove ours that no supervisor wants any more.

    Others that live may run newer code, or older, which wants others: each has noted what with its lease.

    :param me: our name among the supervisors, where we need a lease.
    :raises UsageError: if a task wants one in a database that is not PostgreSQL.
    :raises StoreError: if PostgreSQL does not take one: the message says why, and what to do.
    """
    triggers = [
        Trigger(spec.name, change, operation, spec.concurrency_by_key.key if spec.concurrency_by_key else "")
        for spec in specs
        for change in spec.changes
        for operation in change.operations
    ]
    schema = schema_of(connection)
    if schema is None:
        if triggers:
            raise UsageError(
                f"task {triggers[0].task}: DatabaseChange needs PostgreSQL, and this database is SQLite; "
                "name the one that the table is in, as in postgresql://user@host/database"
            )
        return
    wanted = {_name(trigger, schema): trigger for trigger in triggers}
    if me is not None:
        leases.want_triggers(connection, me, wanted)
    if wanted or _are_there(connection, schema):
        lock_tasks(connection, [_LOCK])
        _change(connection, schema, wanted, me or "")


def remove_unwanted(connection: Connection) -> None:
    """Remove the triggers that none of the living supervisors wants, if there are any: one is gone.

    What cannot be removed now stays, until the next start or reload.
    """
    schema = schema_of(connection)
    if schema is None or not _are_there(connection, schema) or not leases.living(connection):
        return
    lock_tasks(connection, [_LOCK])
    wanted = leases.triggers_wanted_by_others(connection, "")
    if wanted is None:
        return
    try:
        with connection.begin_nested(), _impatient(connection):
            for row in connection.execute(_OURS, _whose(schema)).all():
                if row.name not in wanted:
                    _remove(connection, row)
            _remove_functions(connection, schema)
    except StoreError as error:
        log.warning("%s; the next start or reload tries again", error)


def _change(connection: Connection, schema: str, wanted: Mapping[str, Trigger], me: str) -> None:
    """Make what is wanted and not there, and remove what is there and nobody wants."""
    _make_functions(connection, schema, wanted)
    there = {row.name: row for row in connection.execute(_OURS, _whose(schema))}
    of_others = leases.triggers_wanted_by_others(connection, me)
    with _impatient(connection):
        for name in sorted(there.keys() - wanted.keys()):
            if of_others is None or name in of_others:
                log.info("%s stays: another supervisor that lives may want it", _in_words(there[name]))
            else:
                _remove(connection, there[name])
        for name in sorted(wanted.keys() - there.keys()):
            _make(connection, schema, name, wanted[name])
    _remove_functions(connection, schema)


def _are_there(connection: Connection, schema: str) -> bool:
    return connection.execute(_FUNCTIONS, _whose(schema)).first() is not None


@contextmanager
def _impatient(connection: Connection) -> Iterator[None]:
    """Do not wait for long for a lock on a table."""
    patience: str = connection.scalar(_PATIENCE)
    connection.execute(_SET_PATIENCE, {"time": f"{LOCK_PATIENCE}s"})
    yield
    connection.execute(_SET_PATIENCE, {"time": patience})


_PATIENCE = text("SELECT current_setting('lock_timeout')")
_SET_PATIENCE = text("SELECT set_config('lock_timeout', :time, true)")


# The triggers


def _make(connection: Connection, schema: str, name: str, trigger: Trigger) -> None:
    change = trigger.change
    problem = f"task {trigger.task}: its trigger on {change.name}, for {trigger.operation}, cannot be made: "
    role = connection.scalar(_ROLE)
    advice = (
        f"grant it: GRANT USAGE ON SCHEMA {identifier(change.schema)} TO {role}; "
        f"GRANT TRIGGER ON {_table(change)} TO {role}"
    )
    if change.when is not None:
        problem += f"(when={change.when!r}) "
    _execute(connection, _statement(trigger, schema, name), problem, advice)
    log.info("a trigger is made for task %s, on %s, for %s", trigger.task, change.name, trigger.operation)


def _remove(connection: Connection, found: AnyRow) -> None:
    statement = (
        f"DROP TRIGGER {identifier(found.name)} ON {identifier(found.schema)}.{identifier(found.table)}"
    )
    problem = f"a trigger that no task wants any more, on {found.schema}.{found.table}, cannot be removed: "
    _execute(connection, statement, problem, f"only the table's owner may do that; let it run: {statement}")
    log.info("%s is removed: no task wants it any more", _in_words(found))


def _in_words(found: AnyRow) -> str:
    task = bytes(found.arguments).partition(b"\0")[0].decode(errors="replace")
    return f"a trigger for task {task}, on {found.schema}.{found.table},"


def _name(trigger: Trigger, schema: str) -> str:
    """Return a name that stands for all that the trigger says, and for whom it works."""
    says = _encode((_statement(trigger, schema, ""), trigger))
    return f"{FUNCTION}_{hashlib.sha256(says).hexdigest()[:20]}"


def _statement(trigger: Trigger, schema: str, name: str) -> str:
    change, operation = trigger.change, trigger.operation
    return (
        f"CREATE TRIGGER {identifier(name)} AFTER {operation} ON {_table(change)} FOR EACH ROW "
        f"{_condition(change, operation)} EXECUTE FUNCTION {identifier(schema)}.{identifier(name)}"
        f"({literal(trigger.task)}, {literal(change.event(operation))})"
    )


def _condition(change: ChangeSpec, operation: ChangeOperation) -> str:
    """Return the WHEN clause.

    Columns are compared by their bytes: that needs no operator of their types, fails for no value, and does
    not depend on how the session writes them. A change counts that another trigger has made, which UPDATE OF
    would not see.
    """
    conditions = []
    if operation == "update" and change.columns is not None:
        old, new = (
            ", ".join(f"{row}.{column}" for column in map(identifier, change.columns))
            for row in ("OLD", "NEW")
        )
        conditions.append(f"ROW({old})::record OPERATOR(pg_catalog.*<>) ROW({new})::record")
    if change.when is not None:
        conditions.append(f"{change.when}\n")  # it may end in a comment
    return f"WHEN ({' AND '.join(f'({each})' for each in conditions)})" if conditions else ""


_ROLE = text("SELECT quote_ident(current_user)")
# Those of partitions come and go with that of the whole table.
_OURS = text(
    """
    SELECT of_table.nspname AS schema, relname AS table, tgname AS name, tgargs AS arguments FROM pg_trigger
    JOIN pg_class ON pg_class.oid = tgrelid
    JOIN pg_namespace AS of_table ON of_table.oid = relnamespace
    JOIN pg_proc ON pg_proc.oid = tgfoid
    JOIN pg_namespace AS of_function ON of_function.oid = pronamespace
    WHERE starts_with(proname, :function) AND of_function.nspname = :schema AND tgparentid = 0
    """
)


# The functions


def _make_functions(connection: Connection, schema: str, wanted: Mapping[str, Trigger]) -> None:
    """Make those functions that are not there as they should be, which locks no table."""
    there = {row.name: row for row in connection.execute(_FUNCTIONS, _whose(schema))}
    tables: dict[tuple[str, str], list[Column]] = {}
    for name, trigger in wanted.items():
        change = trigger.change
        place = (change.schema, change.table)
        if place not in tables:
            tables[place] = columns_of(connection, *place)
        columns = _told(trigger, schema, tables[place])
        body = telling.body(schema, trigger.operation, change.name, columns, trigger.key_path)
        found = there.get(name)
        if found is None or not _is_as_made(found, body):
            _make_function(connection, schema, name, body)


def _told(trigger: Trigger, schema: str, columns: Sequence[Column]) -> list[Column]:
    """Return the columns that a trigger tells, of those that its table has."""
    change = trigger.change
    if not columns:
        raise StoreError(
            f"task {trigger.task}: there is no table {change.name} in this database; make it first, or name "
            'it as the database has it, as in DatabaseChange("public.contact", "insert")'
        )
    if change.schema == schema and change.table in {*metadata.tables, VERSION_TABLE}:
        raise StoreError(
            f"task {trigger.task}: {change.name} is a table of Conductor's own, whose changes would make "
            "changes without end; expected one of the application's"
        )
    stored = {column.name: column for column in columns if not column.virtual}
    names = list(stored) if change.columns is None else change.columns
    for name in names:
        if name not in stored:
            there = ", ".join(column.name for column in columns)
            raise StoreError(
                f"task {trigger.task}: the column {name!r} of {change.name} is virtual: PostgreSQL computes "
                "it when it is read, and a trigger has no value for it; name the columns that it is made from"
                if name in [column.name for column in columns]
                else f"task {trigger.task}: the table {change.name} has no column {name!r}; it has: {there}"
            )
    return [stored[name] for name in names]


def _is_as_made(function: AnyRow, body: str) -> bool:
    return bool(
        function.body == body
        and function.definer
        and not function.public
        and set(function.settings or ()) == {f"{name}={value}" for name, value in telling.SETTINGS.items()}
    )


def _make_function(connection: Connection, schema: str, name: str, body: str) -> None:
    function = f"{identifier(schema)}.{identifier(name)}()"
    problem = f"the function {function}, which a trigger calls, cannot be made: "
    advice = (
        "the role needs CREATE on this schema, and to be the function's owner if there is one already; grant "
        f"the first: GRANT CREATE ON SCHEMA {identifier(schema)} TO {connection.scalar(_ROLE)}"
    )
    _execute(connection, telling.statement(function, body), problem, advice)
    # Or anybody could put it on a table of theirs, and so make executions of the task.
    _execute(connection, f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC", problem, advice)


def _remove_functions(connection: Connection, schema: str) -> None:
    """Remove those functions of ours that no trigger calls, for instance because its table was dropped."""
    for name in connection.scalars(_UNUSED, _whose(schema)).all():
        function = f"{identifier(schema)}.{identifier(name)}()"
        problem = f"the function {function}, which no trigger calls any more, cannot be removed: "
        _execute(connection, f"DROP FUNCTION {function}", problem, "only its owner may do that")


_FUNCTIONS = text(
    """
    SELECT proname AS name, prosrc AS body, prosecdef AS definer, proconfig AS settings,
        has_function_privilege('public', pg_proc.oid, 'EXECUTE') AS public
    FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE starts_with(proname, :function) AND nspname = :schema
    """
)
# Those of another role are left to it.
_UNUSED = text(
    """
    SELECT proname FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE starts_with(proname, :function) AND nspname = :schema
    AND pg_has_role(proowner, 'USAGE') AND pg_proc.oid NOT IN (SELECT tgfoid FROM pg_trigger)
    ORDER BY proname
    """
)


def _whose(schema: str) -> dict[str, str]:
    return {"function": FUNCTION, "schema": schema}


# SQL


def _execute(connection: Connection, statement: str, problem: str, advice: str) -> None:
    """Execute a statement that has no parameters, so that a ``%`` in it is one."""
    try:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if is_transient(error) and state != _IS_LOCKED:
            raise
        said = reason(error).splitlines()[0]
        more = f"; {advice}" if state == _LACKS_RIGHTS else f"; {_BUSY}" if state == _IS_LOCKED else ""
        raise StoreError(f"{problem}{said}{more}") from error


_BUSY = "a transaction that goes on for long keeps the table; try again when it has ended"


def _table(change: ChangeSpec) -> str:
    return f"{identifier(change.schema)}.{identifier(change.table)}"
