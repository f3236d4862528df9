"""What a runner is told before its first message, over an inherited pipe: never on a command line.

The pipe stays open as the lifeline: when its other end closes, the supervisor is gone and the runner ends.
"""

from __future__ import annotations

import os
import signal
from typing import BinaryIO

import msgspec
from msgspec import Struct

from conductor_protocol.errors import ProtocolError
from conductor_protocol.manifest import Isolation

BIRTH_FD = "CONDUCTOR_BIRTH_FD"
"""Environment variable that names the inherited descriptor; the child removes it before user code runs."""

MARK = "CONDUCTOR_RUNNER"
"""Environment variable of a runner and of all that it starts: the runtime folder of its supervisor, and its
number."""

STACKS_SIGNAL: int = signal.SIGRTMIN + 9 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
"""A runner that gets this signal writes the Python stacks of all its threads to stderr, whatever it does."""


class Birth(Struct, frozen=True):
    """One line of JSON that the supervisor writes to a new child."""

    runner: int
    secret: bytes
    mark: str
    """What :data:`MARK` is in its environment."""
    endpoint: str
    """Where the supervisor listens, such as ``ipc:///run/user/1000/conductor/1f/runners``."""
    recorder: str
    """Path of the flight recorder's file."""
    app: str
    """``module:attribute`` or ``path/file.py:attribute``."""
    paths: list[str]
    """Put before ``sys.path``, so that the app imports as it did for the user."""
    isolation: Isolation = "runner"
    """How it runs what it is given."""
    at_once: int = 1
    """Executions that it runs at once; more than one only if it is shared."""
    output_key: str = ""
    """What marks in its output begin with; empty: it marks nothing."""


def write_birth(descriptor: int, birth: Birth) -> None:
    """Tell a new child who it is."""
    line = msgspec.json.encode(birth) + b"\n"
    while line:
        line = line[os.write(descriptor, line) :]


def read_birth(pipe: BinaryIO) -> Birth:
    """Read what the supervisor wrote.

    :raises ProtocolError: if the pipe closed early or carries anything else.
    """
    try:
        return msgspec.json.decode(pipe.readline(), type=Birth)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"the birth record cannot be read: {error}") from error
