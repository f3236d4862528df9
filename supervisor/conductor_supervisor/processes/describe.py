"""Asking an app, in a child process, what it declares: one that crashes is an error, not our death."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import msgspec
from msgspec import Struct

from conductor_protocol.birth import MARK
from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import Manifest
from conductor_protocol.units import in_words
from conductor_supervisor.errors import AppError, PayloadMismatch
from conductor_supervisor.rules.blame import exit_in_words

DESCRIBE_FD = "CONDUCTOR_DESCRIBE_FD"
"""Environment variable that names the descriptor of the file to which the child writes its answer."""

TIMEOUT = 60.0
"""Seconds that an app may take to import."""

LAST_LINES = 15
MOST_OUTPUT = 16 * 1024
"""Bytes of the end of its output in which they are looked for."""

A = TypeVar("A", bound=Struct)


class _Problem(Struct):
    kind: str
    message: str
    traceback: str = ""


class _Answer(Struct):
    error: _Problem | None = None


class Fits(Struct):
    """A payload is as its task expects."""


class Inquiry(Generic[A]):
    """A child process that imports an app and answers one question about it.

    It begins at once; whoever asks may do something else before :meth:`answer`. A child that is not heard to
    its end is ended by leaving the ``with`` block.
    """

    def __init__(
        self, app: str, question: Sequence[str], kind: type[A], told: bytes = b"", mark: str | None = None
    ) -> None:
        """
        :param question: what ``python -m conductor.child`` is called with.
        :param kind: what the answer is read as.
        :param told: what the child reads on its stdin.
        :param mark: by which what it has started can be found: see ``processes.leftovers``.
        """
        self._app = app
        self._kind = kind
        self._told = told
        # Files, closed in __exit__. A pipe would fill up, and end only with what the import leaves behind.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "conductor.child", *question],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            pass_fds=(self._file.fileno(),),
            env={
                **os.environ,
                DESCRIBE_FD: str(self._file.fileno()),
                **({} if mark is None else {MARK: mark}),
            },
            process_group=0,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self._child.__exit__(kind, error, trace)
        self._file.close()
        self._output.close()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def end(self) -> None:
        """Kill the child, if it lives: whoever waits for its answer hears that there is none."""
        if self._child.returncode is None:
            _kill_group(self._child)

    def answer(self, timeout: float = TIMEOUT) -> A:
        """Wait for the answer, once.

        :raises PayloadMismatch: if the question was whether a payload fits, and it does not.
        :raises UsageError: if a declaration is wrong, or the app is named wrongly.
        :raises AppError: if the app cannot be imported: it raised, crashed, exited or took too long.
        """
        child = self._child
        try:
            child.communicate(self._told, timeout)
        except subprocess.TimeoutExpired as error:
            _kill_group(child)
            child.wait()
            raise AppError(
                f"app {self._app} did not finish importing within {in_words(timeout)}{self._last_output()}"
            ) from error
        _kill_group(child)  # what the import has left running
        return self._read(child.returncode)

    def _last_output(self) -> str:
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - MOST_OUTPUT))
        return _tail(self._output.read())

    def _read(self, returncode: int) -> A:
        self._file.seek(0)
        text = self._file.read()
        try:
            problem = msgspec.json.decode(text, type=_Answer).error
            if problem is None:
                return msgspec.json.decode(text, type=self._kind)
        except msgspec.MsgspecError as error:
            raise AppError(
                f"app {self._app} {exit_in_words(returncode)} while it was imported{self._last_output()}"
            ) from error
        if problem.kind == "payload":
            raise PayloadMismatch(problem.message)
        if problem.kind == "usage":
            raise UsageError(problem.message)
        raise AppError("\n".join(part for part in (problem.message, problem.traceback.rstrip()) if part))


def description(app: str, paths: Sequence[str], mark: str | None = None) -> Inquiry[Manifest]:
    """Begin to ask what an app declares.

    :param app: ``module:attribute`` or ``path/file.py:attribute``.
    :param paths: folders put before the import path.
    :param mark: see :class:`Inquiry`.
    """
    return Inquiry(app, ["describe", app, *paths], Manifest, mark=mark)


def describe(app: str, paths: Sequence[str], timeout: float = TIMEOUT) -> Manifest:
    """Import the app in a child process and return what it declares. Raises as :meth:`Inquiry.answer`."""
    with description(app, paths) as inquiry:
        return inquiry.answer(timeout)


def payload_check(app: str, paths: Sequence[str], task: str, payload: bytes) -> Inquiry[Fits]:
    """Begin to ask whether a payload is what the app's task of this name expects.

    An app that has no such task takes any payload.

    :param payload: JSON.
    """
    return Inquiry(app, ["check", app, task, *paths], Fits, payload)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(child.pid, 9)
    except (ProcessLookupError, PermissionError):
        return


def _tail(output: bytes) -> str:
    lines = output.decode("utf-8", "backslashreplace").splitlines()[-LAST_LINES:]
    return "\nIts last output:\n" + "\n".join(line[:500] for line in lines) if lines else ""


def current_folder() -> list[str]:
    """Return what goes before the import path, so that an app imports as it does for its author."""
    return [str(Path.cwd())]
