"""The bare things underneath: what the machine takes for them without Conductor."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import zmq


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


def work_per_second(milliseconds: int, processes: int, count: int) -> float:
    """Sleep so often in each of some processes at once, as the task ``work`` does, and do nothing else."""
    code = (
        "import sys, time; print(flush=True); sys.stdin.readline(); began = time.monotonic()\n"
        f"for _ in range({count}):\n"
        f"    time.sleep({milliseconds / 1000})\n"
        "print(began, time.monotonic())"
    )
    pipe = subprocess.PIPE
    with ExitStack() as together:
        workers = [
            together.enter_context(
                subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
            )
            for _ in range(processes)
        ]
        for worker in workers:
            _line(worker)  # it is ready
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
        spans = [[float(moment) for moment in _line(worker).split()] for worker in workers]
    return processes * count / (max(ended for _, ended in spans) - min(began for began, _ in spans))


def memory_of_imports(code: str) -> float:
    """Return the resident bytes of an interpreter that has run this code, and waits."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", f"{code}\nimport sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        _line(process)
        memory: int = psutil.Process(process.pid).memory_info().rss
        process.communicate()
    return memory


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()
