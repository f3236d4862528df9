"""Invocations on a connection of the caller's own are part of the caller's transaction."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from callers import (
    ASYNC_CALLERS,
    CALLERS,
    ORDER,
    AsyncCaller,
    Caller,
    async_core,
    async_driver,
    async_engine,
    core,
    core_with_psycopg2,
    driver,
    engine,
    execute,
    execute_async,
    file,
    is_sqlite,
    orm,
    run,
)
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import dict_row
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from conductor import Conductor, Event, Handle, Invocation
from conductor.errors import ExecutionNotFound, OperationRefused, PayloadMismatch, TooLarge, UsageError
from conductor_supervisor.errors import ForeignDatabase, OutdatedDatabase, StoreError
from conductor_supervisor.store import lent as lent_module
from harness import PATIENCE


def pairs(callers: Mapping[str, tuple[Any, ...]]) -> list[Any]:
    """Return each kind of database with each caller that can lend a connection to it."""
    return [
        pytest.param(fixture, caller, id=f"{fixture.removesuffix('_url')}-{caller.__name__}")
        for fixture, of_this_kind in callers.items()
        for caller in of_this_kind
    ]


each_caller = pytest.mark.parametrize(("database_url", "caller"), pairs(CALLERS), indirect=["database_url"])
each_async_caller = pytest.mark.parametrize(
    ("database_url", "caller"), pairs(ASYNC_CALLERS), indirect=["database_url"]
)
on_postgresql = pytest.mark.parametrize("database_url", ["postgres_url"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite_url"], indirect=True)


@pytest.fixture
def url(database_url: str) -> str:
    """A database that is Conductor's and the caller's."""
    run(database_url, "CREATE TABLE orders (number INTEGER)")
    return database_url


@pytest.fixture
def app(url: str) -> Iterator[Conductor]:
    """An app of this database."""
    with Conductor(url) as app:

        @app.task
        def send(event: Event[int], ctx: object) -> None: ...

        yield app


def there(app: Conductor) -> tuple[int, int]:
    """Return how many orders and how many executions everybody sees."""
    ((orders,),) = run(app.database_url(), "SELECT count(*) FROM orders")
    return orders, len(app.list())


def until_somebody_waits(url: str) -> None:
    """Wait until a transaction in this database waits for another."""
    deadline = time.monotonic() + PATIENCE
    waiting = "wait_event_type = 'Lock' AND datname = current_database()"
    while not run(url, f"SELECT 1 FROM pg_stat_activity WHERE {waiting}"):
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.01)


# Part of the caller's transaction


@each_caller
def test_it_commits_with_the_callers_work(caller: Caller, url: str, app: Conductor) -> None:
    """Nobody sees it before, wherever in the transaction it was invoked."""
    with caller(url) as lent:
        first = app.invoke("send", 1, connection=lent)
        execute(lent, ORDER)
        second, third = app.tasks["send"].invoke_many([2, 3], connection=lent)
        assert there(app) == (0, 0)
        lent.commit()
        assert there(app) == (1, 3)
    assert [app.get(handle).payload for handle in (first, second, third)] == [1, 2, 3]
    assert first.created


@each_caller
def test_it_goes_with_the_callers_work(caller: Caller, url: str, app: Conductor) -> None:
    """Rolled back, it was never there; the connection goes on."""
    with caller(url) as lent:
        handle = app.invoke("send", 1, connection=lent)
        execute(lent, ORDER)
        lent.rollback()
        assert there(app) == (0, 0)
        with pytest.raises(ExecutionNotFound):
            handle.state()
        app.invoke("send", 1, connection=lent)
        lent.commit()
    assert there(app) == (0, 1)


@each_caller
def test_a_savepoint_of_the_callers_takes_it_back(caller: Caller, url: str, app: Conductor) -> None:
    """And what was invoked before the savepoint stays."""
    with caller(url) as lent:
        execute(lent, ORDER)
        kept = app.invoke("send", 1, connection=lent)
        execute(lent, "SAVEPOINT mine")
        app.invoke("send", 2, connection=lent)
        execute(lent, "ROLLBACK TO SAVEPOINT mine")
        lent.commit()
    assert there(app) == (1, 1)
    assert app.list()[0].id == kept.id


@each_async_caller
def test_async_calls_do_the_same(caller: AsyncCaller, url: str, app: Conductor) -> None:
    """Commit, rollback, and a savepoint."""

    async def calls() -> None:
        async with caller(url) as lent:
            await app.invoke_async("send", 1, connection=lent)
            await execute_async(lent, ORDER)
            await lent.rollback()
            assert there(app) == (0, 0)
            await execute_async(lent, ORDER)
            kept = await app.tasks["send"].invoke_async(1, connection=lent)
            await execute_async(lent, "SAVEPOINT mine")
            await app.tasks["send"].invoke_many_async([2, 3], connection=lent)
            await execute_async(lent, "ROLLBACK TO SAVEPOINT mine")
            assert there(app) == (0, 0)
            await lent.commit()
            assert [view.id for view in app.list()] == [kept.id]
            assert there(app) == (1, 1)

    asyncio.run(calls())


@each_caller
def test_a_key_gives_the_unfinished_one_back(caller: Caller, url: str, app: Conductor) -> None:
    """Be it committed already, or of this very transaction."""
    old = app.invoke("send", 1, dedupe_key="old")
    with caller(url) as lent:
        keys = ["old", "new", "new"]
        found, made, again = app.invoke_many(
            "send", [Invocation(1, dedupe_key=key) for key in keys], connection=lent
        )
        lent.commit()
    assert (found.id, found.created) == (old.id, False)
    assert (made.created, again.created, again.id) == (True, False, made.id)
    assert there(app) == (0, 2)


@on_postgresql
def test_who_meets_a_key_of_an_open_transaction_waits_for_its_end(url: str, app: Conductor) -> None:
    """For only then is it clear whose the key is; here in one event loop, which goes on."""

    async def calls() -> None:
        async with async_driver(url) as first, async_core(url) as second:
            owner = await app.invoke_async("send", 1, connection=first, dedupe_key="k")
            waiting = asyncio.create_task(app.invoke_async("send", 1, connection=second, dedupe_key="k"))
            await asyncio.to_thread(until_somebody_waits, url)
            assert not waiting.done()
            await first.commit()
            found = await waiting
            assert (found.id, found.created) == (owner.id, False)

    asyncio.run(calls())


@on_postgresql
def test_a_call_that_is_cancelled_while_it_waits_leaves_the_transaction_usable(
    url: str, app: Conductor
) -> None:
    """On the driver's own connection; SQLAlchemy gives up its connection when a statement is cancelled."""

    async def calls() -> None:
        async with async_driver(url) as first, async_driver(url) as second:
            await app.invoke_async("send", 1, connection=first, dedupe_key="k")
            await execute_async(second, ORDER)
            waiting = asyncio.create_task(app.invoke_async("send", 1, connection=second, dedupe_key="k"))
            await asyncio.to_thread(until_somebody_waits, url)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await second.commit()
            await first.rollback()

    asyncio.run(calls())
    assert there(app) == (1, 0)


