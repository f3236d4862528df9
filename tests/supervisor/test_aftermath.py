"""What the recorders of a dead supervisor's runners tell its successor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from holdings import NOW, task

from conductor_protocol.codec import pack
from conductor_protocol.manifest import TaskSpec
from conductor_protocol.messages import Failed, Finished, Released
from conductor_protocol.operations import (
    ExecutionView,
    Failure,
    Found,
    GetExecution,
    Invoked,
    InvokeMany,
    NewExecution,
)
from conductor_protocol.recorder import PAGE_SIZE, Recorder
from conductor_supervisor import aftermath
from conductor_supervisor.store import executions
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.executions import Claimed, Wanted
from conductor_supervisor.store.perform import perform

TASKS = {"job": task(TaskSpec(name="job", max_attempts=1))}
OOPS = Failure(type="ValueError", message="oops")


def recorder(folder: Path, number: int = 1) -> Recorder:
    """Make a recorder as a supervisor does, and open it as its runner does."""
    path = folder / f"runner-{number}"
    Recorder.create(path)
    return Recorder(path)


def test_a_folder_without_recorders_tells_nothing(tmp_path: Path) -> None:
    """Whatever was in hand may have begun."""
    left = aftermath.read(tmp_path, "one")
    assert (left.begun, left.complete) == (frozenset(), False)
    assert left.may_have_begun("one", ("a", 1))


def test_only_what_a_recorder_names_had_begun(tmp_path: Path) -> None:
    """Where all can be read: one in a handler, one in a step, one idle, one that its runner never opened."""
    recorder(tmp_path, 1).begin("a", 1)
    in_step = recorder(tmp_path, 2)
    in_step.begin("b", 2)
    in_step.begin_step("charge")
    recorder(tmp_path, 3)
    Recorder.create(tmp_path / "runner-4")
    left = aftermath.read(tmp_path, "one")
    assert left == aftermath.Aftermath(frozenset({("a", 1), ("b", 2)}), complete=True, supervisor="one")
    assert [left.may_have_begun("one", held) for held in (("a", 1), ("a", 2), ("c", 1))] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("page", [b"", b"CONDUCTOR-FR-01\0", b"\xff" * PAGE_SIZE])
def test_a_recorder_that_cannot_be_read_is_unknown(tmp_path: Path, page: bytes) -> None:
    """Anything may have begun in its runner; what the others tell is known all the same."""
    recorder(tmp_path, 1).begin("a", 1)
    (tmp_path / "runner-2").write_bytes(page)
    left = aftermath.read(tmp_path, "one")
    assert (left.begun, left.complete) == (frozenset({("a", 1)}), False)


def test_the_folder_is_swept(tmp_path: Path) -> None:
    """Nothing is left of the recorders; what is not ours stays."""
    recorder(tmp_path, 1)
    recorder(tmp_path, 12)
    (tmp_path / "lock").touch()
    aftermath.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A fresh database."""
    database = Database.open(f"sqlite:///{tmp_path}/conductor.db")
    database.migrate()
    yield database
    database.close()


def running(database: Database, count: int) -> list[Claimed]:
    """Return executions that a supervisor had claimed when it died."""
    with database.writing() as connection:
        assert isinstance(perform(connection, InvokeMany([NewExecution(task="job")] * count), NOW), Invoked)
        return executions.claim(connection, [Wanted("job", count)], count, "dead", NOW).claimed


def view(database: Database, execution: str) -> ExecutionView:
    """Look at an execution."""
    with database.reading() as connection:
        answer = perform(connection, GetExecution(execution), NOW)
    assert isinstance(answer, Found)
    return answer.execution


def act(database: Database, *reports: Finished | Failed | Released, folder: Path) -> int:
    """Leave reports in a recorder, and act on what it tells."""
    assert recorder(folder).keep(pack(reports))
    left = aftermath.read(folder, "one")
    with database.writing() as connection:
        return aftermath.act_on_reports(connection, left.reports, TASKS, NOW)


def test_reports_that_never_arrived_are_acted_upon(database: Database, tmp_path: Path) -> None:
    """What had returned or raised is not run again; what was released is recovered like all others."""
    done, raised, released = running(database, 3)
    acted = act(
        database,
        Finished(done.id, done.claim, b'"result"', 1.0),
        Failed(raised.id, raised.claim, OOPS, True, None, 1.0),
        Released(released.id, released.claim, "shutdown", 1.0),
        folder=tmp_path,
    )
    assert acted == 2
    assert (view(database, done.id).state, view(database, done.id).result) == ("completed", "result")
    assert (view(database, raised.id).state, view(database, raised.id).error) == ("failed", OOPS)
    assert view(database, released.id).state == "running"


def test_old_reports_and_such_that_cannot_be_stored_change_nothing(
    database: Database, tmp_path: Path
) -> None:
    """Of an earlier claim, of an unknown execution or task: a start must not fail because of a page."""
    one, other = running(database, 2)
    acted = act(
        database,
        Finished(one.id, one.claim - 1, b"1", 1.0),
        Finished("unknown", 1, b"1", 1.0),
        Finished(other.id, other.claim, b"\xff", 1.0),
        folder=tmp_path,
    )
    assert acted == 0
    assert [view(database, held.id).state for held in (one, other)] == ["running", "running"]
    with database.writing() as connection:
        report = Finished(one.id, one.claim, b"1", 1.0)
        assert aftermath.act_on_reports(connection, [report], {}, NOW) == 0


def test_a_failure_counts_as_in_an_ordinary_end(database: Database, tmp_path: Path) -> None:
    """It is charged, and retried where attempts are left."""
    (claimed,) = running(database, 1)
    patient = {"job": task(msgspec.structs.replace(TASKS["job"].spec, max_attempts=2))}
    with database.writing() as connection:
        report = Failed(claimed.id, claimed.claim, OOPS, True, None, 1.0)
        assert aftermath.act_on_reports(connection, [report], patient, NOW) == 1
    assert (view(database, claimed.id).state, view(database, claimed.id).attempt) == ("scheduled", 1)
