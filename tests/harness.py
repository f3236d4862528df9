"""A project in a folder: its tasks module, its database, its supervisors. For tests with real processes.

Waits here are for facts, bounded by :data:`PATIENCE`, which is long because test machines are slow; no test
measures time with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import click
import msgspec
import psutil

from conductor_protocol.errors import DatabaseAway
from conductor_protocol.operations import (
    Answer,
    CancelExecution,
    ExecutionView,
    Found,
    GetExecution,
    Invoked,
    InvokeMany,
    Listed,
    ListExecutions,
    NewExecution,
)
from conductor_supervisor.cli import cli
from conductor_supervisor.clock import FileClock
from conductor_supervisor.door import Door

PATIENCE = 45.0
"""Seconds to wait for a fact before the test fails."""

T = TypeVar("T")

PRELUDE = """
import asyncio, ctypes, json, os, signal, sys, threading, time
from pathlib import Path
from conductor import *
app = Conductor()

def note(line):
    '''Append a line to the diary: what happened, seen from outside Conductor.'''
    with open("diary", "a") as file:
        file.write(line + chr(10))

def wait_for(name):
    '''Wait until the test makes this file.'''
    for _ in range(4500):
        if Path(name).exists():
            return
        time.sleep(0.01)
    raise RuntimeError("the test never made " + name)
"""


def write_module(path: Path, source: str) -> None:
    """Write a module, perhaps anew.

    Compiled code is taken for its source's if that has the second and the size it had, so each writing gets
    a second of its own.
    """
    second = int(time.time())
    if path.exists():
        second = max(second, int(path.stat().st_mtime) + 1)
    path.write_text(source, encoding="utf-8")
    os.utime(path, (second, second))


class Supervisor:
    """A real supervisor in a process of its own."""

    def __init__(self, project: Project, arguments: list[str], within: Sequence[str] = ()) -> None:
        self.log = project.folder / f"log-{time.monotonic_ns()}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*within, sys.executable, "-m", project.module, "start", "tasks:app", *arguments],
                cwd=project.folder,
                env=project.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        """Return what it has logged so far."""
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait until it ends; return its exit status."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the supervisor did not end; its log:\n{self.output()}") from None

    def stop(self) -> int:
        """Ask it to shut down gracefully and wait."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def family(self) -> list[psutil.Process]:
        """Return all processes that descend from it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def runners(self) -> list[psutil.Process]:
        """Return its runners' processes."""
        return [child for child in self.family() if command(child)[-2:] == ["conductor.child", "run"]]

    def kill(self) -> None:
        """Kill it without warning."""
        self.process.kill()
        self.process.wait(PATIENCE)


