"""pdb, as a replay uses it: it shows the user's frames, and stops in no other."""

from __future__ import annotations

import asyncio
import inspect
import os
import pdb  # noqa: T100  # the user asks for it: replay --pdb
from pathlib import Path
from types import FrameType, TracebackType

import conductor
import conductor_protocol


def _folder(package: str | None) -> str:
    return str(Path(package or "").parent) + os.sep


_OURS = (_folder(conductor.__file__), _folder(conductor_protocol.__file__))
_NOT_STOPPED_IN = (*_OURS, inspect.__file__)  # a context asks it whether a step is to be awaited
_BELOW_USER_CODE = (*_OURS, _folder(asyncio.__file__), "<frozen ")
"""Where the frames lie that are under a handler's own."""
_ON_THE_WAY_HERE = (__file__, str(Path(__file__).parent / "replaying.py"), _OURS[0] + "inprocess.py")
"""Where the frames lie between a context that begins a step and the debugger."""


class Debugger(pdb.Pdb):
    """Reads commands from stdin, be it a terminal or not."""

    def __init__(self) -> None:
        super().__init__()
        self._arriving = False
        """Whether it is to stop in a frame of ours, for the next command to be the user's."""

    def stop_before_step(self) -> None:
        """Ask for commands, in the handler's line that calls the step: ``s`` steps into its function."""
        self._arriving = True
        self.set_trace()
        self._arriving = False  # here it stops: at the first line that is run while it is set

    def look_at(self, error: BaseException) -> None:
        """Ask for commands where an exception was raised."""
        self.reset()
        self.interaction(None, error.__traceback__)

    def stop_here(self, frame: FrameType) -> bool:
        """See ``bdb.Bdb``."""
        return (self._arriving or not _lies_in(frame, _NOT_STOPPED_IN)) and super().stop_here(frame)

    def get_stack(
        self, f: FrameType | None, t: TracebackType | None
    ) -> tuple[list[tuple[FrameType, int]], int]:
        """Return the stack without what is not the user's: below the handler, and our own within.

        Where nothing is the user's, as at a step that ``asyncio.gather`` runs, it ends in the context.
        """
        stack, current = super().get_stack(f, t)
        frames = [frame for frame, _ in stack]
        users = [at for at, frame in enumerate(frames) if not _lies_in(frame, _BELOW_USER_CODE)]
        if users:
            shown = [at for at, frame in enumerate(frames) if at >= users[0] and not _lies_in(frame, _OURS)]
        else:
            shown = [at for at, frame in enumerate(frames) if not _lies_in(frame, _ON_THE_WAY_HERE)]
        return [stack[at] for at in shown], max(0, sum(at <= current for at in shown) - 1)


def _lies_in(frame: FrameType, places: tuple[str, ...]) -> bool:
    return frame.f_code.co_filename.startswith(places)
