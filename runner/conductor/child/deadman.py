"""The dead-man's timer: it kills this process unless the supervisor goes on saying that it may live.

On a shared database, others take a supervisor's executions when it does not renew its lease. Whatever has
stopped it by then, its runners must be dead. So each of them has a deadline, which the supervisor's words put
off, and which needs nobody to be kept: where it can, the kernel sends SIGKILL by itself, also while C code
holds the interpreter, to a process that is stopped, and at once after the machine has slept.

The kernel's timer (timer_create(2)) belongs to this process alone: a forked child does not have it, and a
program that is exec'd in its place does not either. It knows no process group; see
``Child.bind_group`` in ``conductor_supervisor.processes.spawn`` for that.

Where the kernel has no such timer, as on macOS, the control thread looks at :attr:`DeadMansTimer.left`, which
it does everywhere. That does not help while C code holds the interpreter, or against SIGSTOP.
"""

from __future__ import annotations

import ctypes
import math
import signal
import sys
import threading

from conductor_protocol.uptime import CLOCK, uptime

SIGEV_SIGNAL = 0
TIMER_ABSTIME = 1
"""timer_create(2), timer_settime(2)."""

NANOSECONDS = 1_000_000_000


class _SigEvent(ctypes.Structure):
    """sigevent(3type), as far as a signal needs it; it has 64 bytes."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("unused", ctypes.c_byte * 48),
    )


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class DeadMansTimer:
    """Kills this process at a moment that can be put off. Before the first such word it does nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Both channels bring a Welcome, each in its own thread."""
        self._until: float | None = None
        self._timer: ctypes.c_void_p | None = None
        """The kernel's; None: it has none, or none is needed."""

    def put_off(self, until: float | None) -> None:
        """Live until this moment, or until a later one that was named before; None: for ever.

        A moment that has passed kills this process at once.

        :param until: by :func:`~conductor_protocol.uptime.uptime`.
        """
        with self._lock:
            if until is None or (self._until is not None and until <= self._until):
                return
            if self._until is None:
                self._timer = _new_timer()
            self._until = until
            self._arm(until)

    def disarm(self) -> None:
        """Let this process live: it has nothing in hand any more."""
        with self._lock:
            self._until = None
            self._arm(0.0)

    @property
    def left(self) -> float:
        """The seconds that are left to live; infinite if there is no end."""
        until = self._until
        return math.inf if until is None else until - uptime()

    def _arm(self, moment: float) -> None:
        """Have the kernel act at this moment; zero: never."""
        if self._timer is None:
            return
        seconds, nanoseconds = divmod(int(moment * NANOSECONDS), NANOSECONDS)
        spec = _TimerSpec(value=_TimeSpec(seconds, nanoseconds))
        if _C.timer_settime(self._timer, TIMER_ABSTIME, ctypes.byref(spec), None) != 0:
            raise OSError(ctypes.get_errno(), "the dead-man's timer cannot be set")


_C = ctypes.CDLL(None, use_errno=True)


def _new_timer() -> ctypes.c_void_p | None:
    """Make a timer of the kernel's that kills this process; None where there is no such thing."""
    if sys.platform != "linux" or not hasattr(_C, "timer_create"):
        return None
    timer = ctypes.c_void_p()
    event = _SigEvent(signal=signal.SIGKILL, notify=SIGEV_SIGNAL)
    made = _C.timer_create(CLOCK, ctypes.byref(event), ctypes.byref(timer))
    return timer if made == 0 else None
