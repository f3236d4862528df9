"""Running everything that is due, with a real supervisor and in real child processes."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from conductor.app import Conductor
from conductor.errors import ConductorError, ExecutionNotFound, UsageError
from conductor.testing.clock import CLOCK_FILE, FakeClock
from conductor_protocol.operations import ExecutionView, State
from conductor_protocol.units import Duration, in_words, seconds

RUNNERS = 2
"""Two are enough to see executions run side by side; each costs a process's start."""

PAGE = 1000
"""Executions that are listed at once."""

LAST_LINES = 40
"""Of the supervisor's log, in an error."""

GRACE = 1.0
"""Seconds that handlers of a drain which is ended early have to reach their next checkpoint."""

PATIENCE = 10.0
"""Seconds that the supervisor has then to give back what runs."""


class DrainFailed(ConductorError):
    """The supervisor did not do its work; the message has the end of its log."""


@dataclass(frozen=True)
class Report:
    """What a drain has done."""

    executions: list[ExecutionView]
    """What it ran or ended, oldest first, with attempts and steps."""
    log: str
    """What the supervisor and the handlers wrote."""

    @property
    def completed(self) -> int:
        """How many have completed."""
        return self._count("completed")

    @property
    def failed(self) -> int:
        """How many have failed for good; one that waits for its next attempt has not."""
        return self._count("failed")

    @property
    def cancelled(self) -> int:
        """How many were cancelled."""
        return self._count("cancelled")

    def _count(self, state: State) -> int:
        return sum(execution.state == state for execution in self.executions)

    def __repr__(self) -> str:
        states = Counter(execution.state for execution in self.executions)
        return f"<drained: {', '.join(f'{count} {state}' for state, count in states.items()) or 'nothing'}>"


def drain(
    app: Conductor,
    *,
    clock: FakeClock | None = None,
    timeout: Duration = 60,
    runners: int = RUNNERS,
    config: Path | str | None = None,
) -> Report:
    """Run what is due, and what becomes due by that, until nothing is; return what was done.

    Handlers run in child processes, as in production: what the test has patched in its own process is not
    patched there. With a clock that stands still, what is due later stays: move the clock and drain again.

    Warns where nobody has named a database: then it is the one in the current folder, and that may be in use.

    :param app: a global variable of its module; its own database is used.
    :param clock: the time for this drain; None: that of the environment, as inside ``with clock:``.
    :param timeout: how long the drain may take, in real time.
    :param runners: child processes.
    :param config: a ``conductor.toml``; None: the defaults, whatever lies in the current folder.
    :raises UsageError: if runners could not import the app.
    :raises DrainFailed: if the supervisor failed, or was not done in time.
    """
    if not isinstance(app, Conductor):
        raise UsageError(f"drain: expected an app, as Conductor() makes it, got {app!r}")
    if not isinstance(clock, FakeClock | None):
        raise UsageError(f"drain: clock: expected a FakeClock, got {clock!r}; write clock=FakeClock(...)")
    name = importable_name(app)
    _warn_of_default_database(app)
    before = {view.id: view for view in _all(app)}
    with tempfile.TemporaryDirectory(prefix="conductor-drain-", dir=_short_folder()) as folder:
        log = _run_supervisor(app, name, clock, seconds(timeout, "timeout"), runners, config, Path(folder))
    touched = [view.id for view in _all(app) if _was_run_or_ended(before.get(view.id), view)]
    return Report(list(_details(app, reversed(touched))), log)


def _warn_of_default_database(app: Conductor) -> None:
    if app.names_no_database():
        warnings.warn(
            f"drain runs what is due in {app.database_url()} of the folder {Path.cwd()}, for nobody named "
            "a database; in a pytest test ask for the fixture conductor_database, elsewhere set "
            "CONDUCTOR_DATABASE_URL",
            stacklevel=3,
        )


# Where the app is


