"""The sockets: parcels in and out, peers known by their secret, everything else dropped and counted.

The loop thread owns both sockets. Messages for one peer gather during a turn of the loop and leave as one
parcel at its end.
"""

from __future__ import annotations

import hmac
import logging
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

import msgspec
import zmq

from conductor_protocol.codec import MAX_FRAME, pack, unpack_from_runner
from conductor_protocol.conversation import Phase, next_phase
from conductor_protocol.errors import ProtocolError
from conductor_protocol.messages import PROTOCOL_VERSION, Channel, FromRunner, Hello, ToRunner
from conductor_supervisor import control

RUNNERS = "runners"
"""Name of the runners' socket in the runtime folder."""

MOST_PARCELS = 500
"""How many parcels are taken in one turn of the loop, so that asks are answered soon."""

MOST_GONE = 64
"""Channels of dead runners that are remembered."""

log = logging.getLogger(__name__)


class Peer:
    """One channel of one runner."""

    __slots__ = ("channel", "identity", "outgoing", "phase", "runner")

    def __init__(self, identity: bytes, runner: int, channel: Channel) -> None:
        self.identity = identity
        self.runner = runner
        self.channel: Channel = channel
        self.phase: Phase = "open"
        self.outgoing: list[ToRunner] = []


class Router:
    """Receives from runners and sends to them; answers commands."""

    def __init__(self, folder: Path) -> None:
        """Listen in the runtime folder, which nobody else can enter."""
        self._folder = folder
        self.endpoint = f"ipc://{folder / RUNNERS}"
        self._context = zmq.Context()
        self.runners = self._listen(self.endpoint)
        self.control = self._listen(f"ipc://{folder / control.SOCKET}")
        self._secrets: dict[int, bytes] = {}
        self._by_identity: dict[bytes, Peer] = {}
        self._by_channel: dict[tuple[int, Channel], Peer] = {}
        self._to_send: list[Peer] = []
        self.offenders: dict[int, str] = {}
        """Runners that have said what the protocol does not allow, with what it was."""
        self._gone: deque[bytes] = deque(maxlen=MOST_GONE)
        """Identities of runners that have been forgotten: what they said last may arrive after their end."""
        self.dropped: Counter[str] = Counter()
        """Parcels and messages that were dropped, by reason."""

    def _listen(self, endpoint: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.sndhwm = 0  # a stopped runner must not make the loop wait or lose a reply
        socket.rcvhwm = 0
        socket.bind(endpoint)
        return socket

    def expect(self, runner: int, secret: bytes) -> None:
        """Await the first messages of a runner that is being born with this secret."""
        self._secrets[runner] = secret

    def forget(self, runner: int) -> None:
        """Drop whatever a runner that is gone may still have said."""
        self._secrets.pop(runner, None)
        for channel in ("data", "control"):
            peer = self._by_channel.pop((runner, channel), None)
            if peer is not None:
                del self._by_identity[peer.identity]
                self._gone.append(peer.identity)
                peer.outgoing.clear()

    def receive(self) -> Iterator[tuple[int, Channel, FromRunner]]:
        """Give every legal message that waits, with the runner and channel it came by."""
        for _ in range(MOST_PARCELS):
            try:
                frames = self.runners.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(frames) != 2:
                self._drop("not a parcel", f"{len(frames)} frames came at once; expected 2")
                continue
            identity, frame = frames
            try:
                parcel = unpack_from_runner(frame)
            except ProtocolError as error:
                self._drop("not a parcel", str(error))
                self._blame(self._by_identity.get(identity), str(error))
                continue
            peer = self._by_identity.get(identity)
            for message in parcel:
                if peer is None:
                    peer = self._introduce(identity, message)
                elif not self._legal(peer, message):
                    continue
                if peer is not None:
                    yield peer.runner, peer.channel, message

    def _introduce(self, identity: bytes, message: FromRunner) -> Peer | None:
        """Let in a peer that says Hello with the right secret."""
        if identity in self._gone:
            self.dropped["late"] += 1
            return None
        if not isinstance(message, Hello):
            self._drop("unknown peer", f"{type(message).__name__} came from a peer that never said Hello")
            return None
        secret = self._secrets.get(message.runner)
        if secret is None or not hmac.compare_digest(secret, message.secret):
            self._drop("wrong secret", f"a Hello for runner {message.runner} came with a wrong secret")
            return None
        if message.version != PROTOCOL_VERSION:
            self._drop("wrong version", f"a runner speaks version {message.version}, not {PROTOCOL_VERSION}")
            return None
        if (message.runner, message.channel) in self._by_channel:
            self._drop(
                "said Hello twice", f"runner {message.runner} opened its {message.channel} channel twice"
            )
            return None
        peer = Peer(identity, message.runner, message.channel)
        self._by_identity[identity] = peer
        self._by_channel[message.runner, message.channel] = peer
        return peer

    def _legal(self, peer: Peer, message: FromRunner) -> bool:
        phase = next_phase(peer.channel, peer.phase, message)
        if phase is None:
            self._drop(
                "illegal message",
                f"{type(message).__name__} from runner {peer.runner} is illegal on {peer.channel} now",
            )
            self._blame(peer, f"{type(message).__name__} is illegal on {peer.channel} now")
            return False
        peer.phase = phase
        return True

    def _blame(self, peer: Peer | None, what: str) -> None:
        if peer is not None:
            self.offenders[peer.runner] = what

    def _drop(self, reason: str, detail: str) -> None:
        self.dropped[reason] += 1
        if self.dropped[reason] == 1:
            log.warning("dropped a message (further ones of this kind are only counted): %s", detail)

    def send(self, runner: int, channel: Channel, message: ToRunner) -> None:
        """Put a message into the parcel for a runner; nothing happens if it is gone or has not said Hello."""
        peer = self._by_channel.get((runner, channel))
        if peer is not None:
            if not peer.outgoing:
                self._to_send.append(peer)
            peer.outgoing.append(message)

    def flush(self) -> None:
        """Send every parcel."""
        for peer in self._to_send:
            if peer.outgoing:
                self._send(peer.identity, peer.outgoing)
                peer.outgoing = []
        self._to_send.clear()

    def _send(self, identity: bytes, messages: list[ToRunner]) -> None:
        """Send messages as one parcel, or as many as it takes to keep each below the largest frame."""
        parcel = pack(messages)
        if len(parcel) > MAX_FRAME and len(messages) > 1:
            middle = len(messages) // 2
            self._send(identity, messages[:middle])
            self._send(identity, messages[middle:])
        elif len(parcel) > MAX_FRAME:  # it would kill the runner; without it the runner would wait for ever
            what = f"a {type(messages[0]).__name__} for it has {len(parcel):,} bytes, which cannot be sent"
            self._drop("too large", what)
            self._blame(self._by_identity.get(identity), what)
        else:
            self.runners.send_multipart([identity, parcel], zmq.NOBLOCK)

    def requests(self) -> Iterator[tuple[bytes, control.Request]]:
        """Give every control request that waits, with the identity to answer."""
        while True:
            try:
                frames = self.control.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                yield frames[0], control.read_request(frames[-1])
            except ProtocolError as error:
                self._drop("not a request", str(error))
                self.answer(frames[0], control.Rejected(str(error)))

    def answer(self, identity: bytes, reply: control.Reply) -> None:
        """Answer a control request."""
        self.control.send_multipart([identity, msgspec.json.encode(reply)], zmq.NOBLOCK)

    def close(self) -> None:
        """Stop listening and remove the sockets' files."""
        for socket in (self.runners, self.control):
            socket.close()
        self._context.term()
        for name in (RUNNERS, control.SOCKET):
            (self._folder / name).unlink(missing_ok=True)
