"""The supervisor: one loop that receives what waits, decides, commits, and only then acts.

Threads: the loop (the main thread) owns the sockets, the roster and the children; the store thread
(``journal``) owns the database. Signals only set flags; a pipe wakes the loop.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import uuid_utils
import zmq

from conductor_protocol.manifest import Manifest
from conductor_protocol.messages import Report
from conductor_protocol.units import counted, in_words
from conductor_protocol.uptime import uptime
from conductor_supervisor import control
from conductor_supervisor.clock import Clock, clock_from_environment
from conductor_supervisor.dispatcher import Dispatcher
from conductor_supervisor.errors import SupervisorError
from conductor_supervisor.generation import pools_of, tasks_of
from conductor_supervisor.intake import Intake, Schedule
from conductor_supervisor.journal import LOOK_INTERVAL, Journal
from conductor_supervisor.lease import Lease, lease_from_environment, renew_from_environment
from conductor_supervisor.leasing import Leasing
from conductor_supervisor.neighbours import Neighbours
from conductor_supervisor.notify import ServiceManager
from conductor_supervisor.overrides import effective
from conductor_supervisor.overview import overview
from conductor_supervisor.preparing import prepare
from conductor_supervisor.processes.usage import Meter
from conductor_supervisor.reload import Reloading
from conductor_supervisor.roster import Held, Roster, Runner, Task
from conductor_supervisor.router import Router
from conductor_supervisor.runtime import PokeSocket, database_lock, folder_lock, poke, runtime_folder
from conductor_supervisor.settings import Settings, database_url
from conductor_supervisor.staff import Staff
from conductor_supervisor.store.attempts import Ending
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.leases import Member
from conductor_supervisor.transcripts import Transcripts
from conductor_supervisor.watch import Watch
from conductor_supervisor.work import Work
from conductor_supervisor.writes import KeepProgress

TICK_BUSY = 0.05
TICK_IDLE = 0.25
"""Seconds between looks at the clock: with something in hand, and without."""

PROGRESS_INTERVAL = 1.0
"""Seconds between writes of handlers' progress."""

LAST_WRITES = 10.0
"""Seconds that the database has at the end to take the last writes: once while the loop runs, and once when
it has ended."""

LAST_RENEWAL = 1.0
"""Seconds for a renewal of the lease that is under way at the end."""

LAST_REAPING = 5.0
"""Seconds that children which were killed have at the end to be gone."""

LONGEST_END = LAST_WRITES + LAST_REAPING + LAST_WRITES
"""Seconds beyond ``shutdown_grace`` that a shutdown takes at most. Whoever stops us from outside, and kills
what has not ended then, has to wait for both."""

SWITCH_INTERVAL = 0.001
"""Seconds that the store thread, or the loop, may compute while the other wants to: Python's own is five
times as long, and whoever asks at a checkpoint waits for it.
"""

log = logging.getLogger(__name__)


def run(
    settings: Settings,
    manifest: Manifest,
    paths: Sequence[str],
    *,
    drain: bool = False,
    read_settings: Callable[[], Settings] | None = None,
    loop_begins: Callable[[], None] = lambda: None,
    manager: ServiceManager | None = None,
) -> int:
    """Run until told to stop, or with ``drain`` until nothing is due; return the exit status.

    With ``drain`` it gives up when no runner was ever ready and each has failed several times in a row.

    :param manifest: what the app declares.
    :param paths: folders that runners put before the import path.
    :param read_settings: reads the settings anew when the code is reloaded: what they say of tasks counts.
    :param loop_begins: called once signals are heeded by the loop.
    :param manager: hears how we are.
    :raises UsageError: if the settings or the database's name cannot be meant.
    :raises SupervisorError: if the database cannot be used, another supervisor runs, or it has given up.
    """
    clock = clock_from_environment()
    specs = effective(manifest, settings)
    zone = settings.timezone or manifest.timezone
    url = database_url(settings, manifest)
    with ExitStack() as stack:
        database = Database.open(url)
        stack.callback(database.close)
        lease_database = Database.open(url) if database.shared else None
        if lease_database is not None:
            stack.callback(lease_database.close)
        folder = runtime_folder(url, settings.runtime)
        me = Member(str(uuid_utils.uuid7()), socket.gethostname(), os.getpid(), manifest.app, clock.now())
        former = stack.enter_context(folder_lock(folder, me.id)).former
        stack.enter_context(database_lock(url))
        known = tasks_of(specs, zone, settings)
        lease = Lease(settings.lease, uptime()) if database.shared else lease_from_environment(settings.lease)
        cron = prepare(database, folder, former, known, zone, clock, me, settings.lease)
        supervisor = Supervisor(
            me,
            lease,
            settings,
            manifest,
            known,
            cron,
            database,
            lease_database,
            folder,
            paths,
            clock,
            drain,
            manager or ServiceManager(),
        )
        if read_settings is not None:
            supervisor.reloading.read_settings = read_settings
        return supervisor.run(loop_begins)


