"""The runners' lives: started, stopped, reaped, replaced. Owned by the loop thread.

Every way in which a runner ends comes through :meth:`Staff.reap`; what becomes of what it held is found by
``inquest``.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from conductor_protocol.messages import Report, Stop
from conductor_protocol.units import in_words
from conductor_supervisor.inquest import LEASE_OVER, Inquest, order_to_all
from conductor_supervisor.nursery import Nursery
from conductor_supervisor.processes.leftovers import Leftovers, adopt_orphans
from conductor_supervisor.processes.output import Outputs
from conductor_supervisor.processes.spawn import Child, Ends, Exit, ForkedChild
from conductor_supervisor.processes.template import Template
from conductor_supervisor.roster import Runner, Slot, StopOrder
from conductor_supervisor.router import Router
from conductor_supervisor.rules.blame import exit_in_words
from conductor_supervisor.rules.lastwords import last_words
from conductor_supervisor.settings import Settings
from conductor_supervisor.transcripts import TemplateListener, Transcripts
from conductor_supervisor.work import Work

STACKS_TIME = 0.1
"""Seconds that a runner has to write its stacks before it gets SIGTERM."""

END_MARGIN = 3.0
"""Seconds beyond its ``end_grace`` that a runner may take to end by itself; then it is killed."""

MOST_REASON = 300
"""Characters of a worn runner's reason that are logged."""

RESTART_DELAYS = (0.0, 0.5, 1.0, 2.0, 5.0, 15.0, 30.0)
"""Seconds before a runner is started again in a slot whose last ones died before they were ready."""

HOPELESS = 5
"""Failures in a row in each slot after which a drain does not wait for a runner to be ready any more."""

READING_TIME = 0.005
"""Seconds of a turn of the loop that go to what runners print, at most; asks wait meanwhile."""

log = logging.getLogger(__name__)


