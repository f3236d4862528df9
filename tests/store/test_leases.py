"""Leases: who lives, who is taken for dead, and what becomes of the writes and the executions of the dead."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from store_moves import NOW, claim, ending, invoke, running, step, view

from conductor_protocol.units import Instant
from conductor_supervisor.store import claiming, leases
from conductor_supervisor.store.attempts import Ending, Recovered
from conductor_supervisor.store.claiming import Claimed, Wanted
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.leases import Member
from conductor_supervisor.writes import (
    Brought,
    Claim,
    EndAttempt,
    Fire,
    Look,
    RecordStep,
    RenewLease,
    Sweep,
    TakenOver,
    TakeOver,
    Write,
    apply,
)
from testbed.postgresql import PostgresServer

ONE, TWO = (Member(id=name, host="here", pid=7, app="shop:app", started=NOW) for name in ("one", "two"))
LONG, OVER = 60_000_000, -1


def renew(database: Database, member: Member, microseconds: int = LONG) -> bool:
    with database.writing() as connection:
        return leases.renew(connection, member, microseconds)


def carry_out(database: Database, write: Write, member: str) -> list[object]:
    """Apply a write of a supervisor; return what its effect would hear."""
    heard: list[object] = []
    write.then = heard.append  # type: ignore[assignment]
    with database.writing() as connection:
        effects = apply(connection, [write], NOW, member)
    for effect in effects:
        effect()
    return heard


def refuse(message: str) -> None:
    raise AssertionError(message)


def take_over(database: Database, by: str, unchanged: dict[str, Instant] | None = None) -> TakenOver:
    """Take over from those whose leases have run out, and have stood still for long, as all have here."""
    with database.reading() as connection:
        ends = leases.ends(connection)
    write = TakeOver(by, {"t": 3}, ends if unchanged is None else unchanged, lambda brought: None, refuse)
    (taken,) = carry_out(database, write, by)
    assert isinstance(taken, TakenOver)
    return taken


def told(taken: TakenOver) -> tuple[list[Member], Recovered, set[tuple[str, int]]]:
    return taken.gone, taken.recovered, taken.ours


def test_a_lease_that_was_renewed_of_late_is_not_taken_however_late_the_database_says_it_is(
    database: Database,
) -> None:
    """Its clock has jumped then."""
    renew(database, ONE)
    renew(database, TWO, OVER)
    first = take_over(database, "one", unchanged={})
    assert first.gone == []
    assert first.ends.keys() == {"one", "two"}
    with database.writing() as connection:
        leases.renew(connection, TWO, OVER)
    assert take_over(database, "one", dict(first.ends)).gone == []
    assert take_over(database, "one").gone == [TWO]


def test_nobody_takes_itself_for_dead(database: Database) -> None:
    """Be its own lease over: it learns that when it is to renew it."""
    renew(database, ONE, OVER)
    mine = running(database, by="one")
    assert take_over(database, "one").gone == []
    assert view(database, mine.id).state == "running"


def test_the_first_renewal_is_the_beginning(database: Database) -> None:
    """And so is the one after somebody has taken us for dead."""
    assert [renew(database, ONE), renew(database, ONE)] == [False, True]
    with database.writing() as connection:
        leases.remove(connection, "one")
    assert renew(database, ONE) is False


def test_what_a_supervisor_with_a_lease_runs_is_its_own(database: Database) -> None:
    """Nobody takes it over; the take-over tells us what is ours."""
    renew(database, ONE)
    renew(database, TWO)
    mine, other = running(database, by="one"), running(database, by="two")
    taken = take_over(database, "one")
    assert told(taken) == ([], Recovered([], [], []), {(mine.id, 1)})
    assert view(database, other.id).state == "running"


def test_what_one_without_a_lease_ran_goes_back_to_the_queue(database: Database) -> None:
    """Uncharged; and its lease is gone, so that this happens once."""
    renew(database, ONE)
    renew(database, TWO, OVER)
    theirs = running(database, by="two")
    taken = take_over(database, "one")
    assert taken.gone == [TWO]
    assert taken.recovered == Recovered(returned=[theirs.id], charged=[], cancelled=[])
    assert view(database, theirs.id).state == "ready"
    assert told(take_over(database, "one")) == ([], Recovered([], [], []), set())


def test_a_lease_that_has_run_out_counts_until_somebody_takes_over(database: Database) -> None:
    """Being late does no harm as long as nobody has noticed."""
    renew(database, TWO, OVER)
    theirs = running(database, by="two")
    assert carry_out(database, _end(ending(theirs)), "two") == [False]
    assert view(database, theirs.id).state == "completed"


def _end(one: Ending) -> EndAttempt:
    return EndAttempt(one, lambda late: None, refuse)


def _record(claimed: Claimed) -> RecordStep:
    return RecordStep(step(claimed, "a"), lambda late: None, refuse)


def test_the_late_words_of_the_dead_change_nothing(database: Database) -> None:
    """Neither a step nor an ending, nor do they claim anything; not even if nobody has the execution yet."""
    renew(database, TWO, OVER)
    theirs = running(database, by="two")
    take_over(database, "one")
    assert carry_out(database, _record(theirs), "two") == [True]
    assert carry_out(database, _end(ending(theirs)), "two") == [True]
    claim_more = Claim([Wanted("t", 5)], 5, "two", lambda brought: None, refuse)
    assert carry_out(database, claim_more, "two") == [Brought([], {})]
    assert (view(database, theirs.id).state, view(database, theirs.id).steps) == ("ready", [])


def test_a_claim_under_a_lease_that_somebody_removed_is_late_even_if_it_is_live(database: Database) -> None:
    """The lease alone decides: the row's claim number has not changed yet."""
    renew(database, TWO)
    theirs = running(database, by="two")
    with database.writing() as connection:
        leases.remove(connection, "two")
    assert carry_out(database, _record(theirs), "two") == [True]
    assert carry_out(database, _end(ending(theirs)), "two") == [True]
    assert view(database, theirs.id).state == "running"


