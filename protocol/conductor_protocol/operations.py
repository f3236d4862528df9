"""What a client may ask of the store, and what it is answered.

The same operations serve every client: a script asks through its own connection, a handler through its
runner's supervisor, the command line through either. One function performs them all:
``conductor_supervisor.store.perform``. On the wire they travel as JSON (integers of any size survive).
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

from msgspec import Raw, Struct

from conductor_protocol.manifest import INVOKE_EVENT
from conductor_protocol.units import Instant

State: TypeAlias = Literal["scheduled", "ready", "running", "completed", "failed", "cancelled"]
"""Where an execution is in its life; ``conductor_supervisor.rules.lifecycle`` holds the legal moves."""

FINISHED: frozenset[State] = frozenset({"completed", "failed", "cancelled"})
"""States that nothing but ``retry`` leaves."""


Stream: TypeAlias = Literal["stdout", "stderr"]
"""Where something was printed."""
MAX_PAYLOAD = 1024 * 1024
"""Bytes that a payload may have, where nobody says otherwise."""


class NewExecution(Struct, frozen=True, kw_only=True):
    """One execution to create."""

    task: str
    payload: Raw = Raw(b"null")
    """JSON, already checked against the task's annotation."""
    event: str = INVOKE_EVENT
    delay: float = 0.0
    """Seconds from now, by the clock of whoever performs the operation."""
    run_at: Instant | None = None
    """Not before this moment; wins over ``delay``."""
    priority: int = 0
    """Higher first; -32768 to 32767."""
    dedupe_key: str | None = None
    """While one execution of the task with this key is unfinished, the same key gives that one back."""
    concurrency_key: str | None = None
    """What it is counted under, where its task limits by key; None: what the payload says."""
    key_path: str | None = None
    """The field that holds the key as far as the client knows. What is declared in the database wins."""
    metadata: Raw = Raw(b"null")
    """JSON object kept with the execution, or null; Conductor does not read it."""


class InvokeMany(Struct, frozen=True, tag=True):
    """Create executions, all or none. Answer: :class:`Invoked`, or :class:`TooLarge`."""

    executions: list[NewExecution]


class GetExecution(Struct, frozen=True, tag=True):
    """Read one execution with its attempts and steps. Answer: :class:`Found`."""

    id: str


class GetOutcome(Struct, frozen=True, tag=True):
    """Read only state, result and error: what a waiting client polls. Answer: :class:`Outcome`."""

    id: str


LIST_AT_MOST = 1000
"""Executions that one :class:`ListExecutions` may ask for."""


class ListExecutions(Struct, frozen=True, tag=True):
    """Read executions, newest first. Answer: :class:`Listed`."""

    task: str | None = None
    state: State | None = None
    limit: int = 100
    """From 1 to :data:`LIST_AT_MOST`."""
    before: str | None = None
    """Only executions created before this one: the last id of the page before."""


class CancelExecution(Struct, frozen=True, tag=True):
    """Cancel a waiting execution at once, or ask a running one to stop. Answer: :class:`Changed`."""

    id: str
    reason: str | None = None


class RetryExecution(Struct, frozen=True, tag=True):
    """Give a failed or cancelled execution new attempts; its steps stay. Answer: :class:`Changed`."""

    id: str


class GetOutput(Struct, frozen=True, tag=True):
    """Read what an execution has printed, page by page. Answer: :class:`Printed`."""

    id: str
    after: int = 0
    """Only what was kept later than this: ``Printed.last`` of the page before."""


Operation: TypeAlias = (
    InvokeMany | GetExecution | GetOutcome | GetOutput | ListExecutions | CancelExecution | RetryExecution
)


TIMED_OUT = "conductor.TimedOut"
"""``Failure.type`` of an attempt that took longer than it may."""


