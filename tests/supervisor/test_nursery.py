"""Fresh runners: forked by a template that has imported the app, adopted, and replaced when it fails.

With real templates; the runners that they fork wait for their birth, which never comes.
"""

from __future__ import annotations

import logging
import os
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import zmq

from conductor_protocol.marks import Speaker
from conductor_protocol.operations import Stream
from conductor_supervisor import nursery as module
from conductor_supervisor.nursery import Nursery
from conductor_supervisor.processes.leftovers import Leftovers, adopt_orphans, is_child
from conductor_supervisor.processes.output import Outputs
from conductor_supervisor.processes.spawn import Ends, Exit
from conductor_supervisor.processes.template import Template
from conductor_supervisor.roster import Pool, Roster, Slot

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux has templates")

PATIENCE = 30.0
"""Seconds to wait for what must come."""


class Born(NamedTuple):
    slot: Slot
    ends: Ends
    pid: int
    ended: Exit | None


class Ward:
    """A nursery, and a loop that reads what it reads."""

    def __init__(self, folder: Path, *, adopting: bool = True) -> None:
        self.roster = Roster({Pool(isolation="fresh"): 2})
        self.sources = Outputs()
        self.born: list[Born] = []
        self.unborn: list[str] = []
        self.printed: list[str] = []
        self.readied = 0
        self._others = psutil.Process().children()
        """Helpers of tests before us in this process, which live on."""
        self.leftovers = Leftovers()
        self.nursery = Nursery(
            self.roster,
            folder,
            self.sources,
            self.leftovers,
            import_timeout=PATIENCE,
            adopting=adopting,
            start=partial(
                Template,
                app=f"{folder}/tasks.py:app",
                paths=[],
                endpoint="",
                folder=folder,
                listener=self,
            ),
            ready=self._ready,
            born=lambda *born: self.born.append(Born(*born)),
            unborn=lambda _, why: self.unborn.append(why),
        )

    def running(self) -> None:
        """Listen to the template: nobody runs in it."""

    def heard(self, stream: Stream, speaker: Speaker | None, data: bytes) -> None:
        """Only lines are kept."""

    def line(self, stream: Stream, speaker: Speaker | None, line: str) -> None:
        self.printed.append(line)

    def _ready(self) -> None:
        self.readied += 1

    def read(self) -> None:
        poller = zmq.Poller()
        for descriptor in self.sources.descriptors():
            poller.register(descriptor, zmq.POLLIN)
        poller.poll(10)
        self.sources.read(1.0)

    def turn(self) -> None:
        self.read()
        self.nursery.reap()
        self.nursery.watch()

    def until(self, fact: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not fact():
            assert time.monotonic() < deadline, f"never came true: {what}; printed: {self.printed}"
            self.turn()

    def until_ready(self) -> None:
        """Start a template and wait until it is ready, or says that it cannot be."""
        self.nursery.keep_template()
        before = self.readied
        self.until(lambda: self.readied > before, "the template is ready")

    def bear(self, slot: int = 0) -> Born:
        """Have a runner forked for a slot."""
        assert self.nursery.takes(self.roster.slots[slot])
        before = len(self.born)
        self.until(lambda: len(self.born) > before, "a runner is born")
        return self.born[-1]

    def children(self) -> list[psutil.Process]:
        """Return the children that we have by this test."""
        return [child for child in psutil.Process().children() if child not in self._others]

    @property
    def template(self) -> psutil.Process:
        template = self.nursery._template
        assert template is not None
        return psutil.Process(template.child.pid)

    def end(self) -> None:
        self.nursery.close()
        for born in self.born:
            born.ends.give_up()
        self.until(lambda: self.nursery.empty, "the template is reaped")


@pytest.fixture
def app(tmp_path: Path) -> Callable[[str], None]:
    """Writes an app."""

    def write(source: str) -> None:
        prelude = "import os, sys, threading, time\nfrom conductor import Conductor\napp = Conductor()\n"
        (tmp_path / "tasks.py").write_text(prelude + textwrap.dedent(source))

    write("")
    return write


@pytest.fixture
def ward(tmp_path: Path, app: Callable[[str], None]) -> Iterator[Ward]:
    assert adopt_orphans()
    ward = Ward(tmp_path)
    yield ward
    ward.end()
    deadline = time.monotonic() + PATIENCE
    while ward.children():
        assert time.monotonic() < deadline, "a child is left"
        ward.leftovers.reap(())
    adopt_orphans(False)


def test_a_forked_runner_is_our_child_in_a_group_of_its_own(ward: Ward) -> None:
    """Told apart from its template by everything that is the supervisor's."""
    ward.until_ready()
    first, second = ward.bear(0), ward.bear(1)
    assert first.pid != second.pid != ward.template.pid
    assert is_child(first.pid)
    assert os.getpgid(first.pid) == first.pid
    assert (first.slot, first.ended) == (ward.roster.slots[0], None)


def test_nothing_that_is_the_templates_or_another_runners_is_open_in_a_runner(ward: Ward) -> None:
    """Else a pipe would not end with the process that it belongs to."""
    ward.until_ready()
    ward.bear(0)
    born = ward.bear(1)
    folder = Path(f"/proc/{born.pid}/fd")
    held: dict[str, str] = {}

    def few() -> bool:
        """It closes what it was born with, and may do so while we look."""
        held.clear()
        with suppress(FileNotFoundError):
            held.update((entry.name, str(entry.readlink())) for entry in folder.iterdir())
            return len(held) == 4
        return False

    ward.until(few, "only what it was born with is open")
    assert held["0"] == "/dev/null"
    ours = {
        str(Path(f"/proc/self/fd/{end}").readlink())
        for end in (born.ends.lifeline, born.ends.stdout, born.ends.stderr)
    }
    assert set(held.values()) == {"/dev/null", *ours}


def test_what_the_import_printed_is_printed_once(
    ward: Ward, app: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the template; also what waited in a buffer is in no runner."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    app("sys.stdout.write('half a line'); import ctypes; ctypes.CDLL(None).printf(b' and another half')")
    ward.until_ready()
    born = ward.bear()
    os.close(born.ends.lifeline)
    ward.until(lambda: not is_child(born.pid), "it has ended, by itself")
    born.ends.lifeline = os.open(os.devnull, os.O_RDONLY)  # for ``give_up``
    assert os.read(born.ends.stdout, 1000) == b""
    ward.nursery.close()
    ward.until(lambda: ward.nursery.empty, "the template is reaped")
    assert "".join(ward.printed) == "half a line and another half"


@pytest.mark.parametrize(
    ("at_import", "obstacle"),
    [
        ("threading.Thread(target=time.sleep, args=[60], name='ticker', daemon=True).start()", "ticker"),
        ("import _thread; _thread.start_new_thread(time.sleep, (60,))", "(of C code)"),
        ("import socket; pair = socket.socketpair()", "opened sockets"),
    ],
    ids=["a thread", "a thread that Python does not know", "a socket"],
)
def test_an_app_that_cannot_be_forked_is_not(
    ward: Ward, app: Callable[[str], None], caplog: pytest.LogCaptureFixture, at_import: str, obstacle: str
) -> None:
    """The reason is said once; the template is not started again."""
    app(at_import)
    ward.until_ready()
    ward.until(lambda: ward.nursery.empty, "the template has ended")
    for _ in range(3):
        ward.nursery.keep_template()
        assert not ward.nursery.takes(ward.roster.slots[0])
    assert ward.nursery.empty
    assert obstacle in ward.nursery.note
    assert [obstacle in record.getMessage() for record in caplog.records] == [True]


def test_where_orphans_are_not_handed_to_us_no_template_is_started(
    tmp_path: Path, app: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """And that is said."""
    ward = Ward(tmp_path, adopting=False)
    ward.nursery.keep_template()
    assert ward.nursery.empty
    assert not ward.nursery.takes(ward.roster.slots[0])
    assert "hand a process to another parent" in caplog.text


def test_work_waits_for_the_first_import_and_not_for_a_later_one(ward: Ward) -> None:
    """At the start nothing is faster than the template; after a failure anything is better than to wait."""
    ward.nursery.keep_template()
    assert ward.nursery.takes(ward.roster.slots[0])
    assert not ward.nursery.expecting
    ward.until_ready()
    ward.template.kill()
    ward.until(lambda: ward.nursery.empty, "it is reaped")
    assert "the template died of SIGKILL" in ward.nursery.note
    ward.nursery.keep_template()
    assert not ward.nursery.empty
    assert not ward.nursery.takes(ward.roster.slots[0])
    ward.until_ready()
    assert ward.nursery.note == ""
    assert is_child(ward.bear().pid)


def test_templates_that_keep_failing_are_started_ever_more_seldom(
    ward: Ward, app: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The reason is in the log each time."""
    app("sys.exit(3)")
    for failures in (1, 2):
        ward.nursery.keep_template()
        ward.until(lambda: ward.nursery.empty, "it has ended")
        assert len(caplog.records) == failures
    assert "exited with status 3; next try in 1.0 s" in caplog.text
    ward.nursery.keep_template()
    assert ward.nursery.empty


def test_the_end_of_a_template_that_has_served_long_is_not_held_against_the_next(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The delays begin anew."""
    monkeypatch.setattr(module, "STEADY", 0.0)
    for _ in range(2):
        ward.until_ready()
        ward.template.kill()
        ward.until(lambda: ward.nursery.empty, "it is reaped")
    assert caplog.text.count("next try in 0 ms") == 2


def test_a_template_that_does_not_answer_is_replaced(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was asked for is not expected any longer."""
    monkeypatch.setattr(module, "ANSWER_TIMEOUT", 0.2)
    ward.until_ready()
    ward.template.suspend()
    assert ward.nursery.takes(ward.roster.slots[0])
    assert ward.nursery.expecting
    ward.until(lambda: ward.nursery.empty, "it is killed")
    assert "did not answer" in ward.nursery.note
    assert not ward.nursery.expecting
    ward.until_ready()
    assert is_child(ward.bear().pid)


def test_an_import_that_does_not_end_is_ended(ward: Ward, app: Callable[[str], None]) -> None:
    """Then fresh runners are started anew, and show whether the app can be imported."""
    ward.nursery._import_timeout = 0.2
    app("time.sleep(3600)")
    ward.nursery.keep_template()
    ward.until(lambda: ward.nursery.empty, "it is killed")
    assert "did not finish importing" in ward.nursery.note
    assert not ward.nursery.takes(ward.roster.slots[0])


@pytest.mark.parametrize(
    "broken",
    [
        "import conductor.child.template as t; t.BARE = type('', (), {'fork': staticmethod(lambda: -1)})",
        "def fork(): raise OSError(11, 'no process')\nos.fork = fork",
    ],
    ids=["the first fork", "the second fork"],
)
def test_a_runner_that_the_system_does_not_give_is_not_waited_for(
    ward: Ward, app: Callable[[str], None], broken: str
) -> None:
    """The template lives on, and can be asked again."""
    app(broken)
    ward.until_ready()
    for attempt in (1, 2):
        assert ward.nursery.takes(ward.roster.slots[0])
        ward.until(lambda attempt=attempt: len(ward.unborn) == attempt, "it is said")  # type: ignore[misc]
    assert not ward.nursery.expecting
    assert all(why.startswith("cannot be started: ") for why in ward.unborn)


def test_a_runner_that_dies_before_we_hear_of_its_birth_is_born_dead(ward: Ward) -> None:
    """Its end is known all the same; no other process can be taken for it."""
    ward.until_ready()
    assert ward.nursery.takes(ward.roster.slots[0])
    template = ward.template
    runner: list[psutil.Process] = []
    deadline = time.monotonic() + PATIENCE
    while not runner:
        assert time.monotonic() < deadline, "no runner is forked"
        runner = [child for child in ward.children() if child != template]
    runner[0].kill()
    os.waitid(os.P_PID, runner[0].pid, os.WEXITED | os.WNOWAIT)
    ward.nursery.reap()
    assert not is_child(runner[0].pid)
    ward.until(lambda: ward.born, "the answer is read")
    (born,) = ward.born
    assert born.pid == runner[0].pid
    assert born.ended is not None
    assert born.ended.returncode == -signal.SIGKILL


def test_a_runner_that_nobody_expects_any_more_ends(ward: Ward) -> None:
    """It was forked by a template that died before it could say so: its pipe closes."""
    ward.until_ready()
    born = ward.bear()
    ward.born.clear()
    born.ends.give_up()
    ward.until(lambda: not is_child(born.pid), "it has ended and is reaped")


def test_orphans_of_runners_are_reaped(ward: Ward) -> None:
    """They are our children now, and nobody else would."""
    parent = psutil.Popen(["sh", "-c", "sleep 0 & exec sleep 3600"], start_new_session=True)
    ward.nursery.reap()  # before there is one, and with one that lives
    parent.kill()
    parent.wait()
    ward.until(lambda: not ward.children(), "it is reaped")


def test_a_template_that_falls_silent_and_lives_is_ended(
    ward: Ward, app: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its import has closed what was not its own."""
    monkeypatch.setattr(module, "ANSWER_TIMEOUT", 0.2)
    app("os.closerange(3, 100); time.sleep(3600)")
    ward.nursery.keep_template()
    ward.until(lambda: ward.nursery.empty, "it is killed")
    assert "would say nothing more" in ward.nursery.note


def test_a_template_ends_when_the_supervisor_does(ward: Ward, caplog: pytest.LogCaptureFixture) -> None:
    """Its lifeline and its socket end then."""
    ward.until_ready()
    template = ward.nursery._template
    assert template is not None
    os.close(template.child._ends.lifeline)
    template.child._ends.lifeline = os.open(os.devnull, os.O_RDONLY)  # for ``close``
    ward.until(lambda: ward.nursery.empty, "it has ended")
    assert "exited with status 0" in caplog.text


@pytest.fixture(autouse=True)
def warnings_only(caplog: pytest.LogCaptureFixture) -> None:
    """Let the log hold what people see by default."""
    caplog.set_level(logging.WARNING)