def test_whoever_leaves_gives_up_what_runs(database: Database) -> None:
    """It has ended, so it runs nothing any more."""
    renew(database, ONE)
    mine = running(database, by="one")
    with database.writing() as connection:
        leases.remove(connection, "one")
        assert leases.members(connection) == []
    assert take_over(database, "two").recovered.returned == [mine.id]


# What only several connections at once can show


@pytest.fixture
def shared(postgres_url: str) -> Iterator[Database]:
    """A PostgreSQL database."""
    database = Database.open(postgres_url)
    yield database
    database.close()


def test_nobody_is_taken_for_dead_in_the_middle_of_a_write(shared: Database) -> None:
    """The take-over does not wait for it either, and comes back later."""
    renew(shared, TWO, OVER)
    theirs = running(shared, by="two")
    with shared.writing() as connection:
        assert leases.stands(connection, "two")
        assert take_over(shared, "one").gone == []
        apply(connection, [_end(ending(theirs))], NOW, "two")
    assert view(shared, theirs.id).state == "completed"
    assert take_over(shared, "one").gone == [TWO]


def test_two_supervisors_never_claim_the_same(shared: Database) -> None:
    """Nor does one wait for the other."""
    ids = set(invoke(shared, *["t"] * 10))
    with shared.writing() as one, shared.writing() as two:
        first = claiming.claim(one, [Wanted("t", 6)], 6, "one", NOW).claimed
        second = claiming.claim(two, [Wanted("t", 6)], 6, "two", NOW).claimed
    assert (len(first), len(second)) == (6, 4)
    assert {c.id for c in first} | {c.id for c in second} == ids


def test_a_limit_holds_between_claims_at_the_same_moment(shared: Database, postgres: PostgresServer) -> None:
    """The second waits until the first has committed, and counts what that has left."""
    invoke(shared, *["t"] * 10)
    wanted = Wanted("t", 6, concurrency=8)
    with ThreadPoolExecutor(1) as pool:
        with shared.writing() as one:
            first = claiming.claim(one, [wanted], 6, "one", NOW).claimed
            second = pool.submit(partial(claim, shared, wanted, by="two"))
            _until_somebody_waits(postgres)
        assert (len(first), len(second.result(30))) == (6, 2)


def _until_somebody_waits(postgres: PostgresServer) -> None:
    deadline = time.monotonic() + 30
    while not postgres.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "write",
    [
        Sweep(lambda removed: None, refuse),
        Look("one", lambda seen: None, refuse),
        RenewLease(ONE, LONG, lambda had_one: None, refuse),
        Fire([], lambda created: None, refuse),
        Claim([], 1, "one", lambda taken: None, refuse),
    ],
    ids=lambda write: type(write).__name__,
)
@pytest.mark.parametrize("with_lease", [True, False])
def test_who_is_stopped_in_a_transaction_keeps_nobody_waiting(
    postgres_url: str, write: Write, with_lease: bool
) -> None:
    """The server ends it, whatever was being written: others may wait for rows that it has touched."""
    database = Database.open(postgres_url)
    if with_lease:
        renew(database, ONE)
    with database.writing() as connection:
        apply(connection, [write], NOW, "one")
        assert connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "5s"
        if sys.platform == "linux":  # where the server's is told if nobody takes what it sends
            assert connection.scalar(text("SHOW tcp_user_timeout")) == "5000"
    database.close()


def test_a_renewal_does_not_wait_for_a_transaction_of_its_own_supervisor(postgres_url: str) -> None:
    """However long that writes; whoever would take it for dead does."""
    database, other = Database.open(postgres_url), Database.open(postgres_url)
    renew(database, ONE)
    renew(database, TWO, OVER)
    with database.writing() as connection, other.writing() as renewing:
        assert leases.stands(connection, "one")
        assert leases.stands(connection, "two")
        renewing.execute(text("SET LOCAL lock_timeout = '1ms'"))
        assert leases.renew(renewing, ONE, LONG)
        assert leases.remove_expired(renewing, "one") == []
    other.close()
    database.close()


def test_what_a_client_has_locked_is_taken_over_at_the_next_look(postgres_url: str) -> None:
    """It keeps nobody waiting, not even a start."""
    database, client = Database.open(postgres_url), Database.open(postgres_url)
    renew(database, ONE)
    renew(database, TWO, OVER)
    kept, free = running(database, by="two"), running(database, by="two")
    with client.writing() as locking:
        locking.execute(
            text("SELECT 1 FROM conductor.conductor_executions WHERE id = :id FOR UPDATE"), {"id": kept.id}
        )
        assert take_over(database, "one").recovered.returned == [free.id]
    assert take_over(database, "one").recovered.returned == [kept.id]
    client.close()
    database.close()


def test_closing_does_not_wait_for_a_transaction_that_hangs(postgres_url: str) -> None:
    """It is cut off, and whoever was in it has an error."""
    database = Database.open(postgres_url)
    began = threading.Event()

    def hang(connection: Connection) -> None:
        began.set()
        connection.execute(text("SELECT pg_sleep(600)"))

    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(database.transact, hang)
        assert began.wait(30)
        database.close()
        with pytest.raises(DBAPIError):
            hanging.result(60)
