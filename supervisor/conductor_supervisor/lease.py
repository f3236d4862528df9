"""A supervisor's lease on a database that others share, as its loop sees it.

When a lease ends, other supervisors take its executions. By then everything that runs them must be dead, and
whoever was stopped in between must not go on with what it held. All is counted from the last renewal::

    renewed ----------------> killed ---> dead ---------------------------> end
              it is held        |           |                               |
                          we kill all   what still lives has been       others take
                            runners     killed by its dead-man's timer  what we held

A renewal counts from the moment at which it was *begun*: the database may have counted from any later one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from conductor_protocol.uptime import uptime

KILL_AFTER = 4 / 5
"""Of the lease: how long it counts as held without a renewal."""

DEAD_AFTER = 5 / 6
"""Of the lease: how long a runner may live without one. What is left of it is time to die in."""

RENEWALS = "CONDUCTOR_RENEWALS"
"""Environment variable that names a file. A supervisor then has a lease though nobody shares its database,
and renews it while the file is there; tests set it."""


class Lease:
    """Whether we may run what we have claimed. Moments are those of ``uptime``: a sleep counts."""

    def __init__(self, seconds: float = math.inf, at: float = 0.0) -> None:
        """
        :param seconds: how long it lasts without a renewal; infinite where nobody else uses the database.
        :param at: when it was taken.
        """
        self.seconds = seconds
        self._renewed = at
        self._missed = False
        """It was over when it was renewed: what we held then may be another's now."""
        self._lost = False

    @property
    def dead_after(self) -> float:
        """The seconds that a runner may live without a renewal."""
        return self.seconds * DEAD_AFTER

    @property
    def live_until(self) -> float | None:
        """When every runner must be dead unless there is another renewal; None: never."""
        return None if math.isinf(self.seconds) else self._renewed + self.dead_after

    def renewed(self, at: float) -> None:
        """The database has taken a renewal.

        :param at: when it was begun, before anything was sent.
        """
        if not self._lost and not self._reaches(at):
            self._missed = True
        self._renewed = max(self._renewed, at)

    def missed(self) -> None:
        """Another has taken us for dead: what we held may be its now."""
        self._missed = self._missed or not self._lost

    def is_held(self, now: float) -> bool:
        """Tell whether we may go on with what we hold, and begin more."""
        return not self._lost and not self._missed and self._reaches(now)

    def must_kill(self, now: float) -> bool:
        """Tell whether all that runs is to be killed; :meth:`lose` says that it has been."""
        return not self._lost and not self.is_held(now)

    def lose(self) -> None:
        """Hold nothing any more: all that ran has been killed."""
        self._lost = True
        self._missed = False

    def is_back(self, now: float) -> bool:
        """Tell whether a lost lease has been renewed in time, so that work may go on."""
        return self._lost and self._reaches(now)

    def take_up(self) -> None:
        """Hold it again, beginning with empty hands."""
        self._lost = False

    def _reaches(self, moment: float) -> bool:
        return moment < self._renewed + self.seconds * KILL_AFTER


Renew: TypeAlias = Callable[[Lease], None]
"""Begins a renewal. :meth:`Lease.renewed` is called, by the loop thread, when the database has taken it."""


def lease_from_environment(seconds: float) -> Lease:
    """Return the lease on a database that nobody shares."""
    return Lease(seconds, uptime()) if os.environ.get(RENEWALS) else Lease()


def renew_from_environment(lease: Lease) -> None:
    """Renew the lease on a database that nobody shares."""
    at = uptime()
    file = os.environ.get(RENEWALS)
    if file and Path(file).exists():
        lease.renewed(at)
