"""One table says which message is legal when, and it leaves none out."""

from __future__ import annotations

from typing import get_args

import pytest

from conductor_protocol import messages as m
from conductor_protocol.conversation import FROM_RUNNER, REPLY, Phase, next_phase

HELLO = m.Hello(version=m.PROTOCOL_VERSION, runner=1, secret=b"", pid=2, channel="data")
CHANNELS: tuple[m.Channel, ...] = get_args(m.Channel)
PHASES: tuple[Phase, ...] = get_args(Phase)


def test_every_channel_has_every_phase() -> None:
    """Looking up a message never fails for want of an entry."""
    assert set(FROM_RUNNER) == {(channel, phase) for channel in CHANNELS for phase in PHASES}


@pytest.mark.parametrize(("channel", "kinds"), [("data", m.DataFromRunner), ("control", m.ControlFromRunner)])
def test_every_message_of_a_channel_is_legal_at_some_time(channel: m.Channel, kinds: object) -> None:
    """And no message of the other channel ever is."""
    legal = {kind for phase in PHASES for kind in FROM_RUNNER[channel, phase]}
    assert legal == set(get_args(kinds))


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_silent_channel_hears_nothing_but_hello(channel: m.Channel) -> None:
    """Who has not said its secret says nothing else."""
    assert next_phase(channel, "silent", HELLO) == "open"
    assert list(FROM_RUNNER[channel, "silent"]) == [m.Hello]


@pytest.mark.parametrize("channel", CHANNELS)
def test_hello_is_said_once(channel: m.Channel) -> None:
    """A second one on the same channel is illegal."""
    assert next_phase(channel, "open", HELLO) is None


def test_goodbye_ends_the_control_channel() -> None:
    """After it nothing is legal any more."""
    assert next_phase("control", "open", m.Goodbye()) == "closed"
    assert next_phase("control", "closed", m.Heartbeat()) is None


def test_data_does_not_belong_on_the_control_channel() -> None:
    """Each message has its channel."""
    ask = m.Ask(1, "execution", 1)
    assert next_phase("data", "open", ask) == "open"
    assert next_phase("control", "open", ask) is None


def test_a_worn_runner_says_so_where_it_reports() -> None:
    """On the data channel, so that all it has reported comes first."""
    worn = m.Worn("its stdout was closed by task resize")
    assert next_phase("data", "open", worn) == "open"
    assert next_phase("control", "open", worn) is None


def test_every_request_has_a_reply_and_nothing_else_has() -> None:
    """A request is a message with a sequence number; Hello is answered by Welcome."""
    requests = {kind for kind in get_args(m.FromRunner) if "seq" in kind.__struct_fields__}
    assert set(REPLY) == requests | {m.Hello}


def test_every_reply_to_a_request_repeats_its_number() -> None:
    """So that it can be matched, also after the request was sent again."""
    replies = {reply for request, kinds in REPLY.items() if request is not m.Hello for reply in kinds}
    assert {reply for reply in get_args(m.ToRunner) if "seq" in reply.__struct_fields__} == replies
