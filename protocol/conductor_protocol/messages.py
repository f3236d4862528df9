"""Every message between a runner and the supervisor: the whole protocol on one page.

A transmission is a *parcel*: a MessagePack array of messages, usually one. A runner has two channels. On
the **data** channel the handler's thread speaks and waits; on the **control** channel a small thread keeps
the heartbeat and hears shutdown intent, cancellation, and until when it may live, while the handler computes.

A request carries ``seq`` and its reply the same one; a request may be resent without harm, because every
write names execution and claim, and a write that has been made already changes nothing.

Which message is legal when: :mod:`conductor_protocol.conversation`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from conductor_protocol.operations import Failure
from conductor_protocol.units import Instant

PROTOCOL_VERSION = 1

Channel: TypeAlias = Literal["data", "control"]

ReleaseReason: TypeAlias = Literal["shutdown", "window"]

Word: TypeAlias = Literal["go on", "shutdown", "window", "cancelled", "timeout", "abandon"]
"""The verdict on an ask. ``shutdown`` and ``window`` release; ``timeout``: the attempt or its step took too
long; ``abandon``: the claim is no longer ours."""


class RecordedStep(Struct, frozen=True, array_like=True):
    """A step that is done: its result is JSON."""

    name: str
    result: bytes


# Runner to supervisor, both channels


class Hello(Struct, frozen=True, tag=True, array_like=True):
    """The first message of each channel: who speaks, and the secret that it was born with."""

    version: int
    runner: int
    secret: bytes
    pid: int
    channel: Channel


class Goodbye(Struct, frozen=True, tag=True, array_like=True):
    """Control: the runner ends now, by itself, with nothing in hand."""


# Runner to supervisor, data: requests


class Ask(Struct, frozen=True, tag=True, array_like=True):
    """May I continue? At a checkpoint (``step`` None), or before the step named. Reply: :class:`Verdict`."""

    seq: int
    execution: str
    claim: int
    step: str | None = None
    timeout: float | None = None
    """Seconds that the step may take; then the runner is stopped."""


class StepDone(Struct, frozen=True, tag=True, array_like=True):
    """A step's result, to be committed. Reply: :class:`StepAck`, only after the commit."""

    seq: int
    execution: str
    claim: int
    name: str
    result: bytes
    seconds: float
    attempt: int


class LoadSteps(Struct, frozen=True, tag=True, array_like=True):
    """Send a page of the recorded steps that follow. Reply: :class:`StepPage`."""

    seq: int
    execution: str
    claim: int
    after: str | None
    """The name of the last one that is known, in recorded order; None: from the first."""


class Operate(Struct, frozen=True, tag=True, array_like=True):
    """A client operation made by a handler. Reply: :class:`Answered`."""

    seq: int
    operation: bytes
    """An :data:`~conductor_protocol.operations.Operation` as JSON."""


class Flush(Struct, frozen=True, tag=True, array_like=True):
    """Say when all that was sent before this has been received. Reply: :class:`Flushed`."""

    seq: int


# Runner to supervisor, data: reports. How an attempt ended; no reply.


class Finished(Struct, frozen=True, tag=True, array_like=True):
    """The handler returned."""

    execution: str
    claim: int
    result: bytes
    seconds: float


class Failed(Struct, frozen=True, tag=True, array_like=True):
    """The handler raised."""

    execution: str
    claim: int
    failure: Failure
    retryable: bool
    retry_after: float | None
    """Seconds, where the handler raised ``RetryAfter``."""
    seconds: float


class Released(Struct, frozen=True, tag=True, array_like=True):
    """The handler unwound because a verdict told it to. ``word`` is that verdict."""

    execution: str
    claim: int
    word: Word
    seconds: float
    begun: bool = True
    """False: a stop was wanted before the handler was called, so it was not."""


class Interrupted(Struct, frozen=True, tag=True, array_like=True):
    """The handler has unwound because of an :class:`Interrupt`."""

    execution: str
    claim: int
    seconds: float
    traceback: str
    """Where it was."""


Report: TypeAlias = Finished | Failed | Released | Interrupted


class Began(Struct, frozen=True, tag=True, array_like=True):
    """The handler is called now. Said of executions whose :class:`Assignment` asks for it."""

    execution: str
    claim: int


class Progress(Struct, frozen=True, tag=True, array_like=True):
    """What the handler says of its progress; the newest counts."""

    execution: str
    claim: int
    done: float
    total: float | None
    message: str


class Worn(Struct, frozen=True, tag=True, array_like=True):
    """The runner has begun nothing since its last report, and never will: what it holds is to go elsewhere.

    It waits for :class:`Stop`, and another takes its place.
    """

    reason: str
    """In words, as in ``its stdout was closed by task resize``."""


# Runner to supervisor, control


class Heartbeat(Struct, frozen=True, tag=True, array_like=True):
    """The control thread lives."""


class Returned(Struct, frozen=True, tag=True, array_like=True):
    """Answer to :class:`Recall`: these (execution, claim) had not been begun and never will be, here."""

    executions: list[tuple[str, int]]