class Supervisor:
    """Wires the rooms together and runs the loop."""

    def __init__(
        self,
        me: Member,
        lease: Lease,
        settings: Settings,
        manifest: Manifest,
        known: dict[str, Task],
        cron: list[Schedule],
        database: Database,
        lease_database: Database | None,
        folder: Path,
        paths: Sequence[str],
        clock: Clock,
        drain: bool,
        manager: ServiceManager,
    ) -> None:
        self._settings = settings
        self._manager = manager
        self._database = database
        self._clock = clock
        self._drain = drain
        self._started = clock.now()
        self._router = Router(folder)
        self._poke = PokeSocket(folder)
        self._roster = Roster(pools_of(settings, known.values()), settings.slots)
        self._listener = database.listener(me.id, partial(poke, folder))
        self._journal = Journal(
            database,
            clock,
            changed=self._changed,
            member=me.id if database.shared else None,
            look_interval=self._listener.poll_interval if self._listener else lambda: LOOK_INTERVAL,
        )
        self._work = Work(
            known, self._roster, self._router, self._journal, clock, ended=self._ended, lease=lease
        )
        self._journals = [self._journal]
        self._neighbours: Neighbours | None = None
        if lease_database is not None:
            self._renewals = Journal(
                lease_database,
                clock,
                changed=lambda: None,
                member=me.id,
                look_interval=lambda: math.inf,
                away_level=logging.DEBUG,  # the other one tells
            )
            self._journals.append(self._renewals)
            self._neighbours = Neighbours(me, settings.lease, self._work, self._journal, self._renewals)
        self._intake = Intake(self._work, self._journal, me.id, cron)
        self._transcripts = Transcripts(self._roster, self._journal, clock, settings.log_limit)
        self._staff = Staff(
            self._work,
            self._router,
            settings,
            self._transcripts,
            app=manifest.app,
            paths=paths,
            folder=folder,
            reported=self._reported,
        )
        self.reloading = Reloading(self._work, self._intake, self._staff, settings, manifest, paths, manager)
        renew = self._neighbours.renew if self._neighbours is not None else renew_from_environment
        self._leasing = Leasing(lease, renew, self._work, self._staff, self._intake)
        self._watch = Watch(self._work, self._staff, settings)
        self._dispatcher = Dispatcher(
            self._work, self._intake, settings, joined=self._joined, worn=self._worn
        )
        self._signals = 0
        """How many times we were told to stop."""
        self._signals_heeded = 0
        self._ready = False
        """A runner has said hello."""
        self._given_up = False
        """No runner could become ready, and we were to drain."""
        self._child_died = True
        self._kill_at = float("inf")
        self._kill_cause = "the time to shut down was over"
        self._killed = False
        self._meter = Meter()
        self._next_tick = 0.0
        self._next_recall = math.inf
        self._progress_at = 0.0
        self._poller = zmq.Poller()
        self._polled_outputs: set[int] | None = None
        self._wakers = {journal.fileno(): journal for journal in self._journals}

    # The life of a supervisor

    def run(self, loop_begins: Callable[[], None]) -> int:
        """Work until told to stop and everything is settled; return the exit status."""
        with ExitStack() as stack:
            stack.callback(self._poke.close)
            stack.callback(self._router.close)
            wake = stack.enter_context(_signals_wake_us(self._heed_signal))
            loop_begins()
            if self._listener is not None:
                self._listener.start()
                stack.callback(self._listener.close)
            for journal in self._journals:
                journal.start()
            stack.callback(self._close_journal)
            if self._neighbours is not None:
                stack.callback(self._renewals.close, LAST_RENEWAL)
            stack.callback(self._end_all_runners)
            stack.callback(self.reloading.give_up)
            log.info(
                "started: app %s, %s, %s, database %s",
                self._app,
                counted(len(self._work.tasks), "task"),
                counted(len(self._roster.slots), "runner"),
                self._database.url_for_people,
            )
            self._manager.status(f"waiting for a runner to be ready: they import {self._app}")
            _prepare_interpreter()
            self._loop(wake)
        self._work.notices.close()
        log.info(
            "stopped: %s",
            ", ".join(f"{n} {what}" for what, n in self._work.outcomes.items()) or "nothing ran",
        )
        if self._given_up:
            raise SupervisorError(
                f"no runner could become ready, so nothing was run: {self._roster.slots[0].note}"
            )
        return 0

    def _close_journal(self) -> None:
        if self._neighbours is not None:
            self._neighbours.leave()
        closed = self._journal.close(LAST_WRITES)
        self._journal.check()
        if not closed:
            raise SupervisorError(
                "the database did not take the last writes; their executions run again at the next start"
            )

    def _end_all_runners(self) -> None:
        """Leave no child, whatever happened: here after a clean stop there is none."""
        self._staff.kill_all("the supervisor failed", "supervisor")
        deadline = time.monotonic() + LAST_REAPING
        while not self._staff.alone and time.monotonic() < deadline:
            self._staff.close()
            self._staff.reap()
            time.sleep(0.005)

    def _loop(self, wake: int) -> None:
        while not self._done():
            self._wait(wake)
            self._leasing.look()
            self._receive()
            for journal in self._journals:
                for effect in journal.effects():
                    effect()
            self._read_outputs()
            if self._child_died:
                self._child_died = False
                self._staff.reap()
            if self._signals_heeded < self._signals:
                self._shut_down()
            self.reloading.begin_if_wanted()
            if time.monotonic() >= self._next_tick:
                self._tick()
            self._intake.turn()
            if self._work.draining:
                self._go_on_shutting_down()
            elif self._drain and self._intake.exhausted() and self._journal.idle():
                log.info("nothing is due any more")
                self._begin_shutdown(self._settings.shutdown_grace)
            elif self._drain and not self._ready and self._staff.cannot_begin():
                self._given_up = True
                self._begin_shutdown(self._settings.shutdown_grace)
            self._next_recall = self._watch.recall()
            self._transcripts.keep()
            for journal in self._journals:
                journal.hand_over()
            self._router.flush()

    def _done(self) -> bool:
        if not self._work.draining or self._staff.expects_runners():
            return False
        written = self._journal.idle() or self._journal.left_to_others()
        settled = self._roster.empty_handed() and written
        return settled or time.monotonic() > self._kill_at + LAST_WRITES

    # Waiting and receiving

    def _wait(self, wake: int) -> None:
        """Wait until something is readable or the next tick is due; read what is not a message."""
        outputs = self._staff.outputs.descriptors()
        if self._polled_outputs != outputs:
            self._poller = self._new_poller(wake)
        timeout = max(0.0, min(self._next_tick, self._next_recall) - time.monotonic())
        printed = False
        for source, _ in self._poller.poll(math.ceil(timeout * 1000)):
            if source in self._wakers:
                self._wakers[source].awake()
            elif source is self._router.control:
                self._answer_commands()
            elif source == wake:
                os.read(wake, 4096)
            elif source == self._poke.fileno():
                self._poke.drain()
                self._intake.look()
            elif source in outputs:
                printed = True
        if printed:
            self._read_outputs()

    def _new_poller(self, wake: int) -> zmq.Poller:
        self._polled_outputs = set(self._staff.outputs.descriptors())
        poller = zmq.Poller()
        poller.register(self._router.runners, zmq.POLLIN)
        poller.register(self._router.control, zmq.POLLIN)
        for descriptor in (*self._wakers, self._poke.fileno(), wake, *self._polled_outputs):
            poller.register(descriptor, zmq.POLLIN)
        return poller

    def _read_outputs(self) -> None:
        """Take what runners print. Once more behind their messages: it was printed before it was reported,
        and so it is stored with the ending of its attempt.
        """
        self._staff.read_outputs()

    def _receive(self) -> None:
        for number, channel, message in self._router.receive():
            self._dispatcher.receive(number, channel, message)
        while self._router.offenders:
            self._staff.distrust(*self._router.offenders.popitem())

    def _answer_commands(self) -> None:
        for identity, request in self._router.requests():
            if isinstance(request, control.AskReload):
                self.reloading.want(identity)
            else:
                self._router.answer(identity, self._carry_out(request))

    def _tick(self) -> None:
        """Do what time brings."""
        now = time.monotonic()
        self._manager.turn(now)
        self._leasing.tick()
        if self._neighbours is not None and not self._work.draining:
            self._neighbours.tick()
        self._intake.tick()
        self._staff.fill()
        if not self._work.draining:
            self._staff.dismiss_retiring()
            self.reloading.go_on()
        self._watch.look()
        self._work.notices.look()
        if now >= self._progress_at:
            self._progress_at = now + PROGRESS_INTERVAL
            self._keep_progress()
        tick = (
            TICK_BUSY
            if any(r.held or r.phase != "ready" for r in self._roster.runners.values())
            else TICK_IDLE
        )
        due = self._intake.seconds_to_next(self._clock.now())
        tick = min(tick, self._manager.seconds_to_turn(now))
        self._next_tick = now + (tick if due is None else min(tick, due))

    # What the rooms tell us

    def _joined(self, runner: Runner) -> None:
        self._staff.joined(runner)
        if not self._work.draining:
            self._note_ready()
            self._work.place()
            self._intake.stir(runner.slot.pool)

    def _note_ready(self) -> None:
        """Tell that we take work. What is wanted besides was started at the loop's first turn."""
        if not self._ready:
            self._ready = True
            self._manager.status(f"running {self._app} with {counted(len(self._roster.slots), 'runner')}")
            self._manager.ready()

    def _worn(self, runner: Runner, reason: str) -> None:
        self._staff.recycle(runner, reason)
        if not self._work.draining:
            self._staff.fill()

    def _changed(self) -> None:
        self._intake.look()

    def _reported(self, runner: Runner, report: Report) -> None:
        self._dispatcher.report(runner, report)

    def _ended(self, held: Held, ending: Ending) -> None:
        self._intake.ended(held, ending)

    def _keep_progress(self) -> None:
        fresh = [
            held
            for runner in self._roster.runners.values()
            for held in runner.held.values()
            if not held.progress_kept and held.progress is not None
        ]
        if not fresh:
            return
        for held in fresh:
            held.progress_kept = True
        progress = [(h.id, h.claim, h.progress) for h in fresh if h.progress is not None]
        self._journal.submit(
            KeepProgress(
                progress, lambda: None, lambda message: log.error("progress was not stored: %s", message)
            )
        )

    # Shutting down

    def _heed_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._child_died = True
        elif number == signal.SIGHUP:
            self.reloading.want()
        else:
            self._signals += 1

    def _shut_down(self) -> None:
        """A signal came, or a command: the first begins a shutdown, the second does not wait."""
        already = self._signals_heeded > 0 or self._work.draining
        self._signals_heeded = self._signals
        if already:
            log.info("told again to stop: stopping at once")
            self._kill_now("the supervisor was told again to stop")
        else:
            self._begin_shutdown(self._settings.shutdown_grace)

    def _begin_shutdown(self, grace: float) -> None:
        self.reloading.give_up()
        ending = f"shutting down: what runs has {in_words(grace)} to reach its next checkpoint"
        log.info("%s", ending)
        self._manager.stopping()
        self._manager.status(ending)
        self._work.draining = True
        self._kill_at = time.monotonic() + grace
        self._work.push_shutdown()
        for runner in self._roster.runners.values():
            self._work.recall(runner)
        self._work.place()

    def _go_on_shutting_down(self) -> None:
        self._staff.dismiss_idle()
        self._staff.dismiss_retiring()
        if time.monotonic() >= self._kill_at and not self._killed:
            self._killed = True
            self._staff.kill_all(self._kill_cause, "shutdown")

    def _kill_now(self, cause: str) -> None:
        self._kill_at = time.monotonic()
        self._kill_cause = cause

    # Commands

    @property
    def _app(self) -> str:
        return self.reloading.manifest.app

    @property
    def _state(self) -> control.SupervisorState:
        if self._work.draining:
            return "draining"
        return "running" if self._ready else "starting"

    def _carry_out(self, request: control.AskHealth | control.AskStatus | control.AskStop) -> control.Reply:
        if isinstance(request, control.AskHealth):
            return control.Health(pid=os.getpid(), state=self._state)
        if isinstance(request, control.AskStop):
            if not self._work.draining:
                self._begin_shutdown(self._settings.shutdown_grace)
            if request.now:
                self._kill_now("the supervisor was told to stop at once")
            return control.Accepted()
        used = self._meter.itself()
        return control.Status(
            pid=os.getpid(),
            app=self._app,
            database=self._database.url_for_people,
            state=self._state,
            started=self._started,
            runners=overview(self._roster, self._meter),
            memory=used.memory,
            cpu_seconds=used.cpu_seconds,
            ended=sum(self._work.outcomes.values()),
        )


def _prepare_interpreter() -> None:
    """Let the loop and the store thread keep each other waiting less."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    # What we have by now stays, and would be looked through at each collection of garbage.
    gc.collect()
    gc.freeze()


@contextmanager
def _signals_wake_us(heed: Callable[[int], None]) -> Iterator[int]:
    """Let signals only set flags, and wake the loop through the descriptor given."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)

    def handler(number: int, _frame: FrameType | None) -> None:
        heed(number)

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    before = {number: signal.signal(number, handler) for number in signals}
    wakeup_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, previous in before.items():
            signal.signal(number, previous)
        os.close(read)
        os.close(write)
