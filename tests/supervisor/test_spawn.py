"""Runners' processes: born with a secret, tied to a lifeline, ended with all that they started, reaped."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from conductor_protocol.marks import Speaker
from conductor_protocol.operations import Stream
from conductor_supervisor.processes.spawn import Child, Exit

PATIENCE = 20.0
"""Seconds to wait for what must come."""

PRELUDE = """
import json, os, signal, subprocess, sys
birth = os.fdopen(int(os.environ["CONDUCTOR_BIRTH_FD"]), "rb")
told = json.loads(birth.readline())
def say(what):
    print(json.dumps(what), flush=True)
"""

Start = Callable[[str], Child]


class KeepsLines:
    """Listens to a child that marks nothing."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def running(self) -> None:
        return None

    def heard(self, stream: Stream, speaker: Speaker | None, data: bytes) -> None:
        """The lines are enough."""

    def line(self, stream: Stream, speaker: Speaker | None, line: str) -> None:
        self.lines.append((stream, line))


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts children that run a script in the place of a runner's code."""
    package = tmp_path / "conductor"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # where Python looks before the real package
    children: list[Child] = []

    def start(script: str) -> Child:
        (package / "child.py").write_text(PRELUDE + textwrap.dedent(script))
        listener = KeepsLines()
        child = Child(
            len(children) + 1,
            app="shop:app",
            paths=["/shop"],
            endpoint="ipc:///shop/runners",
            folder=tmp_path,
            listener=listener,
        )
        child.lines = listener.lines  # type: ignore[attr-defined]
        children.append(child)
        return child

    yield start
    for child in children:
        if child._process.returncode is None:
            child.signal_group(signal.SIGKILL)
            death(child)
        if not child.stdout.closed:
            child.close()


def said(child: Child) -> object:
    """Wait for one line of a child's and return what it says."""
    lines = child.lines  # type: ignore[attr-defined]
    while not lines:
        assert select.select([child.stdout], [], [], PATIENCE)[0], "the child says nothing"
        child.stdout.read()
    return json.loads(lines.pop(0)[1])


def death(child: Child) -> Exit:
    """Wait for a child's end and reap it."""
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    ended = child.reap()
    assert ended is not None
    return ended


def test_a_child_is_told_who_it_is_but_not_on_its_command_line(start: Start) -> None:
    """What stands there, every user of the machine may read."""
    child = start("say([told, sys.orig_argv, dict(os.environ)])")
    told, arguments, environment = said(child)  # type: ignore[misc]
    assert (told["runner"], told["app"], told["paths"]) == (1, "shop:app", ["/shop"])
    assert told["endpoint"] == "ipc:///shop/runners"
    secret = told["secret"]
    assert secret not in str(arguments) + str(environment)
    assert Path(told["recorder"]).exists()


def test_no_two_children_have_the_same_secret(start: Start) -> None:
    """It is what they are known by."""
    assert start("").secret != start("").secret


def test_a_child_that_lives_is_not_reaped(start: Start) -> None:
    """Asking does not wait."""
    child = start("birth.read()")
    assert child.reap() is None


@pytest.mark.parametrize(
    ("end", "returncode"),
    [("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV), ("", 0)],
)
def test_a_dead_child_is_reaped_with_its_status_and_what_it_used(
    start: Start, end: str, returncode: int
) -> None:
    """As ``subprocess`` says it, with memory in bytes and time in seconds."""
    ended = death(start(end))
    assert ended.returncode == returncode
    assert 1_000_000 < ended.peak_memory < 1_000_000_000
    assert 0 < ended.cpu_seconds < 60


def test_what_it_printed_last_is_there_after_its_death(start: Start) -> None:
    """On both streams, told apart."""
    child = start("print('out'); print('err', file=sys.stderr)")
    death(child)
    child.stdout.read_to_end()
    child.stderr.read_to_end()
    assert (child.stdout.tail(), child.stderr.tail()) == ("out\n", "err\n")


def test_a_signal_reaches_all_that_a_child_has_started(start: Start) -> None:
    """It leads a process group."""
    child = start(
        """
        other = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        say(other.pid)
        signal.pause()
        """
    )
    other = psutil.Process(int(said(child)))  # type: ignore[call-overload]
    child.signal_group(signal.SIGKILL)
    assert death(child).returncode == -signal.SIGKILL
    psutil.wait_procs([other], timeout=PATIENCE)
    assert not other.is_running() or other.status() == psutil.STATUS_ZOMBIE


def test_what_a_dead_child_left_behind_ends_with_it(start: Start) -> None:
    """And nothing of it stays in the folder."""
    child = start(
        """
        other = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        say([other.pid, told["recorder"]])
        os._exit(0)
        """
    )
    pid, recorder = said(child)  # type: ignore[misc]
    other = psutil.Process(pid)
    death(child)
    child.close()
    psutil.wait_procs([other], timeout=PATIENCE)
    assert not other.is_running() or other.status() == psutil.STATUS_ZOMBIE
    assert not Path(recorder).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel does that")
@pytest.mark.parametrize("stopped", [False, True])
def test_the_kernel_ends_what_a_child_has_started_when_it_dies(start: Start, stopped: bool) -> None:
    """Nobody needs to notice the death for that; and the child's own end is told as it was."""
    child = start(
        """
        other = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
        say(other.pid)
        signal.pause()
        """
    )
    other = psutil.Process(int(said(child)))  # type: ignore[call-overload]
    child.bind_group()
    if stopped:
        other.suspend()
    os.kill(child.pid, signal.SIGTERM)
    psutil.wait_procs([other], timeout=PATIENCE)
    assert not other.is_running() or other.status() == psutil.STATUS_ZOMBIE
    assert death(child).returncode == 3


def test_the_lifeline_ends_when_we_let_go(start: Start) -> None:
    """By that a child learns that its supervisor is gone."""
    child = start(
        """
        say("waiting")
        birth.read()
        say("alone")
        """
    )
    assert said(child) == "waiting"
    os.close(child._ends.lifeline)
    assert said(child) == "alone"
    assert death(child).returncode == 0
    child._ends.lifeline = os.open(os.devnull, os.O_RDONLY)  # for ``close``


def test_a_signal_to_nobody_is_no_error(start: Start) -> None:
    """The group may have died meanwhile."""
    child = start("")
    death(child)
    child.signal_group(signal.SIGTERM)


def test_a_child_that_cannot_be_started_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again and again; each try must give back what it took."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(OSError, match="nowhere"):
        Child(1, app="shop:app", paths=[], endpoint="", folder=tmp_path, listener=KeepsLines())
    assert len(list(Path("/dev/fd").iterdir())) == before
    assert list(tmp_path.iterdir()) == []
