"""A runner's two channels, from the first hello to the goodbye."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

import zmq

from conductor.child.control import ControlThread, Intents
from conductor.child.deadman import DeadMansTimer
from conductor.child.link import DataLink
from conductor_protocol.birth import Birth
from conductor_protocol.messages import PROTOCOL_VERSION, Channel, Hello
from conductor_protocol.recorder import Recorder

PATIENCE = 60.0
"""Seconds to wait for the supervisor's first word."""

LINGER = 5000
"""Milliseconds that the last messages may take to leave."""


class Connection:
    """Both sockets. Nothing is opened before :meth:`open`."""

    def __init__(self, birth: Birth, lifeline: int, recorder: Recorder) -> None:
        """:param lifeline: the descriptor that ends when the supervisor does."""
        self._birth = birth
        self._lifeline = lifeline
        self._context = zmq.Context()
        self._control: ControlThread | None = None
        self._deadman = DeadMansTimer()
        self.data = DataLink(recorder)
        self.intents = Intents()

    def open(self) -> None:
        """Say hello on both channels; work may come from now on.

        :raises ProtocolError: if the supervisor does not answer in time.
        """
        self._control = ControlThread(
            self._connect(),
            self._hello("control"),
            self._lifeline,
            self._deadman,
            self.intents,
            self.data.give_back,
        )
        self._control.start()
        self.data.open(self._connect(), self._hello("data"), PATIENCE)
        self._deadman.put_off(self.data.terms.live_until)  # before any work begins

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say goodbye, unless something went wrong: then the end of the process tells."""
        if self._control is not None:
            self._control.finish(say_goodbye=error is None)
        if error is None:
            self._deadman.disarm()
        self.data.close()
        self._context.term()

    def _connect(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = LINGER
        socket.sndhwm = 0  # a report must never wait for room
        socket.rcvhwm = 0
        socket.connect(self._birth.endpoint)
        return socket

    def _hello(self, channel: Channel) -> Hello:
        return Hello(PROTOCOL_VERSION, self._birth.runner, self._birth.secret, os.getpid(), channel)
