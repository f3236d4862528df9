"""Living by the lease: it is renewed, runners are told until when they may live, and killed in time if it is
not. Owned by the loop thread.
"""

from __future__ import annotations

import logging

from conductor_protocol.messages import Channel, LiveOn
from conductor_protocol.units import in_words
from conductor_protocol.uptime import uptime
from conductor_supervisor.intake import Intake
from conductor_supervisor.lease import KILL_AFTER, Lease, Renew
from conductor_supervisor.staff import Staff
from conductor_supervisor.work import Work

RENEW_AFTER = 1 / 15
"""Of the lease: how often it is renewed."""

CONTROL: Channel = "control"

log = logging.getLogger(__name__)


class Leasing:
    """Keeps the promise that nothing runs here when others may run it."""

    def __init__(self, lease: Lease, renew: Renew, work: Work, staff: Staff, intake: Intake) -> None:
        self._lease = lease
        self._renew = renew
        self._work = work
        self._staff = staff
        self._intake = intake
        self._renew_at = 0.0
        self._told = lease.live_until
        """What all runners have been told."""

    def look(self) -> None:
        """Kill what must not live, or let work go on. Before anything else is done with what has arrived: it
        may be old.
        """
        now = uptime()
        if self._lease.must_kill(now):
            self._lose()
        elif self._lease.is_back(now) and not self._work.draining:
            self._take_up()

    def tick(self) -> None:
        """Renew the lease, and tell the runners what that has brought."""
        now = uptime()
        if now >= self._renew_at:
            self._renew_at = now + self._lease.seconds * RENEW_AFTER
            self._renew(self._lease)
        if self._lease.is_held(now) and self._lease.live_until != self._told:
            self._tell(self._lease.live_until)

    def _tell(self, until: float | None) -> None:
        self._told = until
        if until is None:
            return
        for runner in self._work.roster.runners.values():
            if runner.live_until is not None:  # else it hears it with its welcome
                runner.live_until = until
                if runner.unheard_since is None:
                    runner.unheard_since = uptime()
                self._work.router.send(runner.number, CONTROL, LiveOn(until))

    def _lose(self) -> None:
        self._lease.lose()
        log.error(
            "the lease was not renewed for %s: all runners are killed; what they run goes back, uncharged",
            in_words(self._lease.seconds * KILL_AFTER),
        )
        self._staff.lose_all()
        self._work.place()

    def _take_up(self) -> None:
        self._lease.take_up()
        log.warning("the lease is renewed: work goes on")
        self._staff.go_on()
        self._intake.look()
