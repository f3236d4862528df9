"""Triggers on an application's tables, which make an execution for each change: in PostgreSQL alone.

All of them call one function of ours. By that we know which triggers are ours, whatever they are named; and
a trigger's name is made from all that it says, so one that has its name already is as it should be. So a
start that changes nothing locks nothing of the application's.

The function works with the rights of whoever made it, a supervisor's role: those who change the table need
none in our schema. It takes nothing from its callers but the row, its own arguments, and no search path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from conductor_protocol.errors import UsageError
from conductor_protocol.limits import LONGEST_KEY, NO_KEY
from conductor_protocol.manifest import ChangeOperation, ChangeSpec, TaskSpec
from conductor_protocol.operations import MAX_PAYLOAD
from conductor_supervisor.errors import StoreError
from conductor_supervisor.store.database import is_transient, reason
from conductor_supervisor.store.dialect import lock_tasks, schema_of
from conductor_supervisor.store.wakeups import channel

LOCK_PATIENCE = 3
"""Seconds to wait for an application's table: for so long everybody else who writes to it waits with us."""

FUNCTION = "conductor_on_change"
PREFIX = "conductor_"

SHORT_VALUE = 256
"""Bytes, as JSON, of a value that stays in a payload which would be too large otherwise."""

LONGEST_NAME = 63
"""Bytes of a name in PostgreSQL."""

_LOCK = "changes of tables"
"""No task's name, which has no spaces: the supervisors declare their triggers one after another."""

_LACKS_RIGHTS = "42501"
_IS_LOCKED = "55P03"

_encode = msgspec.json.Encoder().encode


class Trigger(Struct, frozen=True):
    """What one operation on a table calls for."""

    task: str
    change: ChangeSpec
    operation: ChangeOperation
    key_path: str
    """Of the payload's field by which the task limits what runs; empty: it has no such limit."""


