"""The data channel: a handler's questions and their answers, reports, and the work that arrives in between.

Requests and reports leave in order on one socket, so whoever has an answer to a request knows that all
reports sent before it have arrived; only then does the flight recorder forget them.

A lock guards the socket. In a sync handler any thread may ask, one at a time. While async handlers run,
their event loop reads the socket, questions wait as futures, and other threads ask through the loop.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar, get_args

import zmq

from conductor.child import forks
from conductor_protocol import messages as m
from conductor_protocol.codec import MAX_FRAME, pack, pack_json, unpack_answer, unpack_to_runner
from conductor_protocol.errors import ProtocolError, UsageError
from conductor_protocol.operations import Answer, Operation
from conductor_protocol.recorder import Recorder

if TYPE_CHECKING:
    import asyncio

HELD_BACK_FOR = 0.005
"""Seconds that a report waits at most, while short executions end, to travel with theirs."""

MOST_HELD_BACK = 100
"""Reports that wait at most."""

LOCK_WAIT = 0.05
"""Seconds that a recall waits for a handler that is just asking something."""

Request: TypeAlias = m.Ask | m.StepDone | m.LoadSteps | m.Operate | m.Flush
Reply: TypeAlias = m.Verdict | m.StepAck | m.StepRefused | m.StepPage | m.Answered | m.Flushed
R = TypeVar("R", bound=Reply)

_REPLIES = get_args(Reply)


class DataLink:
    """Owns the data socket."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._socket: zmq.Socket[bytes] | None = None
        self._lock = threading.Lock()
        self._seq = 0
        self._reported_at: int | None = None
        """The last request before the newest report that the recorder keeps; None: it keeps none."""
        self._held_back: list[m.Report] = []
        self._held_back_since = 0.0
        self._awaited = 0
        """The request for whose reply a thread waits."""
        self._replies: dict[int, Reply] = {}
        self._futures: dict[int, asyncio.Future[Reply]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: int | None = None
        """The thread in which an async handler runs just now."""
        self._idle = False
        self._news: Callable[[], object] | None = None
        """Wakes the event loop that waits for work."""
        self._wake_read, self._wake_write = os.pipe()
        self._arrivals = select.poll()
        self.work: deque[m.Assignment] = deque()
        """What has been assigned and not begun."""
        self.stopping = False
        """Nothing more will be assigned."""
        self._retired = False
        """Nothing more will be begun."""
        self.terms = m.Welcome(heartbeat=0, max_result=0)
        """What the supervisor said when it let us in."""
        self.max_result = 0
        forks.when_forked(self._disown)

    def open(self, socket: zmq.Socket[bytes], hello: m.Hello, patience: float) -> None:
        """Say hello on a connected socket, which is ours from now on, and wait for the welcome.

        :param patience: seconds.
        :raises ProtocolError: if the supervisor does not answer in time.
        """
        with self._lock:  # a recall may come as soon as the supervisor has heard us
            self._socket = socket
            socket.send(pack([hello]))
            if not socket.poll(round(patience * 1000)):
                raise ProtocolError(f"the supervisor has not said Welcome within {patience:g} s")
            first, *others = unpack_to_runner(socket.recv())
            if not isinstance(first, m.Welcome):
                raise ProtocolError(f"expected Welcome first, got {type(first).__name__}")
            self.terms = first
            self.max_result = first.max_result
            self._arrivals.register(socket.fileno(), select.POLLIN)
            self._arrivals.register(self._wake_read, select.POLLIN)
            self._sort(others)

    def close(self) -> None:
        """Close the socket; what was sent still leaves."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _disown(self) -> None:
        """In a process that was forked from the runner: let nothing reach the socket, nor wait for a thread
        that is not here.
        """
        self._socket = None  # pyzmq closes it for the process only that has made it
        self._held_back.clear()
        self._lock = threading.Lock()
        self._loop = self._loop_thread = None

    @property
    def _open_socket(self) -> zmq.Socket[bytes]:
        if forks.in_child:
            raise forks.refusal()
        if self._socket is None:
            raise UsageError(
                "the supervisor cannot be asked before the runner's lifespan is set up, or after it"
            )
        return self._socket

    # Work

    def next_work(self) -> m.Assignment | None:
        """Wait for the next execution and take it into our hands; None if there will be no more."""
        while True:
            try:
                return self.work.popleft()
            except IndexError:  # nothing there, or the control thread has just given it back
                if self.stopping:
                    self._send_held_back()
                    return None
                self._wait_for_arrivals()

    async def next_work_async(self) -> m.Assignment | None:
        """See :meth:`next_work`. The event loop must be one that the socket is :meth:`served_by`."""
        import asyncio

        loop = asyncio.get_running_loop()
        while True:
            if self.work:
                return self.work.popleft()
            if self.stopping:
                return None
            news = asyncio.Event()
            self._news = partial(loop.call_soon_threadsafe, news.set)
            loop.call_soon(self._read_in_loop)
            await news.wait()

    def _wait_for_arrivals(self) -> None:
        """Wait without holding the lock, so that threads which outlive a handler can use the socket."""
        with self._lock:
            self._flush()
            self._receive_waiting()
            self._idle = not self.work and not self.stopping
        while self._idle:
            if (self._wake_read, select.POLLIN) in self._arrivals.poll():
                os.read(self._wake_read, 1024)
            with self._lock:
                self._receive_waiting()
                self._idle = not self.work and not self.stopping

    def give_back(self) -> Sequence[m.Assignment]:
        """Take everything that has not been begun out of our hands. The control thread calls this.

        What lies unread in the socket is given back as well, unless the handler is just asking something.
        Reports wait no longer: they were to travel with those of what is given back.
        """
        if self._lock.acquire(timeout=LOCK_WAIT):
            try:
                self._flush()
                self._receive_waiting()
            finally:
                self._lock.release()
            self._look_again()
        given_back = []
        with suppress(IndexError):
            while True:
                given_back.append(self.work.pop())
        given_back.reverse()
        return given_back

    def retire(self, reason: str) -> None:
        """Begin nothing more: what is in our hands goes back, and the supervisor will tell us to stop."""
        self._retired = True
        with self._lock:
            self.work.clear()
            self._send([m.Worn(reason)])
        self._look_again()

    # Reports

    def report(self, report: m.Report) -> None:
        """Tell how an attempt ended. Before it is sent the recorder keeps it, should we die in between."""
        if not self._send_report(report):
            self.request(m.Flush)

    async def report_async(self, report: m.Report) -> None:
        """See :meth:`report`."""
        if not self._send_report(report):
            await self.request_async(m.Flush)

    def _send_report(self, report: m.Report) -> bool:
        """Send a report, at once or soon; False if the recorder had no room to keep it."""
        with self._lock:
            kept = self._recorder.keep(pack([report]))
            self._reported_at = self._seq
            now = time.monotonic()
            if not self._held_back:
                self._held_back_since = now
            self._held_back.append(report)
            if kept and self._may_hold_back(now - self._held_back_since):
                return True
            self._flush()
        self._look_again()
        return kept

    def _may_hold_back(self, waited: float) -> bool:
        """Tell whether reports may wait: what we run next ends soon, so far as anybody knows.

        If it does not, the supervisor recalls what is behind it. If not even that is heard here, it reads
        what the recorder keeps.

        :param waited: for how many seconds the first of them has.
        """
        try:
            soon = self.work[0].short
        except IndexError:
            return False
        return soon and len(self._held_back) < MOST_HELD_BACK and waited < HELD_BACK_FOR

    def _send_held_back(self) -> None:
        with self._lock:
            self._flush()

    def tell(self, message: m.Progress | m.Began) -> None:
        """Send what needs no answer."""
        with self._lock:
            self._send([message])
        self._look_again()

    # Requests of threads that wait

    def request(self, make: Callable[[int], Request]) -> Reply:
        """Send a request and wait for its reply.

        :param make: makes the request with the number given.
        """
        loop = self._loop
        if loop is not None and self._loop_thread not in (None, threading.get_ident()):
            import asyncio

            return asyncio.run_coroutine_threadsafe(self._request_in_loop(make, loop), loop).result()
        with self._lock:
            seq = self._awaited = self._send_request(make)
            while (reply := self._replies.pop(seq, None)) is None:
                self._receive()
        self._look_again()
        return reply

    def perform(self, operation: Operation) -> Answer:
        """Have the supervisor perform a client's operation."""
        return _answer(self.request(_operate(operation)))

    async def perform_async(self, operation: Operation) -> Answer:
        """See :meth:`perform`."""
        return _answer(await self.request_async(_operate(operation)))

    # Requests of coroutines

    async def request_async(self, make: Callable[[int], Request]) -> Reply:
        """Send a request and await its reply, in the handler's event loop or in any other."""
        import asyncio

        if forks.in_child:
            raise forks.refusal()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            return await asyncio.to_thread(self.request, make)
        return await self._request_in_loop(make, loop)

    async def _request_in_loop(
        self, make: Callable[[int], Request], loop: asyncio.AbstractEventLoop
    ) -> Reply:
        future: asyncio.Future[Reply] = loop.create_future()
        with self._lock:
            self._futures[self._send_request(make)] = future
        self._look_again()
        return await future

    @contextmanager
    def served_by(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Let an event loop, which the calling thread is about to run, read the socket."""
        if self._loop is not loop:
            loop.add_reader(self._open_socket.fileno(), self._read_in_loop)
            self._loop = loop
        self._loop_thread = threading.get_ident()
        try:
            yield
        finally:
            self._loop_thread = None

    def _read_in_loop(self) -> None:
        with self._lock:
            self._receive_waiting()

    # The socket

    def _look_again(self) -> None:
        """Have whoever waits for the socket look at it.

        Its descriptor tells only once that something came, and any use of the socket takes that away.
        """
        loop, thread = self._loop, self._loop_thread
        if self._idle:
            os.write(self._wake_write, b"!")
        elif loop is not None and thread is not None:
            if thread == threading.get_ident():
                loop.call_soon(self._read_in_loop)
            else:
                loop.call_soon_threadsafe(self._read_in_loop)

    # Inside the lock

    def _send_request(self, make: Callable[[int], Request]) -> int:
        self._seq += 1
        self._send([make(self._seq)])
        return self._seq

    def _send(self, parcel: Sequence[m.FromRunner]) -> None:
        """Send messages, behind the reports that wait."""
        self._flush()
        self._open_socket.send(pack(parcel))

    def _flush(self) -> None:
        if self._held_back:
            self._open_socket.send(pack(self._held_back))
            self._held_back.clear()

    def _receive(self) -> None:
        self._sort(unpack_to_runner(self._open_socket.recv()))

    def _receive_waiting(self) -> None:
        with suppress(zmq.Again):
            while True:
                self._sort(unpack_to_runner(self._open_socket.recv(zmq.NOBLOCK)))

    def _sort(self, parcel: Sequence[m.ToRunner]) -> None:
        for message in parcel:
            if isinstance(message, m.Assign):
                if not self._retired:
                    self.work.extend(message.assignments)
                    self._tell_news()
            elif isinstance(message, m.Stop):
                self.stopping = True
                self._tell_news()
            elif isinstance(message, _REPLIES):
                self._deliver(message)

    def _tell_news(self) -> None:
        if self._news is not None:
            self._news()

    def _deliver(self, reply: Reply) -> None:
        if self._reported_at is not None and reply.seq > self._reported_at:
            self._recorder.forget()
            self._reported_at = None
        future = self._futures.pop(reply.seq, None)
        if reply.seq == self._awaited:
            self._replies[reply.seq] = reply
        elif future is not None and self._loop is not None:
            if threading.get_ident() == self._loop_thread:
                _resolve(future, reply)
            else:  # read for a recall, while the loop is not
                self._loop.call_soon_threadsafe(_resolve, future, reply)


def _resolve(future: asyncio.Future[Reply], reply: Reply) -> None:
    if not future.done():  # else whoever awaited it was cancelled
        future.set_result(reply)


def expect(reply: Reply, kind: type[R]) -> R:
    """Return a reply that must be of this kind.

    :raises ProtocolError: if it is of another.
    """
    if not isinstance(reply, kind):
        raise ProtocolError(f"expected {kind.__name__} in reply, got {type(reply).__name__}")
    return reply


def _operate(operation: Operation) -> Callable[[int], m.Operate]:
    encoded = pack_json(operation)
    if len(encoded) > MAX_FRAME - 1024:
        raise UsageError(
            f"an operation of {len(encoded):,} bytes is more than a runner may send at once ({MAX_FRAME:,}); "
            "invoke fewer at a time"
        )
    return lambda seq: m.Operate(seq, encoded)


def _answer(reply: Reply) -> Answer:
    return unpack_answer(expect(reply, m.Answered).answer)
