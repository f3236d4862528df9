"""One sentence on each attempt, as ``show`` prints it."""

from __future__ import annotations

from datetime import datetime

from conductor_protocol.operations import TIMED_OUT, AttemptView, CrashReport
from conductor_protocol.units import in_words, size_in_words
from conductor_supervisor.cli import render

RETRIED = "retried; attempts are counted anew:"

WHY_UNCHARGED = {
    "shutdown": "for the shutdown",
    "window": "because its window closed",
    "supervisor": "because its supervisor failed",
    "steps": "because its recorded steps could not be read",
}
"""By ``AttemptView.reason``, where that is a word and no text of people's."""


def attempt_in_words(attempt: AttemptView, now: datetime) -> str:
    """Return one sentence: ``attempt 2 died of SIGSEGV in step "resize-41", 3.2 s into it, 812 MiB peak``."""
    return f"attempt {attempt.number} {_fate(attempt, render.took(attempt.started, attempt.ended or now))}"


def counted_anew(before: AttemptView, attempt: AttemptView) -> bool:
    """Tell whether the execution had finished with one attempt, and was retried before the next.

    One that is not charged has the number of the next, too; so a number that comes again does not tell.
    """
    charged = before.outcome in ("failed", "crashed")
    return before.outcome == "cancelled" or attempt.number < before.number + charged


def _fate(attempt: AttemptView, after: str) -> str:
    match attempt.outcome:
        case "running":
            return f"has been running for {after}"
        case "completed":
            return f"completed after {after}"
        case "failed" | "crashed":
            return _charged(attempt, after)
        case "cancelled":
            reason = f" ({attempt.reason})" if attempt.reason else ""
            return f"was cancelled{reason}{_how(attempt, after)}"
        case "lost":
            return f"was lost after {after}: its supervisor died; not charged"
        case "released" | "stopped":
            why = WHY_UNCHARGED.get(attempt.reason or "", "")
            return f"was {attempt.outcome}{f' {why}' if why else ''}{_how(attempt, after)}; not charged"


def _charged(attempt: AttemptView, after: str) -> str:
    error, crash = attempt.error, attempt.crash
    timed_out = error is not None and error.type == TIMED_OUT
    if crash is not None:
        return f"timed out: {_of_runner(crash)}" if timed_out else f"{crash.cause}{_used(crash)}"
    if timed_out and error is not None:
        return f"timed out after {after}: {error.message}"
    return f"failed after {after}{f': {render.failure(error)}' if error is not None else ''}"


def _how(attempt: AttemptView, after: str) -> str:
    return f" after {after}" if attempt.crash is None else f": {_of_runner(attempt.crash)}"


def _of_runner(crash: CrashReport) -> str:
    return f"its runner {crash.cause}{_used(crash)}"


def _used(crash: CrashReport) -> str:
    peak = f", {size_in_words(crash.peak_memory)} peak" if crash.peak_memory else ""
    cpu = f", {in_words(crash.cpu_seconds)} of processor time" if crash.cpu_seconds is not None else ""
    return f"{peak}{cpu}"
