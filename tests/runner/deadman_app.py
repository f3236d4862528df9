"""What runners do while nobody tells them that they may live on."""

from __future__ import annotations

import atexit
import ctypes
import signal
import subprocess
import time
from pathlib import Path

from conductor import Conductor, Context, Event
from conductor.child import deadman
from conductor_protocol.uptime import uptime

app = Conductor()


@app.task
def echo(event: Event, ctx: Context) -> object:
    return event.payload


@app.task
def holds_the_interpreter(event: Event, ctx: Context) -> None:
    """C code that gives no other thread a chance."""
    Path("touched").touch()
    ctypes.PyDLL(None).sleep(600)


@app.task
def heeds_no_signal(event: Event, ctx: Context) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if number not in (signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGBUS):
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    Path("touched").touch()
    time.sleep(600)


@app.task
def starts_a_process(event: Event, ctx: Context) -> int:
    return subprocess.Popen(["sleep", "600"]).pid


@app.task
def ends_late(event: Event[float], ctx: Context) -> None:
    """Have the runner's end last until a moment by ``uptime``."""
    atexit.register(_wait_until, event.payload)


def _wait_until(moment: float) -> None:
    while uptime() <= moment:
        time.sleep(0.01)
    Path("touched").touch()


def __getattr__(name: str) -> Conductor:
    """Let the app be had on a system whose kernel has no timers for this."""
    if name != "on_another_system":
        raise AttributeError(name)
    deadman._new_timer = lambda: None
    return app
