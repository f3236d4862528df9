"""What a child prints: passed on line by line, and the end of it kept for the crash report."""

from __future__ import annotations

import os
from collections.abc import Callable

KEPT = 16 * 1024
"""Bytes of the end of each stream that are kept."""

CHUNK = 64 * 1024
LONGEST_LINE = 4096
"""Bytes after which a line is passed on in pieces, so that output without an end cannot fill the memory."""

STACKS_BEGIN = ("Fatal Python error:", "Timeout (", "Current thread 0x", "Thread 0x")
"""How faulthandler begins."""


class Output:
    """The read end of one stream of one child. Owned by the loop thread; never blocks."""

    def __init__(self, descriptor: int, pass_on: Callable[[str], None]) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._pass_on = pass_on
        self._kept = b""
        self._line = b""
        self.closed = False

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._descriptor

    def read(self) -> bool:
        """Take one chunk of what waits; False if nothing waited or the stream has ended."""
        try:
            chunk = os.read(self._descriptor, CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self.close()
            return False
        self._kept = (self._kept + chunk)[-KEPT:]
        *lines, self._line = (self._line + chunk).split(b"\n")
        for line in lines:
            self._pass_on_pieces(line)
        if len(self._line) > LONGEST_LINE:
            self._pass_on_pieces(self._line)
            self._line = b""
        return True

    def read_to_end(self, most: int = 4 * 1024 * 1024) -> None:
        """Take what a dead child has left, at most ``most`` bytes: others may still hold the pipe open."""
        for _ in range(most // CHUNK):
            if self.closed or not self.read():
                break
        if self._line:
            self._pass_on_pieces(self._line)
            self._line = b""

    def _pass_on_pieces(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), LONGEST_LINE):
            self._pass_on(line[start : start + LONGEST_LINE].decode("utf-8", "backslashreplace").rstrip("\r"))

    def tail(self) -> str:
        """Return the end of what was printed."""
        return self._kept.decode("utf-8", "backslashreplace")

    def forget(self) -> None:
        """Forget what was printed so far: another execution begins."""
        self._kept = b""

    def close(self) -> None:
        """Let go of the pipe."""
        if not self.closed:
            self.closed = True
            os.close(self._descriptor)


def split_stacks(stderr: str) -> tuple[str, str]:
    """Return what a process printed itself, and the stacks that faulthandler wrote after it."""
    lines = stderr.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.startswith(STACKS_BEGIN):
            return "".join(lines[:number]), "".join(lines[number:])
    return stderr, ""
