"""How much memory a runner uses with all that it has started, and who they are.

On Linux the kernel keeps a list of children for each thread (proc_pid_task(5)), which costs some microseconds
to read; elsewhere psutil looks at every process of the machine.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import psutil

_PROC = Path("/proc")


def children(pid: int) -> list[int]:
    """Return the processes whose parent is this one; [] if it has ended."""
    if sys.platform != "linux":
        with suppress(psutil.Error):
            return [child.pid for child in psutil.Process(pid).children()]
        return []
    found: list[int] = []
    with suppress(OSError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            with suppress(OSError):  # the thread has ended meanwhile
                found += map(int, (thread / "children").read_text().split())
    return found


def family(pid: int) -> list[int]:
    """Return a process and all its descendants, parents first."""
    found = [pid]
    for one in found:  # grows while we walk
        found += (child for child in children(one) if child not in found)
    return found


def resident(pid: int) -> int:
    """Return a process's resident memory in bytes; 0 if it has ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def resident_with_children(pid: int) -> int:
    """Return the resident memory of a process and all its descendants, in bytes.

    Pages that they share are counted for each of them, as every tool does that adds up resident sizes.
    """
    return sum(map(resident, family(pid)))


def is_stopped(pid: int) -> bool:
    """Tell whether a process has been stopped by SIGSTOP or its like."""
    with suppress(psutil.Error):
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    return False