class Project:
    """A folder with tasks.py, conductor.db and whatever supervisors a test starts."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        """:param url: of the database; by default a file in the folder."""
        self.folder = folder
        self.url = url or f"sqlite:///{folder}/conductor.db"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CONDUCTOR_")},
            "CONDUCTOR_DATABASE_URL": self.url,
            "PYTHONUNBUFFERED": "1",
        }
        self.module = "conductor_supervisor"
        """What supervisors are started by."""
        self._supervisors: list[Supervisor] = []
        self._door: Door | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for supervisor in self._supervisors:
            if supervisor.process.poll() is None:
                supervisor.kill()
            # As part of the test's output, which is shown if it fails.
            sys.stderr.write(f"\n--- a supervisor's log ---\n{supervisor.output()}")
        if self._door is not None:
            self._door.close()

    # What a user does

    def use_database(self, url: str) -> None:
        """Let clients, commands and supervisors use this database from now on."""
        if self._door is not None:
            self._door.close()
            self._door = None
        self.url = self.environment["CONDUCTOR_DATABASE_URL"] = url

    def tasks(self, source: str) -> None:
        """Write tasks.py: the prelude above, then this."""
        write_module(self.folder / "tasks.py", PRELUDE + textwrap.dedent(source))

    def config(self, text: str) -> None:
        """Write conductor.toml."""
        (self.folder / "conductor.toml").write_text(textwrap.dedent(text))

    def start(self, *arguments: str, runners: int = 2, within: Sequence[str] = ()) -> Supervisor:
        """Start a supervisor; it is killed at the end of the test if it still runs.

        :param within: a command that runs it, such as in another network namespace.
        """
        supervisor = Supervisor(self, ["--runners", str(runners), *arguments], within)
        self._supervisors.append(supervisor)
        return supervisor

    def drain(self, *arguments: str, runners: int = 2) -> Supervisor:
        """Run a supervisor until nothing is due."""
        supervisor = self.start("--drain", *arguments, runners=runners)
        status = supervisor.wait()
        assert status == 0, f"draining ended with status {status}:\n{supervisor.output()}"
        return supervisor

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``conductor-supervisor`` with these arguments, as a user would, its output piped."""
        return subprocess.run(
            [sys.executable, "-m", "conductor_supervisor", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def json(self, *arguments: str) -> dict[str, object]:
        """Run a command with ``--json`` and return what it prints."""
        done = self.command(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        value = json.loads(done.stdout)
        assert isinstance(value, dict)
        return value

    def clock(self) -> FileClock:
        """Put the clock of every supervisor started from now on into the test's hands."""
        clock = FileClock(self.folder / "clock")
        self.environment["CONDUCTOR_CLOCK"] = str(self.folder / "clock")
        return clock

    def lease(self, lease: str = "3s") -> Path:
        """Give every supervisor started from now on a lease, as if it shared its database; return the file
        without which it is not renewed.
        """
        renewals = self.folder / "renewals"
        renewals.touch()
        self.environment |= {"CONDUCTOR_LEASE": lease, "CONDUCTOR_RENEWALS": str(renewals)}
        return renewals

    # What a client does

    @property
    def door(self) -> Door:
        """A client's way to the database."""
        if self._door is None:
            self._door = Door(self.url)
        return self._door

    def perform(self, operation: object) -> Answer:
        """Perform an operation."""
        return self.door.perform(operation)  # type: ignore[arg-type]

    def invoke(self, task: str, payload: object = None, **options: object) -> str:
        """Create one execution; return its id."""
        return self.invoke_many(task, [payload], **options)[0]

    def invoke_many(self, task: str, payloads: list[object], **options: object) -> list[str]:
        """Create executions; return their ids."""
        new = [
            NewExecution(task=task, payload=msgspec.Raw(msgspec.json.encode(p)), **options)  # type: ignore[arg-type]
            for p in payloads
        ]
        answer = self.perform(InvokeMany(new))
        assert isinstance(answer, Invoked), answer
        return answer.ids

    def cancel(self, execution: str) -> None:
        """Cancel an execution."""
        self.perform(CancelExecution(execution))

    def view(self, execution: str) -> ExecutionView:
        """Read an execution; a database that is away is waited for."""

        def found() -> Answer | None:
            with suppress(DatabaseAway):
                return self.perform(GetExecution(execution))
            return None

        answer = self.until(found, f"{execution} can be read")
        assert isinstance(answer, Found), answer
        return answer.execution

    def views(self, **filters: object) -> list[ExecutionView]:
        """List executions."""
        answer = self.perform(ListExecutions(limit=1000, **filters))  # type: ignore[arg-type]
        assert isinstance(answer, Listed), answer
        return answer.executions

    # What a test waits for

    def until(self, fact: Callable[[], T], what: str) -> T:
        """Wait until a fact is true; return what it returned."""
        deadline = time.monotonic() + PATIENCE
        while not (value := fact()):
            logs = "\n".join(s.output() for s in self._supervisors)
            assert time.monotonic() < deadline, f"never came true: {what}\n{logs}"
            time.sleep(0.01)
        return value

    def until_state(self, execution: str, *states: str) -> ExecutionView:
        """Wait until an execution is in one of these states."""

        def reached() -> ExecutionView | None:
            view = self.view(execution)
            return view if view.state in states else None

        view = self.until(reached, f"{execution} is {' or '.join(states)}; it is {self.view(execution)}")
        assert view is not None
        return view

    def diary(self) -> list[str]:
        """Return what tasks have noted, in order."""
        path = self.folder / "diary"
        return path.read_text().splitlines() if path.exists() else []

    def until_noted(self, line: str, times: int = 1) -> None:
        """Wait until a task has noted this line so many times."""
        self.until(lambda: self.diary().count(line) >= times, f"the diary has {line!r} {times} times")

    def let_go(self, name: str) -> None:
        """Make the file that a task waits for."""
        (self.folder / name).touch()


def gone(pid: int) -> bool:
    """Tell whether a process has ended, reaped or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def parse(arguments: list[str]) -> None:
    """Read the words after ``conductor-supervisor`` without carrying them out; what does not exist raises."""
    name, *rest = arguments
    with click.Context(cli) as parent:
        command = cli.get_command(parent, name)
        assert command is not None, f"there is no command {name}"
        command.make_context(name, rest, parent=parent).close()


def command(process: psutil.Process) -> list[str]:
    """Return a process's command line; empty if it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []
