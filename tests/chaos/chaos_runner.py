"""Imported by the app of the workload: its runners heed orders at every boundary of their messages."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import zmq
from orders import RECEIVING, SENDING, Orders, boundary

from conductor_protocol.codec import unpack_from_runner, unpack_to_runner

BEFORE, BEHIND = SENDING
(ARRIVED,) = RECEIVING

ON_ITS_WAY = 0.005
"""Seconds that a message has to leave the process, once it is said to be sent."""

orders = Orders(Path.cwd())


class WatchedSocket(zmq.Socket[bytes]):
    """Passes the boundaries of what it carries."""

    def send(self, data: Any, *arguments: Any, **options: Any) -> Any:
        """Send a parcel."""
        kinds = [type(message).__name__ for message in unpack_from_runner(data)]
        self._pass(kinds, BEFORE)
        sent = super().send(data, *arguments, **options)
        if orders.wanted("runner", [boundary(kind, BEHIND) for kind in kinds]):
            time.sleep(ON_ITS_WAY)
        self._pass(kinds, BEHIND)
        return sent

    def recv(self, *arguments: Any, **options: Any) -> Any:
        """Receive a parcel."""
        data = super().recv(*arguments, **options)
        self._pass([type(message).__name__ for message in unpack_to_runner(data)], ARRIVED)
        return data

    def _pass(self, kinds: list[str], moment: str) -> None:
        for kind in dict.fromkeys(kinds):
            orders.at("runner", boundary(kind, moment))


def watch() -> None:
    """Let every socket of this process be one that passes boundaries."""
    zmq.Context._socket_class = WatchedSocket