@on_postgresql
def test_what_one_of_several_tasks_was_given_stays_though_another_fails(url: str, app: Conductor) -> None:
    """They share a connection: the savepoint of one is not that of another."""

    async def calls() -> None:
        async with async_driver(url) as owner, async_driver(url) as shared:
            await app.invoke_async("send", 1, connection=owner, dedupe_key="taken")
            await execute_async(shared, "SET lock_timeout = '5ms'")
            for _ in range(30):
                made = await asyncio.gather(
                    app.invoke_async("send", 1, connection=shared, dedupe_key="taken"),
                    app.invoke_async("send", 2, connection=shared),
                    app.invoke_async("send", 3, connection=shared),
                    return_exceptions=True,
                )
                assert isinstance(made[0], psycopg.errors.LockNotAvailable)
                assert [isinstance(one, Handle) for one in made] == [False, True, True]
            await shared.commit()
            await owner.rollback()

    asyncio.run(calls())
    assert there(app) == (0, 60)


def test_threads_that_share_a_connection_which_commits_by_itself_write_one_after_another(
    url: str, app: Conductor
) -> None:
    """Each has its short transaction: none ends another's."""
    app.invoke("send", 0)
    with each_by_itself(url) as shared, ThreadPoolExecutor(4) as pool:
        handles = list(pool.map(lambda n: app.invoke("send", n, connection=shared), range(60)))
    assert len({handle.id for handle in handles}) == 60
    assert there(app) == (0, 61)


