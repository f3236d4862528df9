"""``top``: what runs where, from the supervisor's own look; live on a terminal, once into a pipe."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from workplace import PretendSupervisor, Workplace, status

from conductor_protocol.manifest import TaskSpec
from conductor_protocol.units import moment
from conductor_supervisor import control
from conductor_supervisor.cli.operate import StatusView, SupervisorView
from conductor_supervisor.cli.top import Look, load
from harness import PATIENCE, Project

TASKS = """
import subprocess

@app.task
def spin(event, ctx):
    ctx.progress(1, 4, "spinning")
    ctx.step("burn", burn)

def burn():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        wait_for("go")
        child.kill()

@app.task
def quick(event, ctx):
    return 1
"""


def runner(number: int, pid: int | None, cpu: float | None) -> control.RunnerStatus:
    return control.RunnerStatus(
        number=number, pid=pid, queue="default", state="busy", memory=1, cpu_seconds=cpu
    )


def looked(at: float, *runners: control.RunnerStatus, pid: int = 9, cpu: float = 0, ended: int = 0) -> Look:
    """Return a look at a supervisor."""
    supervisor = SupervisorView(
        pid=pid,
        app="a:b",
        state="running",
        started=moment(0),
        memory=1,
        cpu_seconds=cpu,
        ended=ended,
        runners=list(runners),
    )
    return Look(
        at, StatusView(database="", supervisor=supervisor, silent=None, counts={}, paused=[], waiting=[])
    )


def test_what_is_used_in_a_second_is_found_between_two_looks() -> None:
    """By runner process: one that is new has not been looked at before; no percentage is below zero."""
    before = looked(10, runner(1, 11, 5.0), runner(2, 12, 7.0), runner(3, 13, 9.0), cpu=1.0, ended=100)
    now = looked(14, runner(1, 11, 9.0), runner(2, 22, 1.0), runner(3, 13, 8.0), cpu=1.2, ended=110)
    found = load(before, now)
    assert found is not None
    assert found.runners == {1: 100.0, 3: 0.0}
    assert (round(found.supervisor, 6), found.ended) == (5.0, 2.5)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (None, looked(1)),
        (looked(1, pid=1), looked(2, pid=2)),
        (
            Look(1, StatusView(database="", supervisor=None, silent=None, counts={}, paused=[], waiting=[])),
            looked(2),
        ),
    ],
    ids=["first look", "another supervisor", "none before"],
)
def test_of_another_supervisor_nothing_is_said(before: Look | None, now: Look) -> None:
    assert load(before, now) is None


def test_the_difference_is_that_of_a_supervisors_answers(workplace: Workplace) -> None:
    """Once, with everything that a runner's row has."""
    workplace.declare(TaskSpec("resize"))
    workplace.insert("resize", count=2)
    busy = control.RunnerStatus(
        number=1,
        pid=12,
        queue="default",
        state="busy",
        execution="01" * 18,
        task="resize",
        step="scale",
        seconds=3.25,
        step_seconds=1.5,
        memory=80 * 1024 * 1024,
        cpu_seconds=3.0,
        done=41,
        total=100,
        message="scaling",
    )
    dead = control.RunnerStatus(
        number=2, pid=None, queue="media", state="waiting", note="again in 2 s", restarts=3
    )
    with PretendSupervisor(workplace.runtime, lambda _: status([busy, dead])):
        shown = workplace.run("top", "--once").stdout
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert rows[0].startswith("supervisor running shop:app, process 4711, for ")
    assert rows[0].endswith("50 MiB, 0% of a processor, 0.0 attempts/s ended")
    assert f"1 12 default busy resize {'01' * 18} 3.2 s 1.5 s scale 0% 80 MiB 41/100 (41%) scaling" in rows
    assert "2 media waiting 3 again in 2 s" in rows
    assert rows[-2:] == ["TASK READY", "resize 2"]


def test_without_a_supervisor_once_fails(workplace: Workplace) -> None:
    """In a pipe, with --once and with --json alike; a wrong interval is wrong use."""
    workplace.run("migrate")
    for arguments in ([], ["--once"], ["--json"]):
        assert "no supervisor is running here" in workplace.error("top", *arguments, status=1)
    assert "--interval: expected at least 0.1 seconds, got '0'" in workplace.error(
        "top", "--interval", "0", status=2
    )
    assert "--interval: expected a duration" in workplace.error("top", "--interval", "soon", status=2)


@pytest.fixture
def spinning(project: Project) -> Iterator[Project]:
    """A task is in a step, in which a child of its runner keeps a processor busy."""
    project.tasks(TASKS)
    project.invoke("spin")
    supervisor = project.start(runners=1)
    project.until(lambda: _first_runner(project).get("step") == "burn", "the step is seen")
    yield project
    project.let_go("go")
    assert supervisor.process.poll() is not None or supervisor.stop() == 0


def _first_runner(project: Project) -> dict[str, Any]:
    shown = project.command("status", "--json")
    supervisor = json.loads(shown.stdout)["supervisor"] if shown.returncode == 0 else None
    return supervisor["runners"][0] if supervisor is not None else {}


