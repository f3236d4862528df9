"""The sockets: known peers are heard and answered, everything else is dropped, counted and survived."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from conductor_protocol import messages as m
from conductor_protocol.codec import MAX_FRAME, pack, unpack_to_runner
from conductor_supervisor import control
from conductor_supervisor.router import Router

SECRET = b"a secret of thirty-two bytes...."
PATIENCE = 5000
"""Milliseconds to wait for what must come."""

Heard = tuple[int, m.Channel, m.FromRunner]


class Peer:
    """A socket that speaks to the router, as a runner does or as it should not."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def say(self, *parcel: m.FromRunner) -> None:
        self.socket.send(pack(parcel))

    def hears(self) -> list[m.ToRunner]:
        assert self.socket.poll(PATIENCE), "no parcel came"
        return unpack_to_runner(self.socket.recv())


class Room:
    """A router and its peers."""

    def __init__(self, folder: Path) -> None:
        self.router = Router(folder)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._peers: list[Peer] = []

    def peer(self) -> Peer:
        self._peers.append(Peer(self._context, self.router.endpoint))
        return self._peers[-1]

    def runner(self, number: int = 1, channel: m.Channel = "data") -> Peer:
        """Return a peer that has been let in."""
        self.router.expect(number, SECRET)
        peer = self.peer()
        peer.say(hello(number, channel))
        assert self.receive(1) == [(number, channel, hello(number, channel))]
        return peer

    def receive(self, count: int) -> list[Heard]:
        """Wait for so many messages, and return all that have come."""
        heard: list[Heard] = []
        while len(heard) < count:
            assert self.router.runners.poll(PATIENCE), f"expected {count} messages, got {heard}"
            heard += self.router.receive()
        return heard

    def close(self) -> None:
        for peer in self._peers:
            peer.socket.close()
        self._context.term()
        self.router.close()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """A router in a folder of its own."""
    room = Room(tmp_path)
    yield room
    room.close()


def hello(number: int = 1, channel: m.Channel = "data", **different: object) -> m.Hello:
    """Return what a well-behaved runner says first."""
    good = m.Hello(m.PROTOCOL_VERSION, number, SECRET, 4711, channel)
    return msgspec.structs.replace(good, **different)


def test_a_runner_with_the_right_secret_is_heard_on_both_channels(room: Room) -> None:
    """With its number and the channel it came by."""
    data, other = room.runner(channel="data"), room.runner(channel="control")
    data.say(m.Ask(1, "a", 1), m.Flush(2))
    assert room.receive(2) == [(1, "data", m.Ask(1, "a", 1)), (1, "data", m.Flush(2))]
    other.say(m.Heartbeat())
    assert room.receive(1) == [(1, "control", m.Heartbeat())]


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (hello(secret=b"guessed"), "wrong secret"),
        (hello(number=2), "wrong secret"),
        (hello(version=m.PROTOCOL_VERSION + 1), "wrong version"),
        (m.Ask(1, "a", 1), "unknown peer"),
    ],
    ids=["secret", "number", "version", "no hello"],
)
def test_a_stranger_is_dropped_and_counted(room: Room, first: m.FromRunner, reason: str) -> None:
    """Whatever it says, and whatever it says after that; others are heard as before."""
    room.router.expect(1, SECRET)
    stranger = room.peer()
    stranger.say(first)
    stranger.say(m.Heartbeat())
    runner = room.peer()
    while not room.router.dropped["unknown peer"] or not room.router.dropped[reason]:
        assert room.router.runners.poll(PATIENCE)
        assert list(room.router.receive()) == []
    runner.say(hello())
    assert room.receive(1) == [(1, "data", hello())]


def test_nobody_can_take_a_channel_over(room: Room) -> None:
    """A second Hello for it is dropped, the secret known or not."""
    runner, second = room.runner(), room.peer()
    second.say(hello(), m.Ask(1, "a", 1))
    runner.say(m.Flush(1))
    assert room.receive(1) == [(1, "data", m.Flush(1))]
    while not room.router.dropped["said Hello twice"]:
        assert room.router.runners.poll(PATIENCE)
        assert list(room.router.receive()) == []


@pytest.mark.parametrize("rubbish", [b"", b"\xc1", b"\x91\x93\xa3Ask\x01", pack([m.Verdict(1, "go on")])])
def test_bytes_that_are_no_parcel_are_dropped(room: Room, rubbish: bytes) -> None:
    """The next parcel of the same runner is heard."""
    runner = room.runner()
    runner.socket.send(rubbish)
    runner.say(m.Flush(1))
    assert room.receive(1) == [(1, "data", m.Flush(1))]
    assert room.router.dropped == {"not a parcel": 1}


