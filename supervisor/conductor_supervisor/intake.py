"""What comes to us: looks at the database, claims, cron firings. Owned by the loop thread.

At most one claim a queue and one look are under way at a time; what they find calls for the next.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from conductor_protocol.manifest import CatchUp, TaskSpec
from conductor_protocol.units import MICROSECONDS, Instant, counted
from conductor_supervisor import placing
from conductor_supervisor.journal import Journal
from conductor_supervisor.roster import Held, Pool, Task
from conductor_supervisor.rules.admission import MOST_IN_HAND
from conductor_supervisor.store.attempts import Ending
from conductor_supervisor.store.claiming import Wanted
from conductor_supervisor.store.schedules import Firing
from conductor_supervisor.work import Work
from conductor_supervisor.writes import Brought, Claim, Fire, Look, Seen, Sweep

if TYPE_CHECKING:
    from conductor_supervisor.rules.cron import Cron

SWEEP_INTERVAL = 60.0
"""Seconds between removals of expired executions; at once again while there is more to remove."""

LOOK_AGAIN = 1.0
"""Seconds until the next look after one that failed, or that saw what somebody has locked."""

PUNCTUAL: Instant = 60 * MICROSECONDS
"""How late a firing may be noticed and still count as on time: the loop may have been busy."""

MOST_REMEMBERED = 4000
"""Firings of one schedule that are remembered: more than an hour of seconds."""

MOST_AT_ONCE = 120
"""Firings of one schedule that can lie within that time: one a second, the second that repeats included."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Schedule:
    """One cron schedule of a task and its next firing."""

    task: str
    name: str
    payload: bytes
    cron: Cron
    catch_up: CatchUp
    next_at: Instant
    made: deque[Instant] = field(default_factory=lambda: deque(maxlen=MOST_REMEMBERED))
    """The firings that were made last: a clock that goes back must not make them twice."""
    tz: str | None = None
    """As it is declared; None: the zone of the app."""

    def take_due(self, now: Instant) -> list[Instant]:
        """Return the firings that are due, and go on to the next; after a long sleep, those made up for."""
        if now - self.next_at > PUNCTUAL:
            found = self.cron.catch_up(self.catch_up, self.next_at - 1, now)
        else:
            found = self.cron.firings(self.next_at - 1, now, MOST_AT_ONCE)
        due = [at for at in found if at not in self.made]
        self.made.extend(due)
        self.begin_at(now)
        return due

    def begin_at(self, now: Instant) -> None:
        """Count the firings from this moment on, be it earlier than the last one."""
        self.next_at = self.cron.next_firing(now - 1)
        while self.next_at in self.made:
            self.next_at = self.cron.next_firing(self.next_at)

    def firing(self, at: Instant) -> Firing:
        """Return the firing of that moment."""
        expression, _ = self.cron.key
        return Firing(self.task, self.name, at, self.payload, expression, self.tz)


class Queue(NamedTuple):
    """What is claimed at one time: a pool's ordinary work, or its suspects."""

    pool: Pool
    suspects: bool = False


class Full(NamedTuple):
    """A task has used up its rate: none of its executions can start within this time."""

    since: Instant
    until: Instant

    def at(self, now: Instant) -> bool:
        """Tell whether it is full at this moment; a clock that has gone back tells nothing."""
        return self.since <= now < self.until