@contextmanager
def each_by_itself(url: str) -> Iterator[sqlite3.Connection | psycopg.Connection]:
    """A driver's connection that several threads may use and that commits each statement."""
    if url.startswith("sqlite"):
        file = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
        with closing(file):
            yield file
    else:
        with psycopg.connect(url, autocommit=True) as connection:
            yield connection


@on_postgresql
def test_a_cancelled_call_on_a_connection_of_sqlalchemy_is_cancelled(url: str, app: Conductor) -> None:
    """The cancellation arrives, though the connection is lost with it."""

    async def calls() -> None:
        async with async_driver(url) as first, async_core(url) as second:
            await app.invoke_async("send", 1, connection=first, dedupe_key="k")
            waiting = asyncio.create_task(app.invoke_async("send", 1, connection=second, dedupe_key="k"))
            await asyncio.to_thread(until_somebody_waits, url)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await first.rollback()

    asyncio.run(calls())
    assert there(app) == (0, 0)


@on_postgresql
def test_supervisors_are_woken_by_the_commit_and_once_for_a_call(url: str, app: Conductor) -> None:
    """Not before, not for what was rolled back, and not where nothing new came in."""
    with psycopg.connect(url, autocommit=True) as ear, driver(url) as lent:
        ear.execute("LISTEN conductor_conductor")
        app.invoke_many("send", [1, 2, 3], connection=lent)
        assert not list(ear.notifies(timeout=0))
        lent.rollback()
        app.invoke_many("send", [Invocation(1, dedupe_key="k"), 2, 3], connection=lent)
        lent.commit()
        heard = list(ear.notifies(timeout=PATIENCE, stop_after=1))
        assert [(each.channel, each.payload) for each in heard] == [("conductor_conductor", "")]
        app.invoke("send", 1, dedupe_key="k", connection=lent)
        lent.commit()
        ear.execute("NOTIFY conductor_conductor, 'the end'")
        assert [each.payload for each in ear.notifies(timeout=PATIENCE, stop_after=1)] == ["the end"]


# Where no transaction is open


@on_postgresql
@pytest.mark.parametrize("caller", [core, core_with_psycopg2, orm])
def test_a_connection_of_sqlalchemy_that_commits_by_itself_commits_this_too(
    caller: Caller, url: str, app: Conductor
) -> None:
    """As it does every other statement."""
    with caller(url) as lent:
        if isinstance(lent, Session):
            lent.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        else:
            lent.execution_options(isolation_level="AUTOCOMMIT")
        app.invoke_many("send", [1, 2], connection=lent)
        assert there(app) == (0, 2)
        execute(lent, "BEGIN")
        app.invoke("send", 3, connection=lent)
        assert there(app) == (0, 2)
        execute(lent, "COMMIT")
    assert there(app) == (0, 3)


@pytest.mark.parametrize("name", ["psycopg", "asyncpg"])
@on_postgresql
def test_one_that_is_awaited_and_commits_by_itself_does_so_too(name: str, url: str, app: Conductor) -> None:
    """Whatever the driver."""

    async def calls() -> None:
        async with async_core(url, name) as lent:
            await lent.execution_options(isolation_level="AUTOCOMMIT")
            await app.invoke_many_async("send", [1, 2], connection=lent)
            assert there(app) == (0, 2)

    asyncio.run(calls())


