"""Each attempt is one sentence, which says how it ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from conductor_protocol.operations import TIMED_OUT, AttemptOutcome, AttemptView, CrashReport, Failure
from conductor_supervisor.cli.sentences import attempt_in_words

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
SEGV = CrashReport(cause='died of SIGSEGV in step "resize-41", 3.2 s into it', peak_memory=812 << 20)


def view(
    outcome: AttemptOutcome,
    *,
    error: Failure | None = None,
    crash: CrashReport | None = None,
    reason: str | None = None,
) -> AttemptView:
    """Return the second attempt of an execution, four seconds long."""
    return AttemptView(
        number=2,
        outcome=outcome,
        started=NOON,
        ended=NOON + timedelta(seconds=4),
        error=error,
        crash=crash,
        reason=reason,
    )


def killed(why: str) -> CrashReport:
    """Return the report of a runner that the supervisor killed."""
    return CrashReport(cause=f"was killed: {why}; between steps, 4.0 s into the attempt")


SENTENCES = [
    (view("completed"), "completed after 4.0 s"),
    (view("failed", error=Failure(type="ValueError", message="no")), "failed after 4.0 s: ValueError: no"),
    (
        view("failed", error=Failure(type=TIMED_OUT, message="the attempt was stopped: over its timeout")),
        "timed out after 4.0 s: the attempt was stopped: over its timeout",
    ),
    (
        view("crashed", crash=SEGV, error=Failure(type="Crashed", message=SEGV.cause)),
        'died of SIGSEGV in step "resize-41", 3.2 s into it, 812 MiB peak',
    ),
    (view("crashed", crash=SEGV), 'died of SIGSEGV in step "resize-41", 3.2 s into it, 812 MiB peak'),
    (
        view(
            "crashed",
            crash=killed("over its timeout of 3.0 s"),
            error=Failure(type=TIMED_OUT, message="was killed"),
        ),
        "timed out: its runner was killed: over its timeout of 3.0 s; between steps, 4.0 s into the attempt",
    ),
    (view("cancelled"), "was cancelled after 4.0 s"),
    (view("cancelled", reason="wrong customer"), "was cancelled (wrong customer) after 4.0 s"),
    (
        view("cancelled", crash=killed("it had not stopped within 10 s")),
        (
            "was cancelled: its runner was killed: it had not stopped within 10 s; "
            "between steps, 4.0 s into the attempt"
        ),
    ),
    (
        view("stopped", reason="shutdown", crash=killed("the time to shut down was over")),
        (
            "was stopped for the shutdown: its runner was killed: the time to shut down was over; "
            "between steps, 4.0 s into the attempt; not charged"
        ),
    ),
    (
        view("stopped", reason="stopped", crash=killed("for another execution's sake")),
        (
            "was stopped: its runner was killed: for another execution's sake; "
            "between steps, 4.0 s into the attempt; not charged"
        ),
    ),
    (view("released", reason="window"), "was released because its window closed after 4.0 s; not charged"),
    (view("lost", reason="its supervisor died"), "was lost after 4.0 s: its supervisor died; not charged"),
]


@pytest.mark.parametrize(("attempt", "fate"), SENTENCES)
def test_an_attempt_is_told_by_its_outcome(attempt: AttemptView, fate: str) -> None:
    """A runner that was killed for a cancellation or a shutdown has not crashed."""
    assert attempt_in_words(attempt, NOON + timedelta(hours=1)) == f"attempt 2 {fate}"


def test_one_that_runs_is_told_with_its_time_so_far() -> None:
    """By the clock of whoever looks."""
    running = AttemptView(number=1, outcome="running", started=NOON)
    assert attempt_in_words(running, NOON + timedelta(seconds=9)) == "attempt 1 has been running for 9.0 s"


def test_every_outcome_has_its_sentence() -> None:
    """None is forgotten here."""
    told = {attempt.outcome for attempt, _ in SENTENCES}
    assert told | {"running"} == set(get_args(AttemptOutcome))
