"""Who was running in a runner that died, and in which words to say it.

The flight recorder is written before each execution and each step begins, so a reading that checks out tells
exactly what ran. The reports in its outbox tell what had ended. What is left in the runner's hands had not
begun, and goes back to the queue uncharged.
"""

from __future__ import annotations

from collections.abc import Sequence
from signal import Signals
from typing import TypeAlias

from msgspec import Struct, structs

from conductor_protocol.messages import Report
from conductor_protocol.recorder import Reading
from conductor_protocol.units import in_words

Held: TypeAlias = tuple[str, int]
"""An execution in a runner's hands, with its claim."""


class Kill(Struct, frozen=True):
    """Why the supervisor itself ended the runner."""

    reason: str
    """Such as ``over its timeout of 10m``."""
    charged: bool
    """False where the execution is not at fault: a grace ran out at a shutdown or a window's end."""


class Blame(Struct, frozen=True, kw_only=True):
    """What a dead runner leaves behind. Whatever was in its hands is guilty, reported or innocent."""

    running: Held | None
    """What was running, whether at fault or not."""
    guilty: Held | None
    """``running``, if the death is charged to it."""
    reported: list[Report]
    """How those ended that had ended: as good as if the reports had arrived."""
    innocent: list[Held]
    """To be returned uncharged, in the order in which they were to run."""
    step: str | None = None
    """The step in progress; None between steps, or unknown."""
    step_seconds: float | None = None
    attempt_seconds: float | None = None
    """None: unknown."""


def blame(
    *,
    reading: Reading | None,
    in_hand: Sequence[Held],
    outbox: Sequence[Report],
    now: float,
    kill: Kill | None = None,
    ended: Held | None = None,
) -> Blame:
    """Find out who was running in a dead runner.

    :param reading: what the flight recorder says; None if its page cannot be trusted.
    :param in_hand: what the runner held, in the order in which it runs them.
    :param outbox: the reports that the recorder kept.
    :param now: the time of death by ``time.monotonic()``.
    :param kill: given if the supervisor ended the runner.
    :param ended: what has last ended in the runner, by its own report.
    """
    reported = first_report_of_each(in_hand, outbox)
    unreported = [held for held in in_hand if held not in reported]
    reading = _believable(reading, in_hand, ended)
    running = _running(reading, unreported)
    guilty = running if kill is None or kill.charged else None
    found = Blame(
        running=running,
        guilty=guilty,
        reported=list(reported.values()),
        innocent=[held for held in unreported if held != guilty],
    )
    if running is None or reading is None:
        return found
    return _with_times(found, reading, now)


def first_report_of_each(in_hand: Sequence[Held], outbox: Sequence[Report]) -> dict[Held, Report]:
    """Keep what concerns this runner's live claims; whatever else the page holds is old or damaged."""
    reports: dict[Held, Report] = {}
    for report in outbox:
        held = (report.execution, report.claim)
        if held in in_hand:
            reports.setdefault(held, report)
    return reports


def _believable(reading: Reading | None, in_hand: Sequence[Held], ended: Held | None) -> Reading | None:
    """Return a reading only if it names what the runner held: user code may have written the page."""
    if reading is None or reading.phase == "idle" or reading.execution is None:
        return reading
    named = (reading.execution, reading.claim)
    return reading if named in in_hand or named == ended else None


def _running(reading: Reading | None, unreported: Sequence[Held]) -> Held | None:
    if not unreported:
        return None
    if reading is None:
        # Executions run in order, so nothing but the first can have been begun.
        return unreported[0]
    if reading.phase == "idle" or reading.execution is None:
        return None
    # A reading of one that has reported tells that those in hand had not been begun.
    named = (reading.execution, reading.claim)
    return named if named in unreported else None


def seen(held: Held, reading: Reading | None, now: float) -> Blame:
    """Return what is known of one execution that was running, wherever the blame lies.

    :param reading: of this execution; None: unknown.
    """
    found = Blame(running=held, guilty=None, reported=[], innocent=[])
    return found if reading is None else _with_times(found, reading, now)


def _with_times(found: Blame, reading: Reading, now: float) -> Blame:
    attempt_seconds = max(0.0, now - reading.started)
    if reading.phase != "step":
        return structs.replace(found, attempt_seconds=attempt_seconds)
    return structs.replace(
        found,
        step=reading.step,
        step_seconds=max(0.0, now - reading.step_started),
        attempt_seconds=attempt_seconds,
    )


def signal_name(returncode: int) -> str | None:
    """Return the name of the signal that ended a process, or None if it exited by itself.

    :param returncode: as ``subprocess.Popen.returncode`` gives it: a signal is negative.
    """
    if returncode >= 0:
        return None
    try:
        return Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def exit_in_words(returncode: int) -> str:
    """Return how a process ended: ``died of SIGSEGV`` or ``exited with status 3``.

    :param returncode: as ``subprocess.Popen.returncode`` gives it.
    """
    name = signal_name(returncode)
    return f"exited with status {returncode}" if name is None else f"died of {name}"


def sentence(
    found: Blame, returncode: int, kill: Kill | None = None, *, no_memory: bool = False, deaf: bool = False
) -> str:
    """Return the cause of death in words, for ``CrashReport.cause``.

    Such as ``died of SIGSEGV in step "resize-41", 3.2 s into it``.

    :param returncode: as ``subprocess.Popen.returncode`` gives it.
    :param no_memory: whether the kernel has told that it killed somebody for want of memory.
    :param deaf: whether it had been told to live on, and could not have heard it.
    """
    if kill is not None:
        return f"was killed: {kill.reason}; {place(found)}"
    if no_memory:
        return f"was killed by the kernel, which was out of memory; {place(found)}"
    if deaf:
        return (
            "was killed by its dead-man's timer: for too long it could not hear that its supervisor lives, "
            "as C code held the interpreter or the process was stopped (a longer lease allows more); "
            f"{place(found)}"
        )
    return f"{exit_in_words(returncode)} {place(found)}"


def place(found: Blame) -> str:
    """Return in words where the execution was that was running."""
    if found.running is None:
        return "between executions"
    if found.attempt_seconds is None:
        return "at an unknown place"
    if found.step is None or found.step_seconds is None:
        return f"between steps, {in_words(found.attempt_seconds)} into the attempt"
    return f'in step "{found.step}", {in_words(found.step_seconds)} into it'
