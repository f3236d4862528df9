"""What the log says of attempts that ended badly: one line each, which says what happens next, and no flood.

Owned by the loop thread.
"""

from __future__ import annotations

import logging
import time

from conductor_protocol.units import MICROSECONDS, in_words
from conductor_supervisor.roster import Held
from conductor_supervisor.rules.flood import Flood
from conductor_supervisor.store.attempts import Ending

LINES = 10
PERIOD = 10.0
"""Of one task and one level, so many lines are written in so many seconds; the others are counted."""

LONGEST = 300
"""Characters of a cause in a line of the log; ``show`` has all of it."""

log = logging.getLogger(__name__)


class Notices:
    """Writes about attempts whose endings are stored."""

    def __init__(self) -> None:
        self._flood: Flood[tuple[str, int]] = Flood(LINES, PERIOD)

    def ended(self, held: Held, ending: Ending) -> None:
        """Write about an attempt that failed, or that took its runner with it."""
        level = _level(ending)
        if level is None:
            return
        task = held.task.spec.name
        if self._flood.shows((task, level), time.monotonic()):
            log.log(level, "execution %s of %s%s", held.id, task, sentence(held, ending))

    def look(self) -> None:
        """Write how much has been left out, once its time is over."""
        self._tell(self._flood.left_out(time.monotonic()))

    def close(self) -> None:
        """Write how much has been left out up to now."""
        self._tell(self._flood.all_left_out())

    def _tell(self, left_out: list[tuple[tuple[str, int], int]]) -> None:
        for (task, level), count in left_out:
            what = "failed for good" if level == logging.ERROR else "failed"
            log.log(level, "and %s more of %s %s in the last %s", f"{count:,}", task, what, in_words(PERIOD))


def _level(ending: Ending) -> int | None:
    if ending.suspect:
        return None  # of those in a shared runner that died, one line tells
    if ending.charged:
        return logging.ERROR if ending.state == "failed" else logging.WARNING
    return None if ending.crash is None else logging.WARNING


def sentence(held: Held, ending: Ending) -> str:
    """Return what follows the execution's name, such as `` is cancelled: its runner was killed: ...``."""
    if ending.charged:
        attempt = f": attempt {held.attempt} of {held.task.spec.max_attempts} failed"
        if ending.state == "failed":
            return f"{attempt} for good: {_cause(ending)}"
        return f"{attempt}: {_cause(ending)}; {_next_try(ending)}"
    what = "is cancelled" if ending.state == "cancelled" else "goes back to the queue, uncharged"
    return f" {what}: {_cause(ending)}"


def _cause(ending: Ending) -> str:
    """Return why an attempt ended, on one line that is not long."""
    if ending.crash is not None:
        return f"its runner {_one_line(ending.crash.cause)}"
    failure = ending.failure
    if failure is None:
        return "for an unknown reason"
    return _one_line(f"{failure.type}: {failure.message}" if failure.message else failure.type)


def _one_line(text: str) -> str:
    line, _, more = text.strip().partition("\n")
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line.rstrip())
    if more or len(printable) > LONGEST:
        return f"{printable[:LONGEST]}..."
    return printable


def _next_try(ending: Ending) -> str:
    if ending.state != "scheduled" or ending.due is None:
        return "tried again at once"
    return f"tried again in {in_words((ending.due - ending.ended) / MICROSECONDS)}"
