"""What commands may ask of a running supervisor, over its control socket in the runtime folder.

Only the folder's owner can reach the socket. What concerns the store (cancel, retry, pause, invoke) does not
pass through here: it is written to the database and works without a supervisor too.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TypeAlias

import msgspec
from msgspec import Struct

from conductor_protocol.errors import ProtocolError
from conductor_protocol.manifest import Isolation
from conductor_protocol.units import Instant
from conductor_supervisor.errors import NotRunning

SOCKET = "control"
"""Name of the socket in the runtime folder."""


class AskStatus(Struct, frozen=True, tag=True):
    """What runs where? Answer: :class:`Status`."""


class AskStop(Struct, frozen=True, tag=True):
    """Shut down: gracefully, or with ``now`` without waiting. Answer: :class:`Accepted`."""

    now: bool = False


class AskReload(Struct, frozen=True, tag=True):
    """Read the code anew, and run it in new runners. Answer, once it is read: :class:`Reloaded`."""


Request: TypeAlias = AskStatus | AskStop | AskReload


class Beside(Struct, frozen=True, kw_only=True):
    """One more execution that a shared runner runs."""

    execution: str
    task: str
    step: str | None = None
    seconds: float | None = None
    step_seconds: float | None = None
    done: float | None = None
    total: float | None = None
    message: str = ""


class RunnerStatus(Struct, frozen=True, kw_only=True):
    """One runner, as the roster and its flight recorder tell."""

    number: int
    pid: int | None
    queue: str
    isolation: Isolation = "runner"
    state: str
    """``starting``, ``idle``, ``busy``, ``retiring`` (it finishes what it runs, and ends), ``stopping``,
    ``waiting`` (to be started again after dying)."""
    note: str = ""
    """Why it is not at work, where there is a reason."""
    execution: str | None = None
    task: str | None = None
    step: str | None = None
    seconds: float | None = None
    """How long the execution has been running."""
    step_seconds: float | None = None
    in_hand: int = 0
    """Executions handed to it, the running one included."""
    beside: list[Beside] = []
    """What a shared runner runs beside the execution above, which it has had longest."""
    memory: int | None = None
    """Resident bytes, with the processes that it has started."""
    cpu_seconds: float | None = None
    """Processor time since it was started, with that of the processes that it has started."""
    done: float | None = None
    total: float | None = None
    message: str = ""
    restarts: int = 0


class Status(Struct, frozen=True, kw_only=True, tag=True):
    """The supervisor and its runners."""

    pid: int
    app: str
    database: str
    """Without credentials."""
    state: str
    """``running`` or ``draining``."""
    started: Instant
    runners: list[RunnerStatus]
    memory: int
    """Resident bytes of the supervisor itself."""
    cpu_seconds: float = 0.0
    """Processor time of the supervisor itself since it was started."""
    ended: int = 0
    """Attempts that have ended since it was started, whatever their outcome."""


class Accepted(Struct, frozen=True, tag=True):
    """The request is being carried out."""


class Reloaded(Struct, frozen=True, tag=True):
    """The new code is in place."""

    tasks: int
    """How many it declares."""
    retiring: int
    """Runners that finish something with the old code."""


class Rejected(Struct, frozen=True, tag=True):
    """The request makes no sense; the message says why."""

    message: str


Reply: TypeAlias = Status | Accepted | Reloaded | Rejected

_request: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_reply: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)


def read_request(frame: bytes) -> Request:
    """Read what a command asks.

    :raises ProtocolError: if the bytes are anything else.
    """
    try:
        return _request.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a control request: {error}") from error


def ask(folder: Path, request: Request, timeout: float = 5.0) -> Reply:
    """Ask the supervisor whose runtime folder this is, and wait for its answer.

    :raises NotRunning: if nobody listens there, or nobody answers in time.
    """
    if not _listens(folder / SOCKET):
        raise NotRunning("no supervisor is running here; start one: conductor-supervisor start")
    import zmq

    with zmq.Context() as context, context.socket(zmq.DEALER) as asker:
        asker.linger = 0
        asker.connect(f"ipc://{folder / SOCKET}")
        asker.send(msgspec.json.encode(request))
        if not asker.poll(round(timeout * 1000)):
            raise NotRunning("no supervisor answers; start one: conductor-supervisor start")
        return _reply.decode(asker.recv())


def _listens(path: Path) -> bool:
    """Tell whether a process listens on a socket: ZeroMQ would wait for one that may never come."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            caller.connect(str(path))
        except OSError:
            return False
        return True