class Staff:
    """Keeps every slot filled with a runner that is well."""

    def __init__(
        self,
        work: Work,
        router: Router,
        settings: Settings,
        transcripts: Transcripts,
        *,
        app: str,
        paths: Sequence[str],
        folder: Path,
        reported: Callable[[Runner, Report], None],
    ) -> None:
        """``reported`` acts on a report that was read from a runner's outbox."""
        self._work = work
        self._roster = work.roster
        self._router = router
        self._settings = settings
        self._transcripts = transcripts
        self._app = app
        self._paths = paths
        self._folder = folder
        self._reported = reported
        self._inquest = Inquest(work, transcripts, reported)
        self._leftovers = Leftovers()
        self.describing = f"{folder}:describe"
        """The mark of a child that describes the app, and of what that starts."""
        self.outputs = Outputs()
        """The open ends of all that runners print to, and what their template says."""
        self._killing = False
        """Every runner is to be killed, also one that is being born."""
        self._nursery = Nursery(
            self._roster,
            folder,
            self.outputs,
            self._leftovers,
            import_timeout=settings.import_timeout,
            adopting=adopt_orphans(),
            start=partial(
                Template,
                app=app,
                paths=paths,
                endpoint=router.endpoint,
                folder=folder,
                listener=TemplateListener(),
            ),
            ready=self.fill,
            born=self._born,
            unborn=self._start_later,
        )

    # Starting

    def fill(self) -> None:
        """Start a runner in every empty slot whose time has come."""
        if self._work.draining or self._killing:
            return
        now = time.monotonic()
        for slot in self._roster.slots:
            if slot.runner is None and slot.not_before <= now and not self._will_be_forked(slot):
                self._start(slot)

    def _will_be_forked(self, slot: Slot) -> bool:
        if slot.pool.isolation != "fresh":
            return False
        self._nursery.keep_template()
        return self._nursery.takes(slot)

    def _start(self, slot: Slot) -> None:
        number = self._roster.new_number()
        try:
            child = Child(
                number,
                isolation=slot.pool.isolation,
                at_once=self._roster.at_once if slot.pool.isolation == "shared" else 1,
                app=self._app,
                paths=self._paths,
                endpoint=self._router.endpoint,
                folder=self._folder,
                listener=self._transcripts.listener(number, slot.number),
            )
        except OSError as error:
            self._start_later(slot, f"cannot be started: {error}")
            return
        self._enter(slot, number, child)

    def _born(self, slot: Slot, ends: Ends, pid: int, ended: Exit | None) -> None:
        """Let a runner in that the template has forked, and tell it who it is, or bury it at once."""
        runner = self._enter(
            slot, ends.number, ForkedChild(ends, pid, self._transcripts.listener(ends.number, slot.number))
        )
        if ended is None:
            ends.tell(self._router.endpoint, self._app, self._paths)
        else:
            self._bury(runner, ended)

    def _enter(self, slot: Slot, number: int, child: Child) -> Runner:
        self._router.expect(number, child.secret)
        for output in (child.stdout, child.stderr):
            self.outputs.add(output)
        runner = slot.runner = self._roster.runners[number] = Runner(number, slot, child, time.monotonic())
        if self._killing:
            self.kill(runner)
        return runner

    def expects_runners(self) -> bool:
        """Tell whether there are runners, or some are being born."""
        return bool(self._roster.runners) or self._nursery.expecting

    def _start_later(self, slot: Slot, note: str) -> None:
        delay = RESTART_DELAYS[min(slot.failures, len(RESTART_DELAYS) - 1)]
        slot.failures += 1
        slot.not_before = time.monotonic() + delay
        slot.note = note
        log.warning("runner %d %s; next try in %s", slot.number, note, in_words(delay))

    def cannot_begin(self) -> bool:
        """Tell whether in each slot the last runners have failed before they were ready, again and again."""
        slots = self._roster.slots
        return bool(slots) and all(slot.failures >= HOPELESS for slot in slots)

    def joined(self, runner: Runner) -> None:
        """Let a runner that has said hello on both channels take work."""
        runner.phase = "ready"
        runner.child.bind_group()
        runner.slot.failures = 0
        runner.slot.note = self._nursery.note if runner.slot.pool.isolation == "fresh" else ""
        log.debug("runner %d is ready (process %d)", runner.slot.number, runner.child.pid)

    # Listening

    def read_outputs(self) -> None:
        """Take what runners have printed."""
        self.outputs.read(READING_TIME)

    def read_outbox(self, runner: Runner) -> None:
        """Act on reports that a runner holds back, and cannot send: C code that it runs may let no thread of
        its have a turn. They come again when it does.
        """
        self.read_outputs()
        for report in runner.child.recorder.outbox():
            held = runner.held.get(report.execution)
            if held is not None and held.claim == report.claim:
                runner.read_early.add((held.id, held.claim))
                self._reported(runner, report)

    def distrust(self, number: int, what: str) -> None:
        """Stop a runner that says what the protocol does not allow: its next word may be awaited for ever."""
        runner = self._roster.runners.get(number)
        if runner is None or runner.stop_order is not None:
            return
        if not runner.held:
            self.kill(runner)
        else:
            self.stop(runner, StopOrder(runner.answerable(), "crashed", f"it broke the protocol: {what}"))

    # Stopping

    def stop(self, runner: Runner, order: StopOrder, *, at_once: bool = False) -> None:
        """Stop a runner because of what it runs: its stacks, SIGTERM, and SIGKILL if that does not do.

        :param at_once: kill it, for every moment that it lives does harm.
        """
        whose = f"execution {order.held.id}: its" if order.held is not None else "shared"
        log.debug("%s runner %d is stopped: %s", whose, runner.slot.number, order.cause)
        runner.stop_order = order
        runner.phase = "stopping"
        self._work.recall(runner)
        now = time.monotonic()
        if at_once:
            runner.ladder = [(now, "SIGKILL")]
        else:
            term = now if order.stacks_asked else now + STACKS_TIME
            runner.ladder = [(term + self._settings.stop_grace, "SIGKILL"), (term, "SIGTERM")]
            if not order.stacks_asked:
                runner.ladder.append((now, "stacks"))
        self.climb(runner, now)

    def climb(self, runner: Runner, now: float) -> None:
        """Do what is due of a stop under way."""
        while runner.ladder and runner.ladder[-1][0] <= now:
            _, rung = runner.ladder.pop()
            if rung == "stacks":
                self.ask_for_stacks(runner)
            elif rung == "SIGTERM":
                runner.child.signal_group(signal.SIGTERM)
            else:
                self.kill(runner)

    def ask_for_stacks(self, runner: Runner) -> None:
        """Have a runner write its Python stacks to stderr; it needs not be able to run Python for that."""
        runner.child.ask_for_stacks()

    def kill(self, runner: Runner) -> None:
        """Kill a runner with its group, once."""
        if not runner.kill_sent:
            runner.kill_sent = True
            runner.child.signal_group(signal.SIGKILL)

    def retire_all(self) -> int:
        """Let every runner finish what it runs and then end, and others have their slots; return how many run
        something.
        """
        for runner in list(self._roster.runners.values()):
            if runner.phase == "starting":
                self.kill(runner)
            elif runner.phase == "ready":
                runner.phase = "retiring"
                self._work.recall(runner)
            runner.slot.runner = None
        for slot in self._roster.slots:
            slot.not_before, slot.failures, slot.note = 0.0, 0, ""
        self._nursery.renew()
        self.dismiss_retiring()
        return sum(bool(runner.held) for runner in self._roster.retiring())

    def dismiss_retiring(self) -> None:
        """Tell every retiring runner with nothing in hand to end."""
        self._dismiss(runner for runner in self._roster.retiring() if runner.phase == "retiring")

    def dismiss_idle(self) -> None:
        """Tell every runner with nothing in hand to end. One that still imports cannot hear: it is killed."""
        for runner in self._roster.runners.values():
            if runner.phase == "starting" and not runner.stop_said:
                runner.stop_said = True
                self.kill(runner)
        self._dismiss(runner for runner in self._roster.runners.values() if runner.phase == "ready")

    def _dismiss(self, runners: Iterable[Runner]) -> None:
        for runner in runners:
            if not runner.held and not runner.stop_said:
                runner.stop_said = True
                self._router.send(runner.number, "data", Stop())

    def see_off(self, runner: Runner, now: float) -> None:
        """Kill a runner that is to end, has nothing in hand, and does not end in time."""
        if not runner.stop_said or runner.held:
            return
        runner.leaving = runner.leaving or now
        if now - runner.leaving > self._settings.end_grace + END_MARGIN and not runner.kill_sent:
            log.warning(
                "runner %d had nothing in hand and has not ended within %s; it is killed",
                runner.slot.number,
                in_words(self._settings.end_grace),
            )
            self.kill(runner)

    def recycle(self, runner: Runner, reason: str) -> None:
        """Let a worn runner end, empty-handed, and empty its slot for another."""
        if runner.stop_said:
            return
        reading = runner.child.recorder.read()
        if reading is not None and reading.phase != "idle":
            self.distrust(runner.number, "it says that it is worn while it runs an execution")
            return
        slot = runner.slot
        log.info("runner %d is recycled: %s", slot.number, reason[:MOST_REASON])
        runner.phase = "retiring"
        for held in list(runner.held.values()):
            runner.take_back(held.id, held.claim)
            self._work.give_back(held)
        self._dismiss([runner])
        if slot.runner is runner:
            slot.restarts += 1
            slot.runner = None
        self._work.place()

    def kill_all(self, cause: str, reason: str) -> None:
        """Kill every runner; what they run goes back uncharged, unless the runner has died by itself."""
        self._killing = True
        self.reap()
        for runner in self._roster.runners.values():
            runner.stop_order = runner.stop_order or order_to_all(runner, cause, reason)
            self.kill(runner)

    def lose_all(self) -> None:
        """Kill every runner, for our lease was not renewed; :meth:`go_on` starts others."""
        for runner in self._roster.runners.values():
            runner.lost = True
            if runner.phase == "starting":
                runner.stop_said = True
            else:
                runner.phase = "stopping"
        self.kill_all(LEASE_OVER, "lease")

    def go_on(self) -> None:
        """Have runners again."""
        self._killing = False
        self.fill()

    def look_after_template(self) -> None:
        """End a template of fresh runners that takes too long."""
        self._nursery.watch()

    def close(self) -> None:
        """End what is not a runner, and what has become our child because its parent died; whatever lives
        then is reaped until we are :attr:`alone`.
        """
        self._nursery.close()
        self._leftovers.end_orphans(self._nursery.our_children())

    @property
    def alone(self) -> bool:
        """Tell whether no process is left that we, or a runner, have started."""
        nobody = not self._roster.runners and self._nursery.empty
        return nobody and not self._leftovers.orphans(())

    # Reaping

    def reap(self) -> None:
        """Bury every runner that has died, settle what was in its hands, and start others in their slots."""
        for runner in list(self._roster.runners.values()):
            ended = runner.child.reap()
            if ended is not None:
                self._bury(runner, ended)
        self._nursery.reap()
        self.fill()

    def end_leftovers_of_describing(self) -> None:
        """End what an app's import has started, when its description is over."""
        self._leftovers.end(self.describing, self._nursery.our_children())

    def spare(self, pid: int) -> None:
        """Leave a child alone that is no runner."""
        self._leftovers.spare(pid)

    def unspare(self, pid: int) -> None:
        """Forget a child that has been waited for."""
        self._leftovers.unspare(pid)

    def _bury(self, runner: Runner, ended: Exit) -> None:
        self._end_leftovers(runner)
        for output in (runner.child.stdout, runner.child.stderr):
            if not output.closed:  # else its descriptor may be another runner's by now
                self.outputs.remove(output)
                output.read_to_end()
        held_nothing = not runner.held
        in_order = not self._inquest.settle(runner, ended) and runner.stop_said and ended.returncode == 0
        del self._roster.runners[runner.number]
        self._router.forget(runner.number)
        slot = runner.slot
        retired = slot.runner is not runner
        if not retired:
            slot.runner = None
        unwanted = retired or (runner.phase == "starting" and runner.stop_said)
        if runner.phase == "starting" and not unwanted:
            said = last_words(runner.child.stderr.tail())
            how = f"{exit_in_words(ended.returncode)} before it was ready"
            self._start_later(slot, f"{how}: {said}" if said else how)
        elif not in_order and not unwanted:
            slot.restarts += 1
            if held_nothing and not runner.lost:
                log.warning("runner %d %s", slot.number, _end_of_idle(runner, ended))
        runner.child.close()

    def _end_leftovers(self, runner: Runner) -> None:
        """End what a dead runner has started, before anyone runs its execution again."""
        runner.child.signal_group(signal.SIGKILL)
        forked_by = self._nursery.marks if runner.slot.pool.isolation == "fresh" else frozenset()
        left = self._leftovers.end(runner.child.mark, self._nursery.our_children(), forked_by)
        if left:
            log.warning("runner %d left processes behind, which are killed: %d", runner.slot.number, left)


def _end_of_idle(runner: Runner, ended: Exit) -> str:
    how = f"{exit_in_words(ended.returncode)} with nothing in hand"
    order = runner.stop_order
    return how if order is None else f"{how}; it had been stopped for what it ran before: {order.cause}"
