"""Short names for the moves that nearly every test of the store begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conductor_protocol.operations import (
    Answer,
    ExecutionView,
    Failure,
    Found,
    GetExecution,
    Invoked,
    InvokeMany,
    NewExecution,
    Operation,
    Stream,
)
from conductor_protocol.units import MICROSECONDS, Instant
from conductor_supervisor.store import attempts, claiming
from conductor_supervisor.store.attempts import Ending
from conductor_supervisor.store.claiming import Claimed, Wanted
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.output import Chunk
from conductor_supervisor.store.perform import is_write, perform
from conductor_supervisor.store.steps import NewStep

NOW: Instant = 1_800_000_000 * MICROSECONDS
SECOND = MICROSECONDS
FAILURE = Failure(type="ValueError", message="no")


def migrate(url: str) -> bool:
    """Bring a database's schema up to date, as a process of its own would; True if there was need."""
    database = Database.open(url)
    try:
        return database.migrate()
    finally:
        database.close()


def ask(database: Database, operation: Operation, now: Instant = NOW) -> Answer:
    """Perform an operation in a transaction of its own."""
    with database.writing() if is_write(operation) else database.reading() as connection:
        return perform(connection, operation, now)


def invoke(database: Database, *tasks: str, now: Instant = NOW, **options: Any) -> list[str]:
    """Create one execution of each task; return the ids."""
    new = [NewExecution(task=task, **options) for task in tasks]
    answer = ask(database, InvokeMany(new), now)
    assert isinstance(answer, Invoked), answer
    return answer.ids


def claim(
    database: Database, *wanted: Wanted | str, count: int = 100, now: Instant = NOW, by: str = "one"
) -> list[Claimed]:
    """Claim work; a task's name alone wants any number of it."""
    asked = [Wanted(want, 1000) if isinstance(want, str) else want for want in wanted]
    with database.writing() as connection:
        return claiming.claim(connection, asked, count, by, now).claimed


def running(database: Database, task: str = "t", by: str = "one", **options: Any) -> Claimed:
    """Create one execution and claim it."""
    invoke(database, task, **options)
    (claimed,) = claim(database, task, by=by)
    return claimed


def ending(claimed: Claimed, state: str = "completed", outcome: str | None = None, **more: Any) -> Ending:
    """How the attempt ended: by default it completed."""
    values: dict[str, Any] = {
        "execution": claimed.id,
        "claim": claimed.claim,
        "state": state,
        "outcome": outcome or state,
        "charged": False,
        "started": NOW,
        "ended": NOW + SECOND,
    }
    if state == "completed":
        values["result"] = b'"done"'
    if state == "failed":
        values |= {"charged": True, "failure": FAILURE}
    return Ending(**values | more)


def end(database: Database, *endings: Ending) -> list[Ending]:
    """Write endings; return the late ones."""
    with database.writing() as connection:
        return attempts.end(connection, endings)


def step(claimed: Claimed, name: str, result: bytes = b"1") -> NewStep:
    """A step that was just done."""
    return NewStep(claimed.id, claimed.claim, name, result, NOW, NOW + SECOND, claimed.attempt + 1)


def chunk(claimed: Claimed, text: str, stream: Stream = "stdout", before: int = 0) -> Chunk:
    """Something that was just printed."""
    return Chunk(
        execution=claimed.id,
        claim=claimed.claim,
        attempt=claimed.attempt + 1,
        stream=stream,
        time=NOW,
        text=text,
        size=len(text.encode()),
        before=before,
    )


def view(database: Database, execution: str) -> ExecutionView:
    """Everything about one execution."""
    answer = ask(database, GetExecution(execution))
    assert isinstance(answer, Found), answer
    return answer.execution


def states(database: Database, ids: Sequence[str]) -> list[str]:
    """The state of each."""
    return [view(database, execution).state for execution in ids]
