"""The runtime folder: where a supervisor's sockets, recorders and lock live, one folder for each database.

Only its owner may look inside (mode 0700); that is what keeps other users from the sockets. A socket's path
may have 107 bytes at most (103 on macOS), so the folder's path is short, however deep the database lies.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import stat
import sys
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

from conductor_protocol.errors import UsageError
from conductor_supervisor.errors import AlreadyRunning, SupervisorError
from conductor_supervisor.store.location import SqliteLocation, locate

POKE = "poke"
"""Name of the datagram socket in the runtime folder: a word on it means "look into the database"."""

LOCK = "lock"
"""Name of the lock file in the runtime folder."""

RUNTIME_VARIABLE = "CONDUCTOR_RUNTIME"
"""Environment variable that names the runtime folder."""

LONGEST_SOCKET_NAME = 16
"""Bytes that a socket's name in the folder may have."""

_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
_PRIVATE = 0o700
_OF_OTHERS = 0o077


def runtime_folder(url: str, override: str | None = None) -> Path:
    """Return the runtime folder of a database, made if it is missing.

    :param override: the folder to use instead of the usual one.
    :raises UsageError: if the folder's path is too long for sockets.
    :raises SupervisorError: if somebody else owns the folder, or others may look inside.
    """
    folder = find_runtime_folder(url, override)
    if override is None:
        _make_private(folder.parent)
    _make_private(folder)
    return folder


def find_runtime_folder(url: str, override: str | None = None) -> Path:
    """Return where the runtime folder of a database is, or would be.

    :raises UsageError: if its path is too long for sockets.
    """
    if override is not None:
        return named_folder(override)
    name = hashlib.sha256(locate(url).identity.encode()).hexdigest()[:16]
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        folder = Path(session) / "conductor" / name
        if folder.is_absolute() and Path(session).is_dir() and _short_enough(folder):
            return folder
    return Path(f"/tmp/conductor-{os.getuid()}") / name  # noqa: S108 - owner and mode are checked


def named_folder(name: str) -> Path:
    """Return the runtime folder that somebody has named, whatever the database is.

    :raises UsageError: if its path is too long for sockets.
    """
    folder = Path(name).absolute()
    if not _short_enough(folder):
        longest = _SOCKET_PATH - LONGEST_SOCKET_NAME - 1
        raise UsageError(
            f"runtime: a socket's path may have {_SOCKET_PATH} bytes, so the folder at most {longest}; "
            f"got {len(os.fsencode(folder))}: {folder}; name a shorter one, such as /tmp/conductor-mine"
        )
    return folder


def _short_enough(folder: Path) -> bool:
    return len(os.fsencode(folder)) + 1 + LONGEST_SOCKET_NAME <= _SOCKET_PATH


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    except OSError as error:
        raise SupervisorError(f"the runtime folder {folder} cannot be made: {error.strerror}") from error
    check_private(folder)


