"""One attempt's memory: which steps are recorded, which names are used, and what the supervisor said last.

Pure: it sends nothing and waits for nothing. ``conductor.context`` asks it what to do next, once for
handlers that wait and once for handlers that await.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from conductor.declarations import Retry
from conductor.errors import DuplicateStep, Fail, Released, RetryAfter
from conductor_protocol.errors import UsageError
from conductor_protocol.messages import RecordedStep, Word
from conductor_protocol.recorder import MAX_STEP_NAME

FRESH = 0.05
"""Seconds for which a verdict holds while recorded steps are returned one after another."""

JUST_NOW = 0.005
"""Seconds for which the verdict that came with a step's acknowledgement holds for the step after it."""

_NEVER = float("-inf")


class Replay:
    """What one attempt knows. Threads of a handler may share it."""

    def __init__(self, steps: Sequence[RecordedStep], recorded: int) -> None:
        """
        :param steps: the first page of recorded steps.
        :param recorded: how many there are in all.
        """
        self._results = {step.name: step.result for step in steps} if steps else {}
        self._elsewhere = recorded - len(self._results)
        """Recorded steps that have not been loaded yet."""
        self.last_loaded = steps[-1].name if steps else None
        """The name of the last recorded step that is loaded; the others follow it."""
        self._names: set[str] = set()
        self._word: Word = "go on"
        self._heard = time.monotonic()
        self._acknowledged = _NEVER
        self._lock = threading.Lock()

    # The supervisor's word

    @property
    def word(self) -> Word:
        """The last word that was not "go on", or "go on"."""
        return self._word

    def check(self) -> None:
        """Begin any call of the context.

        :raises Released: if the supervisor has ever said so: whoever swallowed it hears it again.
        """
        if self._word != "go on":
            raise Released(self._word)

    def heed(self, word: Word) -> None:
        """Take the answer to a question.

        :raises Released: if it is anything but "go on".
        """
        self._word = word
        self._heard = time.monotonic()
        self._acknowledged = _NEVER
        self.check()

    def note_acknowledged(self, word: Word) -> None:
        """Take the word that came with a step's acknowledgement: it is heeded at the next call."""
        self._word = word
        self._heard = self._acknowledged = time.monotonic()

    def heard_lately(self) -> bool:
        """Tell whether the last word is fresh enough to return a recorded step without asking."""
        return time.monotonic() - self._heard < FRESH

    def acknowledged_just_now(self) -> bool:
        """Tell whether the last word came with a step so lately that the next may begin on it."""
        return time.monotonic() - self._acknowledged < JUST_NOW

    # Steps

    def begin_step(self, name: str) -> None:
        """Begin a step of this name.

        :raises Released: as :meth:`check`.
        :raises UsageError: if this cannot be a step's name.
        :raises DuplicateStep: if the name has been used in this attempt.
        """
        self.check()
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_STEP_NAME:
            shown = f"{len(name)} characters" if isinstance(name, str) else repr(name)
            raise UsageError(
                f'ctx.step: expected a name of 1 to {MAX_STEP_NAME} characters first, such as "fetch-items", '
                f"got {shown}"
            )
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"ctx.step: expected a name that can be written as UTF-8, got {name!r}; "
                "half a surrogate pair is no text"
            ) from error
        if "\0" in name:
            raise UsageError(f"ctx.step: expected a name without zero characters, got {name!r}")
        with self._lock:
            if name in self._names:
                raise DuplicateStep(
                    f'two steps of this attempt are named "{name}"; give each its own name, '
                    f'such as f"{name}-{{number}}"'
                )
            self._names.add(name)

    def needs_page(self, name: str) -> bool:
        """Tell whether a step of this name may be recorded without our knowing."""
        return self._elsewhere > 0 and name not in self._results

    def take_page(self, steps: Sequence[RecordedStep]) -> None:
        """Take the recorded steps that follow :attr:`last_loaded`; an empty page says that there are no more.

        What this attempt has recorded itself follows all that was recorded before it.
        """
        with self._lock:
            earlier = steps[: self._elsewhere]
            self._results.update((step.name, step.result) for step in earlier)
            if earlier:
                self.last_loaded = earlier[-1].name
            self._elsewhere = self._elsewhere - len(earlier) if earlier else 0

    def unasked(self) -> list[str]:
        """Return the names of loaded steps that nobody has asked for."""
        return list(self._results)

    def take_result(self, name: str) -> bytes | None:
        """Take out the recorded result of a step; None if it is not recorded."""
        return self._results.pop(name, None)


class Tries:
    """How often a step is tried within one attempt, and how long it waits between two tries."""

    def __init__(self, retry: Retry | None) -> None:
        self._retry = retry
        self._waits: Iterator[float] = iter(()) if retry is None else retry.waits_of_a_step()

    def wait_after(self, error: Exception) -> float | None:
        """Return the seconds to wait before the next try, or None if there is none."""
        if isinstance(error, (Fail, RetryAfter)) or self._retry is None or not self._retry.covers(error):
            return None
        return next(self._waits, None)
