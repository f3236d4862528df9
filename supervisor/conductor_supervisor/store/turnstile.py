"""The turnstile before the write lock of a SQLite file: one waits for the lock, the others wait behind.

SQLite's own waiting is a series of tries with pauses between them. A supervisor that writes one transaction
after another takes the lock again within microseconds, so a client would find it free after seconds only, by
luck. So whoever wants the lock passes here first, and holds the turnstile until it has the lock: the
supervisor comes behind the client that waits already.

A courtesy, nothing depends on it: nobody stays here for long, and where there is no turnstile, or it cannot
be held, one goes on without.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 0.1
"""Seconds that one waits here at most: whoever holds it may have been stopped."""

PAUSE = 0.001
"""Seconds between two tries."""


@contextmanager
def turnstile(file: Path) -> Iterator[None]:
    """Hold the turnstile while the body takes the write lock.

    :param file: any file beside the database; a lock of fcntl(2) on it is the turnstile, so the kernel lets
        go of it when a process dies.
    """
    descriptor = _opened(file)
    if descriptor is None:
        yield
        return
    try:
        _wait_in(descriptor)
        yield
    finally:
        os.close(descriptor)


def _opened(file: Path) -> int | None:
    try:
        return os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # nobody has ever run a supervisor here, or the file is another user's
        return None


def _wait_in(descriptor: int) -> None:
    deadline = time.monotonic() + LONGEST
    while not _is_ours(descriptor) and time.monotonic() < deadline:
        time.sleep(PAUSE)


def _is_ours(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