class Failure(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a handler's attempt failed: the exception as its runner saw it, or the reason of the supervisor."""

    type: str
    """Qualified name of the exception's class, such as ``ValueError`` or ``shop.errors.OutOfStock``."""
    message: str
    traceback: str = ""


class CrashReport(Struct, frozen=True, kw_only=True):
    """How a runner died with an execution inside it, as far as could be found out."""

    cause: str
    """One sentence: ``died of SIGSEGV in step "resize-41", 3.2 s into it``."""
    signal: str | None = None
    """``"SIGSEGV"``; None if the process exited by itself."""
    exit_code: int | None = None
    step: str | None = None
    """The step in progress; None between steps, or unknown."""
    step_seconds: float | None = None
    attempt_seconds: float | None = None
    peak_memory: int | None = None
    """Bytes, as the kernel counted them for the whole life of the runner."""
    cpu_seconds: float | None = None
    stdout: str = ""
    """The last lines."""
    stderr: str = ""
    """The last lines, without the stacks."""
    stacks: str = ""
    """The Python stacks that faulthandler wrote, if any."""


AttemptOutcome: TypeAlias = Literal[
    "completed", "failed", "crashed", "cancelled", "released", "stopped", "running", "lost"
]
"""How an attempt ended: ``released`` (shutdown, window), ``stopped`` (killed uncharged: a grace ran out),
``lost`` (its supervisor died)."""


class AttemptView(Struct, frozen=True, kw_only=True):
    """One time that the execution was run."""

    number: int
    """Counted from 1; an uncharged run has the same number as the one after it."""
    outcome: AttemptOutcome
    started: datetime
    ended: datetime | None = None
    error: Failure | None = None
    crash: CrashReport | None = None
    reason: str | None = None
    """For uncharged endings: ``shutdown``, ``window``, and so on."""


class StepView(Struct, frozen=True, kw_only=True):
    """One recorded step."""

    name: str
    started: datetime
    ended: datetime
    attempt: int
    result: object = None


class ProgressView(Struct, frozen=True, kw_only=True):
    """What the handler last said of its progress."""

    done: float
    total: float | None = None
    message: str = ""


class OutputPiece(Struct, frozen=True, kw_only=True):
    """Something that an attempt has printed: lines, or a part of one."""

    attempt: int
    stream: Stream
    time: datetime
    """When the supervisor read it."""
    text: str
    dropped: int = 0
    """Bytes that stood before this and are kept no more."""


class ExecutionView(Struct, frozen=True, kw_only=True):
    """One execution, as people and programs look at it. ``attempts`` and ``steps`` are empty in lists."""

    id: str
    task: str
    state: State
    payload: object = None
    """The decoded JSON."""
    result: object = None
    """The decoded JSON; None until completed."""
    error: Failure | None = None
    event: str = INVOKE_EVENT
    scheduled_for: datetime | None = None
    """For cron: the firing that made it."""
    priority: int = 0
    dedupe_key: str | None = None
    concurrency_key: str | None = None
    metadata: object = None
    created: datetime
    due: datetime
    """Not run before this moment."""
    started: datetime | None = None
    """Of the last attempt."""
    finished: datetime | None = None
    attempt: int = 0
    """Attempts charged so far; one that runs or has completed is not among them."""
    waiting_for: str | None = None
    """Why it is scheduled: ``delay``, ``retry``, ``window``."""
    cancel_requested: bool = False
    cancel_reason: str | None = None
    progress: ProgressView | None = None
    steps_recorded: int = 0
    attempts: list[AttemptView] = []
    steps: list[StepView] = []


class Invoked(Struct, frozen=True, tag=True):
    """The ids, in the order asked; ``created[i]`` is False where a dedupe key gave an existing one back."""

    ids: list[str]
    created: list[bool]


class Found(Struct, frozen=True, tag=True):
    execution: ExecutionView


class Outcome(Struct, frozen=True, tag=True):
    state: State
    result: Raw = Raw(b"null")
    """JSON; null until completed. (msgspec cannot read ``Raw | None``.)"""
    error: Failure | None = None
    cancel_reason: str | None = None


class Printed(Struct, frozen=True, tag=True):
    """A page of output, in the order in which it was read."""

    state: State
    """Of the execution. What it printed at its very end may be kept a moment after it has finished."""
    pieces: list[OutputPiece]
    last: int
    """Where the next page begins."""
    complete: bool
    """There was nothing more when this was read."""


class Listed(Struct, frozen=True, tag=True):
    executions: list[ExecutionView]


class Changed(Struct, frozen=True, tag=True):
    """What a cancel or retry did. ``changed`` is False if the execution was not in a state for it."""

    state: State
    """The state before."""
    changed: bool


class NotFound(Struct, frozen=True, tag=True):
    """No execution has this id."""

    id: str


class Refused(Struct, frozen=True, tag=True):
    """The operation could not be performed; the message says what to do."""

    message: str


class TooLarge(Struct, frozen=True, tag=True):
    """Nothing was created, for a payload has more bytes than whoever performs the operation allows."""

    message: str


Answer: TypeAlias = Invoked | Found | Outcome | Printed | Listed | Changed | NotFound | Refused | TooLarge