def test_a_drivers_connection_that_commits_by_itself_commits_this_too(url: str, app: Conductor) -> None:
    """All or nothing, and only where no transaction is open."""
    connection: Any = (
        sqlite3.connect(file(url), isolation_level=None)
        if is_sqlite(url)
        else psycopg.connect(url, autocommit=True)
    )
    with closing(connection) as lent:
        app.invoke_many("send", [1, 2], connection=lent)
        assert there(app) == (0, 2)
        lent.execute("BEGIN")
        app.invoke("send", 3, connection=lent)
        assert there(app) == (0, 2)
        lent.execute("ROLLBACK")
    assert there(app) == (0, 2)


@on_sqlite
def test_sqlalchemys_recipe_for_transactions_in_sqlite_works(url: str, app: Conductor) -> None:
    """The driver commits by itself, and the engine begins."""
    with engine(url) as made:
        event.listen(made, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
        event.listen(made, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        with made.connect() as lent:
            app.invoke("send", 1, connection=lent)
            assert there(app) == (0, 0)
            lent.rollback()
            app.invoke("send", 1, connection=lent)
            lent.commit()
    assert there(app) == (0, 1)


# What goes wrong


def broken(url: str) -> None:
    """Have the database refuse one payload, whoever writes it."""
    if is_sqlite(url):
        run(
            url,
            "CREATE TRIGGER broken BEFORE INSERT ON conductor_executions WHEN NEW.payload = '13' "
            "BEGIN SELECT RAISE(ABORT, 'not thirteen'); END",
        )
        return
    run(
        url,
        "ALTER TABLE conductor.conductor_executions ADD CONSTRAINT not_thirteen CHECK (payload <> '13')",
    )


@each_caller
def test_a_statement_that_fails_leaves_the_transaction_usable(
    caller: Caller, url: str, app: Conductor
) -> None:
    """Nothing of the call is written, the rest is; and the error is the caller's library's own."""
    broken(url)
    with caller(url) as lent:
        execute(lent, ORDER)
        with pytest.raises(Exception, match="thirteen") as caught:
            app.invoke_many("send", [1, 13], connection=lent)
        assert caught.type.__module__.partition(".")[0] in ("sqlalchemy", "psycopg", "sqlite3")
        app.invoke("send", 2, connection=lent)
        lent.commit()
    assert there(app) == (1, 1)


@each_async_caller
def test_so_does_one_that_fails_in_an_async_call(caller: AsyncCaller, url: str, app: Conductor) -> None:
    """The same."""
    broken(url)

    async def calls() -> None:
        async with caller(url) as lent:
            await execute_async(lent, ORDER)
            with pytest.raises(Exception, match="thirteen"):
                await app.invoke_many_async("send", [1, 13], connection=lent)
            await app.invoke_async("send", 2, connection=lent)
            await lent.commit()

    asyncio.run(calls())
    assert there(app) == (1, 1)


@on_sqlite
def test_a_failed_call_that_began_the_transaction_lets_go_of_the_lock(url: str, app: Conductor) -> None:
    """The caller may never end what they do not know of."""
    broken(url)
    with driver(url) as lent:
        with pytest.raises(sqlite3.IntegrityError, match="thirteen"):
            app.invoke("send", 13, connection=lent)
        assert not lent.in_transaction


@each_caller
def test_what_is_refused_leaves_the_transaction_usable(
    caller: Caller, url: str, app: Conductor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A payload that does not fit, one that is too large, and what only the store can tell."""
    monkeypatch.setenv("CONDUCTOR_MAX_PAYLOAD", "20")
    with caller(url) as lent:
        execute(lent, ORDER)
        with pytest.raises(PayloadMismatch):
            app.invoke("send", "one", connection=lent)
        with pytest.raises(TooLarge):
            app.invoke("send", 10**30, connection=lent)
        with pytest.raises(OperationRefused, match="dedupe_key: expected text"):
            app.invoke("send", 1, dedupe_key="\0", connection=lent)
        lent.commit()
    assert there(app) == (1, 0)


def test_a_connection_that_was_lent_is_what_it_was(url: str, app: Conductor) -> None:
    """Its options, its rows, its texts; also where those would confuse us."""
    lent: Any
    if is_sqlite(url):
        lent = sqlite3.connect(file(url))
        lent.row_factory, lent.text_factory = (lambda _cursor, row: {"id": row}), bytes
    else:
        lent = psycopg.connect(url, row_factory=dict_row, cursor_factory=psycopg.RawCursor)
    with closing(lent):
        before = (lent.row_factory, getattr(lent, "text_factory", None), lent.isolation_level)
        handle = app.invoke("send", 1, dedupe_key="k", connection=lent)
        again = app.invoke("send", 1, dedupe_key="k", connection=lent)
        assert (handle.created, again.created, again.id) == (True, False, handle.id)
        assert before == (lent.row_factory, getattr(lent, "text_factory", None), lent.isolation_level)
        lent.commit()
    with engine(url) as made, made.connect() as connection:
        connection.execution_options(schema_translate_map={None: "elsewhere"}, yield_per=1)
        options = connection.get_execution_options()
        app.invoke("send", 1, dedupe_key="k2", connection=connection)
        assert connection.get_execution_options() == options
        connection.commit()
    assert there(app) == (0, 2)


# What is lent wrongly


def test_a_call_takes_a_connection_that_waits_as_it_does(url: str, app: Conductor) -> None:
    """And the message names the other call."""

    async def calls() -> None:
        async with async_core(url) as awaited:
            with pytest.raises(UsageError, match=r"AsyncConnection is awaited.* await app\.invoke_async\("):
                app.invoke("send", 1, connection=awaited)
        for caller in (core, orm, driver):
            refused = pytest.raises(UsageError, match=r"hold up the event loop; write app\.invoke\(")
            with caller(url) as lent, refused:
                await app.invoke_async("send", 1, connection=lent)

    asyncio.run(calls())


def test_what_is_no_connection_is_refused(url: str, app: Conductor) -> None:
    """An engine, a maker of sessions, a URL."""
    with engine(url) as made:
        for wrong in (made, sessionmaker(made), url, 7):
            with pytest.raises(UsageError, match=r"connection: expected a Connection or Session"):
                app.invoke("send", 1, connection=wrong)


class Undecoded(Loader):
    """Gives text as bytes."""

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


def set_up_wrongly(lent: Any, how: str) -> None:
    """Set up a connection of psycopg in a way that we cannot use."""
    if how == "loader":
        lent.adapters.register_loader("varchar", Undecoded)
    else:
        lent.pgconn.exec_(f"SET client_encoding TO {how}".encode())


WRONGLY = [
    ("SQL_ASCII", "its client_encoding is SQL_ASCII, .* client_encoding=.utf8."),
    ("LATIN1", "its client_encoding is LATIN1"),
    ("loader", "a loader that is registered on it makes no str of varchar"),
]


@on_postgresql
@pytest.mark.parametrize(("how", "said"), WRONGLY)
def test_a_connection_that_gives_no_text_is_refused(how: str, said: str, url: str, app: Conductor) -> None:
    """Of psycopg, by itself or inside SQLAlchemy; nothing is asked of it, and it goes on."""
    with driver(url) as plain, core(url) as inside:
        for lent, connection in ((plain, plain), (inside, inside.connection.driver_connection)):
            set_up_wrongly(connection, how)
            with pytest.raises(UsageError, match=said):
                app.invoke("send", 1, connection=lent)
            execute(lent, ORDER)
            lent.commit()
    assert there(app) == (2, 0)

    async def calls() -> None:
        async with async_driver(url) as lent:
            set_up_wrongly(lent, how)
            with pytest.raises(UsageError, match=said):
                await app.invoke_async("send", 1, connection=lent)

    asyncio.run(calls())


@on_postgresql
def test_a_connection_in_pipeline_mode_is_refused(url: str, app: Conductor) -> None:
    """By that name: what it answers comes later."""
    said = r"in pipeline mode, .* before or behind the block of connection\.pipeline\(\)"
    with driver(url) as lent:
        with lent.pipeline(), pytest.raises(UsageError, match=said):
            app.invoke("send", 1, connection=lent)
        app.invoke("send", 1, connection=lent)
        lent.commit()

    async def calls() -> None:
        async with async_driver(url) as lent, lent.pipeline():
            with pytest.raises(UsageError, match=said):
                await app.invoke_async("send", 1, connection=lent)

    asyncio.run(calls())
    assert there(app) == (0, 1)


def test_an_async_connection_that_is_not_open_is_refused(url: str, app: Conductor) -> None:
    """With what opens it."""

    async def calls() -> None:
        async with async_engine(url) as made:
            with pytest.raises(UsageError, match="not open yet; write: async with"):
                await app.invoke_async("send", 1, connection=made.connect())

    asyncio.run(calls())


@on_postgresql
def test_without_greenlet_an_async_connection_is_refused(
    url: str, app: Conductor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to install; psycopg does not bring it."""
    monkeypatch.setattr(lent_module, "find_spec", lambda _name: None)

    async def calls() -> None:
        async with async_driver(url) as lent:
            with pytest.raises(UsageError, match="pip install greenlet"):
                await app.invoke_async("send", 1, connection=lent)

    asyncio.run(calls())


@on_sqlite
def test_a_connection_to_another_file_is_refused(url: str, app: Conductor, tmp_path: Path) -> None:
    """With both names; the same file under another name is the same."""
    other = tmp_path / "other.db"
    for name, found in ((str(other), str(other)), (":memory:", "a database in memory")):
        with closing(sqlite3.connect(name)) as lent, pytest.raises(UsageError) as caught:
            app.invoke("send", 1, connection=lent)
        assert url in str(caught.value)
        assert found in str(caught.value)
    link = tmp_path / "link.db"
    link.symlink_to(file(url))
    with closing(sqlite3.connect(link)) as lent:
        app.invoke("send", 1, connection=lent)
        lent.commit()
    assert there(app) == (0, 1)


def test_a_connection_to_the_other_kind_of_database_is_refused(postgres_url: str, tmp_path: Path) -> None:
    """Either way round."""
    sqlite_url = f"sqlite:///{tmp_path}/a.db"
    for ours, theirs, found in (
        (sqlite_url, postgres_url, "a database of postgresql"),
        (postgres_url, sqlite_url, "a database of sqlite"),
    ):
        with Conductor(ours) as app, core(theirs) as lent, pytest.raises(UsageError, match=found):
            app.invoke("send", 1, connection=lent)


def test_a_database_without_tables_is_an_error_that_says_what_to_write(
    database_url: str, tmp_path: Path
) -> None:
    """Nothing is made in the caller's transaction, which goes on."""
    url = f"sqlite:///{tmp_path}/new.db" if is_sqlite(database_url) else f"{database_url}?schema=elsewhere"
    theirs = url if is_sqlite(url) else database_url
    run(theirs, "CREATE TABLE orders (number INTEGER)")
    with Conductor(url) as app, core(theirs) as lent:
        execute(lent, ORDER)
        with pytest.raises(ForeignDatabase, match="make them: conductor-supervisor migrate"):
            app.invoke("send", 1, connection=lent)
        lent.commit()
    assert run(theirs, "SELECT * FROM orders") == [(1,)]


@pytest.mark.parametrize(
    ("revision", "error", "said"),
    [("0001", OutdatedDatabase, "conductor-supervisor migrate"), ("9999", StoreError, "by a newer version")],
)
def test_tables_of_another_version_are_refused(
    revision: str, error: type[Exception], said: str, url: str, app: Conductor
) -> None:
    """Whoever lends a connection does not mean to change the schema."""
    table = "conductor_schema" if is_sqlite(url) else "conductor.conductor_schema"
    run(url, f"UPDATE {table} SET version_num = '{revision}'")
    with core(url) as lent, pytest.raises(error, match=said):
        app.invoke("send", 1, connection=lent)


@on_postgresql
def test_a_role_without_rights_is_told_so_by_the_database(url: str, app: Conductor) -> None:
    """And its transaction goes on."""
    run(url, "GRANT ALL ON orders TO PUBLIC")
    run(url, "DROP ROLE IF EXISTS clerk")
    run(url, "CREATE ROLE clerk")
    with psycopg.connect(url) as lent:
        lent.execute("SET ROLE clerk")
        lent.execute(ORDER)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.invoke("send", 1, connection=lent)
    assert there(app) == (1, 0)
