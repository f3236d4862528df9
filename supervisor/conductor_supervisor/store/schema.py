"""Every table. The constraints make impossible rows impossible; the partial indexes hold only live work.

``executions``  one row each, from invocation to removal; its ``state`` says where it is in its life
``steps``       the recorded results of each execution, in the order in which they were recorded
``attempts``    how each attempt ended, but for a plain completion: that one the execution's own row tells
``output``      the end of what each execution has printed, in the order in which it was read
``tasks``       what the running code declares
``schedules``   when each cron schedule fired last
``pauses``      tasks and queues that operators have paused
``starts``      of tasks with a rate: what has started of late, or is about to
``supervisors`` which supervisors live, where several share the database

An execution is created ``scheduled`` (due later) or ``ready``. A supervisor promotes it when it is due, and
claims it: ``running``, with a ``claim`` number that grows each time. Whatever is written for a running
execution names id and claim; a late voice from an earlier claim matches no row. In the end it is finished
(``completed``, ``failed``, ``cancelled``), or ``ready`` or ``scheduled`` again, with its steps.

A ``suspect`` was inside a shared runner that died with several in it, so it may have been the guilty one. It
stays one until it is finished: shared runners run it alone.

A ``concurrency_key`` is what an execution is counted under where its task limits by key; empty text where
such a task's payload has none. Executions of other tasks have NULL there, and the index of keys holds none.

Conditions on the state are written as chains of ``=``: SQLite builds a table for each IN of three or more,
row by row, which doubled the cost of an update.

Instants are microseconds since 1970, JSON is text. Steps, attempts and output carry no foreign key: each
would cost a look-up on every write, and rows leave only through ``executions.remove_expired``, which takes
them all; output of which there is too much leaves through ``output.keep``.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)

HEAD = "0006"
"""The newest revision in ``migrations/versions``, known here so that a check needs no Alembic."""

VERSION_TABLE = "conductor_schema"
"""Where the revision is noted. A name of our own: the database may be an application's too."""

FIRST_PRIORITY = 32767
LAST_PRIORITY = -32768

WHERE = "where"
"""In an index's ``info``: the condition on the rows that it holds."""

version = Table(
    VERSION_TABLE,
    MetaData(),  # not among our own: Alembic makes this one too, when it updates an older schema
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)

metadata = MetaData()

