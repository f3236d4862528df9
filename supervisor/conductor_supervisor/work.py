"""The executions in our hands: taken from the store, placed with runners, and ended.

Owned by the loop thread. Every ending passes through :meth:`Work.end`: decide, commit, then act.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import msgspec

from conductor_protocol.codec import MAX_FRAME
from conductor_protocol.messages import (
    Assign,
    Assignment,
    Cancel,
    Interrupt,
    Recall,
    ShutdownIntent,
    Stop,
    WindowClosed,
    WindowOpened,
)
from conductor_protocol.operations import Failure
from conductor_protocol.units import Instant
from conductor_protocol.uptime import uptime
from conductor_supervisor import endings, placing
from conductor_supervisor.clock import Clock
from conductor_supervisor.journal import Journal
from conductor_supervisor.lease import Lease
from conductor_supervisor.notices import Notices
from conductor_supervisor.roster import Held, Interruption, Roster, Runner, StopOrder, Task
from conductor_supervisor.router import Router
from conductor_supervisor.rules.blame import seen
from conductor_supervisor.store import steps
from conductor_supervisor.store.attempts import Ending
from conductor_supervisor.store.claiming import Claimed
from conductor_supervisor.store.tasks import Kind
from conductor_supervisor.writes import PAGE_BYTES, EndAttempt, NoteStart, Taken

LARGE_ASSIGN = 1024 * 1024
"""Bytes of payloads and steps after which further assignments travel in another message."""

LARGEST_PAYLOAD = MAX_FRAME - PAGE_BYTES - 64 * 1024
"""Bytes of a payload that still fits into a frame, with the first page of recorded steps and its envelope."""

LONGEST_WAIT = 0.05
"""Seconds that an execution may wait here for a runner to have room. One that is short has it sooner."""

log = logging.getLogger(__name__)


class Work:
    """Takes, places and ends executions."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        roster: Roster,
        router: Router,
        journal: Journal,
        clock: Clock,
        ended: Callable[[Held, Ending], None],
        lease: Lease,
    ) -> None:
        """``ended`` hears of each ending once it is committed."""
        self.tasks = tasks
        self.roster = roster
        self.router = router
        self.journal = journal
        self.clock = clock
        self.lease = lease
        self.draining = False
        self.paused: set[tuple[Kind, str]] = set()
        """Tasks and queues of which nothing may begin, as the last look at the database has seen it."""
        self.outcomes: Counter[str] = Counter()
        """Attempts ended since the start, by outcome."""
        self.notices = Notices()
        self._ended = ended
        self._former: Mapping[str, Task] = {}
        """Tasks of the code before: a claim that was under way may bring one of them."""

    def adopt(self, tasks: Mapping[str, Task]) -> None:
        """Run by newer declarations from now on; what runs already ends by those it began with."""
        for name, task in tasks.items():
            if name in self.tasks and not task.handed_singly:
                task.seconds = self.tasks[name].seconds
        self._former = self.tasks
        self.tasks = tasks
        waiting, self.roster.waiting = self.roster.waiting, []
        for held in waiting:
            self._await_runner(held)

    # Taking and placing

    @property
    def closed(self) -> bool:
        """Whether nothing may begin: we are shutting down, or do not have our lease."""
        return self.draining or not self.lease.is_held(uptime())

    def may_begin(self, task: Task, now: Instant) -> bool:
        """Tell whether executions of a task may begin: it is not paused, and its window is open."""
        return not self._is_paused(task) and task.windows.is_open(now)

    def _is_paused(self, task: Task) -> bool:
        spec = task.spec
        return ("task", spec.name) in self.paused or ("queue", spec.queue) in self.paused

    def pause(self, paused: set[tuple[Kind, str]]) -> None:
        """Let nothing begin of these tasks and queues; what runners have not begun of them is recalled."""
        new, self.paused = paused - self.paused, paused
        if new:
            for runner in self.roster.runners.values():
                if any(self._is_paused(held.task) for held in runner.behind()):
                    self.recall(runner)

    def take(self, taken: Iterable[Taken]) -> None:
        """Place what has been claimed."""
        now = self.clock.now()
        for one in taken:
            task = self.tasks.get(one.claimed.task) or self._former.get(one.claimed.task)
            if task is None:
                self._return_unknown(one.claimed, now)
            else:
                self._await_runner(Held(one, task, one.claimed.attempt + 1, now))
        self.place()

    def _return_unknown(self, claimed: Claimed, now: Instant) -> None:
        """Leave an execution in the store whose task went with older code: its claim was put off."""
        self.journal.submit(
            EndAttempt(
                endings.unknown(claimed, now),
                lambda _late: None,
                lambda message: log.error(
                    "execution %s, whose task is gone, cannot be given back: %s", claimed.id, message
                ),
            )
        )

    def _await_runner(self, held: Held) -> None:
        """Let an execution wait for a runner, by the declaration of the code that will run it."""
        task = self.tasks.get(held.task.spec.name)
        if task is None:  # the newer code has no such task: it waits in the store
            self.end(held, endings.unbegun(held, self.clock.now()))
        else:
            held.task = task
            if held.runs_alone:
                self.roster.note_survivor(held)
            held.waits_since = time.monotonic()
            self.roster.waiting.append(held)

    def place(self) -> None:
        """Hand waiting executions to runners that have room; end those that must not or cannot begin now."""
        if not self.roster.waiting:
            return
        now, closed = self.clock.now(), self.closed
        parcels: dict[int, list[Assignment]] = defaultdict(list)
        tasks = {held.task for held in self.roster.waiting}
        begins = {task for task in tasks if not closed and self.may_begin(task, now)}
        places = {pool: placing.places(self.roster, pool) for pool in {task.pool for task in begins}}
        left: list[Held] = []
        for held in self.roster.waiting:
            if held.cancelled is not None or held.task not in begins:
                self.end(held, endings.unbegun(held, now))
            elif len(held.taken.claimed.payload) > LARGEST_PAYLOAD:
                self.end(held, endings.unsendable(held, LARGEST_PAYLOAD, now))
            else:
                place = places[held.task.pool].take(held)
                if place is not None:
                    number, cost = place  # a fresh runner is full with one
                    self.roster.runners[number].hand(held, cost)
                    parcels[number].append(_assignment(held))
                elif _may_wait(held):
                    left.append(held)
                else:  # a runner of another supervisor may be idle, and whoever looks is to see it ready
                    self.end(held, endings.unbegun(held, now))
        self.roster.waiting = left
        for number, assignments in parcels.items():
            for parcel in _of_limited_size(assignments):
                self.router.send(number, "data", Assign(parcel))
            runner = self.roster.runners[number]
            if runner.slot.pool.isolation == "fresh":
                runner.stop_said = True
                self.router.send(number, "data", Stop())

    def recall(self, runner: Runner) -> None:
        """Ask for what a runner has not begun, unless that is under way."""
        if len(runner.held) > 1 and not runner.recalled and not runner.shared:
            runner.recalled = True
            self.router.send(runner.number, "control", Recall())

    def give_back(self, held: Held) -> None:
        """Let an execution that has not begun go to another runner, or back to the store."""
        held.began = held.step = held.step_deadline = None
        held.cancel_pushed, held.window_pushed = None, False
        held.overdue = held.interruption = None
        self._await_runner(held)

    # What is pushed to handlers, so that ``ctx.should_stop`` tells before they ask

    def push_shutdown(self) -> None:
        """Tell every runner that the next ask will release."""
        for runner in self.roster.runners.values():
            self.router.send(runner.number, "control", ShutdownIntent())

    def push_stop(self, runner: Runner, held: Held) -> None:
        """Tell a handler that its next ask will end the attempt."""
        self.router.send(runner.number, "control", Cancel(held.id, held.claim))

    def push_window(self, runner: Runner, held: Held, is_open: bool) -> None:
        """Tell a handler that its window has closed, or that it is open again; each once."""
        if is_open == held.window_pushed:
            held.window_pushed = not is_open
            word = WindowOpened if is_open else WindowClosed
            self.router.send(runner.number, "control", word(held.id, held.claim))

    def interrupt(self, runner: Runner, held: Held, order: StopOrder) -> None:
        """Have one handler of a shared runner end where it is."""
        log.warning("execution %s: it is interrupted: %s", held.id, order.cause)
        now = time.monotonic()
        held.interruption = Interruption(order, now, seen((held.id, held.claim), runner.reading(held), now))
        self.router.send(runner.number, "control", Interrupt(held.id, held.claim))

    def cancel(self, execution: str, claim: int, reason: str | None) -> None:
        """Cancel an execution in our hands: at once if it waits, else at its next ask."""
        found = self.roster.find(execution)
        if found is None or found[1].claim != claim:
            return
        runner, held = found
        if held.cancelled is not None:
            return
        held.cancelled = reason or ""
        if runner is None:
            self.place()
            return
        held.cancel_pushed = time.monotonic()
        self.push_stop(runner, held)
        if held is not runner.first():
            self.recall(runner)

    # What a rate counts

    def began(self, held: Held) -> None:
        """Write down that an execution has started, if anybody counts that and it is not known yet."""
        if held.task.spec.rate is None or held.start_noted:
            return
        held.start_noted = True
        self.journal.submit(NoteStart(held.id, held.claim, lambda: None, partial(self._not_noted, held)))

    def _not_noted(self, held: Held, message: str) -> None:
        """It holds its place under the rate until its end is noticed: never too many start."""
        log.error("execution %s: its start could not be noted: %s", held.id, message)

    # Ending

    def end(self, held: Held, ending: Ending) -> None:
        """Store an ending; what follows from it happens once it is committed."""
        if not ending.frees_start:
            self.began(held)
        self.journal.submit(
            EndAttempt(ending, partial(self._stored, held, ending), partial(self._not_stored, held, ending))
        )

    def _stored(self, held: Held, ending: Ending, late: bool) -> None:
        self.roster.forget_survivor(
            held
        )  # if it comes to us again, its claim tells what it has lived through
        if late:
            log.warning("execution %s: a late ending changed nothing (%s)", held.id, ending.outcome)
            return
        if ending.outcome is not None:
            self.outcomes[ending.outcome] += 1
        if ending.outcome != "completed":
            self.notices.ended(held, ending)
        self._ended(held, ending)

    def _not_stored(self, held: Held, ending: Ending, message: str) -> None:
        """Store at least that it failed: an execution must not stay in nobody's hands."""
        if ending.failure is not None and ending.failure.type == "conductor.NotStored":
            log.error("execution %s: its ending cannot be stored at all: %s", held.id, message)
            return
        failure = Failure(type="conductor.NotStored", message=f"the ending could not be stored: {message}")
        self.end(
            held,
            msgspec.structs.replace(
                ending,
                state="failed",
                outcome="failed",
                charged=True,
                result=None,
                failure=failure,
                crash=None,
                due=None,
                waiting_for=None,
            ),
        )


