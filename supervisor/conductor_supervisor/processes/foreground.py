"""Running one handler in a child process that has the terminal: a crash of it is an answer, not our death."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from msgspec import Struct

from conductor_protocol.messages import RecordedStep
from conductor_protocol.recording import (
    Began,
    Ending,
    Note,
    Raised,
    Recording,
    Returned,
    StepAnswered,
    StepBegan,
    StepEnded,
    Stopped,
    Unable,
    read_notes,
    write_recording,
)

STDERR = 2


class Account(Struct, kw_only=True):
    """How a replay went, from the child's notes and its exit status."""

    returncode: int
    """As ``subprocess`` says it: negative for a signal."""
    ended: float
    """When the child had ended, by ``time.monotonic()``."""
    ending: Ending | None = None
    """None: the child died before the handler had ended."""
    began: float | None = None
    """When the handler was called; None: it never was."""
    answered: list[str] = []
    """Steps answered from the record."""
    ran: list[str] = []
    """Steps that ran, in the order in which they began."""
    step: str | None = None
    """The step that had begun and not ended."""
    step_began: float = 0.0


class Replay:
    """What a child is told of an execution, in a file that has no name, and what it notes."""

    def __init__(self) -> None:
        self._told = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close()
        self._notes = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115

    def close(self) -> None:
        """Forget both."""
        self._told.close()
        self._notes.close()

    def tell(self, recording: Recording, steps: Iterable[RecordedStep]) -> None:
        """Write down what the child will read."""
        write_recording(self._told.fileno(), recording, steps)

    def run(self, *, quiet: bool) -> Account:
        """Run the handler in a child that inherits the terminal; return how that went.

        :param quiet: let what the child prints to stdout go to stderr.
        """
        told, notes = self._told.fileno(), self._notes.fileno()
        sys.stdout.flush()
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "conductor.child", "replay", str(told), str(notes)],
            stdout=STDERR if quiet else None,
            pass_fds=(told, notes),
        )
        with child, _signals_are_for(child):
            child.wait()
        return _account(read_notes(notes), child.returncode, time.monotonic())


@contextmanager
def _signals_are_for(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let Ctrl-C, which the terminal sends to both of us, concern the child alone; pass a SIGTERM on."""

    def ignore(_number: int, _frame: FrameType | None) -> None:
        """Not SIG_IGN, which is inherited."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    before = {
        number: signal.signal(number, handler)
        for number, handler in ((signal.SIGINT, ignore), (signal.SIGTERM, pass_on))
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _account(notes: Iterable[Note], returncode: int, ended: float) -> Account:
    account = Account(returncode=returncode, ended=ended)
    ran: dict[str, None] = {}
    running: dict[str, float] = {}
    for note in notes:
        match note:
            case Began(at):
                account.began = at
            case StepAnswered():
                account.answered.append(note.name)
            case StepBegan(name, at):
                ran[name] = None
                running[name] = at
            case StepEnded(name):
                running.pop(name, None)
            case Returned() | Raised() | Stopped() | Unable():
                account.ending = note
    account.ran = list(ran)
    if running:
        account.step, account.step_began = list(running.items())[-1]
    return account