executions = Table(
    "conductor_executions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("task", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("event", Text, nullable=False),
    Column("scheduled_for", BigInteger),
    Column("payload", Text, nullable=False),
    Column("metadata", Text),
    Column("result", Text),
    Column("error", Text),
    Column("dedupe_key", Text),
    Column("firing_key", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("expires_at", BigInteger),
    Column("attempt", Integer, nullable=False),
    Column("claim", BigInteger, nullable=False),
    Column("supervisor", Text),
    Column("lost", SmallInteger, nullable=False),
    Column("waiting_for", Text),
    Column("cancel_requested_at", BigInteger),
    Column("cancel_reason", Text),
    Column("progress", Text),
    Column("suspect", SmallInteger, nullable=False, server_default=text("0")),
    Column("concurrency_key", Text),
    CheckConstraint(
        "state = 'scheduled' OR state = 'ready' OR state = 'running'"
        " OR state = 'completed' OR state = 'failed' OR state = 'cancelled'",
        "known_state",
    ),
    CheckConstraint(f"priority BETWEEN {LAST_PRIORITY} AND {FIRST_PRIORITY}", "priority_in_range"),
    CheckConstraint("attempt >= 0 AND claim >= 0 AND lost >= 0", "counts_from_zero"),
    CheckConstraint("(state = 'scheduled') = (waiting_for IS NOT NULL)", "scheduled_waits_for_something"),
    CheckConstraint(
        "waiting_for = 'delay' OR waiting_for = 'retry' OR waiting_for = 'window'", "known_reason_to_wait"
    ),
    CheckConstraint("(state = 'running') = (supervisor IS NOT NULL)", "running_has_supervisor"),
    CheckConstraint("state <> 'running' OR (started_at IS NOT NULL AND claim > 0)", "running_was_claimed"),
    CheckConstraint(
        "(state = 'completed' OR state = 'failed' OR state = 'cancelled') = (finished_at IS NOT NULL)",
        "finished_has_end",
    ),
    CheckConstraint("(state = 'completed') = (result IS NOT NULL)", "completed_has_result"),
    CheckConstraint("state <> 'failed' OR error IS NOT NULL", "failed_has_error"),
    CheckConstraint("expires_at IS NULL OR finished_at IS NOT NULL", "only_finished_expires"),
    CheckConstraint(
        "cancel_requested_at IS NULL OR (state <> 'scheduled' AND state <> 'ready')",
        "waiting_is_cancelled_at_once",
    ),
)

Index(
    "conductor_ready",
    executions.c.task,
    executions.c.priority.desc(),
    executions.c.due_at,
    executions.c.id,
    info={WHERE: "state = 'ready'"},
)
Index(
    "conductor_suspects",
    executions.c.task,
    executions.c.suspect,  # always 1, but by it SQLite prefers this index
    executions.c.priority.desc(),
    executions.c.due_at,
    executions.c.id,
    info={WHERE: "state = 'ready' AND suspect = 1"},
)
Index(
    "conductor_keys",
    executions.c.task,
    executions.c.concurrency_key,
    executions.c.priority.desc(),
    executions.c.due_at,
    executions.c.id,
    info={WHERE: "state = 'ready' AND concurrency_key IS NOT NULL"},
)
Index(
    "conductor_scheduled",
    executions.c.due_at,
    info={WHERE: "state = 'scheduled'"},
)
Index(
    "conductor_running",
    executions.c.task,
    info={WHERE: "state = 'running'"},
)
Index(
    "conductor_cancel_requested",
    executions.c.supervisor,
    info={WHERE: "state = 'running' AND cancel_requested_at IS NOT NULL"},
)
Index(
    "conductor_finished",
    executions.c.task,
    executions.c.state,
    executions.c.id,
    info={WHERE: "finished_at IS NOT NULL"},
)
Index(
    "conductor_expiring",
    executions.c.expires_at,
    info={WHERE: "expires_at IS NOT NULL"},
)
Index(
    "conductor_dedupe",
    executions.c.task,
    executions.c.dedupe_key,
    unique=True,
    info={WHERE: "dedupe_key IS NOT NULL AND finished_at IS NULL"},
)
Index(
    "conductor_firing",
    executions.c.firing_key,
    unique=True,
    info={WHERE: "firing_key IS NOT NULL"},
)

steps = Table(
    "conductor_steps",
    metadata,
    # Grows with every row, so it is the recorded order. SQLite numbers rows by itself only in an INTEGER key.
    Column("position", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True),
    Column("execution_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    UniqueConstraint("execution_id", "name", name="conductor_step_once"),
)
Index("conductor_steps_in_order", steps.c.execution_id, steps.c.position)

attempts = Table(
    "conductor_attempts",
    metadata,
    Column("execution_id", Text, nullable=False),
    Column("claim", BigInteger, nullable=False),
    Column("number", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("error", Text),
    Column("crash", Text),
    Column("reason", Text),
    PrimaryKeyConstraint("execution_id", "claim"),
    CheckConstraint(
        "outcome IN ('failed', 'crashed', 'cancelled', 'released', 'stopped', 'lost')", "known_outcome"
    ),
)

output = Table(
    "conductor_output",
    metadata,
    # Grows with every row, as that of the steps.
    Column("position", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True),
    Column("execution_id", Text, nullable=False),
    Column("claim", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("stream", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("printed_before", BigInteger, nullable=False),
    CheckConstraint("stream IN ('stdout', 'stderr')", "known_stream"),
)
# With the sizes in it: to see how much there is needs no look at the rows.
Index("conductor_output_in_order", output.c.execution_id, output.c.position, output.c.size)

tasks = Table(
    "conductor_tasks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("spec", Text, nullable=False),
    Column("declared_at", BigInteger, nullable=False),
)

schedules = Table(
    "conductor_schedules",
    metadata,
    Column("task", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("expression", Text, nullable=False),
    Column("tz", Text),
    Column("last_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("task", "name"),
)

pauses = Table(
    "conductor_pauses",
    metadata,
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    PrimaryKeyConstraint("kind", "name"),
    CheckConstraint("kind IN ('task', 'queue')", "known_kind"),
)

starts = Table(
    "conductor_starts",
    metadata,
    Column("execution_id", Text, nullable=False),
    Column("claim", BigInteger, nullable=False),
    Column("task", Text, nullable=False),
    # When it had certainly started; NULL while it is claimed, and nobody knows.
    Column("at", BigInteger),
    PrimaryKeyConstraint("execution_id", "claim"),
)
Index("conductor_starts_in_order", starts.c.task, starts.c.at)

supervisors = Table(
    "conductor_supervisors",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("app", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    # On tables of the application: the names of those that it wants, a list in JSON. NULL: not known.
    Column("triggers", Text),
)


@event.listens_for(metadata, "before_create")
def _make_indexes_partial(_metadata: MetaData, connection: Connection, **_options: object) -> None:
    """Give the conditions to the database at hand only: to name any other would import what speaks to it."""
    for table in metadata.tables.values():
        for index in table.indexes:
            if WHERE in index.info:
                index.dialect_options[connection.dialect.name]["where"] = text(index.info[WHERE])
