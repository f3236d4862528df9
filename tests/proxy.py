"""A TCP proxy before a database, which delays, cuts, freezes and half-closes as a bad network does.

One thread owns all sockets; a test sets what the network does, and the thread does it with the next bytes.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

COMMIT = b"COMMIT"


class _Half:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, target: socket.socket, to_server: bool) -> None:
        self.source = source
        self.target = target
        self.to_server = to_server


class Proxy:
    """Listens on a port of the loopback interface and passes everything on."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.delay = 0.0
        """Seconds by which each piece is late."""
        self.frozen = False
        """Nothing passes and nobody is told, as when a cable is pulled."""
        self.refusing = False
        """New connections are cut at once."""
        self.lose_answers_of_commits = 0
        """So many connections are cut when a COMMIT has reached the server, before its answer comes back."""
        self.commits_lost = 0
        self._halves: dict[socket.socket, _Half] = {}
        self._losing: dict[socket.socket, float] = {}
        self._orders: list[Callable[[], None]] = []
        self._closed = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Cut every connection, and refuse new ones until :meth:`mend`."""
        self.refusing = True
        self._order(self._cut_all)

    def mend(self) -> None:
        """Let everything pass again."""
        self.refusing = self.frozen = False
        self.delay = 0.0

    def half_close(self) -> None:
        """Tell every server that its client will say nothing more, though it would."""
        self._order(self._half_close_all)

    def close(self) -> None:
        """Cut everything and end."""
        self._closed = True
        self._thread.join(10)
        self._cut_all()
        self._listener.close()
        self._selector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Below: the thread.

    def _order(self, order: Callable[[], None]) -> None:
        done = threading.Event()

        def carry_out() -> None:
            order()
            done.set()

        self._orders.append(carry_out)
        assert done.wait(10), "the proxy does not move"

    def _run(self) -> None:
        while not self._closed:
            while self._orders:
                self._orders.pop(0)()
            for key, _ in self._selector.select(0.01):
                if key.fileobj is self._listener:
                    self._accept()
                elif not self.frozen and key.fileobj in self._halves:
                    self._pass_on(self._halves[key.fileobj])  # type: ignore[index]
            self._lose_what_has_arrived()
            if self.frozen:
                time.sleep(0.01)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self.refusing:
            client.close()
            return
        try:
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            client.close()
            return
        for source, target, to_server in ((client, server, True), (server, client, False)):
            source.settimeout(5)
            self._halves[source] = _Half(source, target, to_server)
            self._selector.register(source, selectors.EVENT_READ)

    def _pass_on(self, half: _Half) -> None:
        try:
            data = half.source.recv(65536)
            if not data:
                self._cut(half.source)
                return
            if self.delay:
                time.sleep(self.delay)
            if not half.to_server and half.target in self._losing:
                return  # the answer to the commit, which nobody is to hear
            half.target.sendall(data)
        except OSError:
            self._cut(half.source)
            return
        if half.to_server and COMMIT in data and self.lose_answers_of_commits:
            self.lose_answers_of_commits -= 1
            self.commits_lost += 1
            self._losing[half.source] = time.monotonic() + 0.1

    def _lose_what_has_arrived(self) -> None:
        """Cut connections whose commit the server has surely read by now."""
        now = time.monotonic()
        for client in [client for client, at in self._losing.items() if now >= at]:
            self._cut(client)

    def _half_close_all(self) -> None:
        for half in self._halves.values():
            if half.to_server:
                with suppress(OSError):
                    half.target.shutdown(socket.SHUT_WR)

    def _cut_all(self) -> None:
        for sock in list(self._halves):
            self._cut(sock)

    def _cut(self, sock: socket.socket) -> None:
        half = self._halves.get(sock)
        if half is None:
            return
        for one in (half.source, half.target):
            self._losing.pop(one, None)
            if self._halves.pop(one, None) is not None:
                self._selector.unregister(one)
            one.close()
