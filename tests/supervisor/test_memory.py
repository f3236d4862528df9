"""What the system tells of memory: how much a family of processes uses, and whom the kernel has killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conductor_supervisor.processes.memory import family, resident, resident_with_children
from conductor_supervisor.processes.oom import OutOfMemoryKills

LINE = {"memory.events": "low 0\noom 3\noom_kill {}\n", "memory.oom_control": "under_oom 0\noom_kill {}\n"}


def test_children_and_their_children_count() -> None:
    """A process, its child and its grandchild, who each wait for the end of their stdin."""
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen(
        [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = family(process.pid)
        assert pids[0] == process.pid
        assert len(pids) == 2
        assert resident_with_children(process.pid) > resident(process.pid) > 1 << 20
        process.communicate(b"\n")
    assert resident_with_children(process.pid) == 0
    assert os.getpid() in family(os.getppid())


@pytest.mark.parametrize(
    ("cgroup", "file"),
    [
        ("0::/app\n", "app/memory.events"),
        ("9:name=systemd:/\n4:cpu,memory:/app\n0::/\n", "memory/app/memory.oom_control"),
    ],
    ids=["v2", "v1"],
)
def test_a_kill_is_seen_once(tmp_path: Path, cgroup: str, file: str) -> None:
    """The kernel's count grows; both layouts of control groups."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(cgroup)
    (tmp_path / "vmstat").write_text("nr_free_pages 1\noom_kill 7\n")
    events = tmp_path / "cg" / file
    events.parent.mkdir(parents=True)
    events.write_text(LINE[events.name].format(2))
    kills = OutOfMemoryKills(tmp_path, tmp_path / "cg")
    assert not kills.happened()
    events.write_text(LINE[events.name].format(3))
    assert kills.happened()
    assert not kills.happened()
    (tmp_path / "vmstat").write_text("nr_free_pages 1\noom_kill 8\n")
    assert not kills.happened()  # somebody else's


def test_a_system_that_does_not_tell_has_killed_nobody(tmp_path: Path) -> None:
    """No proc file system, no control groups."""
    assert not OutOfMemoryKills(tmp_path / "proc", tmp_path / "cg").happened()
