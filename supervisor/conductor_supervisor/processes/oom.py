"""Whether the kernel has killed somebody for want of memory, where it tells.

It counts such kills: for the control group of a process (cgroup v2 ``memory.events``, v1
``memory.oom_control``), and for the machine (``oom_kill`` in ``/proc/vmstat``, since Linux 4.13). Runners
live in the supervisor's control group, so a count that has grown when one of them dies of SIGKILL tells why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


class OutOfMemoryKills:
    """Watches the kernel's count of its kills for want of memory.

    That of our control group, where it has one; else that of the machine, which others may raise too.
    """

    def __init__(self, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
        self._proc = proc
        self._cgroups = cgroups
        self._seen: dict[Path, int] = {}
        self.happened()

    def happened(self) -> bool:
        """Tell whether the kernel has killed anyone for want of memory since the last call."""
        found = self._count_now()
        if found is None:
            return False
        source, count = found
        before, self._seen[source] = self._seen.get(source, 0), count
        return count > before

    def _count_now(self) -> tuple[Path, int] | None:
        """Return the nearest count, and where it stands: whoever moves us to another group changes that."""
        for source in _sources(self._proc, self._cgroups):
            count = _count(source)
            if count is not None:
                return source, count
        return None


def _sources(proc: Path, cgroups: Path) -> Iterator[Path]:
    """Give the files that may hold a count, those of the control group first."""
    with suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield cgroups / path.lstrip("/") / "memory.events"
            elif "memory" in controllers.split(","):
                yield cgroups / "memory" / path.lstrip("/") / "memory.oom_control"
    yield proc / "vmstat"


def _count(path: Path) -> int | None:
    with suppress(OSError):
        found = _COUNT.search(path.read_text())
        return int(found[1]) if found else None
    return None