# Supervisor to runner, data


class Welcome(Struct, frozen=True, tag=True, array_like=True):
    """The runner is known; work may follow."""

    heartbeat: float
    """Seconds between heartbeats."""
    max_result: int
    """Bytes that a result may have at most."""
    end_grace: float = 10.0
    """Seconds that the runner may take to end once it has been told to stop and has nothing in hand."""
    recycle_executions: int | None = None
    """After so many executions the runner is worn."""
    recycle_memory: int | None = None
    """Bytes of resident memory above which the runner is worn."""
    live_until: float | None = None
    """By :func:`~conductor_protocol.uptime.uptime`: the runner is dead from this moment on, unless
    :class:`LiveOn` has named a later one. None: it may live for ever."""


class Assignment(Struct, frozen=True, array_like=True):
    """One execution to run."""

    execution: str
    claim: int
    task: str
    attempt: int
    """Counted from 1."""
    event: str
    scheduled_for: Instant | None
    payload: bytes
    """JSON."""
    steps: list[RecordedStep]
    """The first recorded steps, in the order in which they were recorded."""
    steps_recorded: int
    """How many there are in all; the rest is fetched by :class:`LoadSteps` when wanted."""
    memory: int | None = None
    """Bytes that the handler may use beyond what the runner has: an allocation above it fails."""
    says_began: bool = False
    """Whether the runner says :class:`Began`."""
    short: bool = False
    """Its task's runs have been short, so reports on those before it may wait until it has ended."""


class Assign(Struct, frozen=True, tag=True, array_like=True):
    """Run these, one after another, in this order."""

    assignments: list[Assignment]


class Verdict(Struct, frozen=True, tag=True, array_like=True):
    """The answer to an :class:`Ask`."""

    seq: int
    word: Word


class StepAck(Struct, frozen=True, tag=True, array_like=True):
    """The step is committed; it will never run again in this execution. With the verdict on going on."""

    seq: int
    word: Word


class StepRefused(Struct, frozen=True, tag=True, array_like=True):
    """The step could not be recorded, and never will be as it is."""

    seq: int
    message: str


class StepPage(Struct, frozen=True, tag=True, array_like=True):
    """Recorded steps, those after the one named, in recorded order; empty if there are no more."""

    seq: int
    steps: list[RecordedStep]
    word: Word


class Answered(Struct, frozen=True, tag=True, array_like=True):
    """The answer to an operation, as JSON (:data:`~conductor_protocol.operations.Answer`)."""

    seq: int
    answer: bytes


class Flushed(Struct, frozen=True, tag=True, array_like=True):
    """All that was sent before the :class:`Flush` is in the supervisor's hands."""

    seq: int


class Stop(Struct, frozen=True, tag=True, array_like=True):
    """End when what is in hand is done; nothing more will be assigned."""


# Supervisor to runner, control: pushed


class ShutdownIntent(Struct, frozen=True, tag=True, array_like=True):
    """A shutdown has begun: the next ask will release."""


class WindowClosed(Struct, frozen=True, tag=True, array_like=True):
    """The window of this execution has closed: its next ask will release."""

    execution: str
    claim: int


class WindowOpened(Struct, frozen=True, tag=True, array_like=True):
    """The window of this execution is open again, and it has not been released: it goes on."""

    execution: str
    claim: int


class Cancel(Struct, frozen=True, tag=True, array_like=True):
    """This execution is to stop, cancelled or over its time: its next ask will say so."""

    execution: str
    claim: int


class Interrupt(Struct, frozen=True, tag=True, array_like=True):
    """Cancel this handler's asyncio task, wherever it awaits. Only of a shared runner.

    Report: :class:`Interrupted`, or another if the handler was just ending, or returns all the same.
    """

    execution: str
    claim: int


class LiveOn(Struct, frozen=True, tag=True, array_like=True):
    """The supervisor has its lease, so the runner may live on; see :attr:`Welcome.live_until`.

    A moment and not a number of seconds: a message that lay in the socket for a while gives no time away.
    """

    until: float
    """By :func:`~conductor_protocol.uptime.uptime`."""


class Recall(Struct, frozen=True, tag=True, array_like=True):
    """Give back what has not been begun. Reply: :class:`Returned`."""


DataFromRunner: TypeAlias = (
    Hello
    | Ask
    | StepDone
    | LoadSteps
    | Operate
    | Flush
    | Finished
    | Failed
    | Released
    | Interrupted
    | Began
    | Progress
    | Worn
)
ControlFromRunner: TypeAlias = Hello | Heartbeat | Returned | Goodbye
FromRunner: TypeAlias = DataFromRunner | ControlFromRunner
DataToRunner: TypeAlias = (
    Welcome | Assign | Verdict | StepAck | StepRefused | StepPage | Answered | Flushed | Stop
)
ControlToRunner: TypeAlias = (
    Welcome | LiveOn | ShutdownIntent | WindowClosed | WindowOpened | Cancel | Interrupt | Recall | Stop
)
ToRunner: TypeAlias = DataToRunner | ControlToRunner
