"""The function that a trigger on an application's table calls: it tells of a change, as an execution.

One is made for each trigger, with the columns in its text: so PostgreSQL plans it once for each session, and
it reads no more of a row than it tells.

It works with the rights of whoever made it, a supervisor's role: those who change the table need none in our
schema. So it takes nothing from its callers but the row, and lets no code of theirs run. Where a type has a
cast to json, to_json calls it, and anybody may make one for a type of their own. So to_json is for types of
PostgreSQL's own, for which it looks for no cast, and for those whose owners may do all that we may. The rest
is written as text, which calls nothing but the output functions of types, and only superusers make these. A
table may be altered later, by another session at any time: so the function looks at the types of the values
that it has before it, and not into the catalog, which a transaction may see as it was.

Whatever the values are, and whatever the table has become, the application's statement must not fail: what
cannot be told is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from conductor_protocol.limits import LONGEST_KEY, NO_KEY
from conductor_protocol.manifest import ChangeOperation
from conductor_protocol.operations import MAX_PAYLOAD
from conductor_supervisor.store.wakeups import channel

SHORT_VALUE = 256
"""Bytes, as JSON with its column's name, of a value that stays in a payload which would be too large."""

FIRST_OF_USERS = 16384
"""The object numbers below are PostgreSQL's own."""

SETTINGS = {
    "search_path": "pg_catalog, pg_temp",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
}
"""What holds while a function runs: what is told does not depend on the session that changes the row."""

_encode = msgspec.json.Encoder().encode


class Column(Struct, frozen=True):
    """A column of a table, as far as it matters for telling its values."""

    name: str
    type: int
    """The object number of its type."""
    long: bool
    """Whether its values may be long."""
    to_json: bool
    """Whether to_json runs nobody's code but that of roles which may do all that we may."""
    virtual: bool
    """Whether it is generated when it is read: a trigger has no value for it."""


def columns_of(connection: Connection, schema: str, table: str) -> list[Column]:
    """Return the columns of a table, in its order; none: there is no such table."""
    found = connection.execute(_COLUMNS, {"schema": schema, "table": table, "first": FIRST_OF_USERS})
    return [Column(row.name, row.type, row.long, row.to_json, row.virtual) for row in found]


# A domain is told as what it is made from, casts of its own do not count; an array or a row as what is in it.
_COLUMNS = text(
    """
    WITH RECURSIVE
    columns AS (
        SELECT attnum, attname, atttypid, attlen, attgenerated FROM pg_attribute
        JOIN pg_class ON pg_class.oid = attrelid
        JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = :schema AND relname = :table AND attnum > 0 AND NOT attisdropped
    ),
    inside (whole, part) AS (
        SELECT atttypid, atttypid FROM columns
        UNION
        SELECT whole, next.part FROM inside
        JOIN pg_type ON pg_type.oid = inside.part
        CROSS JOIN LATERAL (
            SELECT typbasetype AS part WHERE typbasetype <> 0
            UNION ALL
            SELECT typelem WHERE typelem <> 0
            UNION ALL
            SELECT atttypid FROM pg_attribute WHERE attrelid = typrelid AND attnum > 0 AND NOT attisdropped
        ) AS next
    ),
    strange AS (
        SELECT whole FROM inside
        JOIN pg_type ON pg_type.oid = part
        WHERE part >= :first AND typbasetype = 0 AND typelem = 0
        AND (
            NOT pg_has_role(typowner, current_user, 'USAGE')
            OR EXISTS (
                SELECT FROM pg_cast JOIN pg_proc ON pg_proc.oid = castfunc
                WHERE castsource = part AND casttarget IN ('json'::regtype, 'jsonb'::regtype)
                AND NOT pg_has_role(proowner, current_user, 'USAGE')
            )
        )
    )
    SELECT attname AS name, atttypid::bigint AS type, attlen = -1 AS long,
        atttypid NOT IN (SELECT whole FROM strange) AS to_json, attgenerated = 'v' AS virtual
    FROM columns ORDER BY attnum
    """
)


# The statement


