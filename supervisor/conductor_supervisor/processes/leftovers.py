"""What dead runners leave behind: processes that user code started and that outlive their runner.

Those in the runner's process group end with the group. One that has left it, by ``setsid`` for example, is
found otherwise. Every runner's environment carries a mark, which all that it starts inherits; and on Linux
the supervisor is a *subreaper* (prctl(2)): a process whose parent has died becomes our child, so that nobody
has to search the whole machine. Elsewhere the mark is searched for in every process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from conductor_protocol.birth import MARK
from conductor_supervisor.processes.memory import children, family
from conductor_supervisor.processes.spawn import Exit, exit_of

PR_SET_CHILD_SUBREAPER = 36
"""prctl(2)."""

SUBREAPER: bool = "linux" in sys.platform
"""The system gives us the orphans of our descendants."""

ROUNDS = 20
"""How often we look again for what the processes that we end have started meanwhile."""


def adopt_orphans(adopt: bool = True) -> bool:
    """Become the parent of each descendant whose own parent ends, or no longer.

    :return: False where the system cannot do that.
    """
    if not SUBREAPER:
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0) == 0)


def is_child(pid: int) -> bool:
    """Tell whether a process is our child, alive or not reaped yet."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def end_those_of_the_last_supervisor(folder: Path) -> int:
    """Kill what carries the mark of a supervisor that had this folder before and died; return how many."""
    prefix, spared = f"{folder}:", {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return _end(
        lambda: [
            pid for pid in psutil.pids() if pid not in spared and (_mark_of(pid) or "").startswith(prefix)
        ]
    )


class Leftovers:
    """The processes of dead runners. Owned by the loop thread."""

    def __init__(self) -> None:
        self._spared = {os.getpid(), *children(os.getpid())}
        """Ourselves, and children that are none of our business: whoever started us had them."""

    def spare(self, pid: int) -> None:
        """Leave a child alone that somebody else of this process has started, and waits for."""
        self._spared.add(pid)

    def unspare(self, pid: int) -> None:
        """Forget a child that has been waited for."""
        self._spared.discard(pid)

    def end(self, wanted: str, ours: Collection[int], forked_by: Collection[str] = ()) -> int:
        """Kill what carries a dead runner's mark; return how many.

        :param ours: children that we have started.
        :param forked_by: for a runner that a template has forked, the marks of templates: what it has forked
            itself shows the mark with which the template was started. In a session of its own such a process
            is no runner that has just been born; and a fresh runner that lives keeps the orphans of its own.
        """
        own_session = os.getsid(0)

        def is_left(pid: int) -> bool:
            mark = _mark_of(pid)
            return mark == wanted or (mark in forked_by and _session_of(pid) not in (None, own_session))

        return _end(lambda: [pid for pid in self._suspects(ours) if is_left(pid)])

    def orphans(self, ours: Collection[int]) -> list[int]:
        """Return our children that we have not started: only a subreaper has any."""
        mine = children(os.getpid()) if SUBREAPER else []
        return [pid for pid in mine if pid not in ours and pid not in self._spared]

    def end_orphans(self, ours: Collection[int]) -> int:
        """Kill every process that has become our child by the death of its parent; return how many."""
        return _end(lambda: self.orphans(ours))

    def reap(self, ours: Collection[int]) -> dict[int, Exit]:
        """Collect orphans that have ended, so that they do not stay in the table of processes.

        :param ours: the processes that we have started and not reaped yet, all of them.
        :return: how they ended, by pid.
        """
        ended: dict[int, Exit] = {}
        while (pid := _first_that_ended()) is not None and pid not in ours and pid not in self._spared:
            _, status, usage = os.wait4(pid, os.WNOHANG)
            ended[pid] = exit_of(status, usage)
        return ended

    def _suspects(self, ours: Collection[int]) -> Iterable[int]:
        """Return the processes that may carry a dead runner's mark."""
        return self.orphans(ours) if SUBREAPER else set(psutil.pids()) - self._spared - set(ours)


def _end(find: Callable[[], Iterable[int]]) -> int:
    ended: set[int] = set()
    for _ in range(ROUNDS):
        found = {pid for root in find() for pid in family(root)} - ended
        if not found:
            break
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended |= found
    return len(ended)


def _session_of(pid: int) -> int | None:
    with suppress(OSError):
        return os.getsid(pid)
    return None


def _mark_of(pid: int) -> str | None:
    with suppress(psutil.Error, OSError):
        return psutil.Process(pid).environ().get(MARK)
    return None


def _first_that_ended() -> int | None:
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid
