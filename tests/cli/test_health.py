"""``health``, and what every command says of a supervisor that does not answer."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import psutil
import pytest
from workplace import PretendSupervisor, Workplace, silent_supervisor

from conductor_supervisor import control
from conductor_supervisor.control import SupervisorState


def well(state: SupervisorState) -> control.Health:
    return control.Health(pid=4711, state=state)


@pytest.mark.parametrize(
    ("state", "status", "alive"), [("running", 0, 0), ("starting", 1, 0), ("draining", 1, 0)]
)
def test_a_supervisor_that_takes_work_is_healthy(
    workplace: Workplace, state: SupervisorState, status: int, alive: int
) -> None:
    """One that starts or drains is alive."""
    with PretendSupervisor(workplace.runtime, lambda _request: well(state)) as supervisor:
        assert workplace.run("health", status=status).stdout == f"supervisor 4711 is {state}\n"
        assert workplace.run("health", "--alive", status=alive).stdout == f"supervisor 4711 is {state}\n"
        view = workplace.json("health", status=status)
        assert (view["healthy"], view["pid"], view["state"]) == (status == 0, 4711, state)
        assert bool(view["reason"]) is (status == 1)
    assert {type(request) for request in supervisor.asked} == {control.AskHealth}


def test_where_none_is_running_none_is_healthy(workplace: Workplace) -> None:
    """And nothing is made to find that out."""
    told = workplace.run("health", status=1).stdout
    assert told.startswith(f"no supervisor is running here (runtime folder {workplace.runtime})")
    view = workplace.json("health", "--alive", status=1)
    assert (view["healthy"], view["pid"], view["state"]) == (False, None, None)
    assert not list(workplace.folder.iterdir())


def test_a_named_folder_is_enough(workplace: Workplace) -> None:
    """Neither the app nor the database is asked: neither can be read here."""
    (workplace.folder / "conductor.toml").write_text('app = "nowhere:app"\ndatabase = "odd://"\n')
    with PretendSupervisor(workplace.runtime, lambda _request: well("running")):
        assert workplace.run("health").stdout == "supervisor 4711 is running\n"


# A supervisor that does not answer


@pytest.fixture
def silent(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The pid of a supervisor that listens and does not answer."""
    monkeypatch.setattr(control, "ANSWER_TIME", 0.05)
    with silent_supervisor(workplace.runtime) as pid:
        yield pid


def test_a_silent_supervisor_is_not_healthy(workplace: Workplace, silent: int) -> None:
    """And not alive, as far as one can tell."""
    view = workplace.json("health", "--alive", status=1)
    assert (view["healthy"], view["pid"], view["state"]) == (False, silent, None)


def test_every_command_names_a_silent_supervisor(workplace: Workplace, silent: int) -> None:
    """It is there: nobody is told to start another one."""
    workplace.insert("resize")
    holds = f"process {silent} holds {workplace.runtime}/lock, but has not answered in 50 ms: it is busy"
    status = workplace.run("status", status=1)
    assert f"supervisor  not answering: {holds}" in status.stdout
    assert "resize" in status.stdout
    assert holds in workplace.error("stop", status=1)
    assert holds in workplace.error("top", "--once", status=1)
    doctor = workplace.run("doctor", status=1).stdout
    assert "problem" in doctor
    assert f"process {silent} holds" in doctor


def test_status_shows_a_silent_supervisor_as_json(workplace: Workplace, silent: int) -> None:
    """Beside the supervisor that answers, of which there is none."""
    view = workplace.json("status", status=1)
    assert view["supervisor"] is None
    assert view["silent"]["pid"] == silent
    assert f"kill -ABRT {silent}" in view["silent"]["reason"]


def test_one_that_was_stopped_is_told_from_one_that_is_busy(workplace: Workplace, silent: int) -> None:
    """What to write differs."""
    os.kill(silent, signal.SIGSTOP)
    while psutil.Process(silent).status() != psutil.STATUS_STOPPED:
        pass
    error = workplace.error("stop", status=1)
    assert error.endswith(f"something has stopped it with SIGSTOP; let it go on: kill -CONT {silent}")


@pytest.mark.parametrize(
    "frame",
    [b"garbage", b'{"type":"Status","pid":1}', b'{"type":"Newer"}', b"[" * 100_000, b'{"type":"\xff"}'],
    ids=["garbage", "half", "newer", "deep", "bytes"],
)
def test_an_answer_that_is_not_understood_is_told(frame: bytes, workplace: Workplace) -> None:
    """As of a supervisor of another version, once an upgrade has begun."""
    with PretendSupervisor(workplace.runtime, lambda _: frame):
        for command in ("health", "stop", "reload"):
            said = workplace.run(command, status=1).output
            assert "an answer that is not understood" in said
            assert "use the same version for both" in said


def test_a_lock_that_tells_nobody_is_no_traceback(workplace: Workplace, silent: int) -> None:
    """Such as one that is being written just now."""
    (workplace.runtime / "lock").write_text("")
    assert "a supervisor listens in" in workplace.error("stop", status=1)
    assert workplace.json("status", status=1)["silent"]["pid"] is None


def test_no_command_waits_in_a_queue_that_nobody_serves(workplace: Workplace, silent: int) -> None:
    """Probes that come every few seconds fill the queue of a supervisor that is stopped."""
    waiting = []
    try:
        while True:
            caller = socket.socket(socket.AF_UNIX)
            waiting.append(caller)
            caller.setblocking(False)
            caller.connect(str(workplace.runtime / control.SOCKET))
    except BlockingIOError:
        assert workplace.json("health", status=1)["pid"] == silent
    finally:
        for caller in waiting:
            caller.close()


def test_waiting_for_a_result_says_that_the_supervisor_is_silent(workplace: Workplace, silent: int) -> None:
    """The invocation is written all the same."""
    assert f"process {silent} holds" in workplace.error(
        "invoke", "resize", "--wait", "--timeout", "0.1s", status=1
    )
    assert len(workplace.ids()) == 1
