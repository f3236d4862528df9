"""Who is to blame for the end of a shared runner, in which several executions ran at once.

============================================  =======================================================
the runner                                    then
============================================  =======================================================
died by itself, with one execution inside     that one is the culprit, and charged
died by itself, with several inside           which of them did it is not known: all go back uncharged,
                                              and each is a suspect from now on
was stopped for one of them by name           that one is the culprit: charged, cancelled or returned as
                                              the order says; the others go back uncharged, no suspects
was stopped for what it did as a whole        as if it had died by itself
was stopped at a shutdown                     all go back uncharged, no suspects
============================================  =======================================================

A suspect runs alone (:mod:`conductor_supervisor.rules.sharing`), so when its runner dies again the first row
holds, and it is charged. An innocent suspect ends well, and its mark with it. So of any number of executions
that go down together, exactly the guilty ones are charged, each for its own deaths.

*Inside* is what had begun and not ended: the flight recorder has a place for each. What had reported has
ended. What had not begun is as it was. If the recorder cannot be trusted, all that had not reported were
inside.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from conductor_protocol.messages import Report
from conductor_protocol.recorder import Reading
from conductor_supervisor.rules.blame import (
    Blame,
    Held,
    Kill,
    exit_in_words,
    first_report_of_each,
    place,
    seen,
)


class Suspicion(Struct, frozen=True, kw_only=True):
    """What a dead shared runner leaves behind. Whatever was in its hands is in exactly one of these."""

    reported: list[Report]
    """How those ended that had ended: as good as if the reports had arrived."""
    culprit: Held | None
    """The one whose doing it was, or for whose sake the runner was stopped."""
    suspects: list[Held]
    """Each of them may have done it."""
    innocent: list[Held]
    """They had begun, and had no part in it."""
    unbegun: list[Held]

    @property
    def inside(self) -> list[Held]:
        """All that had begun and not ended."""
        culprit = [] if self.culprit is None else [self.culprit]
        return [*culprit, *self.suspects, *self.innocent]


def suspicion(
    *,
    readings: Sequence[Reading] | None,
    in_hand: Sequence[Held],
    outbox: Sequence[Report],
    kill: Kill | None = None,
    named: Held | None = None,
) -> Suspicion:
    """Find out who may have brought a shared runner down.

    :param readings: what the flight recorder says of those inside; None if it cannot be trusted.
    :param in_hand: what the runner held.
    :param outbox: the reports that the recorder kept.
    :param kill: given if the supervisor ended the runner.
    :param named: for which execution it did so; None: for the runner as a whole.
    """
    reported = first_report_of_each(in_hand, outbox)
    unreported = [held for held in in_hand if held not in reported]
    begun = None if readings is None else {(reading.execution, reading.claim) for reading in readings}
    inside = [held for held in unreported if begun is None or held in begun or held == named]
    culprit, suspects = _culprit_or_suspects(inside, kill, named)
    return Suspicion(
        reported=list(reported.values()),
        culprit=culprit,
        suspects=suspects,
        innocent=[held for held in inside if held != culprit and held not in suspects],
        unbegun=[held for held in unreported if held not in inside],
    )


def _culprit_or_suspects(
    inside: list[Held], kill: Kill | None, named: Held | None
) -> tuple[Held | None, list[Held]]:
    if kill is not None and named is not None:
        return (named if named in inside else None), []
    if kill is not None and not kill.charged:
        return None, []
    if len(inside) == 1:
        return inside[0], []
    return None, inside


def seen_in(readings: Sequence[Reading] | None, held: Held, now: float) -> Blame:
    """Return what the flight recorder says of one execution, for its crash report.

    :param now: the time of death by ``time.monotonic()``.
    """
    reading = next((r for r in readings or () if (r.execution, r.claim) == held), None)
    return seen(held, reading, now)


def sentence_on_one_of(inside: int, found: Blame, returncode: int, kill: Kill | None = None) -> str:
    """Return the cause of death in words, for one of several executions that were inside.

    :param returncode: as ``subprocess.Popen.returncode`` gives it.
    """
    how = exit_in_words(returncode) if kill is None else f"was killed: {kill.reason};"
    return f"{how} with {inside} executions in it; this one, which may not have done it, was {place(found)}"