def _may_wait(held: Held) -> bool:
    """Tell whether an execution that finds no room may stay in our hands without running.

    A survivor must not. A suspect may: while it waits, a shared runner is being emptied for it.
    """
    if held.runs_alone:
        return False
    return held.suspect or time.monotonic() - held.waits_since < LONGEST_WAIT


def _of_limited_size(assignments: list[Assignment]) -> Iterator[list[Assignment]]:
    """Split assignments where payloads and recorded steps would make one message large."""
    parcel: list[Assignment] = []
    size = 0
    for assignment in assignments:
        size += _size(assignment)
        if parcel and size > LARGE_ASSIGN:
            yield parcel
            parcel, size = [], _size(assignment)
        parcel.append(assignment)
    yield parcel


def _size(assignment: Assignment) -> int:
    size = len(assignment.payload)
    return size + sum(map(steps.size, assignment.steps)) if assignment.steps else size


def _assignment(held: Held) -> Assignment:
    taken, claimed = held.taken, held.taken.claimed
    return Assignment(
        claimed.id,
        claimed.claim,
        claimed.task,
        held.attempt,
        claimed.event,
        claimed.scheduled_for,
        claimed.payload,
        taken.steps,
        taken.steps_recorded,
        held.task.spec.memory,
        held.task.spec.rate is not None,
        held.task.is_short,
    )