def statement(function: str, body: str) -> str:
    """Return what makes a function, or makes it anew; who may execute it is another matter."""
    settings = " ".join(
        f"SET {name} = {value if name == 'search_path' else literal(value)}"
        for name, value in SETTINGS.items()
    )
    return (
        f"CREATE OR REPLACE FUNCTION {function} RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings} "
        f"AS {literal(body)}"
    )


def body(
    schema: str, operation: ChangeOperation, table: str, columns: Sequence[Column], key_path: str
) -> str:
    """Return a function's body: PostgreSQL keeps it as it is, so it can be compared.

    The trigger's arguments are the task and the event. An id is a UUID of version 7: milliseconds, the
    fraction of the millisecond, and chance.

    :param schema: Conductor's.
    :param table: as the payload names it.
    :param columns: whose values are told.
    :param key_path: of the payload's field that the task limits by; empty: it has no such limit.
    """
    sides = {"insert": ("new",), "update": ("old", "new"), "delete": ("old",)}[operation]
    return f"""
DECLARE
    moment CONSTANT bigint := floor(extract(epoch FROM clock_timestamp()) * 1000000);
    stamp CONSTANT text := lpad(to_hex(moment / 1000), 12, '0');
    fraction CONSTANT text := lpad(to_hex(moment % 1000 * 4096 / 1000), 3, '0');
    chance CONSTANT text := right(gen_random_uuid()::text, 17);
    names CONSTANT text[] := {_texts(column.name for column in columns)};
    old_told text[];  -- of each column its name and value, as in an object of JSON; NULL: left out
    new_told text[];
    part text;
    longest int := {MAX_PAYLOAD};
    left_out text[];
    told text;
    counted_under text;
BEGIN
    BEGIN
        IF {_types_are_those_of(columns, sides[0])} THEN
            {_each(sides, lambda side: f"{side}_told := {_parts(columns, side)};")}
        ELSE
            RAISE datatype_mismatch;
        END IF;
    EXCEPTION WHEN OTHERS THEN  -- the table has been altered since: column by column
        {_each(sides, lambda side: _slowly(columns, side))}
    END;
    told := {_payload(operation, table)};
    IF octet_length(told) > longest
        OR {_or(f"array_position({side}_told, NULL) IS NOT NULL" for side in sides)}
        OR strpos(told, {literal(_BACKSLASH + "ud")}) > 0 OR strpos(told, {literal(_BACKSLASH + "uD")}) > 0
    THEN
        IF octet_length(told) > longest THEN
            longest := {SHORT_VALUE};
        END IF;
        {_each(sides, _sift)}
        left_out := ARRAY(SELECT name FROM unnest(names, old_told, new_told) WITH ORDINALITY
            AS every(name, old_part, new_part, place)
            WHERE {_or(f"{side}_part IS NULL" for side in sides)} ORDER BY place);
        told := {_payload(operation, table)};
    END IF;
    {_count_under(key_path, operation, table, columns, sides) if key_path else ""}
    INSERT INTO {identifier(schema)}.conductor_executions
        (id, task, state, priority, event, payload, created_at, due_at, attempt, claim, lost,
         concurrency_key)
    VALUES (
        left(stamp, 8) || '-' || right(stamp, 4) || '-7' || fraction || '-' || chance,
        TG_ARGV[0], 'ready', 0, TG_ARGV[1], told, moment, moment, 0, 0, 0,
        counted_under);
    PERFORM pg_notify({literal(channel(schema))}, '');  -- equal ones of a transaction are one
    RETURN NULL;
END
"""  # noqa: S608 - names are quoted


_BACKSLASH = "\\"


def _types_are_those_of(columns: Sequence[Column], side: str) -> str:
    if not columns:
        return "true"
    types = ", ".join(f"pg_typeof({_value(column, side)})" for column in columns)
    return f"(ARRAY[{types}])::oid[] = '{{{','.join(str(column.type) for column in columns)}}}'"


def _value(column: Column, side: str) -> str:
    return f"{side.upper()}.{identifier(column.name)}"


# Of what is left out because it is long not even the JSON is made: it may be more than there is memory.


def _parts(columns: Sequence[Column], side: str) -> str:
    return f"ARRAY[{', '.join(_part(column, _value(column, side)) for column in columns)}]::text[]"


