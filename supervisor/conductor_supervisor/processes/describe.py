"""Reading an app's declarations in a child process: one that crashes is an error, not our death."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import Manifest
from conductor_protocol.units import in_words
from conductor_supervisor.errors import AppError
from conductor_supervisor.rules.blame import exit_in_words

DESCRIBE_FD = "CONDUCTOR_DESCRIBE_FD"
"""Environment variable that names the descriptor to which the child writes the manifest."""

TIMEOUT = 60.0
"""Seconds that an app may take to import."""

LAST_LINES = 15


class _Problem(Struct):
    kind: str
    message: str
    traceback: str = ""


class _Described(Struct):
    error: _Problem | None = None


def describe(app: str, paths: Sequence[str], timeout: float = TIMEOUT) -> Manifest:
    """Import the app in a child process and return what it declares.

    :param app: ``module:attribute`` or ``path/file.py:attribute``.
    :param paths: folders put before the import path.
    :raises UsageError: if a declaration is wrong, or the app is named wrongly.
    :raises AppError: if the app cannot be imported: it raised, crashed, exited or took too long.
    """
    read, write = os.pipe()
    environment = {**os.environ, DESCRIBE_FD: str(write)}
    with (
        os.fdopen(read, "rb") as answer,
        subprocess.Popen(
            [sys.executable, "-m", "conductor.child", "describe", app, *paths],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(write,),
            env=environment,
            process_group=0,
        ) as child,
    ):
        os.close(write)
        try:
            output, _ = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            _kill_group(child)
            output, _ = child.communicate()
            raise AppError(
                f"app {app} did not finish importing within {in_words(timeout)}{_tail(output)}"
            ) from error
        _kill_group(child)  # what the import left running would keep the pipe open
        return _read(app, answer, child.returncode, output)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(child.pid, 9)
    except (ProcessLookupError, PermissionError):
        return


def _read(app: str, answer: BinaryIO, returncode: int, output: bytes) -> Manifest:
    text = answer.read()
    try:
        problem = msgspec.json.decode(text, type=_Described).error
        if problem is None:
            return msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise AppError(
            f"app {app} {exit_in_words(returncode)} while it was imported{_tail(output)}"
        ) from error
    if problem.kind == "usage":
        raise UsageError(problem.message)
    raise AppError("\n".join(part for part in (problem.message, problem.traceback.rstrip()) if part))


def _tail(output: bytes) -> str:
    lines = output.decode("utf-8", "backslashreplace").splitlines()[-LAST_LINES:]
    return ". Its last output:\n" + "\n".join(line[:500] for line in lines) if lines else ""


def current_folder() -> list[str]:
    """Return what goes before the import path, so that an app imports as it does for its author."""
    return [str(Path.cwd())]