@pytest.mark.together
def test_a_running_step_is_seen_with_what_it_uses(spinning: Project) -> None:
    """Processor time and memory of the child that the step has started are its runner's."""
    shown: dict[str, Any] = spinning.json("top")
    (row,) = shown["status"]["supervisor"]["runners"]
    assert (row["state"], row["task"], row["step"]) == ("busy", "spin", "burn")
    assert (row["done"], row["total"], row["message"]) == (1, 4, "spinning")
    assert row["seconds"] >= row["step_seconds"] > 0
    assert shown["load"]["runners"]["1"] > 5
    assert shown["status"]["supervisor"]["cpu_seconds"] > 0
    assert shown["status"]["counts"] == {"spin": {"running": 1}}
    lines = spinning.command("top").stdout.splitlines()
    assert lines[2].split()[:2] == ["RUNNER", "PID"]
    assert " s burn " in lines[3]
    assert "1/4 (25%) spinning" in lines[3]


@pytest.mark.together
def test_attempts_that_end_are_counted(spinning: Project) -> None:
    """Since the supervisor's start."""
    spinning.let_go("go")
    for execution in spinning.invoke_many("quick", [None] * 5):
        spinning.until_state(execution, "completed")
    shown: dict[str, Any] = spinning.json("status")
    assert shown["supervisor"]["ended"] == 6


class Terminal:
    """``top`` on a terminal of its own."""

    def __init__(self, project: Project, width: int, *arguments: str) -> None:
        self._descriptor, other = pty.openpty()
        self.mode = termios.tcgetattr(other)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "conductor_supervisor", "top", "--interval", "0.1s", *arguments],
            cwd=project.folder,
            env={**project.environment, "TERM": "xterm", "COLUMNS": str(width)},
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        self._other = other

    def until_shown(self, text: str) -> None:
        """Read until this is drawn anew."""
        shown = ""
        deadline = time.monotonic() + PATIENCE
        while text not in shown:
            assert time.monotonic() < deadline, f"{text!r} was never shown, but:\n{shown[-3000:]}"
            shown += self.read(within=1.0)

    def read(self, within: float) -> str:
        """Return what has been drawn."""
        if select.select([self._descriptor], [], [], within)[0]:
            return os.read(self._descriptor, 65536).decode(errors="replace")
        return ""

    def press(self, key: str) -> None:
        """Press a key."""
        os.write(self._descriptor, key.encode())

    def wait(self) -> int:
        """Return the exit status, reading what is drawn meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "top did not end"
            self.read(within=0.1)
        return self.process.returncode

    def is_as_before(self) -> bool:
        """Tell whether the terminal's mode is what it was."""
        return termios.tcgetattr(self._other) == self.mode

    def close(self) -> None:
        """End all."""
        self.process.kill()
        self.process.wait()
        os.close(self._other)
        os.close(self._descriptor)


@contextmanager
def terminal(project: Project, width: int = 200, *arguments: str) -> Iterator[Terminal]:
    shown = Terminal(project, width, *arguments)
    try:
        yield shown
    finally:
        shown.close()


@pytest.mark.together
def test_live_it_waits_for_a_database_that_is_away(project: Project) -> None:
    """It says so at each look, and does not end."""
    with terminal(project, 200, "--database", "postgresql://postgres@127.0.0.1:1/shop") as shown:
        for _ in range(2):
            shown.until_shown("the database is away: ")
        shown.press("q")
        assert shown.wait() == 0


@pytest.mark.together
def test_live_it_outlives_the_supervisor_and_ends_with_q(spinning: Project) -> None:
    """Where the supervisor has gone it says so, and shows the next one; the terminal is left as it was."""
    with terminal(spinning) as shown:
        shown.until_shown("━━╌╌╌╌╌╌╌╌ 1/4 (25%)")
        spinning.let_go("go")
        spinning.command("stop")
        shown.until_shown("none is running here")
        supervisor = spinning.start(runners=1)
        shown.until_shown(f"process {supervisor.process.pid}")
        shown.press("q")
        assert shown.wait() == 0
        assert shown.is_as_before()
        assert supervisor.stop() == 0


@pytest.mark.together
def test_a_narrow_terminal_gets_one_line_for_each_runner(spinning: Project) -> None:
    """With the end of the id, which is enough to name the execution."""
    (execution,) = spinning.views()
    with terminal(spinning, width=80) as shown:
        shown.until_shown(f" {execution.id[-6:]}  ")
        shown.until_shown("╌…")
        shown.press("q")
        assert shown.wait() == 0


@pytest.mark.together
@pytest.mark.parametrize("end", ["Ctrl-C", "SIGTERM"])
def test_live_it_ends_cleanly(project: Project, end: str) -> None:
    """Also where there never was a supervisor."""
    project.command("migrate")
    with terminal(project) as shown:
        shown.until_shown("none is running here")
        shown.process.send_signal(signal.SIGINT if end == "Ctrl-C" else signal.SIGTERM)
        assert shown.wait() == 0
        assert shown.is_as_before()
