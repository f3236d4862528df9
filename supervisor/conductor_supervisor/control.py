"""What commands may ask of a running supervisor, over its control socket in the runtime folder.

Only the folder's owner can reach the socket, and nobody asks in a folder of somebody else's. What concerns
the store (cancel, retry, pause, invoke) does not pass through here: it is written to the database and works
without a supervisor too.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from conductor_protocol.errors import ProtocolError
from conductor_protocol.manifest import Isolation
from conductor_protocol.units import Instant, in_words
from conductor_supervisor.errors import NotAnswering, NotRunning
from conductor_supervisor.runtime import LOCK, check_private, holder_of

SOCKET = "control"
"""Name of the socket in the runtime folder."""

ANSWER_TIME = 5.0
"""Seconds that a supervisor has to answer, unless whoever asks says otherwise."""


class AskHealth(Struct, frozen=True, tag=True):
    """Are you well? Costs next to nothing. Answer: :class:`Health`."""


class AskStatus(Struct, frozen=True, tag=True):
    """What runs where? Answer: :class:`Status`."""


class AskStop(Struct, frozen=True, tag=True):
    """Shut down: gracefully, or with ``now`` without waiting. Answer: :class:`Accepted`."""

    now: bool = False


class AskReload(Struct, frozen=True, tag=True):
    """Read the code anew, and run it in new runners. Answer, once it is read: :class:`Reloaded`."""


Request: TypeAlias = AskHealth | AskStatus | AskStop | AskReload


SupervisorState: TypeAlias = Literal["starting", "running", "draining"]
"""No runner has been ready yet; it takes work; it shuts down and begins no more work."""


class Health(Struct, frozen=True, kw_only=True, tag=True):
    """The supervisor's loop turns."""

    pid: int
    state: SupervisorState


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
    state: SupervisorState
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


Reply: TypeAlias = Health | Status | Accepted | Reloaded | Rejected

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


def ask(folder: Path, request: Request, timeout: float | None = None) -> Reply:
    """Ask the supervisor whose runtime folder this is, and wait for its answer.

    :param timeout: seconds; None: :data:`ANSWER_TIME`.
    :raises NotRunning: if nobody listens there.
    :raises NotAnswering: if somebody does, and does not answer in time, or not in words that we know.
    :raises SupervisorError: if the folder is not ours alone.
    """
    check_private(folder)
    if not _listens(folder / SOCKET):
        raise NotRunning(
            f"no supervisor is running here (runtime folder {folder}); start one: conductor-supervisor start"
        )
    import zmq

    patience = ANSWER_TIME if timeout is None else timeout
    with zmq.Context() as context, context.socket(zmq.DEALER) as asker:
        asker.linger = 0
        asker.connect(f"ipc://{folder / SOCKET}")
        asker.send(msgspec.json.encode(request))
        if not asker.poll(round(patience * 1000)):
            raise _not_answering(folder, patience)
        return _read_reply(asker.recv(), folder)


def _read_reply(frame: bytes, folder: Path) -> Reply:
    try:
        return _reply.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        holder = holder_of(folder / LOCK)
        raise NotAnswering(
            holder.pid if holder is not None else None,
            f"what listens in {folder} has given an answer that is not understood: {error}; if it is a "
            "supervisor of another version, use the same version for both",
        ) from error


def _listens(path: Path) -> bool:
    """Tell whether a process listens on a socket: ZeroMQ would wait for one that may never come."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except BlockingIOError:  # many others wait to be let in: it is slow, or stopped
            return True
        except OSError:
            return False
        return True


def _not_answering(folder: Path, waited: float) -> NotAnswering:
    """Return what to say of a supervisor that is silent. It listens, so it lives, and the lock is its own."""
    from conductor_supervisor.processes.memory import is_stopped

    lock = folder / LOCK
    holder = holder_of(lock)
    if holder is None:
        return NotAnswering(
            None, f"a supervisor listens in {folder}, but has not answered in {in_words(waited)}"
        )
    pid = holder.pid
    why = f"it is busy, or hangs; end it, if it must be: kill -ABRT {pid}"
    if is_stopped(pid):
        why = f"something has stopped it with SIGSTOP; let it go on: kill -CONT {pid}"
    return NotAnswering(pid, f"process {pid} holds {lock}, but has not answered in {in_words(waited)}: {why}")
