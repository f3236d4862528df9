"""The template of fresh runners: a process that has imported the app, and forks itself for each of them.

It opens no ZeroMQ context and starts no thread, so a fork of it is whole. It forks twice: what is in between
ends at once, and the supervisor, which adopts the orphans among its descendants, becomes the runner's parent.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import inspect
import os
import select
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NoReturn

from conductor.app import Conductor
from conductor.child import forks
from conductor.child.process import (
    C,
    born,
    die_with_the_supervisor,
    end_quickly,
    flush_all,
    imported,
    lifeline_at,
    serve,
    told_at_birth,
)
from conductor_protocol import template as protocol
from conductor_protocol.errors import ProtocolError, UsageError
from conductor_protocol.template import Cannot, Forked, FromTemplate, NotForked, Ready, TheirEnds

THREADS = Path("/proc/self/task")
DESCRIPTORS = Path("/proc/self/fd")
"""Of this process, on Linux."""

BARE = ctypes.PyDLL(None, use_errno=True)
"""The C library, to fork what only forks again: what Python and the app do after a fork, the runner does."""

PR_SET_CHILD_SUBREAPER = 36
"""prctl(2)."""

MOST_NAMED = 5
"""Threads that are named in a message."""


def run() -> int:
    """Be a template until the supervisor ends; in each process that it forks, be a runner.

    :returns: the exit status.
    """
    requests = _inherited_requests()
    lifeline, birth = born()
    supervisor = os.getppid()
    app = imported(birth)
    if app is None:
        return 2
    _import_what_a_runner_needs(app)
    obstacle = obstacle_to_forking(requests)
    if obstacle is not None:
        _say(requests, Cannot(obstacle))
        return 0
    # What is here now stays: the collector need not visit it, and so not copy it, in any runner.
    gc.collect()
    gc.freeze()
    _say(requests, Ready())
    ends = _fork_when_asked(requests, lifeline)
    if ends is None:
        return 0
    return _be_a_runner(app, ends, supervisor)


def _inherited_requests() -> socket.socket:
    try:
        descriptor = int(os.environ.pop(protocol.TEMPLATE_FD))
    except (KeyError, ValueError):
        raise UsageError(
            f"{protocol.TEMPLATE_FD} names no socket; templates are started by conductor-supervisor"
        ) from None
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)


def _import_what_a_runner_needs(app: Conductor) -> None:
    """Import here, once, what :func:`conductor.child.process.serve` would import in every runner."""
    if any(task.is_async for task in app.tasks.values()) or inspect.isasyncgenfunction(app.lifespan_function):
        import conductor.child.eventloop  # noqa: F401


def _say(requests: socket.socket, message: FromTemplate) -> None:
    with suppress(BrokenPipeError):  # the supervisor is gone: the next read tells
        requests.send(protocol.pack(message))


# What forbids a fork


def obstacle_to_forking(ours: socket.socket) -> str | None:
    """Say what the import has left behind that a fork would break: threads are not copied, and a connection
    would be used by two processes at once. None: nothing.

    :param ours: the one socket that the import has not opened.
    """
    if threads := _other_threads():
        named = ", ".join(threads[:MOST_NAMED]) + (", ..." if len(threads) > MOST_NAMED else "")
        return f"the import of the app started threads: {named}"
    if _other_sockets(ours):
        return "the import of the app opened sockets; open connections in @app.lifespan or in the task"
    return None


def _other_threads() -> list[str]:
    """Return the names of all threads but this one: Python's own, then those of C code."""
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    known = {thread.native_id for thread in (*others, threading.current_thread())}
    names = [thread.name for thread in others]
    if THREADS.is_dir():
        for task in THREADS.iterdir():
            if int(task.name) not in known:
                with suppress(OSError):  # it has just ended
                    names.append(f"{(task / 'comm').read_text().strip()} (of C code)")
    return names


def _other_sockets(ours: socket.socket) -> bool:
    if not DESCRIPTORS.is_dir():
        return False
    for entry in DESCRIPTORS.iterdir():
        with suppress(OSError):  # the descriptor that lists the others
            if entry.readlink().name.startswith("socket:") and int(entry.name) != ours.fileno():
                return True
    return False


