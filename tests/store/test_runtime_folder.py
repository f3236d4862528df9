"""The runtime folder is private and short, its lock has one holder, and a poke never hurts."""

from __future__ import annotations

import os
import select
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from conductor_protocol.errors import UsageError
from conductor_supervisor import control
from conductor_supervisor.errors import AlreadyRunning, NotRunning, SupervisorError
from conductor_supervisor.runtime import (
    LONGEST_SOCKET_NAME,
    Lock,
    PokeSocket,
    database_lock,
    find_runtime_folder,
    folder_lock,
    poke,
    runtime_folder,
)


@pytest.fixture
def session(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A session's runtime directory."""
    folder = tmp_path_factory.mktemp("s")
    folder.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


def test_each_database_has_its_folder(session: Path, tmp_path: Path) -> None:
    """The same however its URL is written, and only its owner may look inside."""
    folder = runtime_folder(f"sqlite:///{tmp_path}/a.db")
    assert folder.parent == session / "conductor"
    assert len(folder.name) == 16
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent)] == [0o700, 0o700]
    assert runtime_folder(f"sqlite:///{tmp_path}/./a.db") == folder
    assert runtime_folder(f"sqlite:///{tmp_path}/b.db") != folder


def test_a_deep_session_folder_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets need short paths, so /tmp serves; and so it does without a session."""
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    for value in (str(deep), "", str(tmp_path / "none")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        folder = find_runtime_folder(f"sqlite:///{tmp_path}/a.db")
        assert folder.parent == Path(f"/tmp/conductor-{os.getuid()}")
        assert len(str(folder)) + 1 + LONGEST_SOCKET_NAME <= 103


def test_a_named_folder_is_made(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Private, too."""
    folder = tmp_path_factory.mktemp("n") / "mine"
    assert runtime_folder("sqlite:///a.db", str(folder)) == folder
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_named_folder_that_is_too_deep(tmp_path: Path) -> None:
    """The message says how long it may be."""
    with pytest.raises(UsageError, match="the folder at most"):
        runtime_folder("sqlite:///a.db", str(tmp_path / ("d" * 100)))


def test_a_folder_that_others_may_look_into_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With the command that mends it."""
    folder = tmp_path_factory.mktemp("w")
    folder.chmod(0o755)
    with pytest.raises(SupervisorError, match=f"chmod 700 {folder}"):
        runtime_folder("sqlite:///a.db", str(folder))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its owner could listen."""
    folder = tmp_path_factory.mktemp("o")
    os.chown(folder, 12345, -1)
    with pytest.raises(SupervisorError, match="belongs to user 12345"):
        runtime_folder("sqlite:///a.db", str(folder))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_nobody_asks_in_a_folder_of_somebody_else(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its owner would answer. Root is told how to take the owner's part."""
    folder = tmp_path_factory.mktemp("a")
    os.chown(folder, 12345, -1)
    with pytest.raises(SupervisorError, match=r"belongs to user 12345.* sudo -u '#12345'"):
        control.ask(folder, control.AskHealth())


def test_nobody_asks_in_a_folder_that_others_may_enter(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any of them could have put a socket there."""
    folder = tmp_path_factory.mktemp("b")
    folder.chmod(0o777)
    with pytest.raises(SupervisorError, match=f"chmod 700 {folder}"):
        control.ask(folder, control.AskHealth())
    with pytest.raises(NotRunning):
        control.ask(folder / "none", control.AskHealth())


def test_a_link_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    """It could lead anywhere."""
    folder = tmp_path_factory.mktemp("l")
    (folder / "link").symlink_to(folder)
    with pytest.raises(SupervisorError, match="must be a folder"):
        runtime_folder("sqlite:///a.db", str(folder / "link"))


def test_a_lock_has_one_holder_and_names_it(tmp_path: Path) -> None:
    """Another process, or another part of this one, is told who has it."""
    with Lock(tmp_path / "lock"), pytest.raises(AlreadyRunning, match=f"process {os.getpid()}, since 2"):
        Lock(tmp_path / "lock").acquire()
    with Lock(tmp_path / "lock"):
        pass


def test_a_dead_holder_holds_nothing(tmp_path: Path) -> None:
    """However it died; what it wrote into the file is history."""
    code = (
        "import os, signal, pathlib; from conductor_supervisor.runtime import Lock;"
        f"Lock(pathlib.Path({str(tmp_path / 'lock')!r})).acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert (tmp_path / "lock").read_text()
    with Lock(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text().startswith(f"{os.getpid()} ")


def test_the_database_has_a_lock_of_its_own(tmp_path: Path) -> None:
    """So a second supervisor with another runtime folder is kept out as well."""
    url = f"sqlite:///{tmp_path}/a.db"
    with folder_lock(tmp_path), database_lock(url):
        assert {path.name for path in tmp_path.iterdir()} == {"lock", "a.db-lock"}
        with pytest.raises(AlreadyRunning):
            database_lock(url).acquire()


def test_a_poke_is_heard_once_however_often_it_came(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The socket is readable until it is drained, and gone when it is closed."""
    folder = tmp_path_factory.mktemp("p")
    ear = PokeSocket(folder)
    assert not ear.drain()
    for _ in range(3):
        poke(folder)
    assert select.select([ear], [], [], 5)[0] == [ear]
    assert ear.drain()
    assert not ear.drain()
    ear.close()
    assert list(folder.iterdir()) == []


def test_a_poke_never_waits_and_never_fails(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """Nobody listens, nobody drains, the folder is missing, the path is too long: all the same."""
    folder = tmp_path_factory.mktemp("q")
    poke(folder)
    poke(folder / "none")
    poke(tmp_path / ("d" * 200))
    ear = PokeSocket(folder)
    for _ in range(5000):
        poke(folder)
    assert ear.drain()
    ear.close()


def test_a_socket_left_behind_is_replaced(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The supervisor that made it was killed."""
    folder = tmp_path_factory.mktemp("k")
    dead = PokeSocket(folder)
    dead._socket.close()
    ear = PokeSocket(folder)
    poke(folder)
    assert ear.drain()
    ear.close()


def test_a_folder_in_one_that_gives_its_group_away_is_private_all_the_same(tmp_path: Path) -> None:
    """A volume that belongs to a group hands the setgid bit down."""
    tmp_path.chmod(0o2777)
    folder = runtime_folder("sqlite:///a.db", str(tmp_path / "r"))
    assert stat.S_IMODE(folder.stat().st_mode) & 0o777 == 0o700
    assert runtime_folder("sqlite:///a.db", str(folder)) == folder
