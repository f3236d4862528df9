"""The control channel: a small thread that keeps the heartbeat and hears what the supervisor pushes.

It goes on while a handler computes. It also watches the lifeline and the dead-man's timer: when the
supervisor is gone, or has not said for too long that we may live, this process and all that it started end
at once.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import zmq

from conductor.child.deadman import DeadMansTimer
from conductor_protocol import messages as m
from conductor_protocol.birth import STACKS_SIGNAL
from conductor_protocol.codec import pack, unpack_to_runner

HEARTBEAT = 1.0
"""Seconds between heartbeats until the supervisor says otherwise."""


class Intents:
    """What the supervisor wants of handlers before they ask. The control thread writes, handlers read."""

    def __init__(self) -> None:
        self._shutdown = False
        self._stops: set[tuple[str, int]] = set()
        self._interrupts: set[tuple[str, int]] = set()
        self._closed: set[tuple[str, int]] = set()
        """Those whose window has closed."""
        self._wakers: set[Callable[[], object]] = set()

    def wanted(self, held: tuple[str, int]) -> bool:
        """Tell whether this execution, under this claim, is to stop."""
        return self._shutdown or held in self._stops or held in self._closed

    def shut_down(self) -> None:
        """Want every handler to stop."""
        self._shutdown = True
        self._wake()

    def stop(self, held: tuple[str, int]) -> None:
        """Want one execution to stop."""
        self._stops.add(held)
        self._wake()

    def interrupt(self, held: tuple[str, int]) -> None:
        """Want one execution of a shared runner to end, whatever it awaits."""
        self._interrupts.add(held)
        self._wake()

    def interrupted(self, held: tuple[str, int]) -> bool:
        """Tell whether this execution, under this claim, is to end, whatever it awaits."""
        return held in self._interrupts

    def window_closed(self, held: tuple[str, int]) -> None:
        """Want one execution to stop, unless its window opens before it does."""
        self._closed.add(held)
        self._wake()

    def window_opened(self, held: tuple[str, int]) -> None:
        """Want no longer what its window wanted of one execution."""
        self._closed.discard(held)

    def forget(self, held: tuple[str, int]) -> None:
        """Forget an execution that has ended here."""
        self._stops.discard(held)
        self._interrupts.discard(held)
        self._closed.discard(held)

    @contextmanager
    def waking(self, waker: Callable[[], object]) -> Iterator[None]:
        """Have ``waker`` called, by the control thread, whenever something is wanted."""
        self._wakers.add(waker)
        try:
            yield
        finally:
            self._wakers.discard(waker)

    def _wake(self) -> None:
        for waker in tuple(self._wakers):
            waker()


class ControlThread:
    """Owns the control socket."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        hello: m.Hello,
        lifeline: int,
        deadman: DeadMansTimer,
        intents: Intents,
        give_back: Callable[[], Sequence[m.Assignment]],
    ) -> None:
        """
        :param socket: connected; from :meth:`start` on it belongs to the thread, which closes it.
        :param lifeline: the descriptor that ends when the supervisor does.
        :param deadman: is put off when the supervisor says so.
        :param give_back: takes what has not been begun out of the runner's hands.
        """
        self._socket = socket
        self._lifeline = lifeline
        self._deadman = deadman
        self._intents = intents
        self._give_back = give_back
        self._heartbeat = HEARTBEAT
        self._say_goodbye = False
        self._finish_read, self._finish_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="conductor-control", daemon=True)
        socket.send(pack([hello]))

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def finish(self, *, say_goodbye: bool) -> None:
        """End the thread."""
        self._say_goodbye = say_goodbye
        os.close(self._finish_write)
        self._thread.join()
        os.close(self._finish_read)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {STACKS_SIGNAL})
        poller = zmq.Poller()
        for source in (self._socket, self._lifeline, self._finish_read):
            poller.register(source, zmq.POLLIN)
        next_beat = time.monotonic()
        while True:
            wait = max(0.0, min(next_beat - time.monotonic(), self._deadman.left))
            ready = dict(poller.poll(math.ceil(wait * 1000)))
            # Looked at before what lies in the socket is: a word that comes too late changes nothing.
            if self._lifeline in ready or self._deadman.left <= 0:
                end_at_once()
            if self._socket in ready:
                self._listen()
            if self._finish_read in ready:
                if self._say_goodbye:
                    self._say(m.Goodbye())
                self._socket.close()
                return
            if time.monotonic() >= next_beat:
                self._say(m.Heartbeat())
                next_beat = time.monotonic() + self._heartbeat

    def _listen(self) -> None:
        for message in unpack_to_runner(self._socket.recv()):
            match message:
                case m.Welcome():
                    self._heartbeat = message.heartbeat
                    self._deadman.put_off(message.live_until)
                case m.LiveOn():
                    self._deadman.put_off(message.until)
                case m.ShutdownIntent():
                    self._intents.shut_down()
                case m.WindowClosed():
                    self._intents.window_closed((message.execution, message.claim))
                case m.WindowOpened():
                    self._intents.window_opened((message.execution, message.claim))
                case m.Cancel():
                    self._intents.stop((message.execution, message.claim))
                case m.Interrupt():
                    self._intents.interrupt((message.execution, message.claim))
                case m.Recall():
                    given_back = [(a.execution, a.claim) for a in self._give_back()]
                    for held in given_back:
                        self._intents.forget(held)
                    self._say(m.Returned(given_back))

    def _say(self, message: m.ControlFromRunner) -> None:
        self._socket.send(pack([message]))


def end_at_once() -> NoReturn:
    """End this process and, where it leads its group, all that it started: nobody waits for them any more."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL returned")