def importable_name(app: Conductor) -> str:
    """Return how a child process that has our import path can import the app.

    :raises UsageError: if it cannot.
    """
    name = app.import_name()
    module, _, attribute = name.rpartition(":")
    if module.endswith(".py") or _is_on_path(module):
        return name
    file = getattr(sys.modules[module], "__file__", None)
    if file is None:
        raise UsageError(
            f"the module {module}, which holds the app, is neither on the import path nor a file, "
            "so runners cannot import it; move the app into a module of its own"
        )
    return f"{file}:{attribute}"


def _is_on_path(module: str) -> bool:
    """Tell whether a fresh process would find the module: that it is imported here does not say so."""
    places = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:depth]), places)
        if spec is None:
            return False
        places = spec.submodule_search_locations
    return True


def _import_path() -> str:
    """Return our import path, without what every interpreter of this environment has by itself."""
    own = set(sysconfig.get_paths().values())
    return os.pathsep.join(path for path in sys.path if path and path not in own)


# The supervisor


def _run_supervisor(
    app: Conductor,
    name: str,
    clock: FakeClock | None,
    timeout: float,
    runners: int,
    config: Path | str | None,
    folder: Path,
) -> str:
    """Run it until nothing is due; return its log."""
    if config is None:
        config = folder / "conductor.toml"
        config.touch()
    environment = {**os.environ, "PYTHONPATH": _import_path()}
    if clock is not None:
        environment[CLOCK_FILE] = str(clock.file)
    log = folder / "log"
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            [
                *(sys.executable, "-m", "conductor_supervisor", "start", name, "--drain"),
                *("--database", app.database_url(), "--runtime", str(folder / "runtime")),
                *("--runners", str(runners), "--config", str(config)),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        status = supervisor.wait(timeout)
    except subprocess.TimeoutExpired:
        raise DrainFailed(
            f"the drain was not done within {in_words(timeout)}{_running(app)}{_tail(log)}"
        ) from None
    finally:
        _end(supervisor)
    if status != 0:
        raise DrainFailed(f"the supervisor ended with status {status}{_tail(log)}")
    return log.read_text("utf-8", "replace")


def _end(supervisor: subprocess.Popen[bytes]) -> None:
    """End what still runs. At the first signal the supervisor lets handlers finish, at the second not."""
    for patience in (GRACE, PATIENCE):
        if supervisor.poll() is None:
            supervisor.terminate()
            with suppress(subprocess.TimeoutExpired):
                supervisor.wait(patience)
    supervisor.kill()
    supervisor.wait()


def _short_folder() -> str | None:
    """Return where temporary folders have short names: the sockets in them may have some 100 characters."""
    return "/tmp" if len(tempfile.gettempdir()) > 40 else None  # noqa: S108 - only for its owner's eyes


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]
    return "; its log ends:\n" + "\n".join(lines) if lines else "; its log is empty"


# What it did


def _all(app: Conductor) -> Iterator[ExecutionView]:
    """Give all executions, newest first."""
    before: str | None = None
    while page := app.list(limit=PAGE, before=before):
        yield from page
        before = page[-1].id


def _was_run_or_ended(before: ExecutionView | None, now: ExecutionView) -> bool:
    ever = now.started is not None or now.finished is not None
    return ever and (before is None or _life(before) != _life(now))


def _life(view: ExecutionView) -> tuple[object, ...]:
    """Return what changes when an execution is run or ended, even while the clock stands still."""
    return view.state, view.attempt, view.started, view.finished, view.due, view.steps_recorded


def _details(app: Conductor, ids: Iterator[str]) -> Iterator[ExecutionView]:
    for execution in ids:
        try:
            yield app.get(execution)
        except ExecutionNotFound:  # its task keeps it no longer than that
            continue


def _running(app: Conductor) -> str:
    running = [f"{view.task} ({view.id})" for view in app.list(state="running", limit=5)]
    return f"; still running: {', '.join(running)}" if running else ""
