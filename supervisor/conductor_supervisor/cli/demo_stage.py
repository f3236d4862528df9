"""Where the demo happens: its folder, the supervisor that it starts there, and what the database says.

Nothing here knows the story; that is ``demo``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from conductor_protocol.errors import UsageError
from conductor_protocol.operations import (
    ExecutionView,
    Found,
    GetExecution,
    Invoked,
    InvokeMany,
    Listed,
    ListExecutions,
    NewExecution,
    Operation,
)
from conductor_protocol.units import in_words
from conductor_supervisor import control
from conductor_supervisor.errors import NotAnswering, NotRunning, SupervisorError
from conductor_supervisor.runtime import database_lock, runtime_folder

DATABASE = "conductor.db"
NOTES = "counted.txt"
LOG = "supervisor.log"
TUTORIAL = "census.py"
CONFIGURATION = "conductor.toml"
SETTINGS = """\
app = "census:app"
database = "sqlite:///conductor.db"
runners = 2
"""
MADE_BY_RUNNING = {
    DATABASE,
    f"{DATABASE}-wal",
    f"{DATABASE}-shm",
    f"{DATABASE}-lock",
    NOTES,
    LOG,
    ".gitignore",
    "__pycache__",
}

POLL = 0.05
"""Seconds between two looks at the database."""

A = TypeVar("A", Invoked, Found, Listed)


class Folder:
    """The demo's own folder, made afresh for each run, with the tutorial and its settings in it."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.url = f"sqlite:///{self.path / DATABASE}"
        self._written = {TUTORIAL: tutorial_source(), CONFIGURATION: SETTINGS}

    def prepare(self) -> None:
        """Make the folder, or clear what an earlier run of the demo left in it.

        :raises UsageError: if it holds anything that the demo did not make, or that was changed since.
        :raises AlreadyRunning: if a supervisor is running there.
        """
        if self.path.exists():
            self._refuse_what_is_not_ours()
            with database_lock(self.url):
                self._clear()
        self.path.mkdir(parents=True, exist_ok=True)
        for name, text in self._written.items():
            (self.path / name).write_text(text, encoding="utf-8")
        (self.path / ".gitignore").write_text("*\n", encoding="utf-8")

    def _refuse_what_is_not_ours(self) -> None:
        other = "choose another: conductor-supervisor demo --folder NAME"
        if not self.path.is_dir():
            raise UsageError(f"{self.path} is not a folder; {other}")
        for entry in sorted(self.path.iterdir()):
            if entry.name not in MADE_BY_RUNNING and not self._is_as_written(entry):
                raise UsageError(f"{entry} is not from the demo, or was changed since; {other}")

    def _is_as_written(self, entry: Path) -> bool:
        return entry.name in self._written and entry.read_text(encoding="utf-8") == self._written[entry.name]

    def _clear(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def status(self) -> control.Status | None:
        """Return what the supervisor of this folder says, or None if none is running and answers."""
        try:
            reply = control.ask(runtime_folder(self.url), control.AskStatus(), timeout=10)
        except (NotRunning, NotAnswering):
            return None
        return reply if isinstance(reply, control.Status) else None

    def notes(self) -> list[str]:
        """Return the lines that the steps of the census left behind as they ran."""
        return (self.path / NOTES).read_text(encoding="utf-8").splitlines()


def tutorial_source() -> str:
    """Return ``examples/census.py``: beside this module in a wheel, at the root in a checkout."""
    here = Path(__file__).resolve()
    for path in (here.parent / "examples" / TUTORIAL, here.parents[3] / "examples" / TUTORIAL):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise SupervisorError(f"{TUTORIAL} is missing from this installation; install conductor-supervisor again")


class Daemon:
    """A real supervisor, started as anyone would: ``conductor-supervisor start`` in the demo's folder."""

    def __init__(self, folder: Folder) -> None:
        self._log = folder.path / LOG
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "conductor_supervisor", "start"],
                cwd=folder.path,
                env=plain_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    def check(self) -> None:
        """Make sure that it is alive.

        :raises SupervisorError: if it is not; with the end of its log.
        """
        if (status := self._process.poll()) is not None:
            raise SupervisorError(f"the supervisor ended with status {status}.{self._tail()}")

    def terminate(self, timeout: float) -> int:
        """Send SIGTERM, wait for the end, and return the exit status.

        :raises SupervisorError: if it does not end in time.
        """
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise SupervisorError(
                f"the supervisor still runs {in_words(timeout)} after SIGTERM.{self._tail()}"
            ) from error

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        return "\n".join([f" The end of {self._log}:", *lines])


@contextmanager
def running(folder: Folder) -> Iterator[Daemon]:
    """Start a supervisor, and see to it that it is gone afterwards."""
    daemon = Daemon(folder)
    try:
        yield daemon
    finally:
        daemon.end()


def plain_environment() -> dict[str, str]:
    """Return the environment without Conductor's variables: the demo's settings are in its folder."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CONDUCTOR_")}


class Store:
    """What any client may do with the demo's database."""

    def __init__(self, folder: Folder) -> None:
        from conductor_supervisor.door import Door

        self._door = Door(folder.url)

    def close(self) -> None:
        """Let go of the database."""
        self._door.close()

    def invoke(self, task: str, payload: object = None) -> str:
        """Create an execution and return its id."""
        new = NewExecution(task=task, payload=msgspec.Raw(msgspec.json.encode(payload)))
        return self._perform(InvokeMany([new]), Invoked).ids[0]

    def get(self, execution: str) -> ExecutionView:
        """Read one execution."""
        return self._perform(GetExecution(execution), Found).execution

    def count_running(self) -> int:
        """Return how many executions are ``running``."""
        return len(self._perform(ListExecutions(state="running"), Listed).executions)

    def wait(
        self,
        execution: str,
        until: Callable[[ExecutionView], bool],
        daemon: Daemon,
        timeout: float,
        show: Callable[[ExecutionView], None] | None = None,
    ) -> ExecutionView:
        """Look at an execution again and again, until it is as wanted; then return what was seen.

        :param show: is called with each look.
        :raises SupervisorError: if the supervisor dies, or after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while not until(view := self.get(execution)):
            if show is not None:
                show(view)
            daemon.check()
            if time.monotonic() > deadline:
                raise SupervisorError(
                    f"{view.task} is {view.state} after {in_words(timeout)}, and the demo waits no longer. "
                    f"Look at: conductor-supervisor show {execution}"
                )
            time.sleep(POLL)
        return view

    def _perform(self, operation: Operation, expected: type[A]) -> A:
        answer = self._door.perform(operation)
        if not isinstance(answer, expected):
            raise SupervisorError(f"the database answered {answer!r} to {operation!r}")
        return answer
