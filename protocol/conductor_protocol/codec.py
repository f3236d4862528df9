"""Messages to bytes and back. Bytes become typed values here or nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from conductor_protocol import messages, operations
from conductor_protocol.errors import ProtocolError

MAX_FRAME = 16 * 1024 * 1024
"""Bytes of the largest parcel that either end accepts."""

# msgspec lets Python's own errors through where text is not UTF-8, or nests too deep.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode
_from_runner: msgspec.msgpack.Decoder[list[messages.FromRunner]] = msgspec.msgpack.Decoder(
    list[messages.FromRunner]
)
_to_runner: msgspec.msgpack.Decoder[list[messages.ToRunner]] = msgspec.msgpack.Decoder(
    list[messages.ToRunner]
)
_reports: msgspec.msgpack.Decoder[list[messages.Report]] = msgspec.msgpack.Decoder(list[messages.Report])
_encode_json = msgspec.json.Encoder().encode
_operation: msgspec.json.Decoder[operations.Operation] = msgspec.json.Decoder(operations.Operation)
_answer: msgspec.json.Decoder[operations.Answer] = msgspec.json.Decoder(operations.Answer)


def pack(parcel: Sequence[messages.FromRunner | messages.ToRunner]) -> bytes:
    """Return one transmission that carries these messages, in order."""
    return _encode(parcel)


def unpack_from_runner(frame: bytes) -> list[messages.FromRunner]:
    """Read what a runner sent.

    :raises ProtocolError: if the bytes are not a parcel of a runner's messages.
    """
    return _unpack(_from_runner, frame)


def unpack_to_runner(frame: bytes) -> list[messages.ToRunner]:
    """Read what the supervisor sent.

    :raises ProtocolError: if the bytes are not a parcel of the supervisor's messages.
    """
    return _unpack(_to_runner, frame)


def unpack_reports(frame: bytes) -> list[messages.Report]:
    """Read a parcel of reports, as the flight recorder keeps them.

    :raises ProtocolError: if the bytes are anything else.
    """
    return _unpack(_reports, frame)


def _unpack(decoder: msgspec.msgpack.Decoder[list[T]], frame: bytes) -> list[T]:
    if len(frame) > MAX_FRAME:
        raise ProtocolError(f"a frame of {len(frame)} bytes came; at most {MAX_FRAME} are allowed")
    try:
        return decoder.decode(frame)
    except _UNREADABLE as error:
        raise ProtocolError(f"a frame of {len(frame)} bytes is not a parcel: {error}") from error


def pack_json(value: operations.Operation | operations.Answer) -> bytes:
    """Return an operation or an answer as JSON."""
    return _encode_json(value)


def unpack_operation(text: bytes) -> operations.Operation:
    """Read an operation.

    :raises ProtocolError: if the bytes are anything else.
    """
    try:
        return _operation.decode(text)
    except _UNREADABLE as error:
        raise ProtocolError(f"not an operation: {error}") from error


def unpack_answer(text: bytes) -> operations.Answer:
    """Read an answer.

    :raises ProtocolError: if the bytes are anything else.
    """
    try:
        return _answer.decode(text)
    except _UNREADABLE as error:
        raise ProtocolError(f"not an answer: {error}") from error
