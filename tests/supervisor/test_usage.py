"""What a process uses, with all that it has started, read from the system."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from conductor_supervisor.processes.usage import Meter

PARENT = """
import subprocess, sys
pipe = subprocess.PIPE
grandchild = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=pipe, stdout=pipe)
grandchild.stdout.readline()
print("ready", flush=True)
sys.stdin.readline()
grandchild.stdin.close()
grandchild.wait()
print("waited", flush=True)
sys.stdin.readline()
"""
GRANDCHILD = """
import sys, time
while time.process_time() < 0.3:
    pass
held = b"x" * 50_000_000
print("ready", flush=True)
sys.stdin.readline()
"""
HELD = 50_000_000


@pytest.fixture
def family() -> Iterator[subprocess.Popen[str]]:
    """A process whose child has used 0.3 s of processor time and holds 50 MB."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, GRANDCHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_what_a_process_has_started_counts_as_its_own(family: subprocess.Popen[str]) -> None:
    """Its processor time also after it has ended; its memory no longer."""
    meter = Meter()
    with_child = meter.with_descendants([family.pid])[family.pid]
    assert with_child.memory > HELD
    assert with_child.cpu_seconds >= 0.3
    go_on(family)
    assert family.stdout is not None
    assert family.stdout.readline() == "waited\n"
    alone = meter.with_descendants([family.pid])[family.pid]
    assert alone.memory < with_child.memory - HELD / 2
    if sys.platform == "linux":  # macOS does not tell what children used that have ended
        assert alone.cpu_seconds >= 0.3
    assert set(meter._known) == {family.pid}


def test_one_that_has_ended_is_left_out(family: subprocess.Popen[str]) -> None:
    """Whether it has been reaped or not."""
    family.kill()
    os.waitid(os.P_PID, family.pid, os.WEXITED | os.WNOWAIT)
    assert Meter().with_descendants([family.pid]) == {}
    family.wait()
    assert Meter().with_descendants([family.pid]) == {}


def test_our_own_use_is_without_that_of_children(family: subprocess.Popen[str]) -> None:
    """A supervisor's runners are not the supervisor."""
    used = Meter().itself()
    assert used.memory > 0
    times = os.times()
    assert abs(used.cpu_seconds - (times.user + times.system)) < 1
    assert time.process_time() >= used.cpu_seconds - 0.1
