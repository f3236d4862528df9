"""A database of its own with a client and a real supervisor, all with default settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import databases
from benchmarks.databases import Kind
from conductor import Conductor
from conductor_supervisor import control
from conductor_supervisor.errors import NotRunning
from conductor_supervisor.runtime import find_runtime_folder
from conductor_supervisor.settings import processors

MICROSECONDS = 1e6

WORKLOAD = Path(__file__).with_name("workload.py")
FRESH_WORKLOAD = Path(__file__).with_name("fresh_workload.py")

PROCESSORS = processors()
"""Runners that a supervisor has by default."""

PATIENCE = 120.0
"""Seconds after which a benchmark is given up."""


class Site:
    """Where one run of a figure happens."""

    def __init__(self, folder: Path, url: str, workload: Path) -> None:
        self.folder = folder
        self._app = f"{workload}:app"
        self.url = url
        self.runtime = find_runtime_folder(self.url)
        self.client = Conductor(url)
        self._process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def supervisor(self, runners: int) -> Iterator[None]:
        """A supervisor whose runners are all ready and idle; it is stopped at the end."""
        with self._start(runners) as process:
            self._process = process
            try:
                self.wait_until_idle(runners)
                yield
            finally:
                process.terminate()
        self._check(process)

    def drain(self, runners: int, supervisors: int = 1) -> None:
        """Run a supervisor until nothing is due, or several, each with so many runners."""
        with ExitStack() as together:
            processes = [
                together.enter_context(self._start(runners, "--drain", *self._apart(number)))
                for number in range(supervisors)
            ]
            for process in processes:
                process.wait(PATIENCE)
        for process in processes:
            self._check(process)

    def drain_rate(self, count: int, runners: int, supervisors: int = 1) -> float:
        """Drain, and see that so many executions have completed; return how many a second.

        The time is that from the first claim to the last commit.
        """
        self.drain(runners, supervisors)
        completed, first, last = self.row(
            "SELECT count(*), min(started_at), max(finished_at) FROM conductor_executions "
            "WHERE state = 'completed'"
        )
        assert completed == count, f"{completed} of {count} executions have completed"
        return count / ((last - first) / MICROSECONDS)

    def _apart(self, number: int) -> tuple[str, ...]:
        """Return the options by which a supervisor beside the first one has its own runtime folder."""
        return ("--runtime", str(self.folder / f"runtime-{number}")) if number else ()

    def wait_until_idle(self, runners: int) -> None:
        """Wait until so many runners are at work and have nothing to do."""
        self._until(lambda: self._has_idle(runners), f"{runners} runners are idle")

    def wait_until_ended(self, count: int) -> None:
        """Wait until so many attempts have ended, or more; the supervisor is asked, not the database."""
        self._until(lambda: self.status().ended >= count, f"{count} attempts have ended")

    def status(self) -> control.Status:
        """Ask the running supervisor."""
        answer = control.ask(self.runtime, control.AskStatus())
        assert isinstance(answer, control.Status), answer
        return answer

    def row(self, query: str) -> tuple[float, ...]:
        """Read one row from the database, without Conductor."""
        return databases.row(self.url, query)

    def _start(self, runners: int, *options: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "conductor_supervisor", "start", self._app, *options),
                    *("--runners", str(runners), "--database", self.url),
                ],
                cwd=self.folder,
                env={name: value for name, value in os.environ.items() if not name.startswith("CONDUCTOR_")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _has_idle(self, runners: int) -> bool:
        try:
            return [runner.state for runner in self.status().runners] == ["idle"] * runners
        except NotRunning:
            return False

    def _until(self, fact: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not fact():
            if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"never came true: {what}; the supervisor's log:\n{self._log()}")
            time.sleep(0.02)

    def _check(self, process: subprocess.Popen[bytes]) -> None:
        if process.returncode != 0:
            raise RuntimeError(f"the supervisor ended with status {process.returncode}:\n{self._log()}")

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")


@contextmanager
def site(kind: Kind, workload: Path = WORKLOAD) -> Iterator[Site]:
    """A site that runs the tasks of this file, and is removed at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="conductor-bench-") as folder,
        databases.new(kind, Path(folder)) as url,
    ):
        here = Site(Path(folder), url, workload)
        try:
            yield here
        finally:
            here.client.close()
            shutil.rmtree(here.runtime, ignore_errors=True)
