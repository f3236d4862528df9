"""The door for clients: no supervisor needed, any thread, either side of a fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from conductor_protocol.errors import UsageError
from conductor_protocol.operations import (
    CancelExecution,
    Changed,
    GetExecution,
    Invoked,
    InvokeMany,
    Listed,
    ListExecutions,
    NewExecution,
    Operation,
    RetryExecution,
)
from conductor_supervisor import door as door_module
from conductor_supervisor.door import Door
from conductor_supervisor.errors import StoreError
from conductor_supervisor.runtime import PokeSocket, runtime_folder

INVOKE = InvokeMany([NewExecution(task="t")])


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder of the test's own."""
    folder = tmp_path_factory.mktemp("r")
    folder.chmod(0o700)
    monkeypatch.setenv("CONDUCTOR_RUNTIME", str(folder))
    return folder


def test_a_door_makes_its_database(tmp_path: Path, runtime: Path) -> None:
    """The first operation on a new file finds the tables, and nothing is made before it."""
    path = tmp_path / "new.db"
    door = Door(f"sqlite:///{path}")
    assert not path.exists()
    assert isinstance(door.perform(INVOKE), Invoked)
    door.close()
    door.close()
    assert isinstance(door.perform(ListExecutions()), Listed)
    door.close()


def test_a_write_pokes_the_supervisor_and_a_read_does_not(database_url: str, runtime: Path) -> None:
    """So an idle supervisor starts at once."""
    ear = PokeSocket(runtime_folder(database_url, str(runtime)))
    door = Door(database_url)
    door.perform(ListExecutions())
    assert not ear.drain()
    door.perform(INVOKE)
    assert ear.drain()
    assert not ear.drain()
    door.close()
    ear.close()


def test_both_sides_of_a_fork_go_on(database_url: str, runtime: Path) -> None:
    """The child opens the database anew, as SQLite demands, and both write."""
    door = Door(database_url)
    door.perform(INVOKE)
    parents = door._database
    child = os.fork()
    if child == 0:
        status = 1
        try:
            done = isinstance(door.perform(INVOKE), Invoked)
            status = 0 if done and door._database is not parents else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    door.perform(INVOKE)
    answer = door.perform(ListExecutions())
    assert isinstance(answer, Listed)
    assert len({execution.id for execution in answer.executions}) == 3
    door.close()


FORKS_WHILE_IT_IMPORTS = """
import os, sys, threading, time
from conductor import Conductor
app = Conductor(sys.argv[1])
thread = threading.Thread(target=app.invoke, args=("t",))
thread.start()
time.sleep(float(sys.argv[2]))
child = os.fork()
app.invoke("t")
if child == 0:
    os._exit(0)
thread.join()
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("delay", ["0", "0.1"])
def test_a_fork_beside_a_first_call_does_not_stop_the_child(
    database_url: str, runtime: Path, delay: str
) -> None:
    """The call imports the store, and whoever forks meanwhile leaves the import's locks to the child."""
    script = [sys.executable, "-c", FORKS_WHILE_IT_IMPORTS, database_url, delay]
    with subprocess.Popen(script, start_new_session=True) as process:
        try:
            assert process.wait(60) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_door_whose_file_was_deleted_opens_the_one_that_is_there(tmp_path: Path, runtime: Path) -> None:
    """What it writes is never acknowledged in a file that nobody can find."""
    path = tmp_path / "a.db"
    door = Door(f"sqlite:///{path}")
    door.perform(INVOKE)
    path.unlink()
    door.perform(INVOKE)
    answer = Door(f"sqlite:///{path}").perform(ListExecutions())
    assert isinstance(answer, Listed)
    assert len(answer.executions) == 1
    door.close()


def test_a_door_whose_file_goes_while_it_writes_says_so(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write is lost, so it fails."""
    path = tmp_path / "a.db"
    door = Door(f"sqlite:///{path}")
    door.perform(INVOKE)
    real = door_module.perform

    def perform_and_lose(*arguments: object) -> object:
        path.unlink()
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(door_module, "perform", perform_and_lose)
    with pytest.raises(StoreError, match="was deleted or replaced"):
        door.perform(INVOKE)
    door.close()


def test_a_write_that_met_anothers_is_done_again(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database has rolled it back, so it is written once."""
    door = Door(f"sqlite:///{tmp_path / 'a.db'}")
    door.perform(INVOKE)
    real, tries = door_module.perform, 0

    def meet(*arguments: object) -> object:
        nonlocal tries
        answer = real(*arguments)  # type: ignore[arg-type]
        tries += 1
        if tries == 1:
            raise DBAPIError("INSERT", None, psycopg.errors.DeadlockDetected())
        return answer

    monkeypatch.setattr(door_module, "perform", meet)
    assert isinstance(door.perform(INVOKE), Invoked)
    answer = door.perform(ListExecutions())
    assert isinstance(answer, Listed)
    assert len(answer.executions) == 2
    door.close()


def test_a_url_that_cannot_be_meant_is_refused_at_once() -> None:
    """Before the first operation."""
    with pytest.raises(UsageError):
        Door("conductor.db")


def test_a_database_that_cannot_be_used_is_a_store_error(tmp_path: Path, runtime: Path) -> None:
    """In the database's own words."""
    path = tmp_path / "a.db"
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError, match="file is not a database"):
        Door(f"sqlite:///{path}").perform(GetExecution("x"))


def test_a_client_does_not_load_alembic(database_url: str) -> None:
    """Unless a database has to be migrated, it would only cost time."""
    code = (
        "import sys; from conductor_supervisor.door import Door;"
        "from conductor_protocol.operations import ListExecutions;"
        f"door = Door({database_url!r}); door.perform(ListExecutions()); door.close();"
        "sys.exit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "operation",
    [CancelExecution("x"), RetryExecution("x"), InvokeMany([NewExecution(task="t", dedupe_key="k")])],
    ids=lambda operation: type(operation).__name__,
)
def test_a_client_that_is_stopped_in_a_transaction_keeps_nobody_waiting(
    postgres_url: str, runtime: Path, monkeypatch: pytest.MonkeyPatch, operation: Operation
) -> None:
    """The server ends it: supervisors wait for the rows that it has locked."""
    told = []

    def asked(connection: Connection, *_others: object) -> Changed:
        told.append(connection.scalar(text("SHOW idle_in_transaction_session_timeout")))
        return Changed("ready", changed=False)

    monkeypatch.setattr(door_module, "perform", asked)
    door = Door(postgres_url)
    door.perform(operation)
    assert told == ["5s"]
    door.close()
