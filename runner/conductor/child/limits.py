"""A limit on memory that the kernel holds: an allocation above it fails inside the process.

The supervisor looks at the resident size of a runner some times a second, which is soon enough for one that
grows, and too late for one huge allocation. RLIMIT_DATA (getrlimit(2)) answers that with MemoryError.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager as Context
from contextlib import contextmanager, nullcontext
from pathlib import Path

_STATM = Path("/proc/self/statm")
_DATA = 5
"""The field of proc_pid_statm(5) with the pages of data and stack: what RLIMIT_DATA counts."""


def memory_limit(most: int | None) -> Context[None]:
    """Limit what the body may allocate beyond what the process has, in bytes; None: no limit.

    Where the kernel does not say what the process has, there is no such limit either.
    """
    if most is None or not _STATM.exists():
        return _NO_LIMIT
    return _limited(most)


_NO_LIMIT = nullcontext()


@contextmanager
def _limited(most: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_size() + most
    hard = before[1]
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_size() -> int:
    return int(_STATM.read_text().split()[_DATA]) * resource.getpagesize()
