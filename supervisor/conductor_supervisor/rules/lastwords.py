"""What a process that died said last, in one line."""

from __future__ import annotations

import re

MOST_LINES = 5
"""Lines that are shown of what is no traceback."""

FRAME = re.compile(r'  File "(?P<file>.+)", line (?P<line>\d+)(, in .*)?')
"""A frame of a Python traceback, or where a syntax error is; not one of ``faulthandler``'s."""


def last_words(printed: str) -> str:
    """Return the last exception of what was printed, with its file and line; without one, the last lines."""
    lines = printed.strip().splitlines()
    return _last_exception(lines) or " / ".join(line.strip() for line in lines[-MOST_LINES:])


def _last_exception(lines: list[str]) -> str | None:
    for at in reversed(range(len(lines))):
        frame = FRAME.fullmatch(lines[at])
        if frame is not None:
            said = next((line for line in lines[at + 1 :] if line and not line.startswith(" ")), None)
            return said and f"{said} ({frame['file']}:{frame['line']})"
    return None