def declare(connection: Connection, specs: Sequence[TaskSpec]) -> None:
    """Make the triggers that these tasks want, and remove ours that none of them wants any more.

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
    if triggers or _body_found(connection, schema) is not None:
        lock_tasks(connection, [_LOCK])
        _change(connection, schema, triggers)


def _change(connection: Connection, schema: str, triggers: Sequence[Trigger]) -> None:
    """Make what is wanted and not there, and remove what is there and not wanted."""
    if triggers and _body_found(connection, schema) != _body(schema):
        _make_function(connection, schema)
    there = {(row.schema, row.table, row.name) for row in connection.execute(_OURS, _function(schema))}
    wanted = {(each.change.schema, each.change.table, _name(each, schema)): each for each in triggers}
    if there == wanted.keys():
        return
    patience: str = connection.scalar(_PATIENCE)
    connection.execute(_SET_PATIENCE, {"time": f"{LOCK_PATIENCE}s"})
    for place in sorted(there - wanted.keys()):
        _remove(connection, *place)
    for place in sorted(wanted.keys() - there):
        _make(connection, schema, wanted[place])
    connection.execute(_SET_PATIENCE, {"time": patience})


_PATIENCE = text("SELECT current_setting('lock_timeout')")
_SET_PATIENCE = text("SELECT set_config('lock_timeout', :time, true)")


# The triggers


def _make(connection: Connection, schema: str, trigger: Trigger) -> None:
    change = trigger.change
    _check_table(connection, trigger)
    problem = f"task {trigger.task}: its trigger on {change.name}, for {trigger.operation}, cannot be made: "
    role = connection.scalar(_ROLE)
    advice = (
        f"grant it: GRANT USAGE ON SCHEMA {_identifier(change.schema)} TO {role}; "
        f"GRANT TRIGGER ON {_table(change)} TO {role}"
    )
    if change.when is not None:
        problem += f"(when={change.when!r}) "
    _execute(connection, _statement(trigger, schema, _name(trigger, schema)), problem, advice)


def _remove(connection: Connection, schema: str, table: str, name: str) -> None:
    statement = f"DROP TRIGGER {_identifier(name)} ON {_identifier(schema)}.{_identifier(table)}"
    problem = f"a trigger that no task wants any more, on {schema}.{table}, cannot be removed: "
    _execute(connection, statement, problem, f"only the table's owner may do that; let it run: {statement}")


def _check_table(connection: Connection, trigger: Trigger) -> None:
    change = trigger.change
    there = connection.scalars(_COLUMNS, {"schema": change.schema, "table": change.table}).all()
    if not there:
        raise StoreError(
            f"task {trigger.task}: there is no table {change.name} in this database; make it first, or name "
            'it as the database has it, as in DatabaseChange("public.contact", "insert")'
        )
    if missing := [column for column in change.columns or () if column not in there]:
        raise StoreError(
            f"task {trigger.task}: the table {change.name} has no column {missing[0]!r}; it has: "
            f"{', '.join(there)}"
        )


def _name(trigger: Trigger, schema: str) -> str:
    """Return a name that stands for all that the trigger says, and for whom it works."""
    return PREFIX + hashlib.sha256(_statement(trigger, schema, "").encode()).hexdigest()[:20]


def _statement(trigger: Trigger, schema: str, name: str) -> str:
    change, operation = trigger.change, trigger.operation
    columns = "" if change.columns is None else _encode(change.columns).decode()
    arguments = (trigger.task, change.event(operation), change.name, columns, trigger.key_path)
    return (
        f"CREATE TRIGGER {_identifier(name)} AFTER {operation} ON {_table(change)} FOR EACH ROW "
        f"{_condition(change, operation)} EXECUTE FUNCTION {_identifier(schema)}.{FUNCTION}"
        f"({', '.join(map(_literal, arguments))})"
    )


def _condition(change: ChangeSpec, operation: ChangeOperation) -> str:
    """Return the WHEN clause.

    A change of a column is what the payload would show: so a type needs no operator to compare, and a change
    counts that another trigger has made, which UPDATE OF would not see.
    """
    conditions = []
    if operation == "update" and change.columns is not None:
        changed = (
            f"to_jsonb(OLD.{column}) IS DISTINCT FROM to_jsonb(NEW.{column})"
            for column in map(_identifier, change.columns)
        )
        conditions.append(" OR ".join(changed))
    if change.when is not None:
        conditions.append(f"{change.when}\n")  # it may end in a comment
    return f"WHEN ({' AND '.join(f'({each})' for each in conditions)})" if conditions else ""


_ROLE = text("SELECT quote_ident(current_user)")
_COLUMNS = text(
    """
    SELECT attname FROM pg_attribute
    JOIN pg_class ON pg_class.oid = attrelid
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = :schema AND relname = :table AND attnum > 0 AND NOT attisdropped
    ORDER BY attnum
    """
)
# Those of partitions come and go with that of the whole table.
_OURS = text(
    """
    SELECT of_table.nspname AS schema, relname AS table, tgname AS name FROM pg_trigger
    JOIN pg_class ON pg_class.oid = tgrelid
    JOIN pg_namespace AS of_table ON of_table.oid = relnamespace
    JOIN pg_proc ON pg_proc.oid = tgfoid
    JOIN pg_namespace AS of_function ON of_function.oid = pronamespace
    WHERE proname = :function AND of_function.nspname = :schema AND tgparentid = 0
    """
)


# The function


def _make_function(connection: Connection, schema: str) -> None:
    function = f"{_identifier(schema)}.{FUNCTION}()"
    problem = f"the function {function}, which triggers call, cannot be made: "
    advice = (
        "the role needs CREATE on this schema, and to be the function's owner if there is one already; grant "
        f"the first: GRANT CREATE ON SCHEMA {_identifier(schema)} TO {connection.scalar(_ROLE)}"
    )
    _execute(
        connection,
        f"CREATE OR REPLACE FUNCTION {function} RETURNS trigger LANGUAGE plpgsql "
        f"SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body${_body(schema)}$body$",
        problem,
        advice,
    )
    # Or anybody could put it on a table of theirs, and so make executions of any task.
    _execute(connection, f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC", problem, advice)


def _body_found(connection: Connection, schema: str) -> str | None:
    body: str | None = connection.scalar(_BODY_FOUND, _function(schema))
    return body


_BODY_FOUND = text(
    """
    SELECT prosrc FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE proname = :function AND nspname = :schema
    """
)


def _function(schema: str) -> dict[str, str]:
    return {"function": FUNCTION, "schema": schema}


def _body(schema: str) -> str:
    """Return the function's body: PostgreSQL keeps it as it is, so it can be compared.

    An id is a UUID of version 7: milliseconds, the fraction of the millisecond, and chance. A key that cannot
    be one must not let the application's transaction fail: what there is of it serves.
    """
    return f"""
