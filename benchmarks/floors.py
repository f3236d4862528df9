"""The bare things underneath: what the machine takes for them without Conductor."""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import zmq

TABLE = """
CREATE TABLE jobs (id TEXT PRIMARY KEY, task TEXT NOT NULL, state TEXT NOT NULL, payload TEXT NOT NULL,
                   due INTEGER NOT NULL, result TEXT) WITHOUT ROWID;
CREATE INDEX ready ON jobs (task, due, id) WHERE state = 'ready';
"""
CLAIM = """
UPDATE jobs SET state = 'running' WHERE id IN
    (SELECT id FROM jobs WHERE state = 'ready' AND task = 'empty' ORDER BY due, id LIMIT ?)
RETURNING id, payload
"""
FINISH = "UPDATE jobs SET state = 'completed', result = 'null' WHERE id = ? AND state = 'running'"
INSERT = "INSERT INTO jobs VALUES (?, 'empty', 'ready', 'null', ?, NULL)"


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    """A file database with Conductor's durability: every commit reaches the disk."""
    with (
        tempfile.TemporaryDirectory(prefix="conductor-bench-") as folder,
        closing(sqlite3.connect(Path(folder) / "floor.db", isolation_level=None)) as connection,
    ):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(TABLE)
        yield connection


def jobs_per_second(count: int, batch: int = 100) -> float:
    """Claim a batch and finish it, with one commit for both, until all are finished: no handlers."""
    with _database() as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, [(f"{number:036}", number) for number in range(count)])
        connection.execute("COMMIT")
        began = time.perf_counter()
        finished: list[tuple[str]] = []
        while True:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(FINISH, finished)
            claimed = connection.execute(CLAIM, (batch,)).fetchall()
            connection.execute("COMMIT")
            if not claimed:
                return count / (time.perf_counter() - began)
            finished = [(job,) for job, _ in claimed]


def seconds_per_commit(count: int) -> float:
    """Insert one row and commit."""
    with _database() as connection:
        began = time.perf_counter()
        for number in range(count):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(INSERT, (f"{number:036}", number))
            connection.execute("COMMIT")
        return (time.perf_counter() - began) / count


def round_trips(count: int) -> list[float]:
    """Ask another process over ZeroMQ and wait for its answer; seconds for each."""
    with tempfile.TemporaryDirectory(prefix="conductor-bench-") as folder:
        endpoint = f"ipc://{folder}/echo"
        echo = multiprocessing.get_context("spawn").Process(target=_echo, args=(endpoint,))
        echo.start()
        try:
            with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
                socket.linger = 0
                socket.connect(endpoint)
                _round_trip(socket)  # the other side is up after this one
                seconds = [_round_trip(socket) for _ in range(count)]
                socket.send(b"")
                echo.join()
                return seconds
        finally:
            echo.kill()
            echo.join()


def _round_trip(socket: zmq.Socket[bytes]) -> float:
    began = time.perf_counter()
    socket.send(b"may I continue?")
    socket.recv()
    return time.perf_counter() - began


def _echo(endpoint: str) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind(endpoint)
        while (parcel := socket.recv_multipart())[1]:
            socket.send_multipart(parcel)


def seconds_to_import(file: Path) -> float:
    """Start a fresh interpreter that imports an app's file and what a runner needs, and end it."""
    code = f"import runpy, zmq, conductor.child.session; runpy.run_path({str(file)!r})"
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def forks_per_second(file: Path, count: int) -> float:
    """Fork a process that has imported an app's file and what a runner needs, and wait for its end, over and
    over: nothing runs in it, and no two live at once.
    """
    code = (
        "import gc, os, runpy, sys, time, conductor.child.template\n"
        f"runpy.run_path({str(file)!r}); gc.collect(); gc.freeze(); began = time.perf_counter()\n"
        f"for _ in range({count}):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        f"print({count} / (time.perf_counter() - began))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout)