class Intake:
    """Looks, claims, fires and sweeps."""

    def __init__(self, work: Work, journal: Journal, me: str, schedules: list[Schedule]) -> None:
        self._work = work
        self._journal = journal
        self._me = me
        self._schedules = schedules
        self._queues = self._by_queue()
        self._dry: set[Queue] = set()
        """Those that had nothing more to claim."""
        self._claiming: set[Queue] = set()
        self._careful: dict[Queue, int] = {}
        """Those that were given some back which found no runner: how much the next claim may go beyond what
        finds one for sure."""
        self._looking = False
        self._seen_at = work.clock.now()
        """When we looked at the clock for firings last."""
        self._look_wanted = True
        self._look_again_at: float | None = None
        """Monotonic moment of the next look after a look or a claim that failed, or that did not see all."""
        self._next_due: Instant | None = None
        self._open: dict[str, bool] = {}
        self._full: dict[str, Full] = {}
        """Tasks that have used up their rate."""
        self._claims = 0
        self._served: dict[Queue, dict[str, int]] = {}
        """Tasks of which claims have brought work since their queue was dry, with the number of the last."""
        self._sweep_at = time.monotonic()

    def adopt(self, schedules: list[Schedule]) -> None:
        """Go on with newer tasks, which ``work`` has adopted, and their schedules."""
        before = {(s.task, s.name, s.cron.key): s.next_at for s in self._schedules}
        for one in schedules:
            one.next_at = before.get((one.task, one.name, one.cron.key), one.next_at)
        self._schedules = schedules
        self._queues = self._by_queue()
        self._open.clear()
        self._full.clear()
        self._served.clear()
        self.stir()
        self.look()

    def _by_queue(self) -> dict[Queue, list[Task]]:
        """Return the tasks that runners here may run."""
        queues: dict[Queue, list[Task]] = {}
        for task in self._work.tasks.values():
            if self._work.roster.serves(task.pool):
                for suspects in (False, True) if task.pool.isolation == "shared" else (False,):
                    queues.setdefault(Queue(task.pool, suspects), []).append(task)
        return queues

    # What makes us look and claim again

    def stir(self, pool: Pool | None = None) -> None:
        """There may be work again: in one pool, or in any."""
        if pool is None:
            self._dry.clear()
        else:
            self._dry -= {Queue(pool), Queue(pool, suspects=True)}

    def look(self) -> None:
        """Somebody has changed the database: see what is new."""
        self._look_wanted = True

    def ended(self, held: Held, ending: Ending) -> None:
        """An ending is committed: a place under a limit may be free, or the execution may be due again."""
        spec = held.task.spec
        if ending.frees_start:
            self._full.pop(spec.name, None)
        frees_a_place = spec.concurrency is not None or spec.concurrency_by_key is not None
        if ending.state == "ready" or frees_a_place or held.runs_alone:
            self.stir(held.task.pool)
        elif self._work.roster.survivors:
            self.stir(held.task.pool)  # its runner may have nothing in hand now, for which survivors wait
        if ending.state == "ready" and ending.outcome is None:
            self._careful[Queue(held.task.pool, held.suspect)] = 0
        if ending.due is not None and (self._next_due is None or ending.due < self._next_due):
            self._next_due = ending.due

    def exhausted(self) -> bool:
        """Tell whether a look and a claim after it have found nothing to do at this moment."""
        return (
            not (self._look_wanted or self._looking or self._claiming or self._queues.keys() - self._dry)
            and self._look_again_at is None
            and self._work.roster.empty_handed()
        )

    # One turn of the loop

    def tick(self) -> None:
        """Do what time brings: fire, notice what has come due and which windows have opened, sweep."""
        now = self._work.clock.now()
        self._fire(now)
        if self._next_due is not None and self._next_due <= now and not self._looking:
            self._look_wanted = True
        if self._look_again_at is not None and time.monotonic() >= self._look_again_at:
            self._look_again_at = None
            self._look_wanted = True
        self._notice_openings(now)
        self._notice_free_places(now)
        if time.monotonic() >= self._sweep_at:
            self._sweep()

    def turn(self) -> None:
        """Place what waits for a runner, look if there is something to see, claim where there is room."""
        self._work.place()
        if self._look_wanted and not self._looking and not self._leaving():
            self._look()
        for queue in self._queues:
            if queue not in self._dry and queue not in self._claiming:
                self._claim(queue, self._work.clock.now())

    def _leaving(self) -> bool:
        """Tell whether nothing we see could concern us: clients who go on must not keep us from ending."""
        return self._work.draining and self._work.roster.empty_handed()

    def seconds_to_next(self, now: Instant) -> float | None:
        """Return in how many seconds something becomes due by itself, or None."""
        moments = [] if self._work.draining else [s.next_at for s in self._schedules]
        # A look that is under way will tell anew, however long the database takes.
        if self._next_due is not None and not self._looking and not self._work.draining:
            moments.append(self._next_due)
        moments += [full.until for full in self._full.values()]
        for task in self._work.tasks.values():
            change = task.windows.next_change(now)
            if change is not None:
                moments.append(change)
        return max(0, min(moments) - now) / MICROSECONDS if moments else None

    # Looking

    def _look(self) -> None:
        """Look, and claim in the same transaction, behind the look, what it makes ready."""
        self._look_wanted = False
        self._looking = True
        self._journal.submit(Look(self._me, self._seen, self._look_refused))
        self.stir()

    def _seen(self, seen: Seen) -> None:
        self._looking = False
        self._next_due = seen.next_due
        if seen.held_up:
            self._look_again_by(time.monotonic() + LOOK_AGAIN)
        if seen.paused != self._work.paused:
            self._work.pause(seen.paused)
            self.stir()
        elif seen.promoted:  # where the two were tried again one by one, the claim may have been made first
            self.stir()
        for execution, claim, reason in seen.cancels:
            self._work.cancel(execution, claim, reason)

    def _look_again_by(self, moment: float) -> None:
        """
        :param moment: by the monotonic clock.
        """
        before = self._look_again_at
        self._look_again_at = moment if before is None else min(before, moment)

    def _look_refused(self, message: str) -> None:
        self._looking = False
        self._next_due = None  # the next look will tell; were it past, there would be no waiting for that
        self._look_again_by(time.monotonic() + LOOK_AGAIN)
        log.error("a look at the database failed, the next follows: %s", message)

    def _notice_openings(self, now: Instant) -> None:
        """A window that has opened makes its pool worth a claim, and what slept for it due."""
        for task in self._work.tasks.values():
            is_open = task.windows.is_open(now)
            if is_open and self._open.get(task.spec.name) is False:
                self.stir(task.pool)
            self._open[task.spec.name] = is_open

    def _notice_free_places(self, now: Instant) -> None:
        """A rate that allows another start makes its task's pool worth a claim."""
        for name, full in list(self._full.items()):
            if not full.at(now):
                del self._full[name]
                self.stir(self._work.tasks[name].pool)

    # Claiming

    def _claim(self, queue: Queue, now: Instant) -> None:
        waiting = self._work.roster.waiting
        if self._work.closed or any(Queue(h.task.pool, h.suspect) == queue for h in waiting):
            return
        places = placing.places(self._work.roster, queue.pool)
        if not places.has_room(queue.suspects):
            return
        only = queue.suspects if queue.pool.isolation == "shared" else None
        served = self._served.get(queue, {})
        wanted = [
            _wanted(task.spec, places.room(task, queue.suspects), only, served.get(task.spec.name, 0))
            for task in self._queues[queue]
            if self._may_start(task, now)
        ]
        if not wanted:
            self._dry.add(queue)
            return
        count = max(w.at_most for w in wanted)
        if count == 0:
            return  # until a runner has nothing in hand
        if queue in self._careful:
            count = min(count, places.for_sure(queue.suspects) + self._careful[queue])
        self._claiming.add(queue)
        self._journal.submit(
            Claim(
                wanted,
                count,
                self._me,
                partial(self._claimed, queue),
                partial(self._claim_refused, queue),
            )
        )
        self._dry.add(queue)  # until the claim, or anything that stirs the pool meanwhile, says otherwise

    def _may_start(self, task: Task, now: Instant) -> bool:
        return self._work.may_begin(task, now) and task.spec.name not in self._full

    def _claimed(self, queue: Queue, brought: Brought) -> None:
        self._claiming.discard(queue)
        now = self._work.clock.now()
        for name, until in brought.full_until.items():
            if name in self._work.tasks:  # else newer code has been adopted meanwhile
                self._full[name] = Full(now, until)
        self._note_served(queue, brought)
        if brought.taken:
            self._dry.discard(queue)
            self._be_less_careful(queue, len(brought.taken))
        elif brought.look_again_at is not None:
            self._look_again_by(brought.look_again_at)
        self._work.take(brought.taken)

    def _note_served(self, queue: Queue, brought: Brought) -> None:
        """Remember whose turn it was, for as long as there is work that waits for a turn."""
        self._claims += 1
        if brought.taken:
            tasks = {one.claimed.task for one in brought.taken}
            self._served.setdefault(queue, {}).update(dict.fromkeys(tasks, self._claims))
        else:
            self._served.pop(queue, None)

    def _be_less_careful(self, queue: Queue, brought: int) -> None:
        """Let the next claim bring twice as many; so what is given back was never much more than what ran."""
        if queue in self._careful:
            self._careful[queue] += brought
            if self._careful[queue] > MOST_IN_HAND:
                del self._careful[queue]

    def _claim_refused(self, queue: Queue, message: str) -> None:
        self._claiming.discard(queue)
        self._look_again_by(time.monotonic() + LOOK_AGAIN)
        log.error("a claim failed: %s", message)

    # Cron

    def _fire(self, now: Instant) -> None:
        if self._work.draining:
            return
        firings: list[Firing] = []
        for schedule in self._schedules:
            if now < self._seen_at:  # the clock has gone back: what was next may be hours away
                schedule.begin_at(now)
            if schedule.next_at <= now:
                firings += map(schedule.firing, schedule.take_due(now))
        self._seen_at = now
        if firings:
            self._journal.submit(Fire(firings, self._fired, self._fire_refused))

    def _fired(self, created: int) -> None:
        if created:
            self.stir()

    def _fire_refused(self, message: str) -> None:
        log.error("cron firings could not be stored: %s", message)

    # Retention

    def _sweep(self) -> None:
        self._sweep_at = time.monotonic() + SWEEP_INTERVAL
        self._journal.submit(Sweep(self._swept, self._sweep_refused))

    def _swept(self, removed: int) -> None:
        if removed:
            log.info("removed %s that had expired", counted(removed, "execution"))
            self._sweep_at = time.monotonic()

    def _sweep_refused(self, message: str) -> None:
        log.error("expired executions could not be removed: %s", message)


def _wanted(spec: TaskSpec, at_most: int, suspects: bool | None, served: int) -> Wanted:
    by_key = spec.concurrency_by_key
    return Wanted(
        spec.name,
        at_most,
        spec.concurrency,
        None if by_key is None else by_key.most,
        spec.rate,
        suspects,
        served,
    )
