"""Import an app once and answer a question about it, or say what went wrong."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct

from conductor.app import Conductor
from conductor.child.loading import load
from conductor.child.reports import NOISE, trimmed_traceback
from conductor.errors import PayloadMismatch
from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import Manifest

DESCRIBE_FD = "CONDUCTOR_DESCRIBE_FD"
"""Environment variable that names the descriptor for the answer; removed before user code runs."""


class Fits(Struct, frozen=True):
    """The payload is what its task expects."""


class Problem(Struct, frozen=True):
    """Why there is no answer."""

    kind: str
    """``usage``: a declaration or the app's name is wrong; ``payload``: it does not fit;
    ``import``: the app's module raised."""
    message: str
    traceback: str = ""


class NoAnswer(Struct, frozen=True):
    """The answer in place of what was asked for."""

    error: Problem


def describe(app: str, paths: Iterable[str]) -> int:
    """Answer with the app's manifest, or with what is wrong with the app; return the exit status."""
    return _answer(app, paths, lambda loaded: loaded.manifest(app))


def check(app: str, task: str, paths: Iterable[str]) -> int:
    """Answer whether the payload on stdin is what the task expects; return the exit status.

    A task that the app does not have expects nothing.
    """
    payload = sys.stdin.buffer.read()

    def fit(loaded: Conductor) -> Fits:
        if task in loaded.tasks:
            loaded.tasks[task].check_annotations()
            loaded.tasks[task].payload_from_json(payload)
        return Fits()

    return _answer(app, paths, fit)


def _answer(app: str, paths: Iterable[str], question: Callable[[Conductor], Manifest | Fits]) -> int:
    """Write the answer, or why there is none, as JSON to the descriptor of ``DESCRIBE_FD``.

    :return: the exit status: 0, 1 if the import failed, 2 if what the user wrote is wrong.
    """
    descriptor = int(os.environ.pop(DESCRIBE_FD, "1"))
    if descriptor > 2:
        os.set_inheritable(descriptor, False)
    status, answer = _asked(app, paths, question)
    with os.fdopen(descriptor, "wb", closefd=descriptor > 2) as file:
        file.write(msgspec.json.encode(answer))
    return status


def _asked(
    app: str, paths: Iterable[str], question: Callable[[Conductor], Manifest | Fits]
) -> tuple[int, Manifest | Fits | NoAnswer]:
    try:
        return 0, question(load(app, paths))
    except PayloadMismatch as error:
        return 2, NoAnswer(Problem("payload", str(error)))
    except BaseException as error:  # noqa: BLE001  # sys.exit() and Ctrl-C in an app's module are answers too
        problem = problem_with(app, error)
        return 2 if problem.kind == "usage" else 1, NoAnswer(problem)


def problem_with(app: str, error: BaseException) -> Problem:
    """Return what is wrong with an app, from what its import raised."""
    if isinstance(error, UsageError):
        return Problem("usage", _place(error) + str(error))
    message = f"app {app} cannot be imported: {type(error).__qualname__}: {error}"
    return Problem("import", message, trimmed_traceback(error))


def _place(error: UsageError) -> str:
    """Return the line of the user's code that a wrong declaration stands in."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not frame.filename.startswith(NOISE)]
    return f"{outside[-1].filename}:{outside[-1].lineno}: " if outside else ""
