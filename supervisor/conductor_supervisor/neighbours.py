"""The other supervisors of a database that is shared: we tell them that we live, and take over from the dead.

Owned by the loop thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from conductor_protocol.units import MICROSECONDS, Instant
from conductor_protocol.uptime import uptime
from conductor_supervisor.journal import Journal
from conductor_supervisor.lease import Lease
from conductor_supervisor.store.attempts import Ending
from conductor_supervisor.store.leases import Member
from conductor_supervisor.work import Work
from conductor_supervisor.writes import EndAttempt, GiveUpLease, RenewLease, TakenOver, TakeOver

TAKE_OVER_AFTER = 1 / 6
"""Of the lease: how often we look for supervisors that are gone."""

STANDS_STILL_AFTER = 2 / 3
"""Of the lease: how long one must not have been renewed, by our own clock, before we believe the database's
that it has run out.
"""

log = logging.getLogger(__name__)


class Neighbours:
    """Renews our lease, and looks for leases that have run out."""

    def __init__(
        self, member: Member, seconds: float, work: Work, journal: Journal, renewals: Journal
    ) -> None:
        """
        :param seconds: how long a lease lasts.
        :param renewals: takes nothing else, so that no other write can keep a renewal waiting.
        """
        self._member = member
        self._seconds = seconds
        self._work = work
        self._journal = journal
        self._renewals = renewals
        self._standing: dict[str, tuple[Instant, float]] = {}
        """The end of each lease, and since when, by our own clock, it has been that one."""
        self._renewing = False
        self._taking_over = False
        self._take_over_at = 0.0
        self._strangers: set[tuple[str, int]] = set()
        """What ran under our name at the last look though it is not in our hands."""

    def renew(self, lease: Lease) -> None:
        """Begin to renew our lease, unless that is under way."""
        if self._renewing:
            return
        self._renewing = True
        at = uptime()

        def done(had_one: bool) -> None:
            self._renewing = False
            if not had_one:
                log.warning("another supervisor had taken us for dead; what we ran then is not ours any more")
                lease.missed()
            lease.renewed(at)

        def refused(message: str) -> None:
            self._renewing = False
            log.error("our lease was not renewed: %s", message)

        self._renewals.submit(RenewLease(self._member, round(self._seconds * MICROSECONDS), done, refused))

    def leave(self) -> None:
        """Give our lease up: everything is settled."""
        self._journal.submit(GiveUpLease(self._member.id, lambda: None, self._refused))

    def tick(self) -> None:
        """Take over from supervisors that are gone, every now and then."""
        if not self._taking_over and time.monotonic() >= self._take_over_at:
            self._taking_over = True
            most = {name: task.spec.max_attempts for name, task in self._work.tasks.items()}
            self._journal.submit(
                TakeOver(self._member.id, most, self._unchanged(), self._taken_over, self._refused)
            )

    def _refused(self, message: str) -> None:
        self._wait_for_next()
        log.error("executions of supervisors that are gone could not be taken over: %s", message)

    def _unchanged(self) -> dict[str, Instant]:
        """Return the leases that were not renewed for long, and their ends."""
        long_ago = uptime() - self._seconds * STANDS_STILL_AFTER
        return {key: end for key, (end, since) in self._standing.items() if since <= long_ago}

    def _notice(self, ends: Mapping[str, Instant]) -> None:
        now = uptime()
        before = self._standing
        self._standing = {
            key: before[key] if key in before and before[key][0] == end else (end, now)
            for key, end in ends.items()
        }

    def _taken_over(self, taken: TakenOver) -> None:
        self._wait_for_next()
        self._notice(taken.ends)
        for member in taken.gone:
            log.warning("supervisor on %s, process %d, is gone: its lease ran out", member.host, member.pid)
        recovered = taken.recovered
        if lost := len(recovered.returned) + len(recovered.charged) + len(recovered.cancelled):
            log.warning(
                "executions of supervisors that are gone: %d; charged an attempt: %d",
                lost,
                len(recovered.charged),
            )
        self._let_strangers_go(taken.ours)

    def _wait_for_next(self) -> None:
        self._taking_over = False
        self._take_over_at = time.monotonic() + self._seconds * TAKE_OVER_AFTER

    def _let_strangers_go(self, ours: set[tuple[str, int]]) -> None:
        """Give back what runs under our name and is in nobody's hands.

        That should not be. A database that was set back to an earlier moment, as a failover to a replica
        that lagged behind can do, has forgotten what we told it. Seen twice it is not on its way to us or
        from us: writes are made in their order.
        """
        strangers = {(key, claim) for key, claim in ours if not self._is_in_hand(key, claim)}
        now = self._work.clock.now()
        for key, claim in strangers & self._strangers:
            log.error("execution %s runs under our name and nobody has it: it goes back", key)
            self._journal.submit(EndAttempt(_lost(key, claim, now), lambda _late: None, self._refused))
        self._strangers = strangers

    def _is_in_hand(self, execution: str, claim: int) -> bool:
        found = self._work.roster.find(execution)
        return found is not None and found[1].claim == claim


def _lost(execution: str, claim: int, now: Instant) -> Ending:
    return Ending(
        execution=execution,
        claim=claim,
        state="ready",
        outcome="lost",
        charged=False,
        started=now,
        ended=now,
        reason="the database has forgotten how it went",
    )
