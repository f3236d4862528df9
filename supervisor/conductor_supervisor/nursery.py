"""Where fresh runners come from: a template that has imported the app and forks them.

Owned by the loop thread. Nothing waits here: we ask, and hear the answer when it comes. A template that dies,
or does not answer in time, is replaced, with growing delays. Until the next is ready, and for good where the
app cannot be forked, fresh runners are started like all others: that takes longer, but work goes on.
"""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from conductor_protocol.template import Cannot, Forked, FromTemplate, NotForked, Ready
from conductor_protocol.units import in_words
from conductor_supervisor.processes.leftovers import Leftovers, is_child
from conductor_supervisor.processes.output import Outputs
from conductor_supervisor.processes.spawn import Ends, Exit
from conductor_supervisor.processes.template import Template
from conductor_supervisor.roster import Roster, Slot
from conductor_supervisor.rules.blame import exit_in_words

ANSWER_TIMEOUT = 5.0
"""Seconds that it may take to fork."""

RESTART_DELAYS = (0.0, 1.0, 5.0, 15.0, 60.0)
"""Seconds before the next template is started, when the last ones have failed."""

STEADY = 60.0
"""Seconds after which a template's end is not held against the next."""

log = logging.getLogger(__name__)


class StartTemplate(Protocol):
    """Starts a template with a number of its own."""

    def __call__(self, number: int, *, heard: Callable[[FromTemplate | None], None]) -> Template: ...


class Birth(NamedTuple):
    """A runner that the template has been asked for."""

    slot: Slot
    ends: Ends
    asked: float
    """Monotonic."""


