"""Group commit: the thread that owns the database's writer connection.

The loop hands over writes; the store thread takes all that have gathered as one group, applies them in one
transaction, commits, and gives back what is to be done, which the loop then does. What arrives meanwhile
forms the next group, so groups grow with the load and no timer is needed.

Who owns what: the store thread alone uses the connection; the loop thread alone calls :meth:`Journal.submit`
and :meth:`Journal.effects`. Between them stand a queue, a deque and a pipe that wakes the loop.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue

from sqlalchemy import Connection

from conductor_protocol.units import counted
from conductor_supervisor.clock import Clock
from conductor_supervisor.errors import StoreError
from conductor_supervisor.store.database import (
    Database,
    Undecided,
    is_conflict,
    is_damaged,
    is_held_up,
    is_transient,
)
from conductor_supervisor.store.front import Front
from conductor_supervisor.store.leases import LockTime
from conductor_supervisor.writes import (
    Claim,
    Declare,
    Effect,
    EndAttempt,
    Fire,
    KeepProgress,
    Perform,
    TakeOver,
    Write,
    apply,
    makes_work,
)

LOOK_INTERVAL = 0.2
"""Seconds between looks whether another process has changed the database, where nobody poked us."""

GIVING_UP = 1.0
"""Seconds that the store thread has to end when it is not to try any more; one that hangs does not."""

PUT_OFF = Claim | Declare | EndAttempt | Fire | KeepProgress | Perform | TakeOver
"""Writes that may be made behind later ones, where somebody keeps a lock that they need. An end may, as
nothing is said of an attempt afterwards.
"""

PUT_OFF_FOR = 0.25
"""Seconds until they are tried again, at least."""

PUT_OFF_SHARE = 10
"""How many times as long as their last try took they are put off: others wait for so long."""

REPEAT_DELAYS = (0.05, 0.1, 0.25, 0.5, 1.0)
"""Seconds before a group is tried again while the database is away; the last one repeats."""

log = logging.getLogger(__name__)


class Journal:
    """Commits writes in groups and hands back their effects."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        changed: Effect,
        member: str | None = None,
        look_interval: Callable[[], float] = lambda: LOOK_INTERVAL,
        away_level: int = logging.WARNING,
    ) -> None:
        """``changed`` is an effect too: somebody else may have committed to the database.

        :param member: our name, where supervisors need a lease.
        :param look_interval: tells the seconds between looks for that.
        :param away_level: how loudly the log says that the database is away.
        """
        self._database = database
        self._clock = clock
        self._changed = changed
        self._member = member
        self._front = Front() if database.shared else None
        self._look_interval = look_interval
        self._away_level = away_level
        self._writes: SimpleQueue[list[Write] | None] = SimpleQueue()
        self._gathered: list[Write] = []
        self._effects: deque[Effect] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._given_up = threading.Event()
        self._failure: BaseException | None = None
        self._held_up: list[Write] = []
        """Those of the group at work that wait for somebody's lock."""
        self._put_off: list[Write] = []
        self._put_off_until = 0.0
        self._closing = False
        self._tries = 0
        """Failed tries in a row, for as long as the database is away."""
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self.pending = 0
        """Writes handed over whose effects have not come back."""

    def start(self) -> None:
        """Start the store thread."""
        self._thread.start()

    def fileno(self) -> int:
        """Return a descriptor that is readable when effects wait."""
        return self._wake_read

    def submit(self, write: Write) -> None:
        """Take a write into the group that :meth:`hand_over` will give to the store thread."""
        self._gathered.append(write)

    def hand_over(self) -> None:
        """Give what has been gathered to the store thread."""
        if self._gathered:
            self.pending += len(self._gathered)
            self._writes.put(self._gathered)
            self._gathered = []

    def awake(self) -> None:
        """Take what made the descriptor readable: the loop is awake, and will ask for effects."""
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def effects(self) -> list[Effect]:
        """Return what committed groups want done, in the order of their commits.

        :raises StoreError: as :meth:`check`.
        """
        effects = []
        while self._effects:
            effects.append(self._effects.popleft())
        self.check()
        return effects

    def check(self) -> None:
        """Make sure that the store thread has not failed.

        :raises StoreError: if it has ended because the database cannot be used.
        """
        if isinstance(self._failure, StoreError):
            raise self._failure
        if self._failure is not None:
            raise StoreError(f"the database cannot be used: {_first_line(self._failure)}") from self._failure

    def idle(self) -> bool:
        """Tell whether everything handed over is committed and its effects are done."""
        return self.pending == 0 and not self._gathered

    def left_to_others(self) -> bool:
        """Tell whether all that is under way waits for somebody's lock, and ends no attempt.

        Where there are no runners any more, nobody waits for them.
        """
        put_off = list(self._put_off)
        attempts_end = any(isinstance(write, EndAttempt) for write in put_off)
        return len(put_off) == self.pending and not self._gathered and not attempts_end

    def close(self, timeout: float) -> bool:
        """End the store thread after the groups it has; False if the database did not take them in time.

        They are given up then: none of them was acknowledged to anybody. So are those that wait for a lock.
        """
        self._closing = True
        self.hand_over()
        self._writes.put(None)
        self._thread.join(timeout)
        self._given_up.set()
        self._thread.join(min(timeout, GIVING_UP))
        os.close(self._wake_read)
        os.close(self._wake_write)
        return self._failure is None and not self._thread.is_alive()

    # Below: the store thread.

    def _run(self) -> None:
        look_at = 0.0
        try:
            while (group := self._next_group()) is not None:
                if group:
                    self._give_back(self._commit(group, self._make_together))
                if self._put_off and not self._closing and time.monotonic() >= self._put_off_until:
                    self._try_put_off()
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + self._look_interval()
                    self._look()
        except BaseException as failure:  # noqa: BLE001 - whatever it is, the loop must hear of it and stop
            self._failure = failure
            self._wake()

    def _next_group(self) -> list[Write] | None:
        """Return all writes that wait, an empty group if none came for a while, None at the end."""
        try:
            group = self._writes.get(timeout=LOOK_INTERVAL)
        except Empty:
            return []
        if group is None:
            return None
        while not self._writes.empty():
            more = self._writes.get()
            if more is None:
                self._writes.put(None)
                break
            group += more
        return group

    def _look(self) -> None:
        """See whether anybody else has written, and whether this is still the database."""
        try:
            if self._database.changed_elsewhere():
                self._give_back([self._changed])
            self._note_back()
        except Exception as error:
            if not is_transient(error):
                raise
            self._note_away(error, "looks at it wait")
        self._database.check_in_place()

    def _try_put_off(self) -> None:
        began = time.monotonic()
        group, self._put_off = self._put_off, []
        self._give_back(self._commit(group, partial(self._make_each, lock_time=LockTime.AGAIN)))
        now = time.monotonic()
        self._put_off_until = now + max(PUT_OFF_FOR, PUT_OFF_SHARE * (now - began))

    def _commit(self, group: list[Write], make: Callable[[list[Write]], list[Effect]]) -> list[Effect]:
        """Commit a group once, however long the database is away; return its effects.

        :param make: makes the writes in one transaction, which it commits.

        :raises StoreError: if it is damaged, or not the one that was opened any more: nobody may hear then
            that anything is committed.
        """
        undecided: Undecided[list[Effect]] | None = None
        while True:
            try:
                effects = make(group) if undecided is None else self._effects_if_committed(undecided)
                if effects is not None:
                    break
                undecided = None
            except Undecided as broken:
                undecided = broken
                self._wait_for_return(broken.cause, len(group))
            except Exception as error:
                if is_damaged(error):
                    raise StoreError(_damage(self._database, error)) from error
                if is_held_up(error) and make == self._make_together:
                    make = self._make_each
                elif is_transient(error):
                    self._database.check_in_place()
                    self._wait_for_return(error, len(group))
                elif make == self._make_together:
                    log.debug("a group of %d writes failed; trying each alone", len(group), exc_info=True)
                    make = self._make_each
                else:
                    raise
        self._database.check_in_place()
        self._note_back()
        held_up, self._held_up = self._held_up, []
        if held_up and not self._put_off:
            self._put_off_until = time.monotonic() + PUT_OFF_FOR
        self._put_off += held_up
        return [*effects, partial(self._settle, len(group) - len(held_up))]

    def _effects_if_committed(self, undecided: Undecided[list[Effect]]) -> list[Effect] | None:
        """Return the effects of a group whose commit broke, if it was committed all the same."""
        while (committed := self._database.has_committed(undecided.transaction)) is None:
            self._wait_for_return(undecided.cause, 1)
        return undecided.result if committed else None

    def _wait_for_return(self, error: Exception, writes: int) -> None:
        self._forget_claims()
        delay = REPEAT_DELAYS[min(self._tries, len(REPEAT_DELAYS) - 1)]
        if is_conflict(error) or is_held_up(error):
            log.debug("%d writes met another's and are made again: %s", writes, _first_line(error))
        else:
            self._note_away(error, f"{counted(writes, 'write')} {'waits' if writes == 1 else 'wait'}")
        if self._given_up.wait(delay):
            raise StoreError(
                "the database did not take the last writes; their executions run again at the next start: "
                f"{_first_line(error)}"
            ) from error

    def _note_away(self, error: Exception, what_waits: str) -> None:
        if self._tries == 0:
            log.log(self._away_level, "the database is away, %s: %s", what_waits, _first_line(error))
        self._tries += 1

    def _note_back(self) -> None:
        if self._tries:
            log.log(self._away_level, "the database is back after %d tries", self._tries + 1)
            self._tries = 0

    def _make_together(self, group: list[Write]) -> list[Effect]:
        lock_time = LockTime.KEPT if self._put_off else LockTime.USUAL
        return self._database.transact(partial(self._apply, group, lock_time))

    def _apply(self, group: list[Write], lock_time: LockTime, connection: Connection) -> list[Effect]:
        effects = apply(connection, group, self._clock.now(), self._member, self._front, lock_time)
        if any(map(makes_work, group)):
            self._database.announce(connection, self._member or "")
        return effects

    def _make_each(self, group: list[Write], lock_time: LockTime = LockTime.KEPT) -> list[Effect]:
        """Make the writes of a group of which some is bad, or held up: each under a savepoint of its own."""
        self._forget_claims()
        self._held_up = []
        return self._database.transact(
            lambda connection: [
                effect for write in group for effect in self._make_alone(connection, write, lock_time)
            ]
        )

    def _make_alone(self, connection: Connection, write: Write, lock_time: LockTime) -> list[Effect]:
        try:
            with connection.begin_nested():
                return self._apply([write], lock_time, connection)
        except Exception as error:
            if is_held_up(error) and isinstance(write, PUT_OFF):
                self._held_up.append(write)
                return []
            if is_transient(error) or is_damaged(error):
                raise
            self._forget_claims()
            log.exception("a write of kind %s was refused", type(write).__name__)
            return [partial(write.refused, _first_line(error))]

    def _forget_claims(self) -> None:
        """What was claimed in a transaction that is rolled back is ready again, where the front was."""
        if self._front is not None:
            self._front.forget()

    def _settle(self, count: int) -> None:
        self.pending -= count

    def _give_back(self, effects: list[Effect]) -> None:
        self._effects.extend(effects)
        self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # the pipe is full of wake-ups: the loop will wake
            os.write(self._wake_write, b"!")


def _damage(database: Database, error: Exception) -> str:
    return (
        f"the database {database.url_for_people} is damaged: {_first_line(error)}. "
        f"{database.advice_if_damaged()}"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
