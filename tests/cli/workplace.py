"""A folder with a database, the command run in it, and a pretend supervisor that answers there."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import zmq
from click.testing import CliRunner, Result
from sqlalchemy import select

from conductor_protocol.manifest import TaskSpec
from conductor_protocol.operations import NewExecution
from conductor_protocol.units import MICROSECONDS, Instant, instant
from conductor_supervisor import control
from conductor_supervisor.cli import cli
from conductor_supervisor.clock import FileClock
from conductor_supervisor.runtime import LOCK
from conductor_supervisor.store import attempts, claiming, executions, schedules, schema, tasks
from conductor_supervisor.store.attempts import Ending
from conductor_supervisor.store.claiming import Claimed, Wanted
from conductor_supervisor.store.database import Database

NOON: Instant = instant(datetime(2030, 1, 1, 12, tzinfo=UTC))
SECOND = MICROSECONDS


class Workplace:
    """What a user has: a folder, and the command. What a supervisor would write is written directly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A socket's path must be short, and a test's own folder lies deep.
        self.runtime = Path(tempfile.mkdtemp(prefix="conductor-"))
        self.clock = self.runtime / "clock"
        FileClock(self.clock).set(NOON)
        self._database: Database | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._database is not None:
            self._database.close()
        shutil.rmtree(self.runtime)

    def run(self, *arguments: str, status: int = 0, stdin: str | None = None) -> Result:
        """Run the command here; it must end with this status."""
        result = CliRunner().invoke(cli, arguments, input=stdin)
        assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
        return result

    def json(self, *arguments: str, status: int = 0) -> Any:
        """Run the command with ``--json`` and return what it prints."""
        return msgspec.json.decode(self.run(*arguments, "--json", status=status).stdout)

    def error(self, *arguments: str, status: int, stdin: str | None = None) -> str:
        """Run the command, which must fail so and answer nothing; return what it says, on one line."""
        result = self.run(*arguments, status=status, stdin=stdin)
        assert not result.stdout
        return " ".join(result.stderr.split())

    # What the supervisor would write

    @property
    def database(self) -> Database:
        """The database, made when first asked for."""
        if self._database is None:
            self._database = Database.open(f"sqlite:///{self.folder}/conductor.db")
            self._database.migrate()
        return self._database

    def declare(self, *specs: TaskSpec) -> None:
        """Declare tasks."""
        with self.database.writing() as connection:
            tasks.declare(connection, specs, NOON)
            schedules.declare(connection, specs, NOON)

    def ids(self) -> list[str]:
        """Return the ids of all executions, oldest first."""
        with self.database.reading() as connection:
            return list(connection.scalars(select(schema.executions.c.id).order_by(schema.executions.c.id)))

    def insert(self, task: str, count: int = 1, concurrency_key: str | None = None) -> list[str]:
        """Create executions."""
        new = NewExecution(task=task, concurrency_key=concurrency_key)
        with self.database.writing() as connection:
            return executions.insert(connection, [new] * count, NOON).ids

    def claim(self, task: str) -> Claimed:
        """Claim one execution."""
        with self.database.writing() as connection:
            (claimed,) = claiming.claim(connection, [Wanted(task, 1)], 1, "supervisor", NOON).claimed
            return claimed

    def end(self, ending: Ending) -> None:
        """End an attempt."""
        with self.database.writing() as connection:
            assert attempts.end(connection, [ending]) == []


Answer = Callable[[control.Request], control.Reply | bytes]


class PretendSupervisor:
    """Answers on the control socket of a runtime folder as it is told, from a thread."""

    def __init__(self, runtime: Path, answer: Answer) -> None:
        self._answer = answer
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(f"ipc://{runtime / control.SOCKET}")
        self._thread = threading.Thread(target=self._serve)
        self.asked: list[control.Request] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.term()
        self._thread.join()

    def _serve(self) -> None:
        with self._socket:
            self._socket.linger = 0
            while True:
                try:
                    peer, frame = self._socket.recv_multipart()
                except zmq.ContextTerminated:
                    return
                request = control.read_request(frame)
                self.asked.append(request)
                answer = self._answer(request)
                frame = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
                self._socket.send_multipart([peer, frame])


@contextmanager
def silent_supervisor(runtime: Path) -> Iterator[int]:
    """Let a process hold the lock that listens, and never answers; give its pid."""
    with socket.socket(socket.AF_UNIX) as listener, sleeper() as process:
        listener.bind(str(runtime / control.SOCKET))
        listener.listen(0)
        (runtime / LOCK).write_text(f"{process.pid} 2030-01-01T12:00:00+00:00\n")
        yield process.pid


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def status(runners: Sequence[control.RunnerStatus] = (), pid: int = 4711) -> control.Status:
    """Return a supervisor's answer to "what runs where?"."""
    return control.Status(
        pid=pid,
        app="shop:app",
        database="sqlite:///conductor.db",
        state="running",
        started=NOON,
        runners=list(runners),
        memory=50 * 1024 * 1024,
    )
