"""When a runner has done enough: ``recycle_executions`` and ``recycle_memory``."""

from __future__ import annotations

import os
from contextlib import suppress

from conductor_protocol.units import size_in_words

_STATM = "/proc/self/statm"
"""Linux: the sizes of this process in pages; the second number is what is resident."""


class Wear:
    """Counts executions and looks at the memory after each, where a limit is set."""

    def __init__(self, most_executions: int | None, most_memory: int | None) -> None:
        """
        :param most_executions: after so many the runner has done enough; None: never.
        :param most_memory: bytes of resident memory above which it has done enough; None: any.
        """
        self._most_executions = most_executions
        self._most_memory = most_memory
        self._executions = 0

    def after(self, task: str) -> str | None:
        """Count an execution.

        :param task: the task that ran.
        :returns: why the runner has done enough, if it has.
        """
        self._executions += 1
        if self._most_executions is not None and self._executions >= self._most_executions:
            return f"it has run {self._executions:,} executions (recycle_executions)"
        if self._most_memory is not None and (memory := resident_memory()) > self._most_memory:
            return (
                f"it has {size_in_words(memory)} resident after task {task}, "
                f"more than {size_in_words(self._most_memory)} (recycle_memory)"
            )
        return None


def resident_memory() -> int:
    """Return this process's resident memory in bytes."""
    with suppress(FileNotFoundError):
        descriptor = os.open(_STATM, os.O_RDONLY)
        try:
            return int(os.read(descriptor, 128).split()[1]) * os.sysconf("SC_PAGE_SIZE")
        finally:
            os.close(descriptor)
    import psutil  # where there is no /proc; the rest need not load it

    return int(psutil.Process().memory_info().rss)
