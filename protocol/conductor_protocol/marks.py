"""Marks in a runner's output: they tell whose output follows.

A runner runs many executions one after another, or several at once, and all of them print into the same
two pipes. Before the first bytes that an execution writes to a pipe its runner writes a mark that names it,
and at its end one that names nobody. An execution that prints nothing costs nothing.

A mark is never shown to people. It begins with two control characters and a key that is drawn for each
runner, so that no text is taken for one by accident::

    0x1e 0x02 key [execution SPACE claim SPACE attempt] 0x1f

What native code and child processes write bears no mark. It stands behind whatever mark came last.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_BEGIN = b"\x1e\x02"
_END = b"\x1f"
_SPEAKER = re.compile(rb"([0-9a-zA-Z-]{1,64}) ([0-9]{1,19}) ([0-9]{1,19})")
_LONGEST = 128
"""Bytes that a mark has at most after its key."""


class Speaker(NamedTuple):
    """An attempt whose handler prints."""

    execution: str
    claim: int
    attempt: int
    """Counted from 1."""


def mark(key: str, speaker: Speaker | None) -> bytes:
    """Return what says that the bytes behind it are this speaker's; None: nobody's."""
    named = "" if speaker is None else f"{speaker.execution} {speaker.claim} {speaker.attempt}"
    return _BEGIN + f"{key}{named}".encode() + _END


class MarkReader:
    """Takes the marks out of a stream of bytes, however the pipe has cut it."""

    def __init__(self, key: str) -> None:
        """:param key: the runner's own; marks with another are text."""
        self._head = _BEGIN + key.encode()
        self._speaker: Speaker | None = None
        self._held = b""
        """The end of what came: it may be the beginning of a mark."""

    def feed(self, data: bytes) -> list[tuple[Speaker | None, bytes]]:
        """Return the pieces that are complete by now, none of them empty, each with its speaker.

        None: no speaker is named. At most the length of a mark is held back until more comes.
        """
        data = self._held + data
        pieces: list[tuple[Speaker | None, bytes]] = []
        start = 0
        while (at := data.find(self._head, start)) >= 0:
            self._add(pieces, data[start:at])
            behind = at + len(self._head)
            end = data.find(_END, behind, behind + _LONGEST)
            if end < 0 and len(data) < behind + _LONGEST:
                self._held = data[at:]
                return pieces
            # A head without a tail was torn by another writer: it is dropped, and what follows is text.
            start = end + 1 if end >= 0 and self._heed(data[behind:end]) else behind
        held_from = max(start, self._beginning_of_head(data))
        self._add(pieces, data[start:held_from])
        self._held = data[held_from:]
        return pieces

    def finish(self) -> list[tuple[Speaker | None, bytes]]:
        """Return what is held back: nothing more will come. A mark that is not complete is dropped."""
        held, self._held = self._held, b""
        pieces: list[tuple[Speaker | None, bytes]] = []
        if not held.startswith(self._head):
            self._add(pieces, held)
        return pieces

    def _add(self, pieces: list[tuple[Speaker | None, bytes]], text: bytes) -> None:
        if text:
            pieces.append((self._speaker, text))

    def _heed(self, named: bytes) -> bool:
        """Take note of who speaks now; False if these bytes name nobody in the way of a mark."""
        if not named:
            self._speaker = None
            return True
        found = _SPEAKER.fullmatch(named)
        if found is None:
            return False
        self._speaker = Speaker(found[1].decode(), int(found[2]), int(found[3]))
        return True

    def _beginning_of_head(self, data: bytes) -> int:
        """Return where at the end of the data a head may begin."""
        at = data.rfind(_BEGIN[:1], max(0, len(data) - len(self._head) + 1))
        return at if at >= 0 and self._head.startswith(data[at:]) else len(data)
