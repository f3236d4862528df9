"""Children that we have not started: on Linux, orphans among our descendants become ours.

So the runners that a template forks are our children, as those that we start are. So are processes that a
runner has left behind; when they end, somebody must reap them.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Container

from conductor_supervisor.processes.spawn import Exit, exit_of

PR_SET_CHILD_SUBREAPER = 36
"""prctl(2)."""


def adopt_orphans(adopt: bool = True) -> bool:
    """Become the parent of each descendant whose own parent ends, or no longer.

    :returns: False where the system cannot do that.
    """
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0) == 0)


def reap_strays(ours: Container[int]) -> dict[int, Exit]:
    """Reap each child that has ended and that we have not started; return how they ended.

    :param ours: the processes that we have started and not reaped yet, all of them.
    """
    ended: dict[int, Exit] = {}
    while (pid := _first_that_ended()) is not None and pid not in ours:
        _, status, usage = os.wait4(pid, os.WNOHANG)
        ended[pid] = exit_of(status, usage)
    return ended


def is_child(pid: int) -> bool:
    """Tell whether a process is our child, alive or not reaped yet."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _first_that_ended() -> int | None:
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid
