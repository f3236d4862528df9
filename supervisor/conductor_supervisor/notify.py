"""Telling the service manager how we are, by systemd's notify protocol: sd_notify(3).

One datagram a fact, to the socket that ``NOTIFY_SOCKET`` names. The manager hears that we are

``READY``      take work: the loop runs, every runner that is wanted has been started, and the first of them
               has said hello, so it has imported the app and set up its lifespan
``RELOADING``  read newer code; ``READY`` again afterwards, also when the old code goes on
``STOPPING``   begin no more work
``WATCHDOG``   live, twice in each ``WATCHDOG_USEC``. The loop says so itself, so one that hangs is noticed

and between these, in ``STATUS``, one line for people.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Mapping, MutableMapping
from typing import Literal, Self

NOTIFY_SOCKET = "NOTIFY_SOCKET"
WATCHDOG_USEC = "WATCHDOG_USEC"
WATCHDOG_PID = "WATCHDOG_PID"

MICROSECONDS = 1_000_000
NEVER = float("inf")

LONGEST = 1000
"""Bytes of what is said at once: a datagram that is too long would be refused, and nobody reads more."""

log = logging.getLogger(__name__)


class ServiceManager:
    """Who started us, if it wants to hear how we are. Owned by the loop thread; nothing here waits."""

    def __init__(self, address: str | None = None, watchdog: float | None = None) -> None:
        """
        :param address: path of its socket, or ``@`` and a name without a file; None: nobody wants to hear.
        :param watchdog: seconds of silence after which it takes us for hung; None: it does not look.
        """
        self._address = address
        self._socket: socket.socket | None = None
        if address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self._unsent: deque[bytes] = deque()
        """What the manager has not taken yet, because it was busy."""
        self._phase: Literal["starting", "ready", "reloading", "stopping"] = "starting"
        self._beat_every = watchdog / 2 if watchdog is not None else NEVER
        self._next_beat = 0.0 if watchdog is not None else NEVER

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Self:
        """Return who is named in the environment, and take the names out: no child may speak for us."""
        address = environment.pop(NOTIFY_SOCKET, None)
        watchdog = _watchdog(environment)
        for name in (WATCHDOG_USEC, WATCHDOG_PID):
            environment.pop(name, None)
        if address and address[0] not in "/@":
            log.warning("%s: expected a path or an abstract name, got %r; not used", NOTIFY_SOCKET, address)
            address = None
        return cls(address or None, watchdog)

    # What happens to us

    def ready(self) -> None:
        """We take work."""
        if self._phase == "starting":
            self._phase = "ready"
            self._say("READY=1")

    def reloading(self) -> None:
        """Newer code is being read."""
        if self._phase == "ready":
            self._phase = "reloading"
            self._say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """The newer code is in place, or the old goes on."""
        if self._phase == "reloading":
            self._phase = "ready"
            self._say("READY=1")

    def stopping(self) -> None:
        """No more work is begun."""
        if self._phase != "stopping":
            self._phase = "stopping"
            self._say("STOPPING=1")

    def status(self, sentence: str) -> None:
        """Say what we do; of several lines, the first, and of a long one, the beginning."""
        first_line, _, _ = sentence.partition("\n")
        self._say(f"STATUS={first_line}")

    # The loop's turns

    def turn(self, now: float) -> None:
        """Give a sign of life if it is time for one.

        :param now: by the monotonic clock.
        """
        self._send()
        if now >= self._next_beat and not self._unsent:
            self._next_beat = now + self._beat_every
            self._say("WATCHDOG=1")

    def seconds_to_turn(self, now: float) -> float:
        """Return after how many seconds :meth:`turn` has something to do."""
        return max(0.0, self._next_beat - now)

    def close(self) -> None:
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _say(self, text: str) -> None:
        if self._socket is not None:
            self._unsent.append(_beginning(text))
            self._send()

    def _send(self) -> None:
        """Send what waits, in order; what a busy manager does not take waits for the next turn."""
        while self._unsent and self._socket is not None and self._address is not None:
            try:
                self._socket.sendto(self._unsent[0], _for_the_kernel(self._address))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EMSGSIZE:  # the manager is there: what comes next may be short enough
                    self._unsent.popleft()
                    continue
                log.warning("the service manager at %s is not told any more: %s", self._address, error)
                self.close()
                return
            self._unsent.popleft()


def _beginning(text: str) -> bytes:
    """Return as much as may be said at once, in whole characters; what is no character becomes a "?"."""
    return text.encode(errors="replace")[:LONGEST].decode(errors="ignore").encode()


def _for_the_kernel(address: str) -> bytes:
    """An abstract socket's name begins with a zero byte, which the environment cannot hold: unix(7)."""
    name = os.fsencode(address)
    return b"\0" + name[1:] if name.startswith(b"@") else name


def _watchdog(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog's time in seconds, if it watches this process: sd_watchdog_enabled(3)."""
    text, pid = environment.get(WATCHDOG_USEC), environment.get(WATCHDOG_PID)
    if not text or (pid and pid != str(os.getpid())):
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        log.warning("%s: expected microseconds, got %r; no signs of life are given", WATCHDOG_USEC, text)
        return None
    return int(text) / MICROSECONDS
