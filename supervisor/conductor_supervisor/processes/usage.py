"""Memory and processor time of the supervisor and its runners, each runner with all that it has started.

It is read in the loop's thread, so its cost is bounded by the processes that are ours, where the kernel tells
whose child is whose (Linux); elsewhere every process of the machine is asked for its parent, once a reading.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import Struct

from conductor_supervisor.processes.memory import family

if TYPE_CHECKING:
    import psutil


class Usage(Struct):
    """What processes use."""

    memory: int = 0
    """Resident bytes. What several processes share counts for each."""
    cpu_seconds: float = 0.0
    """User and system time since they began, with that of children which have ended."""


class Meter:
    """Reads what the system knows of processes."""

    def __init__(self) -> None:
        self._known: dict[int, psutil.Process] = {}
        """To make one of these costs more than to read it."""

    def itself(self) -> Usage:
        """Return what this process uses, without its children."""
        own = self._process(os.getpid())
        times = own.cpu_times()
        return Usage(own.memory_info().rss, times.user + times.system)

    def with_descendants(self, pids: Iterable[int]) -> dict[int, Usage]:
        """Return what each of these uses with its descendants; those that have ended are left out.

        A descendant that has become a daemon, and so is nobody's child, is not found.
        """
        families = {pid: family(pid) for pid in pids}
        used = {pid: self._sum(members) for pid, members in families.items()}
        alive = {os.getpid(), *(pid for members in families.values() for pid in members)}
        self._known = {pid: process for pid, process in self._known.items() if pid in alive}
        return {pid: usage for pid, usage in used.items() if usage.memory}

    def _sum(self, pids: Iterable[int]) -> Usage:
        import psutil

        total = Usage()
        for pid in pids:
            with suppress(psutil.Error):  # it has just ended
                process = self._process(pid)
                with process.oneshot():
                    times = process.cpu_times()
                    total.memory += process.memory_info().rss
                    total.cpu_seconds += times.user + times.system
                    total.cpu_seconds += times.children_user + times.children_system
        return total

    def _process(self, pid: int) -> psutil.Process:
        import psutil

        if pid not in self._known:
            self._known[pid] = psutil.Process(pid)
        return self._known[pid]
