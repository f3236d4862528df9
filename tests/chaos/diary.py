"""The recorder outside Conductor: a file to which tasks append what happens to them, line by line.

Its order is the order in which things happened: each line is written at once, to the end of the file.
"""

from __future__ import annotations

import os
import struct
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

DIARY = "diary"


class Line(Struct, frozen=True):
    """One thing that happened in an attempt."""

    what: str
    task: str
    execution: str
    attempt: str
    """A word of the attempt's own."""
    pid: int
    parent: int
    """The supervisor's process."""
    detail: str = ""
    clock: int = 0
    """The supervisors' time, as it was read just before."""
    at: float = 0.0
    """``time.monotonic()``."""


def clock_now() -> int:
    """Read the supervisors' clock."""
    return int(struct.unpack("<q", Path(os.environ["CONDUCTOR_CLOCK"]).read_bytes())[0])


def write(line: Line) -> None:
    """Append a line."""
    full = msgspec.structs.replace(line, at=time.monotonic())
    descriptor = os.open(DIARY, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, msgspec.json.encode(full) + b"\n")
    finally:
        os.close(descriptor)


def read(folder: Path) -> list[Line]:
    """Return all lines."""
    try:
        text = (folder / DIARY).read_bytes()
    except FileNotFoundError:
        return []
    whole = text[: text.rfind(b"\n") + 1]  # at a page's end, a line that is being written is seen in part
    return [msgspec.json.decode(line, type=Line) for line in whole.splitlines()]


def unfinished(lines: Iterable[Line]) -> list[Line]:
    """Return the first lines of attempts that have not ended by themselves."""
    begun: dict[str, Line] = {}
    for line in lines:
        if line.what == "begin":
            begun[line.attempt] = line
        elif line.what == "end":
            begun.pop(line.attempt, None)
    return list(begun.values())


def by_execution(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Return the lines of each execution."""
    found: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        found[line.execution].append(line)
    return found


def is_alive(pid: int) -> bool:
    """Tell whether a process is there and has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in b"ZX"