def check_private(folder: Path) -> None:
    """Make sure that whoever listens in a runtime folder is ourselves. One that is missing is nobody's.

    Root is no exception: it can take the owner's part, and should, for a SQLite file as well.

    :raises SupervisorError: if somebody else owns the folder, or others may look inside.
    """
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise SupervisorError(f"the runtime folder {folder} cannot be reached: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise SupervisorError(f"the runtime folder {folder} must be a folder; remove what is there")
    if found.st_uid != os.getuid():
        raise SupervisorError(
            f"the runtime folder {folder} belongs to user {found.st_uid}, not to you ({os.getuid()}); "
            f"name another one with --runtime or {RUNTIME_VARIABLE}, or, if that user's supervisor is meant, "
            f"write: sudo -u '#{found.st_uid}' conductor-supervisor ..."
        )
    if mode := stat.S_IMODE(found.st_mode) & _OF_OTHERS:
        raise SupervisorError(
            f"others may look into the runtime folder {folder} (mode {stat.S_IMODE(found.st_mode):o}, "
            f"{mode:o} too much); write: chmod 700 {folder}"
        )


class Holder(Struct, frozen=True):
    """Who has written its name into a lock file."""

    pid: int
    since: str
    name: str | None = None
    """What it is called among the supervisors of its database."""

    def __str__(self) -> str:
        return f"process {self.pid}, since {self.since}"


def holder_of(lock: Path) -> Holder | None:
    """Return who took a lock last, be it held still or not; None: the file does not tell."""
    with contextlib.suppress(OSError, ValueError):
        pid, since, *name = lock.read_text(errors="replace").split()
        if pid.isascii() and pid.isdigit():
            return Holder(int(pid), since, name[0] if name else None)
    return None


class Lock:
    """A file that one process holds for as long as it lives; the kernel lets go when the process dies.

    The file stays behind: removing it would let two processes hold two files of one name.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        """:param name: what to tell of us beside our process id and the time."""
        self._path = path
        self._name = name
        self._descriptor: int | None = None
        self.former: str | None = None
        """Once we hold it: the name of who held it before us, if that had one."""

    def acquire(self) -> None:
        """Take the lock and write our process id and the time into it.

        :raises AlreadyRunning: if another process holds it.
        :raises SupervisorError: if the file cannot be made.
        """
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise SupervisorError(f"the lock {self._path} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise AlreadyRunning(_running(self._path, holder_of(self._path))) from None
        before = holder_of(self._path)
        self.former = None if before is None else before.name
        note = f"{os.getpid()} {datetime.now(UTC).isoformat(timespec='seconds')} {self._name}".rstrip() + "\n"
        os.ftruncate(descriptor, 0)
        os.write(descriptor, note.encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go, if we hold it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _running(lock: Path, holder: Holder | None) -> str:
    who = str(holder) if holder is not None else "a process that has not said its name yet"
    return (
        f"a supervisor is running already ({who}; it holds {lock}); stop it first: conductor-supervisor stop"
    )


def check_free(lock: Path) -> None:
    """Look whether a process holds a lock. It is not taken, nor made where it is not there.

    :raises AlreadyRunning: if one does.
    """
    import psutil

    holder = holder_of(lock)
    # Asking takes it for an instant, so that is not done where somebody may just be about to have it.
    if holder is None or not psutil.pid_exists(holder.pid):
        return
    with contextlib.suppress(FileNotFoundError), lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(_running(lock, holder)) from None


def folder_lock(folder: Path, name: str = "") -> Lock:
    """Return the lock of a runtime folder: one supervisor for each."""
    return Lock(folder / LOCK, name)


def database_lock(url: str) -> AbstractContextManager[object]:
    """Return the lock beside a SQLite database: it holds whatever runtime folder the other one uses.

    PostgreSQL may have several supervisors: nothing is locked there.
    """
    path = database_lock_path(url)
    return contextlib.nullcontext() if path is None else Lock(path)


def database_lock_path(url: str) -> Path | None:
    """Return the file of :func:`database_lock`; None if there is none."""
    location = locate(url)
    if not isinstance(location, SqliteLocation):
        return None
    return location.lock


def poke(folder: Path) -> None:
    """Tell the supervisor of this folder, if there is one, that the database has news for it.

    Never waits and never fails: a supervisor that misses it finds the news by itself a little later.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.setblocking(False)
        speaker.sendto(b"!", os.fsencode(folder / POKE))


class PokeSocket:
    """The supervisor's end of :func:`poke`: readable when somebody has poked."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / POKE
        # A supervisor that died left its socket behind; the lock says that nobody uses it.
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(os.fsencode(self._path))

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Take all pokes that wait; True if there was any."""
        poked = False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(16)
                poked = True
        return poked

    def close(self) -> None:
        """Close the socket and remove it from the folder."""
        self._socket.close()
        self._path.unlink(missing_ok=True)
