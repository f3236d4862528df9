"""How this command was called: what people can write to call it again, in whatever folder."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

PROGRAM = "conductor-supervisor"


def command(argument: str | None = None) -> str:
    """Return the words that call this command: its name if that is found, else its path.

    :param argument: what the system says that we were called as; by default what it says now.
    """
    called = Path(sys.argv[0] if argument is None else argument)
    if called.name != PROGRAM:
        return f"{shlex.quote(sys.executable)} -m conductor_supervisor"
    path = Path(shutil.which(called) or called).absolute()
    found = shutil.which(PROGRAM)
    if found is not None and Path(found).absolute().samefile(path):
        return PROGRAM
    return shlex.quote(str(path))
