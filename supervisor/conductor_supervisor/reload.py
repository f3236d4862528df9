"""Newer code in place of what runs: described first, in a child process, so that code which does not import
changes nothing.

A thread waits for the child's answer and does nothing else; the loop starts it, looks for its outcome, and
takes the new code over.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial

from conductor_protocol.errors import ConductorError, UsageError
from conductor_protocol.manifest import Manifest, TaskSpec
from conductor_protocol.units import counted
from conductor_supervisor import control
from conductor_supervisor.generation import pools_of, schedules_of, tasks_of
from conductor_supervisor.intake import Intake
from conductor_supervisor.notify import ServiceManager
from conductor_supervisor.overrides import effective
from conductor_supervisor.processes.describe import description
from conductor_supervisor.settings import Settings, database_url
from conductor_supervisor.staff import Staff
from conductor_supervisor.work import Work
from conductor_supervisor.writes import Declare

ENDING = 5.0
"""Seconds that a child which is killed has to be gone."""

log = logging.getLogger(__name__)


class Description:
    """One attempt to read what the code declares now."""

    def __init__(self, app: str, paths: Sequence[str], timeout: float, mark: str) -> None:
        """
        Start the child. Raises OSError if the system does not give a process.

        :param timeout: seconds that the app may take to import.
        :param mark: by which what the child has started can be found.
        """
        self._inquiry = description(app, paths, mark)
        self.pid = self._inquiry.pid
        self._outcome: Manifest | ConductorError | None = None
        self._thread = threading.Thread(target=self._wait, args=(timeout,), name="reload", daemon=True)
        self._thread.start()

    def outcome(self) -> Manifest | ConductorError | None:
        """Return what the app declares, or why it cannot be read; None: not known yet."""
        return self._outcome

    def close(self) -> None:
        """End the child if it is still alive, and the thread."""
        self._inquiry.end()
        self._thread.join(ENDING)
        self._inquiry.__exit__(None, None, None)

    def _wait(self, timeout: float) -> None:
        try:
            self._outcome = self._inquiry.answer(timeout)
        except ConductorError as error:
            self._outcome = error


class Reloading:
    """Takes newer code over. Owned by the loop thread."""

    def __init__(
        self,
        work: Work,
        intake: Intake,
        staff: Staff,
        settings: Settings,
        manifest: Manifest,
        paths: Sequence[str],
        manager: ServiceManager,
    ) -> None:
        """
        :param paths: folders that are put before the import path.
        :param manager: hears that we reload, and that it is over.
        """
        self._manager = manager
        self._work = work
        self._intake = intake
        self._staff = staff
        self._settings = settings
        self._paths = paths
        self.manifest = manifest
        """What the code that runs now declares."""
        self.read_settings: Callable[[], Settings] = lambda: settings
        """Reads the settings anew: what they say of tasks counts."""
        self._wanted = False
        self._description: Description | None = None
        self._askers: list[bytes] = []
        """Who waits to hear how it went."""

    def want(self, asker: bytes | None = None) -> None:
        """Begin soon. A signal's handler may call this.

        :param asker: the identity to answer.
        """
        self._wanted = True
        if asker is not None:
            self._askers.append(asker)

    def begin_if_wanted(self) -> None:
        """Have the code described anew; what runs meanwhile is not disturbed."""
        if not self._wanted or self._description is not None:
            return  # a wish stays: when this one is over, the code may be newer still
        self._wanted = False
        if self._work.draining:
            self._keep_old_code("the supervisor is shutting down")
            return
        log.info("reloading %s", self.manifest.app)
        self._manager.reloading()
        try:
            self._description = Description(
                self.manifest.app, self._paths, self._settings.import_timeout, self._staff.describing
            )
        except OSError as error:
            self._keep_old_code(f"a process cannot be started: {error}")
        else:
            self._staff.spare(self._description.pid)

    def go_on(self) -> None:
        """Act on what the child has answered, if it has."""
        outcome = self._description.outcome() if self._description is not None else None
        if outcome is None:
            return
        self._end_description()
        if isinstance(outcome, ConductorError):
            self._keep_old_code(str(outcome))
            return
        try:
            settings = self.read_settings()
            if database_url(settings, outcome) != database_url(self._settings, self.manifest):
                raise UsageError("it names another database; that needs a restart")
            specs = effective(outcome, settings)
        except ConductorError as error:
            self._keep_old_code(str(error))
            return
        then = partial(self._take_over, outcome, specs, settings)
        self._work.journal.submit(Declare(specs, then, self._keep_old_code))

    def give_up(self) -> None:
        """End what is under way: the supervisor shuts down."""
        if self._description is not None:
            self._end_description()
            self._keep_old_code("the supervisor is shutting down")

    def _take_over(self, manifest: Manifest, specs: Sequence[TaskSpec], settings: Settings) -> None:
        """Run by the new code from here on, in new runners; the old ones finish what they run beside them."""
        if self._work.draining:
            self._keep_old_code("the supervisor is shutting down")
            return
        zone = settings.timezone or manifest.timezone
        known = tasks_of(specs, zone, self._settings)
        self.manifest = manifest
        self._work.roster.set_pools(pools_of(self._settings, known.values()))
        retiring = self._staff.retire_all()
        self._work.adopt(known)
        self._intake.adopt(schedules_of(specs, zone, self._work.clock.now()))
        self._staff.fill()
        log.info(
            "reloaded: %s; still at work with the old code: %s",
            counted(len(known), "task"),
            counted(retiring, "runner"),
        )
        self._manager.status(f"running {manifest.app} with {counted(len(known), 'task')}, reloaded")
        self._answer(control.Reloaded(len(known), retiring))

    def _keep_old_code(self, why: str) -> None:
        log.error("the new code is not taken over, the old goes on: %s", why)
        self._manager.status(f"the last reload failed, the old code goes on: {why}")
        self._answer(control.Rejected(why))

    def _answer(self, reply: control.Reply) -> None:
        self._manager.reloaded()
        while self._askers:
            self._work.router.answer(self._askers.pop(), reply)

    def _end_description(self) -> None:
        if self._description is not None:
            self._description.close()
            self._staff.unspare(self._description.pid)
            self._staff.end_leftovers_of_describing()
            self._description = None
