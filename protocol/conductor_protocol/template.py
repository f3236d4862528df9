"""Between the supervisor and a *template*: the process that has imported the app and forks fresh runners.

They talk over a pair of ``SOCK_SEQPACKET`` sockets. The template speaks first: :class:`Ready` or
:class:`Cannot`. From then on each :data:`FORK` brings the descriptors that one runner is born with, and is
answered, in order, by :class:`Forked` or :class:`NotForked`. The end of either socket is the end of the
template.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from conductor_protocol.errors import ProtocolError

TEMPLATE_FD = "CONDUCTOR_TEMPLATE_FD"
"""Environment variable that names the inherited socket; the child removes it before user code runs."""

FORK = b"fork"
"""The request."""

MOST_BYTES = 4096
"""Bytes of a message."""


class TheirEnds(NamedTuple):
    """The descriptors that travel with a request, in this order: a runner's ends of its pipes."""

    birth: int
    """Where it reads its :class:`~conductor_protocol.birth.Birth`."""
    stdout: int
    stderr: int


class Ready(Struct, frozen=True, tag=True):
    """The app is imported."""


class Cannot(Struct, frozen=True, tag=True):
    """The app is imported, but a process in its state must not be forked."""

    reason: str


class Forked(Struct, frozen=True, tag=True):
    """The runner lives, as a child of the supervisor, and waits for its birth."""

    pid: int


class NotForked(Struct, frozen=True, tag=True):
    """The system gave no process."""

    reason: str


FromTemplate: TypeAlias = Ready | Cannot | Forked | NotForked

_DECODER: msgspec.json.Decoder[FromTemplate] = msgspec.json.Decoder(FromTemplate)


def pack(message: FromTemplate) -> bytes:
    """Return a message as it travels; a reason that is too long is cut."""
    if isinstance(message, Cannot | NotForked):
        message = msgspec.structs.replace(message, reason=message.reason[:500])
    return msgspec.json.encode(message)


def unpack(data: bytes) -> FromTemplate:
    """Read a message.

    :raises ProtocolError: if it is none.
    """
    try:
        return _DECODER.decode(data)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"a template's message cannot be read: {error}") from error
