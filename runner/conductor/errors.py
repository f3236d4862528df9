"""Errors and signals of what task authors and clients import.

ConductorError (protocol)
├── UsageError (protocol)     what was written cannot be meant; the message says what to write
│   ├── PayloadMismatch       a payload does not fit what its task expects
│   └── NotInReplay           a client's call that would write, made in a replay
├── NotStorable               a result or payload cannot be written as JSON
│   └── TooLarge              it can, but is larger than allowed
├── ResultMismatch            a stored result does not fit the annotation that should read it
├── DuplicateStep             two steps of one name in one attempt
├── StepRefused               the supervisor cannot record a step
├── OperationRefused          the store cannot perform a client's operation
├── DatabaseAway (protocol)   the database cannot be used just now; a later try may go well
├── ExecutionNotFound         no execution has this id
├── ExecutionFailed           the execution whose result was asked for has failed
└── ExecutionCancelled        the execution whose result was asked for was cancelled

Exception
├── Fail                      raised by a handler: fail for good, without further attempts
└── RetryAfter                raised by a handler: try again after this time

BaseException
└── Released                  raised in a handler: give back the runner now
"""

from __future__ import annotations

from conductor_protocol.errors import ConductorError, DatabaseAway, ProtocolError, UsageError
from conductor_protocol.messages import Word
from conductor_protocol.operations import Failure
from conductor_protocol.units import Duration, seconds

__all__ = [
    "ConductorError",
    "DatabaseAway",
    "DuplicateStep",
    "ExecutionCancelled",
    "ExecutionFailed",
    "ExecutionNotFound",
    "Fail",
    "NotInReplay",
    "NotStorable",
    "OperationRefused",
    "PayloadMismatch",
    "ProtocolError",
    "Released",
    "ResultMismatch",
    "RetryAfter",
    "StepRefused",
    "TooLarge",
    "UsageError",
]


class PayloadMismatch(UsageError):
    """A payload does not fit what its task expects; the message has the path to the field."""


class NotInReplay(UsageError):
    """A client's call that would write, made in a replay: it writes nothing."""


class NotStorable(ConductorError):
    """A result or payload cannot be written as JSON."""


class TooLarge(NotStorable):
    """A result is larger than ``max_result`` allows, or a payload larger than ``max_payload``."""


class ResultMismatch(ConductorError):
    """A stored result does not fit the annotation that should read it: the code has changed, or is wrong."""


class DuplicateStep(ConductorError):
    """Two steps of one name in one attempt: the second would silently get the first one's result."""


class StepRefused(ConductorError):
    """The supervisor cannot record a step, and never will be able to as it is."""


class OperationRefused(ConductorError):
    """The store cannot perform a client's operation; the message says what to do."""


class ExecutionNotFound(ConductorError):
    """No execution has this id: it never existed, or was removed when its time of retention ended."""


class ExecutionFailed(ConductorError):
    """The execution whose result was asked for has failed."""

    def __init__(self, execution: str, failure: Failure) -> None:
        super().__init__(f"execution {execution} failed: {failure.type}: {failure.message}")
        self.execution = execution
        self.failure = failure


class ExecutionCancelled(ConductorError):
    """The execution whose result was asked for was cancelled."""

    def __init__(self, execution: str, reason: str | None = None) -> None:
        super().__init__(f"execution {execution} was cancelled{f': {reason}' if reason else ''}")
        self.execution = execution
        self.reason = reason
        """As whoever cancelled it gave it; None: no reason."""


class Fail(Exception):
    """Raise this in a handler to fail for good: no further attempt would make it better."""


class RetryAfter(Exception):
    """Raise this in a handler to have the next attempt after this time, whatever the backoff says."""

    def __init__(self, delay: Duration, message: str = "") -> None:
        """:raises UsageError: if ``delay`` is not a duration."""
        self.delay = seconds(delay, "RetryAfter")
        """Seconds."""
        super().__init__(message or f"try again after {delay}")


class Released(BaseException):
    """Unwinds a handler that is to give back its runner: not an error, so no ``except Exception`` stops it.

    The execution goes back to the queue with its steps; if it was cancelled, it ends; if it took longer than
    it may, the attempt has failed. Clean up in ``finally``
    or ``with`` and let this pass: every further call of the context raises it again.
    """

    def __init__(self, word: Word) -> None:
        super().__init__(word)
        self.word = word
        """``shutdown``, ``window``, ``cancelled``, ``timeout``, or ``abandon``: somebody else runs this
        execution now."""
