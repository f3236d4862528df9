"""A runner that its supervisor tells nothing more ends by itself, whatever it does."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from fake_supervisor import FakeSupervisor

from conductor_protocol import messages as m
from conductor_protocol.uptime import uptime

APP = Path(__file__).with_name("deadman_app.py")

SOON = 0.5
"""Seconds until the end of a runner that is to die."""

LATER = 3.0
"""The same of one that must hear or do something before."""

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a timer")

Start = Callable[..., FakeSupervisor]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start runners of the app, or of its like on another system."""
    with ExitStack() as stack:

        def start_runner(attribute: str = "app") -> FakeSupervisor:
            runner = stack.enter_context(FakeSupervisor(tmp_path, f"{APP}:{attribute}"))
            while not runner.has_said_hello:  # so that no time passes between a moment named and its hearing
                runner.receive()
            return runner

        yield start_runner


def stop(runner: FakeSupervisor) -> None:
    """Stop it, as Ctrl-Z does, once it works."""
    runner.assign("echo")
    runner.hear(m.Finished)
    os.kill(runner.process.pid, signal.SIGSTOP)
    process = psutil.Process(runner.process.pid)
    runner.wait_for(lambda: process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE))


def gone(process: psutil.Process) -> bool:
    """Tell whether a process has ended, reaped or not."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_runner_that_hears_nothing_more_ends(start: Start) -> None:
    """Also with nothing in hand."""
    runner = start().welcome(live_until=uptime() + SOON)
    assert runner.wait() == -signal.SIGKILL


def test_a_runner_that_is_let_in_too_late_ends(start: Start) -> None:
    """The word lay in the socket until it was worth nothing."""
    runner = start().welcome(live_until=uptime() - SOON)
    assert runner.wait() == -signal.SIGKILL


@only_linux
@pytest.mark.parametrize("task", ["holds-the-interpreter", "heeds-no-signal"])
def test_no_handler_can_prevent_it(start: Start, task: str) -> None:
    """Neither C code that holds the GIL, nor one that ignores and blocks every signal."""
    until = uptime() + SOON
    runner = start().welcome(live_until=until)
    runner.assign(task)
    assert runner.wait() == -signal.SIGKILL


@only_linux
def test_a_stopped_runner_ends(start: Start) -> None:
    """Words that come while it is stopped do not reach it."""
    runner = start().welcome(live_until=uptime() + LATER)
    stop(runner)
    runner.say(m.LiveOn(uptime() + 600), channel="control")
    assert runner.wait() == -signal.SIGKILL


def test_a_word_puts_it_off(start: Start) -> None:
    """When the first moment has passed, the runner lives and works; an older word takes nothing away."""
    first = uptime() + LATER
    runner = start().welcome(live_until=first)
    runner.say(m.LiveOn(first + 600), m.LiveOn(first), channel="control")
    runner.wait_for(lambda: uptime() > first)
    runner.assign("echo", b"1")
    assert runner.hear(m.Finished).result == b"1"


def test_a_runner_that_has_said_goodbye_may_end_in_peace(start: Start) -> None:
    """Its exit handlers outlive the moment: nothing is in its hands that others could begin."""
    moment = uptime() + LATER
    runner = start().welcome(live_until=moment)
    runner.assign("ends-late", json.dumps(moment).encode())
    runner.hear(m.Finished)
    assert runner.stop() == 0
    assert (runner.folder / "touched").exists()


def test_without_a_timer_of_the_kernel_the_control_thread_ends_runner_and_group(start: Start) -> None:
    """It does as well as it can."""
    first = uptime() + LATER
    runner = start("on_another_system").welcome(live_until=first)
    runner.say(m.LiveOn(first + LATER), channel="control")
    runner.assign("starts-a-process")
    child = psutil.Process(json.loads(runner.hear(m.Finished).result))
    assert runner.wait() == -signal.SIGKILL
    assert uptime() > first + LATER
    runner.wait_for(lambda: gone(child))
