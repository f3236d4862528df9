"""What a runner is told before its first message."""

from __future__ import annotations

import os
from threading import Thread

import pytest

from conductor_protocol.birth import Birth, read_birth, write_birth
from conductor_protocol.errors import ProtocolError

BIRTH = Birth(
    runner=3,
    secret=bytes(range(256)),
    mark="/run/user/1000/conductor/1f:3",
    endpoint="ipc:///run/user/1000/conductor/1f/runners",
    recorder="/run/user/1000/conductor/1f/runner-3",
    app="shop.tasks:app",
    paths=["/srv/shop", "/srv/größer\n"],
)


def test_a_birth_record_crosses_a_pipe_that_stays_open() -> None:
    """The reader has it while the writer still holds the lifeline."""
    read_end, write_end = os.pipe()
    write_birth(write_end, BIRTH)
    with os.fdopen(read_end, "rb") as pipe:
        assert read_birth(pipe) == BIRTH
    os.close(write_end)


def test_a_record_larger_than_the_pipe_arrives_whole() -> None:
    """A pipe takes 64 KiB at once; paths may be many."""
    large = Birth(1, b"", "m", "e", "r", "a", [f"/srv/{number:0>500}" for number in range(400)])
    read_end, write_end = os.pipe()
    writer = Thread(target=write_birth, args=(write_end, large))
    writer.start()
    with os.fdopen(read_end, "rb") as pipe:
        assert read_birth(pipe) == large
    writer.join()
    os.close(write_end)


@pytest.mark.parametrize("written", [b"", b"{}\n", b'{"runner": 3', b"\xff\n", b'{"runner":"\xff"}\n'])
def test_anything_else_is_a_protocol_error(written: bytes) -> None:
    """Also if the pipe closes before the line is whole."""
    read_end, write_end = os.pipe()
    os.write(write_end, written)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe, pytest.raises(ProtocolError, match="birth record"):
        read_birth(pipe)
