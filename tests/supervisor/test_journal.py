"""Group commit: what the loop hands over is committed in groups, and only then acted upon."""

from __future__ import annotations

import select
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import pytest
from sqlalchemy.exc import DatabaseError, OperationalError

from conductor_protocol.messages import RecordedStep
from conductor_protocol.operations import (
    Answer,
    Failure,
    Found,
    GetExecution,
    Invoked,
    InvokeMany,
    NewExecution,
)
from conductor_supervisor.clock import SystemClock
from conductor_supervisor.errors import StoreError
from conductor_supervisor.journal import Journal
from conductor_supervisor.store import leases
from conductor_supervisor.store.attempts import Ending
from conductor_supervisor.store.claiming import Wanted
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.dialect import sql
from conductor_supervisor.store.leases import Member
from conductor_supervisor.store.perform import perform
from conductor_supervisor.store.steps import NewStep
from conductor_supervisor.writes import Claim, EndAttempt, LoadPage, Perform, RecordStep, Taken, Write

NOTHING: list[str] = []
NOW = 1_800_000_000_000_000


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A fresh database."""
    database = Database.open(f"sqlite:///{tmp_path}/conductor.db")
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def journal(database: Database) -> Iterator[Journal]:
    """A journal at work on it."""
    journal = Journal(database, SystemClock(), changed=lambda: None)
    journal.start()
    yield journal
    journal.close(5)


def act(journal: Journal, *writes: Write) -> None:
    """Hand over a group and act on its effects, as the loop does."""
    left = journal.pending
    for write in writes:
        journal.submit(write)
    journal.hand_over()
    act_until(journal, lambda: journal.pending == left)


def act_until(journal: Journal, fact: Callable[[], bool]) -> None:
    """Act on effects until something has come true."""
    while not fact():
        readable, _, _ = select.select([journal.fileno()], [], [], 30)
        assert readable, "the journal never answered"
        journal.awake()
        for effect in journal.effects():
            effect()


def fail(message: str) -> None:
    """Be the ``refused`` of a write that must not be refused."""
    raise AssertionError(message)


def invoked(journal: Journal, count: int) -> list[str]:
    """Create executions."""
    answers: list[Answer] = []
    new = [NewExecution(task="job") for _ in range(count)]
    act(journal, Perform(InvokeMany(new), answers.append, fail))
    (answer,) = answers
    assert isinstance(answer, Invoked)
    return answer.ids


def claimed(journal: Journal, count: int) -> list[Taken]:
    """Claim executions."""
    taken: list[Taken] = []
    act(
        journal, Claim([Wanted("job", count)], count, "me", lambda brought: taken.extend(brought.taken), fail)
    )
    return taken


def completion(taken: Taken, result: bytes = b"1") -> Ending:
    """Return the ending of a handler that returned."""
    return Ending(
        execution=taken.claimed.id,
        claim=taken.claimed.claim,
        state="completed",
        outcome="completed",
        charged=False,
        started=1,
        ended=2,
        result=result,
    )


def test_endings_free_places_for_the_claims_of_the_same_group(journal: Journal) -> None:
    """One commit ends three of a limited task and takes the next three."""
    invoked(journal, 6)
    wanted = [Wanted("job", 10, concurrency=3)]
    first: list[Taken] = []
    act(journal, Claim(wanted, 10, "me", lambda brought: first.extend(brought.taken), fail))
    assert len(first) == 3
    second: list[Taken] = []
    late: list[bool] = []
    act(
        journal,
        Claim(wanted, 10, "me", lambda brought: second.extend(brought.taken), fail),
        *(EndAttempt(completion(taken), late.append, fail) for taken in first),
    )
    assert len(second) == 3
    assert late == [False] * 3


def test_a_late_voice_hears_that_it_is_late_and_changes_nothing(journal: Journal) -> None:
    """Execution, claim and state are in every write."""
    invoked(journal, 1)
    (taken,) = claimed(journal, 1)
    late: list[bool] = []
    act(journal, EndAttempt(completion(taken, b'"first"'), late.append, fail))
    act(journal, EndAttempt(completion(taken, b'"second"'), late.append, fail))
    assert late == [False, True]
    answers: list[Answer] = []
    act(journal, Perform(GetExecution(taken.claimed.id), answers.append, fail))
    (answer,) = answers
    assert isinstance(answer, Found)
    assert answer.execution.result == "first"


def test_a_step_that_came_before_the_end_of_its_attempt_is_recorded(journal: Journal) -> None:
    """Also where both are in one group, as when a handler fails beside a step that has just ended."""
    invoked(journal, 1)
    (taken,) = claimed(journal, 1)
    failed = msgspec.structs.replace(completion(taken), state="ready", outcome="failed", result=None)
    step = NewStep(taken.claimed.id, taken.claimed.claim, "charge", b"1", 1, 2, 1)
    late: list[bool] = []
    act(journal, RecordStep(step, late.append, fail), EndAttempt(failed, late.append, fail))
    assert late == [False, False]
    (again,) = claimed(journal, 1)
    assert again.steps == [RecordedStep("charge", b"1")]


def test_one_bad_write_does_not_sink_its_group(journal: Journal) -> None:
    """It is refused alone; its neighbours are committed."""
    invoked(journal, 2)
    good, bad = claimed(journal, 2)
    outcomes: list[object] = []
    impossible = msgspec.structs.replace(completion(bad), state="nonsense")
    act(
        journal,
        EndAttempt(completion(good), partial(outcomes.append), fail),
        EndAttempt(impossible, lambda late: fail("committed"), lambda message: outcomes.append("refused")),
    )
    assert sorted(map(str, outcomes)) == ["False", "refused"]


def test_steps_recorded_in_a_group_are_loaded_by_a_later_one(journal: Journal) -> None:
    """Those after the step named, in the order in which they were recorded."""
    invoked(journal, 1)
    (taken,) = claimed(journal, 1)
    late: list[bool] = []
    for number in range(5):
        step = NewStep(
            execution=taken.claimed.id, claim=1, name=f"s{number}", result=b"1", started=1, ended=2, attempt=1
        )
        act(journal, RecordStep(step, late.append, fail))
    page: list[RecordedStep] = []
    act(journal, LoadPage(taken.claimed.id, "s1", page.extend, fail))
    assert [step.name for step in page] == ["s2", "s3", "s4"]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB])
def test_a_damaged_database_ends_the_journal_and_refuses_nothing(
    journal: Journal, database: Database, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """No execution is ended because the file is broken; the loop hears of it once, and stops."""

    def damaged() -> object:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = code
        raise DatabaseError("SELECT 1", None, error)

    monkeypatch.setattr(database, "writing", damaged)
    with pytest.raises(StoreError, match=r"^the database sqlite:///.* is damaged: .*malformed.*backup"):
        invoked(journal, 1)


def test_a_read_only_database_is_away(
    journal: Journal,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its writes wait, none is refused, and go on by themselves: two lines of the log say so."""
    real, tries = database.writing, []

    def writing() -> object:
        tries.append(1)
        # What SQLite then says is the same as for a file that may only be read.
        read_only = "ON" if len(tries) <= 3 else "OFF"
        with closing(database._writer_connection().connection.cursor()) as cursor:
            cursor.execute(f"PRAGMA query_only = {read_only}")
        return real()

    monkeypatch.setattr(database, "writing", writing)
    assert len(invoked(journal, 3)) == 3
    told = [record.getMessage() for record in caplog.records if record.name.endswith("journal")]
    assert len(told) == 2, told
    assert "the database is away, 1 write waits: " in told[0]
    assert "readonly" in told[0]
    assert told[1].startswith("the database is back after ")