# Forking


def _fork_when_asked(requests: socket.socket, lifeline: BinaryIO) -> TheirEnds | None:
    """Fork for each request. Returns in each runner what it was born with, and None in the template when the
    supervisor is gone.
    """
    sources = select.poll()
    for source in (requests, lifeline):
        sources.register(source, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in sources.poll()]
        if lifeline.fileno() in ready:
            return None
        ends = _request(requests)
        if ends is None:
            return None
        flush_all()  # else each runner would print it again
        answer = _fork()
        if answer is None:
            requests.close()
            os.close(lifeline.fileno())
            return ends
        for end in ends:
            os.close(end)
        _say(requests, answer)


def _request(requests: socket.socket) -> TheirEnds | None:
    """Take the next request; None if there will be no more."""
    data, descriptors, *_ = socket.recv_fds(requests, protocol.MOST_BYTES, len(TheirEnds._fields))
    if not data:
        return None
    if data != protocol.FORK or len(descriptors) != len(TheirEnds._fields):
        raise ProtocolError(f"expected a request to fork, got {data!r} with {len(descriptors)} descriptors")
    return TheirEnds(*map(_above_the_standard_streams, descriptors))


def _above_the_standard_streams(descriptor: int) -> int:
    """Move a descriptor where nothing is put in its place, and keep it from what handlers start."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


def _fork() -> Forked | NotForked | None:
    """Fork a runner whose parent is the supervisor. Returns the answer; None in the runner."""
    pid_read, pid_write = os.pipe()
    between = BARE.fork()
    if between < 0:
        os.close(pid_read)
        os.close(pid_write)
        return NotForked(os.strerror(ctypes.get_errno()))
    if between == 0:
        os.close(pid_read)
        _fork_again(pid_write)
        os.close(pid_write)
        return None
    os.close(pid_write)
    with suppress(ChildProcessError):  # the app ignores SIGCHLD, so the kernel has reaped it
        os.waitpid(between, 0)
    told = os.read(pid_read, protocol.MOST_BYTES).decode()
    os.close(pid_read)
    return Forked(int(told)) if told.isdigit() else NotForked(told or "the process in between died")


def _fork_again(pid_write: int) -> None:
    """Fork the runner, and return only in it: the process in between ends here."""
    try:
        runner = os.fork()
    except BaseException as error:  # noqa: BLE001  # whatever it is, there must not be two of us
        _tell_and_end(pid_write, str(error), status=1)
    if runner != 0:
        with suppress(OSError):  # it has done so itself
            os.setpgid(runner, runner)
        _tell_and_end(pid_write, str(runner), status=0)


def _tell_and_end(pid_write: int, told: str, status: int) -> NoReturn:
    """End the process in between, also if the template has died and nobody reads what it tells."""
    try:
        os.write(pid_write, told.encode())
    finally:
        os._exit(status)


# In the runner


def _be_a_runner(app: Conductor, ends: TheirEnds, supervisor: int) -> int:
    """Run one execution, as :func:`conductor.child.process.run` would run many; return the exit status."""
    forks.watch()
    with suppress(PermissionError):
        os.setpgid(0, 0)
    _take_streams(ends)
    # Orphans of what we start stay ours as long as we live; then the supervisor finds and ends them.
    C.prctl(PR_SET_CHILD_SUBREAPER, 1)
    lifeline = lifeline_at(ends.birth)
    birth = told_at_birth(lifeline)
    # The birth is told only to a child of the supervisor's. Had it died since, it would not be our parent.
    if os.getppid() != supervisor:
        return 1
    die_with_the_supervisor(lifeline)
    serve(app, birth, lifeline)
    end_quickly()
    return 0


def _take_streams(ends: TheirEnds) -> None:
    """Put our own pipes in the place of the template's."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, stream in ((nothing, 0), (ends.stdout, 1), (ends.stderr, 2)):
        if descriptor != stream:
            os.dup2(descriptor, stream)
            os.close(descriptor)
    os.set_inheritable(0, True)
