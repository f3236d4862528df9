"""What a service manager hears, by systemd's notify protocol."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from conductor_supervisor import notify
from conductor_supervisor.notify import LONGEST, ServiceManager
from fake_manager import FakeManager


@pytest.fixture(params=["path", "abstract"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeManager]:
    """A manager at each kind of address."""
    if request.param == "abstract" and not Path("/proc/net/unix").exists():
        pytest.skip("only Linux has sockets without a file")
    address = tmp_path / "n" if request.param == "path" else f"@conductor-{uuid.uuid4()}"
    with FakeManager(address) as manager:
        yield manager


def test_a_manager_is_told_the_states_in_their_order(listening: FakeManager) -> None:
    """None twice; a reload only of what is ready; nothing after the end has begun."""
    manager = ServiceManager(listening.address)
    manager.reloading()
    manager.reloaded()
    assert listening.states() == []
    manager.ready()
    manager.ready()
    manager.reloading()
    manager.reloaded()
    manager.stopping()
    manager.stopping()
    manager.reloaded()
    manager.ready()
    assert listening.states() == ["READY", "RELOADING", "READY", "STOPPING"]
    (reloading,) = (said for said in listening.heard() if "RELOADING" in said)
    assert int(reloading["MONOTONIC_USEC"]) > 0
    manager.close()


def test_a_status_is_one_line(listening: FakeManager) -> None:
    """So that a message with a traceback cannot be taken for more assignments."""
    manager = ServiceManager(listening.address)
    manager.status("the app is broken\nREADY=1")
    assert listening.heard() == [{"STATUS": "the app is broken"}]
    manager.close()


def test_of_a_long_status_the_beginning_is_said(listening: FakeManager) -> None:
    """Of a reload that failed with a long message: the signs of life go on behind it."""
    manager = ServiceManager(listening.address, watchdog=10)
    manager.status("\udcff" + "\u20ac" * 100_000)
    manager.turn(100.0)
    (said,) = listening.statuses()
    assert said == "?" + "\u20ac" * ((LONGEST - len("STATUS=?")) // 3)
    assert listening.beats() == 1
    manager.close()


def test_what_the_kernel_does_not_take_is_not_said(
    listening: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That alone: what comes behind it is."""
    monkeypatch.setattr(notify, "LONGEST", 100_000_000)
    manager = ServiceManager(listening.address, watchdog=10)
    manager.status("x" * 50_000_000)
    manager.status("running")
    manager.turn(100.0)
    assert listening.statuses() == ["running"]
    assert listening.beats() == 1
    manager.close()


def test_a_sign_of_life_is_given_twice_in_the_watchdogs_time(listening: FakeManager) -> None:
    """However often the loop turns."""
    manager = ServiceManager(listening.address, watchdog=10)
    for now in (100.0, 101.0, 104.9, 105.0, 109.0, 110.5):
        manager.turn(now)
    assert listening.beats() == 3
    assert manager.seconds_to_turn(111.5) == 4.0
    manager.close()


def test_nothing_is_lost_to_a_manager_that_is_busy(tmp_path: Path) -> None:
    """And the loop does not wait for it."""
    with FakeManager(tmp_path / "n") as listening:
        manager = ServiceManager(listening.address, watchdog=10)
        for number in range(2000):
            manager.status(f"sentence {number}")
        manager.ready()
        manager.turn(100.0)
        while len(listening.statuses()) < 2000:
            manager.turn(100.0)
        assert listening.statuses() == [f"sentence {number}" for number in range(2000)]
        assert listening.states() == ["READY"]
        manager.turn(100.0)
        assert listening.beats() == 1
        manager.close()


def test_a_manager_that_is_gone_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its absence does not stop our work."""
    manager = ServiceManager(str(tmp_path / "nobody"), watchdog=10)
    manager.ready()
    manager.status("running")
    manager.turn(100.0)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "is not told any more: [Errno 2]" in caplog.text


def test_without_a_manager_nothing_is_said() -> None:
    """As when a person starts it."""
    manager = ServiceManager.of({})
    manager.ready()
    manager.turn(100.0)
    assert manager.seconds_to_turn(100.0) == float("inf")


@pytest.mark.parametrize(
    ("given", "beats"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getppid())}, float("inf")),
        ({"WATCHDOG_USEC": "soon"}, float("inf")),
        ({"WATCHDOG_USEC": "0"}, float("inf")),
        ({}, float("inf")),
    ],
    ids=["ours", "ours by pid", "another's", "not a number", "zero", "none"],
)
def test_the_environment_tells_who_wants_to_hear_what(
    given: dict[str, str], beats: float, tmp_path: Path
) -> None:
    """And is cleared of it, so that no child may speak for us."""
    with FakeManager(tmp_path / "n") as listening:
        environment = {"HOME": "/", "NOTIFY_SOCKET": listening.address, **given}
        manager = ServiceManager.of(environment)
        assert environment == {"HOME": "/"}
        manager.turn(100.0)
        assert manager.seconds_to_turn(100.0) == beats
        assert listening.beats() == (beats != float("inf"))
        manager.close()


def test_an_address_of_another_kind_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """Such as one of a virtual machine's host."""
    manager = ServiceManager.of({"NOTIFY_SOCKET": "vsock:2:1234"})
    manager.ready()
    assert "expected a path or an abstract name, got 'vsock:2:1234'" in caplog.text


def test_the_socket_is_not_inherited(listening: FakeManager) -> None:
    """A descriptor that runners had would be a voice."""
    manager = ServiceManager(listening.address)
    assert isinstance(manager._socket, socket.socket)
    assert not manager._socket.get_inheritable()
    manager.close()
