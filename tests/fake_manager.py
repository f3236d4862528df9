"""A service manager's end of the notify protocol, for tests: it hears what a supervisor says of itself."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

STATES = ("READY", "RELOADING", "STOPPING")


class FakeManager:
    """A notify socket."""

    def __init__(self, address: Path | str) -> None:
        """:param address: a path, or ``@`` and a name without a file."""
        self.address = str(address)
        name = os.fsencode(self.address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(b"\0" + name[1:] if name.startswith(b"@") else name)
        self._socket.setblocking(False)
        self._heard: list[dict[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def heard(self) -> list[dict[str, str]]:
        """Return all that was said so far: the assignments of each datagram."""
        while (datagram := self._next()) is not None:
            self._heard.append(dict(line.split("=", 1) for line in datagram.decode().splitlines()))
        return self._heard

    def states(self) -> list[str]:
        """Return which states were told, in order."""
        return [state for said in self.heard() for state in STATES if said.get(state) == "1"]

    def statuses(self) -> list[str]:
        """Return the lines for people, in order."""
        return [said["STATUS"] for said in self.heard() if "STATUS" in said]

    def beats(self) -> int:
        """Return how many signs of life have come."""
        return sum("WATCHDOG" in said for said in self.heard())

    def hears_within(self, seconds: float) -> bool:
        """Wait for so long at most, and tell whether anything more was said."""
        self.heard()
        self._socket.settimeout(seconds)
        try:
            return bool(self._socket.recv(4096, socket.MSG_PEEK))
        except TimeoutError:
            return False
        finally:
            self._socket.setblocking(False)

    def _next(self) -> bytes | None:
        try:
            return self._socket.recv(4096)
        except BlockingIOError:
            return None