def test_several_frames_at_once_are_dropped(room: Room) -> None:
    """A parcel is one frame."""
    runner = room.runner()
    runner.socket.send_multipart([b"a", b"b"])
    runner.say(m.Flush(1))
    assert room.receive(1) == [(1, "data", m.Flush(1))]


def test_a_frame_that_is_too_large_costs_its_sender_the_connection(room: Room) -> None:
    """It never enters our memory; the others are heard."""
    runner, glutton = room.runner(1), room.runner(2)
    glutton.socket.send(b"x" * (MAX_FRAME + 1))
    runner.say(m.Flush(1))
    assert room.receive(1) == [(1, "data", m.Flush(1))]


def test_an_illegal_message_is_dropped_and_the_legal_ones_around_it_are_heard(room: Room) -> None:
    """A heartbeat belongs to the control channel."""
    room.runner().say(m.Flush(1), m.Heartbeat(), m.Flush(2))
    assert room.receive(2) == [(1, "data", m.Flush(1)), (1, "data", m.Flush(2))]
    assert room.router.dropped == {"illegal message": 1}


def test_after_goodbye_nothing_is_legal(room: Room) -> None:
    """The conversation is over."""
    runner = room.runner(channel="control")
    runner.say(m.Goodbye(), m.Heartbeat())
    assert room.receive(1) == [(1, "control", m.Goodbye())]
    assert room.router.dropped == {"illegal message": 1}


def test_each_kind_of_drop_is_logged_once(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever sends rubbish without end must not fill the log too."""
    runner = room.runner()
    runner.say(*[m.Heartbeat()] * 50, m.Flush(1))
    room.receive(1)
    assert room.router.dropped["illegal message"] == 50
    assert len(caplog.records) == 1


def test_what_is_said_in_one_turn_leaves_as_one_parcel_for_each_channel(room: Room) -> None:
    """In the order in which it was said."""
    data, other = room.runner(channel="data"), room.runner(channel="control")
    room.router.send(1, "data", m.Flushed(1))
    room.router.send(1, "control", m.ShutdownIntent())
    room.router.send(1, "data", m.Stop())
    room.router.flush()
    assert data.hears() == [m.Flushed(1), m.Stop()]
    assert other.hears() == [m.ShutdownIntent()]
    room.router.send(1, "data", m.Flushed(2))
    room.router.flush()
    assert data.hears() == [m.Flushed(2)]


def test_what_no_frame_can_hold_is_not_sent_and_its_runner_is_named(room: Room) -> None:
    """It would end the runner at once, and without it the runner waits for ever: somebody must stop it."""
    peer = room.runner()
    room.router.send(1, "data", m.Answered(1, b"x" * MAX_FRAME))
    room.router.send(1, "data", m.Flushed(2))
    room.router.flush()
    assert peer.hears() == [m.Flushed(2)]
    assert room.router.offenders == {1: "a Answered for it has 16,777,233 bytes, which cannot be sent"}


def test_a_runner_that_is_forgotten_is_neither_heard_nor_told(room: Room) -> None:
    """What it said last may come after its end, which is nothing to warn of; sending to it is no error."""
    runner = room.runner()
    room.router.send(1, "data", m.Flushed(1))
    room.router.forget(1)
    room.router.send(1, "data", m.Flushed(2))
    room.router.send(2, "data", m.Flushed(3))
    room.router.flush()
    runner.say(m.Flush(1), hello())
    while room.router.dropped != {"late": 2}:
        assert room.router.runners.poll(PATIENCE)
        assert list(room.router.receive()) == []


def test_commands_are_answered_and_nonsense_is_refused(room: Room, tmp_path: Path) -> None:
    """With the reason, to whoever asked."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as asker:
        asker.linger = 0
        asker.connect(f"ipc://{tmp_path / control.SOCKET}")
        asker.send(msgspec.json.encode(control.AskStop(now=True)))
        assert room.router.control.poll(PATIENCE)
        ((identity, request),) = room.router.requests()
        assert request == control.AskStop(now=True)
        room.router.answer(identity, control.Accepted())
        assert asker.poll(PATIENCE)
        assert msgspec.json.decode(asker.recv(), type=control.Reply) == control.Accepted()
        asker.send(b"make me a sandwich")
        assert room.router.control.poll(PATIENCE)
        assert list(room.router.requests()) == []
        assert asker.poll(PATIENCE)
        assert isinstance(msgspec.json.decode(asker.recv(), type=control.Reply), control.Rejected)


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    """The sockets' files go with the router."""
    router = Router(tmp_path)
    assert list(tmp_path.iterdir())
    router.close()
    assert list(tmp_path.iterdir()) == []
