"""Starting and reaping runners.

A runner is exec'd, never forked from a process that holds sockets and threads. It leads a process group of
its own, so that what it starts can be ended with it, and holds one end of a pipe whose other end is ours:
when that closes, we are gone and it ends. The kernel tells the loop of a death by SIGCHLD; ``wait4`` then
gives the exit status with the peak memory and processor time.
"""

from __future__ import annotations

import os
import resource
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from conductor_protocol.birth import BIRTH_FD, STACKS_SIGNAL, Birth, write_birth
from conductor_protocol.manifest import Isolation
from conductor_protocol.recorder import Recorder, RecorderReader
from conductor_supervisor.processes.leftovers import MARK, mark
from conductor_supervisor.processes.output import Output

PEAK_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in a unit of ``ru_maxrss``: getrusage(2) of each system."""


class Exit(Struct, frozen=True):
    """How a child ended."""

    returncode: int
    """As ``subprocess`` says it: negative for a signal."""
    peak_memory: int
    """Bytes."""
    cpu_seconds: float


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
        pass_on: Callable[[str, str], None],
    ) -> None:
        """Start a runner.

        :param at_once: how many executions it runs at once, if it is shared.
        :param pass_on: gets each line it prints, with ``"stdout"`` or ``"stderr"``.
        :raises OSError: if the system does not give a process.
        """
        self.secret = secrets.token_bytes(32)
        self.mark = mark(folder, number)
        """In the environment of all that it starts."""
        self._recorder_file = folder / f"runner-{number}"
        places = at_once if isolation == "shared" else 0
        Recorder.create(self._recorder_file, places)
        self.recorder = RecorderReader(self._recorder_file, places)
        birth_read, self._lifeline = os.pipe()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "conductor.child", "run"],
                stdin=subprocess.DEVNULL,
                stdout=out_write,
                stderr=err_write,
                pass_fds=(birth_read,),
                env={**os.environ, BIRTH_FD: str(birth_read), MARK: self.mark},
                process_group=0,
            )
        except OSError:
            for descriptor in (self._lifeline, out_read, err_read):
                os.close(descriptor)
            self._close_recorder()
            raise
        finally:
            for descriptor in (birth_read, out_write, err_write):
                os.close(descriptor)
        self.pid = self._process.pid
        self.stdout = Output(out_read, lambda line: pass_on("stdout", line))
        self.stderr = Output(err_read, lambda line: pass_on("stderr", line))
        with suppress(BrokenPipeError):  # it died at once: the loop will reap it and see why
            write_birth(
                self._lifeline,
                Birth(
                    runner=number,
                    secret=self.secret,
                    endpoint=endpoint,
                    recorder=str(self._recorder_file),
                    app=app,
                    paths=list(paths),
                    isolation=isolation,
                    at_once=at_once,
                ),
            )

    def reap(self) -> Exit | None:
        """Return how the process ended, or None if it has not."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return Exit(self._process.returncode, *_usage(usage))

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the runner and all that it started."""
        with suppress(ProcessLookupError, PermissionError):  # nobody of the group is left
            os.killpg(self.pid, number)

    def ask_for_stacks(self) -> None:
        """Have its Python stacks written to its stderr, whatever it does just now."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, STACKS_SIGNAL)

    def close(self) -> None:
        """Let go of all that belonged to a process that has been reaped; end what is left of its group."""
        self.signal_group(signal.SIGKILL)
        os.close(self._lifeline)
        self.stdout.close()
        self.stderr.close()
        self._close_recorder()

    def _close_recorder(self) -> None:
        self.recorder.close()
        with suppress(OSError):  # user code may have put a folder in its place, or taken the folder away
            self._recorder_file.unlink(missing_ok=True)


def _usage(usage: resource.struct_rusage) -> tuple[int, float]:
    return usage.ru_maxrss * PEAK_UNIT, usage.ru_utime + usage.ru_stime
