"""How an attempt ended, in words for the supervisor."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import conductor
from conductor.declarations import Retry
from conductor.errors import Fail, PayloadMismatch, Released, RetryAfter
from conductor.values import storable
from conductor_protocol import messages
from conductor_protocol.errors import UsageError
from conductor_protocol.operations import Failure

MOST_MESSAGE = 10_000
"""Characters of an exception's message that are kept."""

MOST_TRACEBACK = 50_000
"""Characters of a traceback that are kept: its end, where the exception was raised."""

OWN_FOLDER = f"{Path(conductor.__file__).parent}{os.sep}"
NOISE = (OWN_FOLDER, f"{Path(importlib.__file__).parent}{os.sep}", "<frozen importlib")
"""How the files of frames begin that tell users nothing: Conductor's own and those of imports."""

STANDARD = (f"{Path(os.__file__).parent}{os.sep}", "<frozen ")
"""How the files of Python's own modules begin."""

INSTALLED = tuple(f"{os.sep}{folder}{os.sep}" for folder in ("site-packages", "dist-packages"))
"""Folders of installed packages, which may lie among Python's own modules."""

CALLERS = tuple(f"{OWN_FOLDER}child{os.sep}{name}.py" for name in ("loading", "lifespan"))
"""Our files through which everything passes that the app's import or its lifespan raises."""


def ended_by(
    error: BaseException, assignment: messages.Assignment, retry: Retry, seconds: float
) -> messages.Report | None:
    """Return the report on a handler that raised; None if nobody wants to know.

    What leaves the handler counts: a release that passes through is a release, also within the group of
    exceptions that a ``TaskGroup`` makes; any other exception is a failure, ``SystemExit`` included.
    """
    released = _release_in(error)
    if released is None:
        return _failed(error, assignment, retry, seconds)
    if released.word == "abandon":  # somebody else runs this execution now
        return None
    return messages.Released(assignment.execution, assignment.claim, released.word, seconds)


def interrupted(
    error: BaseException, assignment: messages.Assignment, seconds: float
) -> messages.Interrupted:
    """Return the report on a handler that has unwound because it was interrupted."""
    told = trimmed_traceback(error)[-MOST_TRACEBACK:]
    return messages.Interrupted(assignment.execution, assignment.claim, seconds, told)


def unfit_payload(error: PayloadMismatch, assignment: messages.Assignment, seconds: float) -> messages.Failed:
    """Return the report on an execution whose payload does not fit: no further attempt makes it fit."""
    return messages.Failed(assignment.execution, assignment.claim, failure(error), False, None, seconds)


def unknown_task(assignment: messages.Assignment) -> messages.Failed:
    """Return the report on a task that the app in this runner does not have."""
    told = Failure(
        type="conductor.UnknownTask", message=f"the running code has no task named {assignment.task}"
    )
    return messages.Failed(assignment.execution, assignment.claim, told, True, None, 0.0)


def _release_in(error: BaseException) -> Released | None:
    if isinstance(error, Released):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := _release_in(inner))), None)
    return None


def _failed(
    error: BaseException, assignment: messages.Assignment, retry: Retry, seconds: float
) -> messages.Failed:
    return messages.Failed(
        assignment.execution,
        assignment.claim,
        failure(error),
        not isinstance(error, Fail) and (isinstance(error, RetryAfter) or retry.covers(error)),
        error.delay if isinstance(error, RetryAfter) else None,
        seconds,
    )


def failure(error: BaseException) -> Failure:
    """Return an exception as it is stored."""
    return Failure(
        type=_type_name(type(error)),
        message=_message(error)[:MOST_MESSAGE],
        traceback=trimmed_traceback(error)[-MOST_TRACEBACK:],
    )


def _type_name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return storable(str(error))
    except Exception as problem:  # noqa: BLE001  # the user's own __str__
        return f"(its text cannot be told: __str__ raised {type(problem).__qualname__})"


def trimmed_traceback(error: BaseException) -> str:
    """Return the traceback without Conductor's own frames and those of imports, of the causes too.

    What Python's own modules did before they called the user's code is left out as well.
    """
    try:
        told = traceback.TracebackException.from_exception(error)
        for one in _with_causes(told):
            noise = [frame for frame in one.stack if frame.filename.startswith(NOISE)]
            for frame in noise:
                one.stack.remove(frame)
        if not all(_is_standard(frame) for frame in told.stack):
            while _is_standard(told.stack[0]):
                del told.stack[0]
        return storable("".join(told.format()))
    except Exception as problem:  # noqa: BLE001  # an exception can be made to break any reading of it
        return f"(the traceback cannot be told: {type(problem).__qualname__})"


def tell_what_ends_us(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the exception that ends this process, as a ``sys.excepthook``.

    What the app's import or its lifespan raised is told by the user's frames; ours are told only of ours.
    """
    frames = traceback.extract_tb(trace)
    of_the_app = any(frame.filename in CALLERS for frame in frames)
    if of_the_app and any(_is_the_users(frame) for frame in frames):
        sys.stderr.write(trimmed_traceback(error))
    elif of_the_app and isinstance(error, UsageError):
        sys.stderr.write(f"{error}\n")
    else:
        sys.__excepthook__(kind, error, trace)


def _is_the_users(frame: traceback.FrameSummary) -> bool:
    return not frame.filename.startswith(NOISE) and not _is_standard(frame)


def _is_standard(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(STANDARD) and not any(folder in frame.filename for folder in INSTALLED)


def _with_causes(told: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    yield told
    for other in (told.__cause__, told.__context__, *(told.exceptions or ())):
        if other is not None:
            yield from _with_causes(other)