@pytest.mark.parametrize("replaced", [False, True])
def test_what_goes_into_a_file_that_has_lost_its_name_is_not_acknowledged(
    journal: Journal, database: Database, tmp_path: Path, replaced: bool
) -> None:
    """SQLite goes on writing into it, and nobody will ever read that."""
    invoked(journal, 1)
    path = tmp_path / "conductor.db"
    path.unlink()
    if replaced:
        Database.open(f"sqlite:///{path}").close()
    with pytest.raises(StoreError, match=rf"the database file {path} was deleted or replaced .*start again"):
        invoked(journal, 1)


def test_an_idle_journal_notices_that_its_file_is_gone(journal: Journal, tmp_path: Path) -> None:
    """At its next look, with nothing to write."""
    (tmp_path / "conductor.db").unlink()
    journal._thread.join(30)
    with pytest.raises(StoreError, match="deleted or replaced"):
        journal.effects()


def test_a_look_that_fails_because_the_database_is_away_is_survived(
    journal: Journal, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one finds it again."""
    real, tries = database.changed_elsewhere, []

    def away() -> bool:
        tries.append(1)
        if len(tries) <= 2:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
            raise error
        return real()

    monkeypatch.setattr(database, "changed_elsewhere", away)
    deadline = time.monotonic() + 30
    while len(tries) < 4:
        assert time.monotonic() < deadline, "it never looked again"
        select.select([], [], [], 0.01)
    assert len(invoked(journal, 1)) == 1


def test_a_database_that_is_away_gets_each_write_once_when_it_is_back(
    journal: Journal, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group waits; nothing is acted upon before the commit."""
    real, tries = database.writing, []

    def away() -> object:
        tries.append(1)
        if len(tries) <= 3:
            full = sqlite3.OperationalError("database or disk is full")
            full.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise OperationalError("BEGIN IMMEDIATE", None, full)
        return real()

    monkeypatch.setattr(database, "writing", away)
    assert len(set(invoked(journal, 3))) == 3
    assert len(tries) == 4
    assert len(claimed(journal, 10)) == 3


@pytest.mark.parametrize("lock", ["FOR UPDATE", "FOR KEY SHARE"])
def test_a_row_that_somebody_keeps_locked_keeps_no_other_write_waiting(postgres_url: str, lock: str) -> None:
    """Be it the row of an execution that ends. A foreign key that leads to it keeps not even that waiting."""
    database = Database.open(postgres_url)
    with database.writing() as connection:
        leases.renew(connection, Member("me", "here", 1, "app", NOW), 600_000_000)
    journal = Journal(database, SystemClock(), changed=lambda: None, member="me")
    journal.start()
    kept, *_ = invoked(journal, 3)
    mine = {one.claimed.id: one for one in claimed(journal, 3)}
    late: list[bool] = []
    other = Database.open(postgres_url)
    with other.writing() as connection:
        connection.execute(sql(f"SELECT 1 FROM conductor_executions WHERE id = :id {lock}"), {"id": kept})
        failure = msgspec.structs.replace(
            completion(mine.pop(kept)),
            state="failed",
            outcome="failed",
            failure=Failure(type="E", message=""),
            result=None,
        )
        journal.submit(EndAttempt(failure, late.append, fail))
        journal.hand_over()
        if lock == "FOR KEY SHARE":
            act_until(journal, lambda: late == [False])
        for one in mine.values():
            act(journal, EndAttempt(completion(one), late.append, fail))
        if lock == "FOR UPDATE":
            assert late == [False] * 2
            assert not journal.left_to_others()  # an attempt's end must not be left
    act_until(journal, lambda: late == [False] * 3)
    assert journal.idle()
    journal.close(5)
    other.close()
    database.close()


def test_who_waits_for_a_lock_keeps_no_other_write_waiting(postgres_url: str) -> None:
    """Here for a key that another's open transaction has: it is tried again until that one has ended."""
    database = Database.open(postgres_url)
    with database.writing() as connection:
        leases.renew(connection, Member("me", "here", 1, "app", NOW), 600_000_000)
    journal = Journal(database, SystemClock(), changed=lambda: None, member="me")
    journal.start()
    answers: list[Answer] = []
    keyed = InvokeMany([NewExecution(task="job", dedupe_key="k")])
    free = InvokeMany([NewExecution(task="job")])
    other = Database.open(postgres_url)
    with other.writing() as connection:
        perform(connection, keyed, NOW)
        for operation in (keyed, free):
            journal.submit(Perform(operation, answers.append, fail))
        journal.hand_over()
        act_until(journal, lambda: len(answers) == 1)
        invoked(journal, 3)
        assert len(answers) == 1
    act_until(journal, lambda: len(answers) == 2)
    assert journal.idle()
    (first, second) = answers
    assert isinstance(first, Invoked)
    assert isinstance(second, Invoked)
    assert (first.created, second.created) == ([True], [False])
    journal.close(5)
    other.close()
    database.close()
