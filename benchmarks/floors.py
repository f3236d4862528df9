"""The bare things underneath: what the machine takes for them without Conductor."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
