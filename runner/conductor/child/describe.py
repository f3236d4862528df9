"""Import an app once and answer with what it declares, or with what went wrong."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from conductor.child.loading import load
from conductor.child.reports import OWN_FOLDER, trimmed_traceback
from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import Manifest

DESCRIBE_FD = "CONDUCTOR_DESCRIBE_FD"
"""Environment variable that names the descriptor for the answer; removed before user code runs."""


class Problem(Struct, frozen=True):
    """Why there is no manifest."""

    kind: str
    """``usage``: a declaration or the app's name is wrong; ``import``: the app's module raised."""
    message: str
    traceback: str = ""


class NotDescribed(Struct, frozen=True):
    """The answer in place of a manifest."""

    error: Problem


def describe(app: str, paths: Iterable[str]) -> int:
    """Write the app's manifest, or what is wrong with it, as JSON to the descriptor of ``DESCRIBE_FD``.

    :return: the exit status: 0, 1 if the import failed, 2 if the user's declarations or words are wrong.
    """
    descriptor = int(os.environ.pop(DESCRIBE_FD, "1"))
    if descriptor > 2:
        os.set_inheritable(descriptor, False)
    status, answer = _answer(app, paths)
    with os.fdopen(descriptor, "wb", closefd=descriptor > 2) as pipe:
        pipe.write(msgspec.json.encode(answer))
    return status


def _answer(app: str, paths: Iterable[str]) -> tuple[int, Manifest | NotDescribed]:
    try:
        return 0, load(app, paths).manifest(app)
    except UsageError as error:
        return 2, NotDescribed(Problem("usage", _place(error) + str(error)))
    except BaseException as error:  # noqa: BLE001  # sys.exit() and Ctrl-C in an app's module are answers too
        message = f"app {app} cannot be imported: {type(error).__qualname__}: {error}"
        return 1, NotDescribed(Problem("import", message, trimmed_traceback(error)))


def _place(error: UsageError) -> str:
    """Return the line of the user's code that a wrong declaration stands in."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((OWN_FOLDER, "<frozen importlib"))
    ]
    outside = [frame for frame in frames if os.sep + "importlib" + os.sep not in frame.filename]
    return f"{outside[-1].filename}:{outside[-1].lineno}: " if outside else ""