DECLARE
    moment CONSTANT bigint := floor(extract(epoch FROM clock_timestamp()) * 1000000);
    stamp CONSTANT text := lpad(to_hex(moment / 1000), 12, '0');
    fraction CONSTANT text := lpad(to_hex(moment % 1000 * 4096 / 1000), 3, '0');
    chance CONSTANT text := right(gen_random_uuid()::text, 17);
    columns CONSTANT json := nullif(TG_ARGV[3], '');
    key_path CONSTANT text := nullif(TG_ARGV[4], '');
    counted_under text;
    old_row json;
    new_row json;
    told text;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        old_row := row_to_json(OLD);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        new_row := row_to_json(NEW);
    END IF;
    IF columns IS NOT NULL THEN
        old_row := (SELECT json_object_agg(key, value) FROM json_each(old_row)
                    WHERE key IN (SELECT json_array_elements_text(columns)));
        new_row := (SELECT json_object_agg(key, value) FROM json_each(new_row)
                    WHERE key IN (SELECT json_array_elements_text(columns)));
    END IF;
    told := json_build_object('operation', lower(TG_OP), 'table', TG_ARGV[2], 'old', old_row, 'new', new_row);
    IF octet_length(told) > {MAX_PAYLOAD} THEN
        told := json_build_object(
            'operation', lower(TG_OP),
            'table', TG_ARGV[2],
            'old', (SELECT json_object_agg(key, value) FROM json_each(old_row)
                    WHERE octet_length(value::text) <= {SHORT_VALUE}),
            'new', (SELECT json_object_agg(key, value) FROM json_each(new_row)
                    WHERE octet_length(value::text) <= {SHORT_VALUE}),
            'left_out', (SELECT json_agg(DISTINCT key) FROM (
                            SELECT * FROM json_each(old_row) UNION ALL SELECT * FROM json_each(new_row)
                         ) AS every WHERE octet_length(value::text) > {SHORT_VALUE}));
    END IF;
    IF key_path IS NOT NULL THEN
        counted_under := told::json #>> string_to_array(key_path, '.');
        counted_under := coalesce(left(counted_under, {LONGEST_KEY}), '{NO_KEY}');
    END IF;
    INSERT INTO {_identifier(schema)}.conductor_executions
        (id, task, state, priority, event, payload, created_at, due_at, attempt, claim, lost,
         concurrency_key)
    VALUES (
        left(stamp, 8) || '-' || right(stamp, 4) || '-7' || fraction || '-' || chance,
        TG_ARGV[0], 'ready', 0, TG_ARGV[1], told, moment, moment, 0, 0, 0,
        counted_under);
    PERFORM pg_notify({_literal(channel(schema))}, '');  -- equal ones of a transaction are one
    RETURN NULL;
END
"""  # noqa: S608 - names are quoted


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
    return f"{_identifier(change.schema)}.{_identifier(change.table)}"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: str) -> str:
    return "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