class Nursery:
    """Has fresh runners forked, and keeps a template for that."""

    def __init__(
        self,
        roster: Roster,
        folder: Path,
        sources: Outputs,
        leftovers: Leftovers,
        *,
        import_timeout: float,
        adopting: bool,
        start: StartTemplate,
        ready: Callable[[], None],
        born: Callable[[Slot, Ends, int, Exit | None], None],
        unborn: Callable[[Slot, str], None],
    ) -> None:
        """
        :param import_timeout: seconds that a template may take to import the app.
        :param sources: what the loop reads; a template's are put there.
        :param adopting: our descendants' orphans become our children.
        :param ready: hears that runners can be started now, forked or not.
        :param born: hears of a new runner: its slot, its ends and its pid; and how it ended, if it has been
            reaped already.
        :param unborn: hears that there will be none, and why.
        """
        self._roster = roster
        self._folder = folder
        self._sources = sources
        self._leftovers = leftovers
        self._import_timeout = import_timeout
        self._adopting = adopting
        self._start_template = start
        self._on_ready = ready
        self._born = born
        self._unborn = unborn
        self._template: Template | None = None
        self.marks: set[str] = set()
        """Of all templates so far."""
        self._ready = False
        self._since = 0.0
        """When the template was started, or became ready; monotonic."""
        self._silent_since = 0.0
        """When it closed its socket, if it did; monotonic."""
        self._killed_for = ""
        """Why we have killed it; empty: we have not."""
        self._failures = 0
        self._not_before = 0.0
        self._births: deque[Birth] = deque()
        self._ended_early: dict[int, Exit] = {}
        """By pid: children that were reaped while births were under way; they may turn out to be runners."""
        self._closed = False
        self._renewing = False
        """The template was killed for the sake of a newer one."""
        self._obstacle = ""
        """Why runners are not forked; empty: they are, or soon will be."""
        self._for_good = False
        """The obstacle will not go away."""
        if not adopting and any(slot.pool.isolation == "fresh" for slot in roster.slots):
            self._give_up_forking("this system does not hand a process to another parent")

    @property
    def expecting(self) -> bool:
        """Tell whether births are under way."""
        return bool(self._births)

    @property
    def note(self) -> str:
        """Say why fresh runners are not forked; empty if they are."""
        return self._obstacle and f"not forked: {self._obstacle}"

    @property
    def empty(self) -> bool:
        """Tell whether no process of ours is left."""
        return self._template is None

    # What the staff asks

    def keep_template(self) -> None:
        """Start a template if there should be one and its time has come."""
        if self._template is not None or self._for_good or self._closed:
            return
        if time.monotonic() < self._not_before:
            return
        try:
            template = self._start_template(self._roster.new_number(), heard=self._heard)
        except OSError as error:
            self._failed(f"cannot be started: {error}")
            return
        self._template = template
        self.marks.add(template.child.mark)
        self._ready, self._killed_for = False, ""
        self._since = time.monotonic()
        self._sources.add(template)
        for output in (template.child.stdout, template.child.stderr):
            self._sources.add(output)

    def takes(self, slot: Slot) -> bool:
        """Take over to fill a slot, by and by; False if its runner must be started in the ordinary way."""
        if any(birth.slot is slot for birth in self._births):
            return True
        if self._renewing:
            return True
        if self._template is None or self._template.closed or self._killed_for or self._for_good:
            return False
        if self._ready:
            return self._ask(slot, self._template)
        importing = not self._failures
        if importing:
            slot.note = "waits for the import of the app"
        return importing

    def _ask(self, slot: Slot, template: Template) -> bool:
        try:
            ends = Ends(self._roster.new_number(), self._folder)
        except OSError as error:
            self._unborn(slot, f"cannot be started: {error}")
            return True
        try:
            asked = template.ask(ends.theirs)
        except OSError:
            ends.give_up()
            self._kill("takes no requests")
            return False
        finally:
            ends.let_go_of_theirs()
        if asked:
            self._births.append(Birth(slot, ends, time.monotonic()))
        else:
            ends.give_up()
        return True

    def watch(self) -> None:
        """End a template that takes too long."""
        now = time.monotonic()
        if self._template is None:
            return
        if not self._ready and not self._for_good and now - self._since > self._import_timeout:
            self._kill(f"did not finish importing the app within {in_words(self._import_timeout)}")
        elif self._template.closed and now - self._silent_since > ANSWER_TIMEOUT:
            self._kill("would say nothing more, and did not end")
        elif self._births and now - self._births[0].asked > ANSWER_TIMEOUT:
            self._kill(f"did not answer within {in_words(ANSWER_TIMEOUT)}")

    def reap(self) -> None:
        """Notice the template's end, and reap children that nobody knows. Runners have been reaped before."""
        template = self._template
        ended = template.child.reap() if template is not None else None
        if template is not None and ended is not None:
            self._bury(template, ended)
        strays = self._leftovers.reap(self.our_children())
        if self._births:
            self._ended_early |= strays

    def our_children(self) -> set[int]:
        """Return the processes that we have started: runners, and their template."""
        ours = {runner.child.pid for runner in self._roster.runners.values()}
        return ours if self._template is None else ours | {self._template.child.pid}

    def renew(self) -> None:
        """Have the next runners forked from a template that has imported the code of now."""
        self._failures = 0
        self._not_before = 0.0
        if self._adopting:
            self._for_good, self._obstacle = False, ""
        if self._template is not None:
            self._renewing = True
            self._template.child.signal_group(signal.SIGKILL)

    def close(self) -> None:
        """End the template, and expect no births; :attr:`empty` tells when it has been reaped."""
        self._closed = True
        self._drop_births()
        if self._template is not None:
            self._template.child.signal_group(signal.SIGKILL)

    # What the template says

    def _heard(self, message: FromTemplate | None) -> None:
        match message:
            case Ready() if not self._ready:
                self._ready = True
                self._since = time.monotonic()
                self._obstacle = ""
                log.debug("the template of fresh runners is ready")
                self._on_ready()
            case Cannot():
                self._give_up_forking(message.reason)
                self._on_ready()
            case Forked() if self._births:
                self._deliver(self._births.popleft(), message.pid)
            case NotForked() if self._births:
                birth = self._births.popleft()
                birth.ends.give_up()
                self._unborn(birth.slot, f"cannot be started: {message.reason}")
            case None if self._template is not None:
                self._silent_since = time.monotonic()  # it is about to end by itself, or else must be ended
            case Ready() | Forked() | NotForked():
                self._kill(f"said {type(message).__name__} unasked")

    def _deliver(self, birth: Birth, pid: int) -> None:
        ended = self._ended_early.pop(pid, None)
        if ended is None and not is_child(pid):
            birth.ends.give_up()
            self._kill(f"named process {pid}, which is no child of the supervisor's")
            return
        if not self._births:
            self._ended_early.clear()
        self._born(birth.slot, birth.ends, pid, ended)

    # When there is no template

    def _give_up_forking(self, reason: str) -> None:
        self._for_good = True
        self._obstacle = reason
        log.warning("fresh runners are started anew instead of forked, which takes longer: %s", reason)

    def _kill(self, what: str) -> None:
        """End the template: it failed. What follows is done when it is reaped."""
        if self._template is not None and not self._killed_for:
            self._killed_for = what
            self._template.child.signal_group(signal.SIGKILL)

    def _bury(self, template: Template, ended: Exit) -> None:
        outputs = (template.child.stdout, template.child.stderr)
        for source in (template, *outputs):
            if not source.closed:  # else its descriptor may be another's by now
                self._sources.remove(source)
        while template.read():
            pass
        for output in outputs:
            output.read_to_end()
        template.close()
        self._leftovers.end(template.child.mark, self.our_children())
        self._template = None
        self._drop_births()
        if self._renewing:
            self._renewing = False
        elif not self._closed and not self._for_good:
            self._failed(self._killed_for or exit_in_words(ended.returncode))

    def _drop_births(self) -> None:
        """Nobody answers any more. A runner that was forked all the same ends, for its pipe closes."""
        for birth in self._births:
            birth.ends.give_up()
        self._births.clear()
        self._ended_early.clear()

    def _failed(self, what: str) -> None:
        now = time.monotonic()
        if self._ready and now - self._since > STEADY:
            self._failures = 0
        delay = RESTART_DELAYS[min(self._failures, len(RESTART_DELAYS) - 1)]
        self._failures += 1
        self._not_before = now + delay
        self._obstacle = f"the template {what}"
        log.warning(
            "the template of fresh runners %s; next try in %s, and until it is ready they are started anew",
            what,
            in_words(delay),
        )
