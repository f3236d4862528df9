"""Links that are answered in the handler's own process, by whoever stands in for a supervisor."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from conductor_protocol.messages import RecordedStep, Word


class Answers(Protocol):
    """What a supervisor would say. Nothing here waits."""

    max_result: int
    """Bytes that a result may have as JSON."""

    @property
    def word(self) -> Word:
        """What is said now to whoever does not ask: "go on", or why to stop."""

    def ask(self, step: str | None) -> Word:
        """Answer whether to go on: at a checkpoint (None), or before a step."""

    def record(self, name: str, result: bytes) -> Word:
        """Take a step's result."""

    def step_begins(self, name: str) -> None:
        """Hear that a step's function is about to be called."""

    def step_ended(self, name: str) -> None:
        """Hear that a step is recorded, or has failed."""

    def seconds_to_wait(self, between_tries: float) -> float:
        """Return how long really to wait between two tries of a step."""


class _Signals:
    """What both kinds of link have in common."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.max_result = answers.max_result

    def stop_wanted(self) -> bool:
        return self._answers.word != "go on"

    def progress(self, done: float, total: float | None, message: str) -> None:
        """Nobody looks."""

    def step_begins(self, name: str) -> None:
        self._answers.step_begins(name)

    def step_ended(self, name: str) -> None:
        self._answers.step_ended(name)


class LocalLink(_Signals):
    """:class:`conductor.context.Link`, answered at once."""

    def ask(self, step: str | None, _timeout: float | None) -> Word:
        """See :class:`Answers`."""
        return self._answers.ask(step)

    def record_step(self, name: str, result: bytes, _duration: float) -> Word:
        """See :class:`Answers`."""
        return self._answers.record(name, result)

    def load_steps(self, _after: str | None) -> tuple[list[RecordedStep], Word]:
        """All that is recorded has come with the assignment."""
        return [], self._answers.word

    def pause(self, duration: float) -> None:
        """See :class:`Answers`."""
        time.sleep(self._answers.seconds_to_wait(duration))


class AsyncLocalLink(_Signals):
    """:class:`conductor.context.AsyncLink`, answered in the loop's next turn, so that coroutines mix."""

    async def ask(self, step: str | None, _timeout: float | None) -> Word:
        """See :class:`Answers`."""
        await asyncio.sleep(0)
        return self._answers.ask(step)

    async def record_step(self, name: str, result: bytes, _duration: float) -> Word:
        """See :class:`Answers`."""
        await asyncio.sleep(0)
        return self._answers.record(name, result)

    async def load_steps(self, _after: str | None) -> tuple[list[RecordedStep], Word]:
        """All that is recorded has come with the assignment."""
        return [], self._answers.word

    async def pause(self, duration: float) -> None:
        """See :class:`Answers`."""
        await asyncio.sleep(self._answers.seconds_to_wait(duration))
