"""What really happened, and what must never happen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulated.workload import (
    BEGIN,
    LONGEST_UNCLAIMED,
    LONGEST_UNPLACED,
    LONGEST_WAIT,
    ME,
    NOTICED,
    PAUSE_UNDER_WAY,
    SLOTS,
    SPECS,
    UNDER_WAY,
    UNLIMITED,
    Held,
    held_by,
    known_tasks,
)

if TYPE_CHECKING:
    from simulated.surroundings import SimulatedSupervisor
    from simulated.world import World

import signal
import sqlite3
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, func, select, text

from conductor_protocol import messages as m
from conductor_protocol.units import MICROSECONDS, Instant
from conductor_supervisor.aftermath import Aftermath
from conductor_supervisor.roster import Pool
from conductor_supervisor.store import attempts, schema, tasks
from conductor_supervisor.store.dialect import AnyRow


@dataclass(frozen=True)
class Fact:
    """How an attempt ended in its runner, whatever the supervisor made of it."""

    what: Literal["returned", "raised", "released", "cancelled", "abandoned", "interrupted", "died"]
    stopped: bool = False
    """The supervisor had sent a signal before."""
    among: int = 1
    """How many died with it, itself included."""


class Violation(AssertionError):
    """Something happened that must never happen."""


class Witness:
    """Knows what runners and clients really did, and speaks up when it must not be."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._arrived: dict[Held, float] = {}
        self._live: dict[str, m.Assignment] = {}
        self._begun: set[Held] = set()
        self._acknowledged: set[tuple[str, str]] = set()
        self._facts: dict[Held, Fact] = {}
        self._in_doubt: dict[Held, int] = {}
        """Attempts that were in the hands of a runner whose page was damaged, with its death's number."""
        self._stopped_meanwhile: set[Held] = set()
        self._lost: dict[Held, str] = {}
        """Attempts that were running when the supervisor died, with what is to be stored of them."""
        self._windows = {task.spec.name: task.windows for task in known_tasks().values()}
        self.invoked: set[str] = set()
        self.cancelled: set[str] = set()
        """Executions that a client wanted cancelled, whether or not it came to that."""
        self.retried: dict[str, int] = {}
        """The claim that was the last before a client gave new attempts."""
        self._starts: dict[str, list[float]] = {}
        """When executions of tasks with a rate began."""
        self.leaps: list[tuple[float, float]] = []
        """When the wall clock leapt, and by how much it had run ahead before."""
        self.endings: Counter[str] = Counter()
        self._paused: dict[tuple[tasks.Kind, str], float] = {}
        """What the supervisor knows to be paused, and since when."""
        self._unplaced: dict[Held, float] = {}
        """What is in the supervisor's hands and in no runner's, and since when."""
        self._idle_beside_work: dict[Pool, float] = {}
        """Since when a runner of a pool has nothing to do though there is work for it."""
        self._changes_seen = -1
        self._ready_seen: dict[str, str] = {}

    def may_begin(self, row: AnyRow) -> Instant:
        """Return when an unfinished execution may begin at the earliest; now, if it runs."""
        if row.state == "running":
            return self._world.clock.now()
        opening = self._windows[row.task].next_opening(max(row.due_at, self._world.clock.now()))
        assert opening is not None
        return opening

    # Runners

    def arrives(self, held: Held) -> None:
        """An execution has come into a runner's hands."""
        self._arrived[held] = self._world.now

    def shares(self, assignment: m.Assignment, others: list[m.Assignment]) -> None:
        """An execution begins in a shared runner, beside others."""
        if len(others) >= SLOTS:
            raise Violation(f"{held_by(assignment)} begins beside {len(others)} others")
        if others and (suspects := self._suspects() & {one.execution for one in (assignment, *others)}):
            raise Violation(f"{suspects} are suspects and not alone: {assignment}, {others}")

    def _suspects(self) -> set[str]:
        with self._world.database.reading() as connection:
            return set(connection.scalars(select(_e.id).where(_e.suspect == 1)))

    def begins(self, assignment: m.Assignment) -> None:
        """A handler begins."""
        held, task = held_by(assignment), assignment.task
        self._world.note(f"{held} of {task} begins")
        self._under_the_lease(held)
        if assignment.execution in self._live:
            raise Violation(f"{held} begins while {self._live[assignment.execution]} is live")
        again_after_doubt = self._in_doubt.pop(held, None) is not None
        if held in self._begun and not again_after_doubt:
            raise Violation(f"{held} begins a second time under the same claim")
        limit = SPECS[task].concurrency
        running = sum(other.task == task for other in self._live.values())
        if limit is not None and running >= limit:
            raise Violation(f"{held} begins, though {running} of {task} run already")
        self._counts_by_key(assignment)
        self._counts_starts(assignment)
        if not self._open_lately(task):
            raise Violation(f"{held} of {task} begins outside its window")
        if self._world.now - self._arrived[held] > LONGEST_WAIT:
            raise Violation(f"{held} has waited in its runner's hands since {self._arrived[held]}")
        if (self._paused_for(task) or 0.0) > PAUSE_UNDER_WAY:
            raise Violation(f"{held} of {task} begins, though it is known to be paused")
        self._begun.add(held)
        self._live[assignment.execution] = assignment

    def _counts_by_key(self, assignment: m.Assignment) -> None:
        by_key = SPECS[assignment.task].concurrency_by_key
        if by_key is None:
            return
        live = [other.execution for other in self._live.values() if other.task == assignment.task]
        keys = [self._key_of(execution) for execution in (assignment.execution, *live)]
        if keys.count(keys[0]) > by_key.most:
            raise Violation(f"{held_by(assignment)} begins beside {live}, with the keys {keys}")

    def _key_of(self, execution: str) -> str:
        with self._world.database.reading() as connection:
            key: str = connection.scalars(select(_e.concurrency_key).where(_e.id == execution)).one()
        return key

    def _counts_starts(self, assignment: m.Assignment) -> None:
        """Hold a start against the rate; a wall clock that leaps forward frees places early."""
        rate = SPECS[assignment.task].rate
        if rate is None:
            return
        now = self._world.now
        starts = self._starts.setdefault(assignment.task, [])
        starts.append(now)
        first = max([now - rate.seconds, *(when for when, _ in self.leaps)])
        lately = sum(at > first for at in starts)
        if lately > rate.count:
            raise Violation(f"{held_by(assignment)} is start {lately} of {assignment.task} since {first}")

    def _open_lately(self, task: str) -> bool:
        """Tell whether the window is open, or was when a runner could not yet have heard of its closing."""
        now = self._world.now
        leaps = [(when, ahead) for when, ahead in self.leaps if when > now - NOTICED]
        ahead = next((ahead for when, ahead in leaps if when > now - UNDER_WAY), self._world.leapt)
        moments = [now + self._world.leapt, now - UNDER_WAY + ahead, *map(sum, leaps)]
        return any(self._windows[task].is_open(BEGIN + int(at * MICROSECONDS)) for at in moments)

    def goes_on(self, assignment: m.Assignment) -> None:
        """A handler has asked whether it may go on, and may."""
        if not self._open_lately(assignment.task):
            raise Violation(f"{held_by(assignment)} of {assignment.task} may go on outside its window")

    def step_begins(self, held: Held, name: str) -> None:
        """A step's function is called."""
        self._under_the_lease(held)
        if (held[0], name) in self._acknowledged:
            raise Violation(f"{name!r} of {held} runs again, though it was acknowledged")

    def _under_the_lease(self, held: Held) -> None:
        if self._world.now >= self._world.lease_ends:
            raise Violation(f"{held} runs, though another supervisor may have it")

    def step_acknowledged(self, held: Held, name: str) -> None:
        """The handler has heard that a step is committed."""
        self._acknowledged.add((held[0], name))

    def ends(self, assignment: m.Assignment, report: m.Report | None) -> None:
        """A handler has ended."""
        held = held_by(assignment)
        self._world.note(f"{held} ends: {type(report).__name__}")
        del self._live[assignment.execution]
        match report:
            case m.Finished():
                self._facts[held] = Fact("returned")
            case m.Failed():
                self._facts[held] = Fact("raised")
            case m.Interrupted():
                self._facts[held] = Fact("interrupted")
            case m.Released():
                word: m.Word = report.word
                self._facts[held] = Fact(
                    "cancelled" if word == "cancelled" else "raised" if word == "timeout" else "released"
                )
            case None:
                self._facts[held] = Fact("abandoned")

    def died(self, assignment: m.Assignment, order: signal.Signals | None, among: int) -> None:
        """A runner has died with a handler running, of so many."""
        del self._live[assignment.execution]
        self._facts[held_by(assignment)] = Fact("died", stopped=order is not None, among=among)

    def stopped_meanwhile(self, dead: list[Held]) -> None:
        """The supervisor wanted to stop them, and may not have known that they were dead."""
        self._stopped_meanwhile.update(dead)

    def died_in_doubt(self, in_hand: list[Held]) -> None:
        """A runner has died and its page cannot be read: only order tells who may have been running."""
        death = len(self._in_doubt)
        self._in_doubt |= dict.fromkeys(in_hand, death)

    # The supervisor

    def sees(self, supervisor: SimulatedSupervisor) -> None:
        """The supervisor has done all that there is to do at this moment."""
        now = self._world.now
        self._paused = {what: self._paused.get(what, now) for what in supervisor._work.paused}
        self._nothing_waits_here_for_long(supervisor)
        self._nothing_waits_beside_the_idle(supervisor)

    def _nothing_waits_here_for_long(self, supervisor: SimulatedSupervisor) -> None:
        """What is claimed goes to a runner or back; but a suspect has a runner emptied for it."""
        now = self._world.now
        waiting = [(held.id, held.claim) for held in supervisor._roster.waiting if not held.suspect]
        self._unplaced = {held: self._unplaced.get(held, now) for held in waiting}
        for held, since in self._unplaced.items():
            if now - since > LONGEST_UNPLACED:
                raise Violation(f"{held} is claimed and in no runner's hands since {since}")

    def _nothing_waits_beside_the_idle(self, supervisor: SimulatedSupervisor) -> None:
        """What is ready, and held back by nothing, begins soon where a runner has nothing to do."""
        now = self._world.now
        with_work = {} if supervisor._work.closed else self._pools_with_work(supervisor)
        self._idle_beside_work = {pool: self._idle_beside_work.get(pool, now) for pool in with_work}
        for pool, since in self._idle_beside_work.items():
            if now - since > LONGEST_UNCLAIMED:
                raise Violation(f"{with_work[pool]} is ready and a runner of {pool} idle, since {since}")

    def _pools_with_work(self, supervisor: SimulatedSupervisor) -> dict[Pool, str]:
        """Return the pools in which a runner is idle and something ready that nothing holds back."""
        idle = {
            runner.slot.pool
            for runner in supervisor._roster.runners.values()
            if not runner.held and runner.takes_work(self._world.now)
        }
        free = {
            name: task.pool
            for name, task in supervisor._work.tasks.items()
            if name in UNLIMITED and task.pool in idle and not self._paused_for(name)
        }
        if not free:
            return {}
        return {free[task]: execution for task, execution in self._ready().items() if task in free}

    def _ready(self) -> dict[str, str]:
        """Return by task one that is ready, asked anew only where something was written meanwhile."""
        driver = self._world.database._writer_connection().connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        if driver.total_changes != self._changes_seen:
            self._changes_seen = driver.total_changes
            with self._world.database.reading() as connection:
                self._ready_seen = dict(connection.execute(_READY).all())
        return self._ready_seen

    def _paused_for(self, task: str) -> float | None:
        """Return for how long the supervisor has known that a task is paused; None if it is not."""
        since = [self._paused[what] for what in _ways_to_pause(task) if what in self._paused]
        return self._world.now - min(since) if since else None

    def assigned(self, message: m.Assign) -> None:
        """The supervisor hands executions to a runner."""
        assert self._world.supervisor is not None
        paused = self._world.supervisor._work.paused
        for assignment in message.assignments:
            if not paused.isdisjoint(_ways_to_pause(assignment.task)):
                raise Violation(f"{held_by(assignment)} of {assignment.task} is paused, and is assigned")

    def supervisor_died(self, connection: Connection, left: Aftermath) -> None:
        """The supervisor has died, and all runners with it."""
        for assignment in self._live.values():
            self._facts[held_by(assignment)] = Fact("died")
        self._live.clear()
        rows = select(_e.id, _e.claim, _e.lost).where(_e.state == "running")
        ended = {
            (report.execution, report.claim)
            for report in left.reports
            if isinstance(report, m.Failed) or (isinstance(report, m.Finished) and report.result.isascii())
        }
        for execution, claim, lost in connection.execute(rows):
            held = (execution, claim)
            if held in ended:
                continue  # its report is acted upon; what could not be stored is run again
            charged = lost >= attempts.DEATHS_ALLOWED
            begun = left.may_have_begun(ME.id, held)
            self._lost[held] = ("crashed" if charged else "lost") if begun else "nothing"

    def stopped_cleanly(self, connection: Connection, supervisor: SimulatedSupervisor) -> None:
        """The supervisor has ended by itself."""
        if self._world.runners:
            raise Violation(f"{len(self._world.runners)} runners live after a clean stop")
        if left := connection.execute(select(_e.id, _e.task).where(_e.state == "running")).all():
            raise Violation(f"running after a clean stop: {left}")
        self.rests(supervisor)

    def rests(self, supervisor: SimulatedSupervisor) -> None:
        """Nothing is to be done: nothing may be left in anybody's hands."""
        if not supervisor._roster.empty_handed():
            raise Violation(f"in our hands at rest: {supervisor._roster.waiting}, {hands_of(supervisor)}")
        for runner in supervisor._roster.runners.values():
            if runner.load or runner.recalled:
                raise Violation(
                    f"at rest with load {runner.load}, recalled {runner.recalled}: {runner.number}"
                )

    # The last audit

    def audit(self, connection: Connection) -> None:
        """Hold what is stored against what really happened."""
        rows = {row.id: row for row in connection.execute(select(_e))}
        if missing := self.invoked - rows.keys():
            raise Violation(f"lost without a trace: {missing}")
        attempts = {(row.execution_id, row.claim): row for row in connection.execute(select(schema.attempts))}
        outcomes = {held: row.outcome for held, row in attempts.items()}
        outcomes |= {(row.id, row.claim): "completed" for row in rows.values() if row.state == "completed"}
        for held in sorted(self._facts.keys() | outcomes.keys()):
            found = outcomes.get(held, "nothing")
            allowed = self._allowed(held, rows[held[0]], attempts.get(held))
            if found not in allowed:
                raise Violation(f"{held}: {self._facts.get(held)} is stored as {found}, not {allowed}")
        self._audit_charges(rows, outcomes)
        self.endings = Counter(outcomes.values())

    def _allowed(self, held: Held, row: AnyRow, attempt: AnyRow | None) -> set[str]:
        """Return how this attempt may be stored."""
        allowed: set[str] = set()
        match self._facts.get(held):
            case None:
                allowed |= {"cancelled"}
            case Fact("returned"):
                allowed |= {"completed"}
                if attempt is not None and "NotStored" in str(attempt.error):
                    allowed |= {"failed"}
            case Fact("raised"):
                allowed |= {"failed"}
            case Fact("released"):
                allowed |= {"released"}
            case Fact("died", stopped=False, among=1):
                allowed |= {"crashed"}
            case Fact("died", stopped=False):
                allowed |= {"stopped"}
            case Fact("died", stopped=True):
                allowed |= {"stopped"}
                if row.task in ("timed", "hurried"):
                    allowed |= {"crashed"}
            case Fact("interrupted"):
                allowed |= {"crashed" if row.task == "hurried" else "stopped"}
        if held in self._stopped_meanwhile:
            allowed |= {"stopped"}
        if held[0] in self.cancelled:
            allowed |= {"cancelled"}
        if held in self._in_doubt:
            allowed |= {"crashed", "stopped", "released", "nothing"}
        if held in self._lost:
            allowed |= {self._lost[held]}
        return allowed

    def _audit_charges(self, rows: dict[str, AnyRow], outcomes: dict[Held, str]) -> None:
        charged = [held for held, outcome in outcomes.items() if outcome in ("failed", "crashed")]
        deaths = Counter(self._in_doubt[held] for held in charged if held in self._in_doubt)
        if deaths and max(deaths.values()) > 1:
            raise Violation("more than one attempt is charged for one death")
        for row in rows.values():
            since = self.retried.get(row.id, 0)
            expected = sum(execution == row.id and claim > since for execution, claim in charged)
            if row.attempt != expected:
                raise Violation(f"{row.id} is charged {row.attempt} attempts, not {expected}")
            if row.state not in ("completed", "failed", "cancelled"):
                raise Violation(f"{row.id} is {row.state} at the end")


_e = schema.executions.c

_READY = (
    select(_e.task, func.min(_e.id))
    .where(text("state = 'ready' AND suspect = 0"), _e.lost == 0)
    .group_by(_e.task)
)


def _ways_to_pause(task: str) -> set[tuple[tasks.Kind, str]]:
    return {("task", task), ("queue", SPECS[task].queue)}


def hands_of(supervisor: SimulatedSupervisor) -> dict[int, list[Held]]:
    """Return what each runner holds, as far as the supervisor knows."""
    return {
        runner.number: [(held.id, held.claim) for held in runner.held.values()]
        for runner in supervisor._roster.runners.values()
    }