def _part(column: Column, value: str) -> str:
    label = literal(_encode(column.name).decode() + ": ")
    as_json = (
        f"coalesce(to_json({value})::text, 'null')"
        if column.to_json
        else f"CASE num_nulls({value}) WHEN 0 THEN to_json(format('%s', {value}))::text ELSE 'null' END"
    )
    part = f"{label} || {as_json}"
    return (
        f"CASE WHEN pg_column_size({value}) > {MAX_PAYLOAD} THEN NULL ELSE {part} END"
        if column.long
        else part
    )


def _slowly(columns: Sequence[Column], side: str) -> str:
    ours = [column.type for column in columns if column.to_json and column.type >= FIRST_OF_USERS]
    return f"""
        {side}_told := array_fill(NULL::text, ARRAY[cardinality(names)]);
        FOR place IN 1 .. cardinality(names) LOOP
            BEGIN
                EXECUTE format({literal(_SLOW_PART)}, names[place]) INTO part
                USING {side.upper()}, '{{{",".join(map(str, ours))}}}'::oid[];
                {side}_told[place] := part;
            EXCEPTION WHEN OTHERS THEN
                NULL;
            END;
        END LOOP;"""


_SLOW_PART = f"""
SELECT CASE WHEN pg_column_size($1.%1$I) > {MAX_PAYLOAD} THEN NULL ELSE
    to_json(%1$L::text)::text || ': ' ||
    CASE
    WHEN num_nulls($1.%1$I) = 1 THEN 'null'
    WHEN pg_typeof($1.%1$I)::oid < {FIRST_OF_USERS} OR pg_typeof($1.%1$I)::oid = ANY ($2)
        THEN to_json($1.%1$I)::text
    ELSE to_json(format('%%s', $1.%1$I))::text
    END
END"""


def _payload(operation: ChangeOperation, table: str) -> str:
    start = f'{{"operation": "{operation}", "table": {_encode(table).decode()}, "old": '
    return f"""{literal(start)} || coalesce('{{' || array_to_string(old_told, ', ') || '}}', 'null')
        || ', "new": ' || coalesce('{{' || array_to_string(new_told, ', ') || '}}', 'null')
        || coalesce(', "left_out": ' || to_json(nullif(left_out, '{{}}'))::text, '') || '}}'"""


def _sift(side: str) -> str:
    """Leave out what is too long, and half surrogate pairs, which are no text: nobody could read the rest."""
    return f"""{side}_told := ARRAY(
            SELECT CASE WHEN octet_length(every.part) <= longest
                AND regexp_replace(every.part, {literal(_WHOLE)}, '-', 'g') !~ {literal(_HALF)}
                THEN every.part END
            FROM unnest({side}_told) WITH ORDINALITY AS every(part, place) ORDER BY place);"""  # noqa: S608


_WHOLE = r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F].."
"""A backslash that is escaped, or a surrogate pair."""

_HALF = r"\\u[dD][89a-fA-F]"


def _count_under(
    path: str, operation: ChangeOperation, table: str, columns: Sequence[Column], sides: Sequence[str]
) -> str:
    """Set the key. One that cannot be read, or be one, is as none, or what there is of it serves."""
    side, _, rest = path.partition(".")
    name, _, within = rest.partition(".")
    places = {column.name: place for place, column in enumerate(columns, 1)}
    if side in sides and name in places:
        steps = _texts([name, *within.split(".")] if within else [name])
        key = f"('{{' || {side}_told[{places[name]}] || '}}')::json #>> {steps}"
    else:
        key = literal({"operation": operation, "table": table}.get(path, NO_KEY))
    return f"""BEGIN
        counted_under := left({key}, {LONGEST_KEY});
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
    counted_under := coalesce(counted_under, '{NO_KEY}');"""


def _each(sides: Iterable[str], what: Callable[[str], str]) -> str:
    return "\n            ".join(map(what, sides))


def _or(conditions: Iterable[str]) -> str:
    return f"({' OR '.join(conditions)})"


# SQL


def identifier(name: str) -> str:
    """Return a name as it is written in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Return a text as it is written in SQL."""
    return "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _texts(values: Iterable[str]) -> str:
    return f"ARRAY[{', '.join(map(literal, values))}]::text[]"
