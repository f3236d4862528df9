"""Starting and reaping runners.

A runner is exec'd, or forked by a template (:mod:`conductor_supervisor.processes.template`), never by a
process that holds sockets and threads. It leads a process group of
its own, so that what it starts can be ended with it, and holds one end of a pipe whose other end is ours:
when that closes, we are gone and it ends. The kernel tells the loop of a death by SIGCHLD; ``wait4`` then
gives the exit status with the peak memory and processor time.
"""

from __future__ import annotations

import fcntl
import os
import resource
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from conductor_protocol.birth import BIRTH_FD, MARK, STACKS_SIGNAL, Birth, write_birth
from conductor_protocol.manifest import Isolation
from conductor_protocol.recorder import Recorder, RecorderReader
from conductor_protocol.template import TheirEnds
from conductor_supervisor.processes.output import Listener, Output

PEAK_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in a unit of ``ru_maxrss``: getrusage(2) of each system."""

RECORDER_PREFIX = "runner-"
"""How the names of flight recorders in the runtime folder begin; the runner's number follows."""


class Exit(Struct, frozen=True):
    """How a child ended."""

    returncode: int
    """As ``subprocess`` says it: negative for a signal."""
    peak_memory: int
    """Bytes."""
    cpu_seconds: float


class Ends:
    """What joins a new process to us: its pipes and its flight recorder. Owned by the loop thread."""

    def __init__(self, number: int, folder: Path, isolation: Isolation = "runner", at_once: int = 1) -> None:
        """Make them.

        :raises OSError: if the system does not give them.
        """
        self.number = number
        self.secret = secrets.token_bytes(32)
        self.output_key = secrets.token_hex(8)
        self.mark = f"{folder}:{number}"
        self._isolation: Isolation = isolation
        self._at_once = at_once
        self._recorder_file = folder / f"{RECORDER_PREFIX}{number}"
        places = at_once if isolation == "shared" else 0
        Recorder.create(self._recorder_file, places)
        self.recorder = RecorderReader(self._recorder_file, places)
        birth_read, self.lifeline = os.pipe()
        self.stdout, out_write = os.pipe()
        self.stderr, err_write = os.pipe()
        self.theirs = TheirEnds(birth_read, out_write, err_write)

    def let_go_of_theirs(self) -> None:
        """Close what the new process has by now."""
        for descriptor in self.theirs:
            os.close(descriptor)

    def give_up(self) -> None:
        """Close our own: there is no process, or it will end because we do this."""
        for descriptor in (self.lifeline, self.stdout, self.stderr):
            os.close(descriptor)
        self.close_recorder()

    def tell(self, endpoint: str, app: str, paths: Sequence[str]) -> None:
        """Tell the new process who it is."""
        with suppress(BrokenPipeError):  # it died at once: the loop will reap it and see why
            write_birth(
                self.lifeline,
                Birth(
                    runner=self.number,
                    secret=self.secret,
                    mark=self.mark,
                    endpoint=endpoint,
                    recorder=str(self._recorder_file),
                    app=app,
                    paths=list(paths),
                    isolation=self._isolation,
                    at_once=self._at_once,
                    output_key=self.output_key,
                ),
            )

    def close_recorder(self) -> None:
        """Let go of the flight recorder, and remove its file."""
        self.recorder.close()
        with suppress(OSError):  # user code may have put a folder in its place, or taken the folder away
            self._recorder_file.unlink(missing_ok=True)


class Child:
    """One runner's process, its pipes and its flight recorder. Owned by the loop thread."""

    def __init__(
        self,
        number: int,
        *,
        isolation: Isolation = "runner",
        at_once: int = 1,
        app: str,
        paths: Sequence[str],
        endpoint: str,
        folder: Path,
        listener: Listener,
        role: str = "run",
        inherited: Mapping[str, int] | None = None,
    ) -> None:
        """Start a runner.

        :param listener: hears what it prints.

        :param at_once: how many executions it runs at once, if it is shared.
        :param role: what ``python -m conductor.child`` is to be.
        :param inherited: further descriptors that it inherits, by the environment variable that names each.
        :raises OSError: if the system does not give a process.
        """
        ends = Ends(number, folder, isolation, at_once)
        descriptors = {BIRTH_FD: ends.theirs.birth, **(inherited or {})}
        environment = {name: str(descriptor) for name, descriptor in descriptors.items()}
        try:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                [sys.executable, "-P", "-m", "conductor.child", role],
                stdin=subprocess.DEVNULL,
                stdout=ends.theirs.stdout,
                stderr=ends.theirs.stderr,
                pass_fds=tuple(descriptors.values()),
                env={**os.environ, **environment, MARK: ends.mark},
                process_group=0,
            )
        except OSError:
            ends.give_up()
            raise
        finally:
            ends.let_go_of_theirs()
        self._adopt(ends, self._process.pid, listener)
        ends.tell(endpoint, app, paths)

    def _adopt(self, ends: Ends, pid: int, listener: Listener) -> None:
        self._ends = ends
        self.pid = pid
        self.secret = ends.secret
        self.mark = ends.mark
        """In the environment of all that it starts."""
        self.recorder = ends.recorder
        self.stdout = Output(ends.stdout, "stdout", ends.output_key, listener)
        self.stderr = Output(ends.stderr, "stderr", ends.output_key, listener)

    def reap(self) -> Exit | None:
        """Return how the process ended, or None if it has not."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        ended = exit_of(status, usage)
        if self._process is not None:
            self._process.returncode = ended.returncode
        return ended

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the runner and all that it started."""
        with suppress(ProcessLookupError, PermissionError):  # nobody of the group is left
            os.killpg(self.pid, number)

    def bind_group(self) -> None:
        """Have the kernel end all that the runner has started when the runner ends, whoever is stopped then.

        It has read what we wrote, so nothing but the end of its process can make our end of the pipe ready
        again; and that signal goes to its group. It is done on Linux. Elsewhere the group ends when we
        notice the death.
        """
        if not hasattr(fcntl, "F_SETSIG"):
            return
        lifeline = self._ends.lifeline
        with suppress(OSError):  # the group is gone already, or the kernel is one that cannot
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, -self.pid)
            fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
            flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
            fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)

    def ask_for_stacks(self) -> None:
        """Have its Python stacks written to its stderr, whatever it does just now."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, STACKS_SIGNAL)

    def close(self) -> None:
        """Let go of all that belonged to a process that has been reaped; end what is left of its group."""
        self.signal_group(signal.SIGKILL)
        os.close(self._ends.lifeline)
        self.stdout.close()
        self.stderr.close()
        self._ends.close_recorder()


class ForkedChild(Child):
    """A runner that a template has forked and that has become our child."""

    def __init__(self, ends: Ends, pid: int, listener: Listener) -> None:
        self._process = None
        self._adopt(ends, pid, listener)


def exit_of(status: int, usage: resource.struct_rusage) -> Exit:
    """Return what ``wait4`` says of a child's end."""
    return Exit(
        os.waitstatus_to_exitcode(status), usage.ru_maxrss * PEAK_UNIT, usage.ru_utime + usage.ru_stime
    )
